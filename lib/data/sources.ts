// Documents from files: plain text (a file is a document), JSON lines and Parquet (a row is a document).
import { createReadStream } from 'node:fs';
import { readFile, readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { DataError, FileError } from '../tensor/errors.js';

export interface SourceOptions {
  /** The field of JSON lines and the column of Parquet that hold the text. Default "text". */
  field?: string;
}

/** The files that paths name, in order; a file name may hold * and ?, then in order of the names that match. */
export async function expandPaths(patterns: string | readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const pattern of typeof patterns === 'string' ? [patterns] : patterns) {
    if (await stat(pattern).catch(() => null)) {
      found.push(resolve(pattern));
      continue;
    }
    const folder = dirname(resolve(pattern));
    const name = new RegExp(
      `^${basename(pattern)
        .replace(/[.+^${}()|[\]\\]/g, '\\$&')
        .replaceAll('*', '.*')
        .replaceAll('?', '.')}$`,
      'u',
    );
    const names = /[*?]/.test(basename(pattern)) ? await readdir(folder).catch(() => []) : [];
    const matches = names.filter((n) => name.test(n)).toSorted();
    if (matches.length === 0) throw new FileError('ERR_FILE_NOT_FOUND', `${pattern}: no such file`);
    found.push(...matches.map((n) => join(folder, n)));
  }
  return found;
}

/** Every document of a file, one after another. */
export async function* documents(
  path: string,
  options: SourceOptions = {},
): AsyncGenerator<string> {
  const field = options.field ?? 'text';
  const kind = extname(path).toLowerCase();
  if (kind === '.parquet') return yield* parquetRows(path, field);
  if (kind === '.jsonl' || kind === '.ndjson') return yield* jsonLines(path, field);
  const bytes = await readFile(path);
  try {
    yield new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new DataError(`${path}: not UTF-8 text`, { cause: error });
  }
}

async function* jsonLines(path: string, field: string): AsyncGenerator<string> {
  const lines = createInterface({ input: createReadStream(path, 'utf8'), crlfDelay: Infinity });
  let number = 0;
  for await (const line of lines) {
    number++;
    if (line.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw new DataError(`${path}, line ${number}: not JSON`);
    }
    const text =
      value !== null && typeof value === 'object' && Object.hasOwn(value, field)
        ? (value as Record<string, unknown>)[field]
        : undefined;
    if (typeof text !== 'string')
      throw new DataError(
        `${path}, line ${number}: no text in field ${JSON.stringify(field)}; name the field that holds it`,
      );
    yield text;
  }
}

async function* parquetRows(path: string, field: string): AsyncGenerator<string> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } =
    await import('hyparquet');
  try {
    const file = await asyncBufferFromFile(path);
    const metadata = await parquetMetadataAsync(file);
    const columns = metadata.schema.slice(1).map((c) => c.name);
    if (!columns.includes(field))
      throw new DataError(
        `${path}: no column ${JSON.stringify(field)}; it has ${columns.join(', ')}`,
      );
    const rows = Number(metadata.num_rows);
    const step = 2000;
    for (let from = 0; from < rows; from += step) {
      const part = await parquetReadObjects({
        file,
        metadata,
        columns: [field],
        rowStart: from,
        rowEnd: Math.min(rows, from + step),
      });
      for (const row of part) {
        const text = row[field];
        if (typeof text !== 'string')
          throw new DataError(`${path}: column ${JSON.stringify(field)} is not text`);
        yield text;
      }
    }
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw new DataError(`${path}: not readable as Parquet (${(error as Error).message})`, {
      cause: error,
    });
  }
}
