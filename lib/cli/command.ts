// What a command of the command line is.
import type { ParseArgsConfig } from 'node:util';
import { setDefaultDevice } from '../tensor/device.js';

export type OptionSpecs = NonNullable<ParseArgsConfig['options']>;
export type Values = Record<string, string | boolean | undefined>;

export interface Command {
  /** One line for the list of commands. */
  readonly summary: string;
  /** Arguments and options, for --help. */
  readonly usage: string;
  /** Number of positional arguments: at least, at most. */
  readonly positionals: readonly [least: number, most: number];
  readonly options: OptionSpecs;
  run(positionals: readonly string[], values: Values): Promise<void>;
}

/** A mistake in how the command was called: shown without a stack, exit code 2. */
export class UsageError extends Error {
  readonly code = 'ERR_USAGE';
}

/** A number given as an option. */
export function numberOption(values: Values, name: string): number | undefined {
  const text = values[name];
  if (text === undefined) return undefined;
  const value = Number(text);
  if (typeof text !== 'string' || text.trim() === '' || Number.isNaN(value))
    throw new UsageError(`--${name} must be a number, got ${JSON.stringify(text)}`);
  return value;
}

export function integerOption(values: Values, name: string): number | undefined {
  const value = numberOption(values, name);
  if (value !== undefined && !Number.isSafeInteger(value))
    throw new UsageError(`--${name} must be an integer, got ${String(values[name])}`);
  return value;
}

export function textOption(values: Values, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}

/** `text` as one of the values that `--name` takes. */
export function choice<T extends string>(name: string, text: string, allowed: readonly T[]): T {
  if (!(allowed as readonly string[]).includes(text))
    throw new UsageError(
      `--${name} must be one of ${allowed.join(', ')}, got ${JSON.stringify(text)}`,
    );
  return text as T;
}

export function choiceOption<T extends string>(
  values: Values,
  name: string,
  allowed: readonly T[],
): T | undefined {
  const text = textOption(values, name);
  return text === undefined ? undefined : choice(name, text, allowed);
}

export function requiredOption(values: Values, name: string): string {
  const value = textOption(values, name);
  if (value === undefined) throw new UsageError(`--${name} is required`);
  return value;
}

/** Makes the device that --device names the default one, for everything the command makes and loads. */
export function useDevice(values: Values): void {
  const device = choiceOption(values, 'device', ['cpu', 'cuda', 'auto']);
  if (device) setDefaultDevice(device);
}

/** An object without the keys whose value is undefined. */
export function defined<T extends object>(
  object: T,
): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, v]) => v !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
