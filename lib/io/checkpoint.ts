// Crash-safe writing of a model folder: everything goes into a temporary folder beside the target, is made durable,
// and one rename makes it visible. A reader sees the old folder or the complete new one, never a mixture.
import { mkdir, open, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { basename, dirname, join, resolve } from 'node:path';
import { native } from '../native/load.js';
import { FileError } from '../tensor/errors.js';

const marker = '.roots-tmp-';

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Removes temporary folders that dead processes left beside `target`. */
export async function removeStaleTemporaries(target: string): Promise<void> {
  const parent = dirname(resolve(target));
  for (const name of await readdir(parent).catch(() => [])) {
    if (!name.startsWith(`${marker}${basename(target)}-`)) continue;
    const pid = Number(name.split('-').at(-2));
    if (Number.isInteger(pid) && pid > 0 && !alive(pid))
      await rm(join(parent, name), { recursive: true, force: true });
  }
}

function explain(target: string, error: unknown): Error {
  const code = (error as NodeJS.ErrnoException).code;
  const words: Record<string, string> = {
    ENOSPC: 'the disk is full',
    EDQUOT: 'the disk quota is used up',
    EACCES: 'no permission to write there',
    EPERM: 'no permission to write there',
    EROFS: 'the file system is read-only',
    ENOENT: 'the folder it should stand in does not exist',
    EISDIR: 'a folder stands there',
    ENOTDIR: 'a part of the path is not a folder',
    EEXIST: 'a part of the path is not a folder',
  };
  if (code && words[code])
    return new FileError('ERR_FILE_ACCESS', `cannot save to ${target}: ${words[code]} (${code})`, {
      cause: error,
    });
  return error as Error;
}

export interface SaveOptions {
  /** Bytes about to be written, checked against the free space first. */
  expectedBytes?: number;
  /** Replace an existing folder; without it one that is not empty is refused. */
  overwrite?: boolean;
}

/**
 * Calls `write` with a fresh folder and publishes it as `target`. On any failure nothing of the new content remains
 * and an existing target is untouched. Durable when the promise resolves.
 */
export async function saveFolder(
  target: string,
  write: (folder: string) => Promise<void>,
  options: SaveOptions = {},
): Promise<void> {
  const final = resolve(target);
  const parent = dirname(final);
  if (await exists(final)) {
    const entries = await readdir(final).catch(() => null);
    if (entries === null)
      throw new FileError(
        'ERR_FILE_ACCESS',
        `cannot save to ${target}: it exists and is not a folder`,
      );
    if (entries.length > 0 && !options.overwrite)
      throw new FileError(
        'ERR_FILE_EXISTS',
        `cannot save to ${target}: the folder exists and is not empty; choose another or pass overwrite`,
      );
  }
  const temporary = join(
    parent,
    `${marker}${basename(final)}-${process.pid}-${randomBytes(6).toString('hex')}`,
  );
  try {
    await mkdir(parent, { recursive: true });
    await removeStaleTemporaries(final);
    if (options.expectedBytes !== undefined) {
      const space = await statfs(parent);
      const free = space.bavail * space.bsize;
      if (free < options.expectedBytes)
        throw new FileError(
          'ERR_FILE_ACCESS',
          `cannot save to ${target}: ${options.expectedBytes} bytes are needed, ${free} are free`,
        );
    }
    await mkdir(temporary);
    await write(temporary);
    await syncTree(temporary);
    await publish(temporary, final);
    await native().fsyncPath(parent);
  } catch (error) {
    // cleaning up may fail for the same reason; the first error is the one to tell
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw explain(target, error);
  }
}

/**
 * Calls `write` with a fresh folder inside `folder` and moves its files into `folder`, each durable before it replaces an
 * older one: for files that live beside others which stay.
 */
export async function replaceFiles(
  folder: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = join(folder, `${marker}files-${process.pid}`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary);
  try {
    await write(temporary);
    for (const name of await readdir(temporary)) {
      await native().fsyncPath(join(temporary, name));
      await rename(join(temporary, name), join(folder, name));
    }
    await native().fsyncPath(folder);
  } catch (error) {
    throw explain(folder, error);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function publish(temporary: string, final: string): Promise<void> {
  if (!(await exists(final))) return rename(temporary, final);
  // the old folder steps aside under a name that a crash leaves recognisable, and goes last
  const old = join(
    dirname(final),
    `${marker}${basename(final)}-${process.pid}-old${randomBytes(4).toString('hex')}`,
  );
  await rename(final, old);
  try {
    await rename(temporary, final);
  } catch (error) {
    await rename(old, final);
    throw error;
  }
  await native().fsyncPath(dirname(final));
  await rm(old, { recursive: true, force: true });
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else await native().fsyncPath(path);
  }
  await native().fsyncPath(folder);
}

/** A file that must not exist yet, complete and durable when the promise resolves. */
export async function writeNewFile(path: string, content: string | Uint8Array): Promise<void> {
  const handle = await open(path, 'wx');
  try {
    await handle.writeFile(content);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Replaces a single file by temporary, fsync, rename, folder fsync. */
export async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  await replaceFileWith(path, (temporary) => writeFile(temporary, content, { flag: 'wx' }));
}

/** The same for content that `write` puts into a new file piece by piece. */
export async function replaceFileWith(
  path: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = join(
    dirname(path),
    `${marker}${basename(path)}-${process.pid}-${randomBytes(6).toString('hex')}`,
  );
  try {
    await write(temporary);
    await native().fsyncPath(temporary);
    await rename(temporary, path);
    await native().fsyncPath(dirname(resolve(path)));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw explain(path, error);
  }
}
