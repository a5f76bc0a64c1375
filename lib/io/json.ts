// JSON files of a model folder, read strictly: the native parser decides whether the bytes are acceptable (valid UTF-8,
// no duplicate keys, bounded depth), only then JSON.parse builds the value.
import { open } from 'node:fs/promises';
import { constants } from 'node:fs';
import { basename } from 'node:path';
import { native } from '../native/load.js';
import { FileError } from '../tensor/errors.js';

export interface ReadLimits {
  maxBytes?: number;
  maxDepth?: number;
  /** Python writers emit NaN and Infinity; where set, they are read as null in fields nobody uses. */
  allowNonFinite?: boolean;
}

const defaultBytes = 64 << 20;
const defaultDepth = 64;

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

function fileError(path: string, error: unknown): FileError {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return new FileError('ERR_FILE_NOT_FOUND', `${path}: no such file`);
  return new FileError(
    'ERR_FILE_ACCESS',
    `${path}: cannot be read (${code ?? (error as Error).message})`,
    { cause: error },
  );
}

/** The bytes of a regular file, up to a limit. The file is opened once and read by its descriptor. */
export async function readBytes(
  path: string,
  maxBytes: number = defaultBytes,
): Promise<Uint8Array> {
  let handle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw fileError(path, error);
  }
  try {
    const info = await handle.stat();
    if (!info.isFile()) throw new FileError('ERR_FILE_ACCESS', `${path}: not a regular file`);
    if (info.size > maxBytes)
      throw new FileError(
        'ERR_FILE_LIMIT',
        `${path}: ${info.size} bytes exceed the limit of ${maxBytes}`,
      );
    const bytes = new Uint8Array(info.size);
    let at = 0;
    while (at < bytes.length) {
      const { bytesRead } = await handle.read(bytes, at, bytes.length - at, at);
      if (bytesRead === 0)
        throw new FileError('ERR_FILE_FORMAT', `${path}: became shorter while it was read`);
      at += bytesRead;
    }
    return bytes;
  } catch (error) {
    throw error instanceof FileError ? error : fileError(path, error);
  } finally {
    await handle.close();
  }
}

/** A strict JSON value from a file. */
export async function readJson(path: string, limits: ReadLimits = {}): Promise<JsonValue> {
  let bytes = await readBytes(path, limits.maxBytes);
  if (limits.allowNonFinite) bytes = withoutNonFinite(bytes);
  const problem = native().validateJson(bytes, limits.maxDepth ?? defaultDepth);
  if (problem)
    throw new FileError(
      problem[0] === 'nested too deeply' ? 'ERR_FILE_LIMIT' : 'ERR_FILE_FORMAT',
      `${basename(path)}: ${problem[0]} at byte ${problem[1]}`,
    );
  return JSON.parse(new TextDecoder().decode(bytes)) as JsonValue;
}

/** A strict JSON object from a file. */
export async function readJsonObject(path: string, limits: ReadLimits = {}): Promise<JsonObject> {
  const value = await readJson(path, limits);
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new FileError('ERR_FILE_FORMAT', `${basename(path)}: expected a JSON object`);
  return value;
}

/** Bare NaN, Infinity and -Infinity outside strings become null. */
function withoutNonFinite(bytes: Uint8Array): Uint8Array {
  const text = new TextDecoder('utf-8', { fatal: false }).decode(bytes);
  if (!/\b(NaN|Infinity)\b/.test(text)) return bytes;
  return new TextEncoder().encode(
    text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (m) =>
      m.startsWith('"') ? m : 'null',
    ),
  );
}
