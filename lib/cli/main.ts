#!/usr/bin/env node
// The command line: finds the command, checks its arguments, runs it, and turns errors into one line and an exit code.
//   0 done, 1 failed, 2 called wrongly, 75 interrupted with a checkpoint to resume from, 130 interrupted
import { parseArgs } from 'node:util';
import { UsageError } from './command.js';
import type { Command } from './command.js';

// loaded on demand, so that --help is quick
const commands: Record<string, () => Promise<{ command: Command }>> = {
  info: () => import('./commands/info.js'),
  generate: () => import('./commands/generate.js'),
  eval: () => import('./commands/eval.js'),
  train: () => import('./commands/train.js'),
  finetune: () => import('./commands/finetune.js'),
  distill: () => import('./commands/distill.js'),
  compress: () => import('./commands/compress.js'),
  export: () => import('./commands/export.js'),
  bench: () => import('./commands/bench.js'),
  measure: () => import('./commands/measure.js'),
  devices: () => import('./commands/devices.js'),
};

async function help(): Promise<string> {
  const lines = await Promise.all(
    Object.entries(commands).map(
      async ([name, load]) => `  ${name.padEnd(10)} ${(await load()).command.summary}`,
    ),
  );
  return `Usage: roots <command> [arguments] [options]\n\n${lines.join('\n')}\n\nroots <command> --help explains a command. Every command takes --json.\n`;
}

async function main(argv: readonly string[]): Promise<void> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(await help());
    return;
  }
  if (name === '--version') {
    const { readFile } = await import('node:fs/promises');
    const { version } = JSON.parse(
      await readFile(new URL('../../package.json', import.meta.url), 'utf8'),
    ) as { version: string };
    process.stdout.write(`${version}\n`);
    return;
  }
  if (!Object.hasOwn(commands, name))
    throw new UsageError(
      `unknown command ${JSON.stringify(name)}; expected one of ${Object.keys(commands).join(', ')}`,
    );
  const { command } = await commands[name]!();
  const options = {
    ...command.options,
    json: { type: 'boolean' as const },
    help: { type: 'boolean' as const, short: 'h' },
  };
  let parsed;
  try {
    parsed = parseArgs({ args: rest, options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(
      `${(error as Error).message} (known: ${Object.keys(options)
        .map((o) => `--${o}`)
        .join(', ')})`,
    );
  }
  if (parsed.values['help']) {
    process.stdout.write(`${command.summary}\n\n${command.usage}\n`);
    return;
  }
  const [least, most] = command.positionals;
  if (parsed.positionals.length < least || parsed.positionals.length > most)
    throw new UsageError(
      `${name}: expected ${least === most ? least : `${least} to ${most}`} argument${most === 1 ? '' : 's'}, got ${parsed.positionals.length}; see roots ${name} --help`,
    );
  await command.run(
    parsed.positionals,
    parsed.values as Record<string, string | boolean | undefined>,
  );
}

main(process.argv.slice(2)).catch((error: unknown) => {
  const { message = String(error), code } = error as { message?: string; code?: string };
  process.stderr.write(`roots: ${message}${code && code !== 'ERR_USAGE' ? ` [${code}]` : ''}\n`);
  if (process.env['ROOTS_DEBUG'] && error instanceof Error)
    process.stderr.write(`${error.stack}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});

// Nobody reads any more (`roots bench all | head`): that is no failure. A run that handles signals, as training does, goes on.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  if (process.listenerCount('SIGTERM') === 0) process.exit(0);
});

// a training run has a handler of its own, which saves first
process.on('SIGINT', () => {
  if (process.listenerCount('SIGINT') === 1) process.exit(130);
});
