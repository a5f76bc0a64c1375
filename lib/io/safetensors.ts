// safetensors files: one, or shards with an index. Headers are parsed by the native core by a strict policy
// (docs/formats.md); bytes go straight into tensors.
import { lstat, open, realpath } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import * as kernels from '../native/kernels.gen.js';
import { nativeIndex } from '../native/device.js';
import { native } from '../native/load.js';
import { defaultDevice } from '../tensor/device.js';
import type { OpenedSafetensors } from '../native/load.js';
import { dtypes } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import { DTypeError, FileError, RootsError } from '../tensor/errors.js';
import { contiguousStrides, numel } from '../tensor/shape.js';
import { Storage } from '../tensor/storage.js';
import { Tensor } from '../tensor/tensor.js';
import { readJsonObject } from './json.js';

const fromFile: Record<string, DType> = {
  F32: 'float32',
  F64: 'float64',
  BF16: 'bfloat16',
  F16: 'float16',
  I8: 'int8',
  U8: 'uint8',
  I32: 'int32',
  I64: 'int64',
  BOOL: 'bool',
};
const toFile = Object.fromEntries(Object.entries(fromFile).map(([k, v]) => [v, k])) as Record<
  DType,
  string
>;

/** This library's name for an element type as files spell it, where it has one. */
export function dtypeOfFile(name: string): DType | undefined {
  return fromFile[name];
}

export interface TensorInfo {
  readonly name: string;
  /** As the file spells it: F32, BF16, I8, F8_E4M3, … */
  readonly dtype: string;
  readonly shape: readonly (number | bigint)[];
  readonly bytes: number;
  readonly file: string;
}

interface Entry extends TensorInfo {
  readonly begin: number;
  readonly end: number;
  readonly handle: unknown;
}

/** Named tensors in a file or a folder of shards; nothing is read until `get()`. */
export class TensorFile {
  readonly #entries: Map<string, Entry>;
  readonly metadata: ReadonlyMap<string, string>;
  /** Things that are accepted but worth telling. */
  readonly warnings: readonly string[];

  constructor(entries: Map<string, Entry>, metadata: Map<string, string>, warnings: string[]) {
    this.#entries = entries;
    this.metadata = metadata;
    this.warnings = warnings;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  info(name: string): TensorInfo {
    const entry = this.#entries.get(name);
    if (!entry)
      throw new FileError(
        'ERR_TENSOR_MISSING',
        `no tensor ${JSON.stringify(name)} in the checkpoint`,
      );
    return entry;
  }

  /** Reads one tensor; it belongs to the caller. */
  async get(name: string): Promise<Tensor> {
    const entry = this.info(name) as Entry;
    const dtype = dtypeOfFile(entry.dtype);
    if (!dtype)
      throw new DTypeError(
        `${entry.file}: tensor ${JSON.stringify(name)} is ${entry.dtype}, which cannot be computed with; convert the checkpoint`,
      );
    const shape = entry.shape.map((d) => {
      if (typeof d === 'bigint')
        throw new RangeError(
          `${entry.file}: tensor ${JSON.stringify(name)} has a dimension of ${d}, beyond 2^53 - 1`,
        );
      return d;
    });
    if (shape.length > 8)
      throw new RangeError(
        `${entry.file}: tensor ${JSON.stringify(name)} has ${shape.length} dimensions; at most 8 are supported`,
      );
    const storage = Storage.allocate(numel(shape) * dtypes[dtype].bytes, true);
    try {
      await native().readSafetensors(entry.handle, entry.begin, entry.end, storage.handle);
    } catch (error) {
      storage.release();
      throw translate(entry.file, error);
    }
    return onDefaultDevice(new Tensor(storage, shape, contiguousStrides(shape), 0, dtype));
  }
}

function translate(path: string, error: unknown): Error {
  const { code, message } = error as { code?: string; message: string };
  if (code?.startsWith('ERR_FILE'))
    return new FileError(
      code,
      `${basename(path)}: ${code === 'ERR_FILE_NOT_FOUND' ? 'no such file' : message}`,
      { cause: error },
    );
  return error as Error;
}

async function openOne(path: string): Promise<OpenedSafetensors> {
  try {
    return await native().openSafetensors(path);
  } catch (error) {
    throw translate(path, error);
  }
}

function addEntries(
  entries: Map<string, Entry>,
  opened: OpenedSafetensors,
  path: string,
  wanted?: ReadonlySet<string>,
): void {
  opened.names.forEach((name, i) => {
    const [begin, end] = opened.offsets[i]!;
    if (wanted && !wanted.has(name)) return;
    entries.set(name, {
      name,
      dtype: opened.dtypes[i]!,
      shape: opened.shapes[i]!,
      begin: Number(begin),
      end: Number(end),
      bytes: Number(end) - Number(begin),
      file: basename(path),
      handle: opened.file,
    });
  });
}

/** Opens a single safetensors file. */
export async function openSafetensors(path: string): Promise<TensorFile> {
  const opened = await openOne(path);
  const entries = new Map<string, Entry>();
  addEntries(entries, opened, path);
  const warnings = opened.unknownFields.map(
    (f) => `${basename(path)}: unknown tensor field ${JSON.stringify(f)} ignored`,
  );
  return new TensorFile(entries, new Map(opened.metadata), warnings);
}

/**
 * A shard name from an index, resolved inside its folder. Links are refused, except the layout of the Hugging Face
 * cache: snapshots/<revision>/<file> → ../../blobs/<name>.
 */
async function containedPath(folder: string, name: string): Promise<string> {
  const parts = name.split('/');
  const bad =
    !name.endsWith('.safetensors') ||
    name.includes('\\') ||
    name.includes('\0') ||
    /^[A-Za-z]:/.test(name) ||
    parts.some((p) => p === '' || p === '.' || p === '..');
  if (bad)
    throw new FileError(
      'ERR_FILE_FORMAT',
      `index: shard name ${JSON.stringify(name.slice(0, 200))} is not a plain relative .safetensors path`,
    );
  let path = folder;
  for (const part of parts) {
    path = join(path, part);
    const info = await lstat(path).catch(() => null);
    if (!info)
      throw new FileError(
        'ERR_FILE_NOT_FOUND',
        `index: shard ${JSON.stringify(name)} does not exist`,
      );
    if (info.isSymbolicLink()) {
      const root = dirname(dirname(await realpath(folder)));
      const target = await realpath(path).catch(() => '');
      const inside = relative(root, target).split(sep);
      if (
        parts.length !== 1 ||
        basename(dirname(await realpath(folder))) !== 'snapshots' ||
        inside.length !== 2 ||
        inside[0] !== 'blobs'
      )
        throw new FileError(
          'ERR_FILE_ACCESS',
          `index: shard ${JSON.stringify(name)} is a link that leaves its folder`,
        );
    }
  }
  return path;
}

/** Opens the weights of a model folder: model.safetensors, or the shards named by model.safetensors.index.json. */
export async function openModelWeights(folder: string): Promise<TensorFile> {
  const single = join(folder, 'model.safetensors');
  const index = join(folder, 'model.safetensors.index.json');
  const exists = async (path: string): Promise<boolean> =>
    (await lstat(path).catch(() => null)) !== null;
  if (await exists(single)) {
    const file = await openSafetensors(single);
    if (!(await exists(index))) return file;
    return new TensorFile(
      new Map(file.names.map((n) => [n, file.info(n) as Entry])),
      new Map(file.metadata),
      [
        ...file.warnings,
        'both model.safetensors and model.safetensors.index.json exist; the single file is used',
      ],
    );
  }
  if (!(await exists(index))) {
    for (const pickle of [
      'pytorch_model.bin',
      'pytorch_model.bin.index.json',
      'model.pt',
      'consolidated.00.pth',
    ])
      if (await exists(join(folder, pickle)))
        throw new FileError(
          'ERR_FILE_FORMAT',
          `${folder}: only ${pickle} found, a pickle file; loading one runs code from it, so it is refused. Convert it with safetensors.torch.save_file`,
        );
    throw new FileError(
      'ERR_FILE_NOT_FOUND',
      `${folder}: no model.safetensors and no model.safetensors.index.json`,
    );
  }
  return openShards(folder, index);
}

async function openShards(folder: string, indexPath: string): Promise<TensorFile> {
  const index = await readJsonObject(indexPath);
  const map = Object.hasOwn(index, 'weight_map') ? index['weight_map'] : undefined;
  if (
    map === undefined ||
    map === null ||
    typeof map !== 'object' ||
    Array.isArray(map) ||
    Object.keys(map).length === 0
  )
    throw new FileError(
      'ERR_FILE_FORMAT',
      'index: weight_map must be a non-empty object from tensor name to file',
    );
  const shardOf = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (name === '__metadata__' || typeof shard !== 'string')
      throw new FileError(
        'ERR_FILE_FORMAT',
        `index: weight_map entry ${JSON.stringify(name.slice(0, 200))} must be a file name`,
      );
    shardOf.set(name, shard);
  }
  const entries = new Map<string, Entry>();
  const owner = new Map<string, string>();
  const warnings: string[] = [];
  let total = 0;
  for (const shard of new Set(shardOf.values())) {
    const path = await containedPath(folder, shard);
    const opened = await openOne(path);
    const wanted = new Set<string>();
    for (const name of opened.names) {
      const other = owner.get(name);
      if (other !== undefined)
        throw new FileError(
          'ERR_FILE_FORMAT',
          `index: tensor ${JSON.stringify(name)} is in two shards, ${other} and ${shard}`,
        );
      owner.set(name, shard);
      if (shardOf.get(name) === shard) wanted.add(name);
      else
        warnings.push(
          `tensor ${JSON.stringify(name)} of ${shard} is not in the index and is not loaded`,
        );
    }
    addEntries(entries, opened, path, wanted);
  }
  for (const [name, shard] of shardOf) {
    if (!entries.has(name))
      throw new FileError(
        'ERR_TENSOR_MISSING',
        `index: tensor ${JSON.stringify(name)} is not in its shard ${shard}`,
      );
    total += entries.get(name)!.bytes;
  }
  const metadata = index['metadata'];
  const claimed =
    metadata && typeof metadata === 'object' && !Array.isArray(metadata)
      ? metadata['total_size']
      : undefined;
  if (claimed !== undefined && claimed !== total)
    warnings.push(
      `index: total_size is ${JSON.stringify(claimed)}, the tensors have ${total} bytes`,
    );
  return new TensorFile(entries, new Map(), warnings);
}

const alignment = 8;

/** Writes named tensors to a new file: header, data, fsync. The file must not exist; see checkpoint.ts for atomic saves. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set('__metadata__', metadata);
  let offset = 0;
  for (const [name, tensor] of tensors) {
    tensor.checkAlive();
    if (name === '__metadata__' || /\p{Surrogate}/u.test(name) || Buffer.byteLength(name) > 65536)
      throw new RootsError(
        'ERR_FILE_FORMAT',
        `a tensor cannot be named ${JSON.stringify(name.slice(0, 80))}`,
      );
    const bytes = tensor.size * dtypes[tensor.dtype].bytes;
    header.set(name, {
      dtype: toFile[tensor.dtype],
      shape: tensor.shape,
      data_offsets: [offset, offset + bytes],
    });
    offset += bytes;
  }
  // a Map keeps names like "__proto__" and "0" as they are; JSON.stringify of an object would not
  let text = `{${[...header].map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`;
  text += ' '.repeat((alignment - ((8 + Buffer.byteLength(text)) % alignment)) % alignment);
  const body = Buffer.from(text, 'utf8');
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(body.length));
  const handle = await open(path, 'wx');
  try {
    await writeAll(handle, Buffer.concat([length, body]));
    for (const tensor of tensors.values()) await writeAll(handle, await rawBytes(tensor));
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeAll(
  handle: { write(b: Uint8Array, o: number, l: number): Promise<{ bytesWritten: number }> },
  bytes: Uint8Array,
): Promise<void> {
  for (let at = 0; at < bytes.length;)
    at += (await handle.write(bytes, at, bytes.length - at)).bytesWritten;
}

/** The elements in row-major order exactly as stored, 16-bit floats included. */
export async function rawBytes(tensor: Tensor): Promise<Uint8Array> {
  const { bytes } = dtypes[tensor.dtype];
  const target = new Uint8Array(tensor.size * bytes);
  const source = tensor.isContiguous ? tensor : denseCopy(tensor);
  const done = native().read(source.storage.handle, source.offset * bytes, target);
  if (source !== tensor) source.dispose();
  return done;
}

/** Files are read into host memory; takes the tensor over. */
function onDefaultDevice(tensor: Tensor): Tensor {
  const device = nativeIndex(defaultDevice());
  if (device === 0) return tensor;
  const { shape, dtype } = tensor;
  const moved = tensor.storage.transfer(0, tensor.storage.bytes, device);
  tensor.dispose();
  return new Tensor(moved, shape, contiguousStrides(shape), 0, dtype);
}

function denseCopy(tensor: Tensor): Tensor {
  const copy = new Tensor(
    Storage.allocate(tensor.size * dtypes[tensor.dtype].bytes),
    tensor.shape,
    contiguousStrides(tensor.shape),
    0,
    tensor.dtype,
  );
  kernels.copy(tensor, copy);
  return copy;
}
