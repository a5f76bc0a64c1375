// What the adapters written for Node share: protocol.py's requests and answers, and finding a library that is installed beside.
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const warmMs = 10; // of every turn: threads wake, caches fill; not timed

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

/** A package installed in the folder that ROOTS_PEER_NODE_MODULES names, or in the current one, and its version. Ends the process where there is none. */
export async function installed(name) {
  const beside = resolve(process.env.ROOTS_PEER_NODE_MODULES ?? '.');
  try {
    const require = createRequire(join(beside, 'package.json'));
    const entry = require.resolve(name);
    const folder = entry.slice(0, entry.lastIndexOf(name) + name.length);
    const { version } = require(join(folder, 'package.json'));
    return { library: await import(pathToFileURL(entry).href), version };
  } catch {
    console.error(`${name} is not installed in ${beside}`);
    process.exit(1);
  }
}

/** prepare(SPEC) makes the operands and returns what one call is. */
export async function serve(info, prepare) {
  answer(info);
  let call = null;
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    try {
      if (request.prepare) {
        call = await prepare(request.prepare);
        const start = performance.now();
        await call();
        answer({ ready: performance.now() - start });
      } else {
        let start = performance.now();
        do await call();
        while (performance.now() - start < warmMs);
        start = performance.now();
        for (let i = 0; i < request.run; i++) await call();
        answer({ ms: (performance.now() - start) / request.run });
      }
    } catch (error) {
      answer({ error: String(error) });
    }
  }
  process.exit(0);
}
