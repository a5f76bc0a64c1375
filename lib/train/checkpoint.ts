// Training checkpoints: folders checkpoint-<step>, each complete, verified by hashes, and a model folder of its own; `latest` names
// the newest. Written by the protocol of io/checkpoint.ts: a kill at any moment leaves the previous one in place.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { replaceFile, saveFolder, writeNewFile } from '../io/checkpoint.js';
import { readBytes, readJsonObject } from '../io/json.js';
import type { JsonObject } from '../io/json.js';
import { openSafetensors, writeSafetensors } from '../io/safetensors.js';
import { native } from '../native/load.js';
import type { Module } from '../nn/module.js';
import * as kernels from '../native/kernels.gen.js';
import { toDevice } from '../ops/cast.js';
import { tidy } from '../tensor/scope.js';
import type { OptimizerState } from '../optim/optimizer.js';
import { FileError } from '../tensor/errors.js';
import { format, sameShape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

const formatVersion = 1;
const pattern = /^checkpoint-(\d+)$/;

interface Manifest {
  format: number;
  step: number;
  files: Record<string, { bytes: number; sha256: string }>;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}

const hashText = (text: string | Uint8Array): string =>
  createHash('sha256').update(text).digest('hex');

/** Holds the run folder for one process; the lock dies with it. */
export async function lockRun(folder: string): Promise<() => void> {
  await mkdir(folder, { recursive: true }).catch((error: NodeJS.ErrnoException) => {
    throw new FileError('ERR_FILE_ACCESS', `${folder}: cannot be made (${error.code})`, {
      cause: error,
    });
  });
  const descriptor = native().lockFile(join(folder, '.lock'));
  if (descriptor === null)
    throw new FileError(
      'ERR_LOCKED',
      `${folder}: another training is running there; choose another outputDir, or end that one`,
    );
  return () => native().unlockFile(descriptor);
}

export interface CheckpointContent {
  step: number;
  /** Everything but tensors, as JSON. */
  state: JsonObject;
  optimizer: OptimizerState;
  /** Trained beside the model. */
  auxiliary?: Module;
  /** Writes the model folder into an empty folder. */
  writeModel: (folder: string) => Promise<void>;
}

/** Writes checkpoint-<step> and points `latest` at it; durable when the promise resolves. */
export async function saveCheckpoint(root: string, content: CheckpointContent): Promise<string> {
  const name = `checkpoint-${content.step}`;
  const folder = join(root, name);
  let manifestHash = '';
  await saveFolder(
    folder,
    async (temporary) => {
      await content.writeModel(temporary);
      // an optimizer that has no state yet still has a file: what is expected is always there
      await writeSafetensors(join(temporary, 'optimizer.safetensors'), content.optimizer.tensors, {
        steps: String(content.optimizer.steps),
      });
      if (content.auxiliary)
        await writeSafetensors(
          join(temporary, 'auxiliary.safetensors'),
          content.auxiliary.stateDict(),
        );
      await writeNewFile(
        join(temporary, 'trainer_state.json'),
        `${JSON.stringify(content.state)}\n`,
      );
      const files: Manifest['files'] = {};
      for (const file of (await readdir(temporary)).toSorted())
        files[file] = {
          bytes: (await stat(join(temporary, file))).size,
          sha256: await hashFile(join(temporary, file)),
        };
      const manifest: Manifest = { format: formatVersion, step: content.step, files };
      const text = `${JSON.stringify(manifest, null, 2)}\n`;
      manifestHash = hashText(text);
      await writeNewFile(join(temporary, 'manifest.json'), text);
    },
    { overwrite: true },
  );
  const body = { checkpoint: name, manifest: manifestHash };
  await replaceFile(
    join(root, 'latest'),
    `${JSON.stringify({ ...body, self: hashText(JSON.stringify(body)) })}\n`,
  );
  return folder;
}

/** Why a checkpoint may not be used, or null. Every file is read and hashed. */
export async function problemWith(folder: string): Promise<string | null> {
  try {
    const manifest = (await readJsonObject(join(folder, 'manifest.json'))) as unknown as Manifest;
    if (manifest.format !== formatVersion)
      return `format ${String(manifest.format)}; this version reads ${formatVersion}`;
    if (`checkpoint-${manifest.step}` !== basename(folder) && pattern.test(basename(folder)))
      return `it holds step ${manifest.step}`;
    for (const needed of ['model.safetensors', 'optimizer.safetensors', 'trainer_state.json'])
      if (!manifest.files[needed]) return `${needed} is not in its manifest`;
    for (const [name, { bytes, sha256 }] of Object.entries(manifest.files)) {
      if (basename(name) !== name) return `the manifest names ${JSON.stringify(name)}`;
      const path = join(folder, name);
      const info = await stat(path).catch(() => null);
      if (!info) return `${name} is missing`;
      if (info.size !== bytes) return `${name} has ${info.size} bytes, expected ${bytes}`;
      if ((await hashFile(path)) !== sha256) return `${name} was changed (SHA-256 differs)`;
    }
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Checkpoint folders under `root`, newest first, by the step in their names. */
export async function listCheckpoints(root: string): Promise<{ folder: string; step: number }[]> {
  const names = await readdir(root).catch(() => []);
  return names
    .flatMap((n) => {
      const match = pattern.exec(n);
      return match ? [{ folder: join(root, n), step: Number(match[1]) }] : [];
    })
    .toSorted((a, b) => b.step - a.step);
}

/**
 * The newest checkpoint that verifies; damaged ones are moved aside with a warning. null when there is none at all; an error when
 * there are some and none is good: never a silent start from nothing.
 */
export async function newestGood(
  root: string,
  warn: (message: string) => void,
): Promise<string | null> {
  const all = await listCheckpoints(root);
  if (all.length === 0) return null;
  for (const { folder } of all) {
    const problem = await problemWith(folder);
    if (problem === null) return folder;
    const aside = `${folder}.damaged-${Date.now()}`;
    await rename(folder, aside);
    warn(`${folder} cannot be used (${problem}); moved to ${aside}, trying the one before`);
  }
  throw new FileError(
    'ERR_CHECKPOINT',
    `${root}: none of its ${all.length} checkpoints can be used; they were moved aside as *.damaged-*`,
  );
}

/** Copies the values of a model folder's weights into the model's parameters. */
export async function loadParameters(
  folder: string,
  model: Module,
  name: string = 'model.safetensors',
): Promise<void> {
  const file = await openSafetensors(join(folder, name));
  for (const [key, parameter] of model.namedParameters()) {
    const value = await file.get(key);
    try {
      if (!sameShape(value.shape, parameter.shape) || value.dtype !== parameter.dtype)
        throw new FileError(
          'ERR_CHECKPOINT',
          `${folder}: ${key} is ${value.dtype} ${format(value.shape)}, the model has ${parameter.dtype} ${format(parameter.shape)}`,
        );
      tidy(() => kernels.copy(toDevice(value.detach(), parameter.device), parameter));
    } finally {
      value.dispose();
    }
  }
}

export async function loadState(
  folder: string,
): Promise<{ state: JsonObject; optimizer: OptimizerState }> {
  const state = JSON.parse(
    new TextDecoder().decode(await readBytes(join(folder, 'trainer_state.json'), 1 << 28)),
  ) as JsonObject;
  const file = await openSafetensors(join(folder, 'optimizer.safetensors'));
  const tensors = new Map<string, Tensor>();
  for (const name of file.names) tensors.set(name, await file.get(name));
  return { state, optimizer: { steps: Number(file.metadata.get('steps')), tensors } };
}

/** Removes the oldest checkpoints beyond `limit`, sparing those in `keep`. Each first gets a name that says so. */
export async function retain(
  root: string,
  limit: number,
  keep: readonly (string | null)[],
): Promise<void> {
  const all = await listCheckpoints(root);
  const spared = new Set([all[0]?.folder, ...keep.filter((k): k is string => k !== null)]);
  let excess = all.length - Math.max(limit, 1);
  for (const { folder } of all.toReversed()) {
    if (excess <= 0) break;
    if (spared.has(folder)) continue;
    const trash = join(root, `.roots-tmp-trash-${process.pid}-${basename(folder)}`);
    await rename(folder, trash);
    await rm(trash, { recursive: true, force: true });
    excess--;
  }
}
