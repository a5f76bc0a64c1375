// Writing GGUF, the file format of llama.cpp (github.com/ggml-org/ggml, docs/gguf.md, version 3): metadata, the list of tensors, then
// their bytes at multiples of 32. Shapes are stored innermost axis first.
import { open } from 'node:fs/promises';
import { replaceFileWith } from './checkpoint.js';
import { RootsError } from '../tensor/errors.js';

/** How a tensor is stored. q8_0 and q4_0: blocks of 32 neighbours along the last axis that share a float16 scale. */
export type GgufType = 'f32' | 'f16' | 'bf16' | 'q8_0' | 'q4_0';
export const ggufTypes: readonly GgufType[] = ['f32', 'f16', 'bf16', 'q8_0', 'q4_0'];

export const blockSize = 32;
const layouts: Record<GgufType, { id: number; block: number; bytes: number }> = {
  f32: { id: 0, block: 1, bytes: 4 },
  f16: { id: 1, block: 1, bytes: 2 },
  q4_0: { id: 2, block: blockSize, bytes: 18 },
  q8_0: { id: 8, block: blockSize, bytes: 34 },
  bf16: { id: 30, block: 1, bytes: 2 },
};

export type GgufValue =
  | { uint32: number }
  | { float32: number }
  | { bool: boolean }
  | { string: string }
  | { strings: readonly string[] }
  | { int32s: readonly number[] }
  | { float32s: readonly number[] };

export interface GgufTensor {
  name: string;
  /** Outermost axis first, as everywhere in this library. */
  shape: readonly number[];
  type: GgufType;
  /** The bytes, asked for when it is their turn. */
  bytes: () => Promise<Uint8Array> | Uint8Array;
}

const valueTypes = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 };

class Writer {
  readonly #parts: Buffer[] = [];
  uint32(value: number): this {
    return this.#fixed(4, (b) => b.writeUInt32LE(value));
  }
  int32(value: number): this {
    return this.#fixed(4, (b) => b.writeInt32LE(value));
  }
  uint64(value: number): this {
    return this.#fixed(8, (b) => b.writeBigUInt64LE(BigInt(value)));
  }
  float32(value: number): this {
    return this.#fixed(4, (b) => b.writeFloatLE(value));
  }
  string(value: string): this {
    const b = Buffer.from(value, 'utf8');
    return this.uint64(b.length).#put(b);
  }
  value(value: GgufValue): this {
    if ('uint32' in value) return this.uint32(valueTypes.uint32).uint32(value.uint32);
    if ('float32' in value) return this.uint32(valueTypes.float32).float32(value.float32);
    if ('bool' in value)
      return this.uint32(valueTypes.bool).#put(Buffer.from([value.bool ? 1 : 0]));
    if ('string' in value) return this.uint32(valueTypes.string).string(value.string);
    const [type, items, put] =
      'strings' in value
        ? [valueTypes.string, value.strings, (x: unknown) => this.string(x as string)]
        : 'int32s' in value
          ? [valueTypes.int32, value.int32s, (x: unknown) => this.int32(x as number)]
          : [valueTypes.float32, value.float32s, (x: unknown) => this.float32(x as number)];
    this.uint32(valueTypes.array).uint32(type).uint64(items.length);
    for (const item of items) put(item);
    return this;
  }
  done(): Buffer {
    return Buffer.concat(this.#parts);
  }
  #fixed(bytes: number, write: (b: Buffer) => void): this {
    const b = Buffer.alloc(bytes);
    write(b);
    return this.#put(b);
  }
  #put(b: Buffer): this {
    this.#parts.push(b);
    return this;
  }
}

const alignment = 32;
const aligned = (n: number): number => Math.ceil(n / alignment) * alignment;

/** Bytes of a tensor in a file. */
export function ggufBytes(type: GgufType, shape: readonly number[]): number {
  const { block, bytes } = layouts[type];
  const size = shape.reduce((n, d) => n * d, 1);
  if ((shape.at(-1) ?? 1) % block !== 0)
    throw new RootsError(
      'ERR_FILE_FORMAT',
      `${type} needs rows of a multiple of ${block} numbers, got ${shape.at(-1)}`,
    );
  return (size / block) * bytes;
}

/** Writes a file, or replaces one, in one step: what stands at `path` is never half a file. Throws what the file system reports. */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
  onProgress?: (done: number) => void,
): Promise<void> {
  const head = new Writer();
  head.uint32(0x46554747).uint32(3).uint64(tensors.length).uint64(metadata.size);
  for (const [key, value] of metadata) head.string(key).value(value);
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    head.string(name).uint32(shape.length);
    for (const d of shape.toReversed()) head.uint64(d);
    head.uint32(layouts[type].id).uint64(offset);
    offset += aligned(ggufBytes(type, shape));
  }
  const total = offset;
  await replaceFileWith(path, async (temporary) => {
    const handle = await open(temporary, 'wx');
    try {
      const header = head.done();
      await handle.writeFile(
        Buffer.concat([header, Buffer.alloc(aligned(header.length) - header.length)]),
      );
      let written = 0;
      for (const tensor of tensors) {
        const bytes = await tensor.bytes();
        const expected = ggufBytes(tensor.type, tensor.shape);
        if (bytes.byteLength !== expected)
          throw new RootsError(
            'ERR_FILE_FORMAT',
            `${tensor.name}: ${expected} bytes expected, got ${bytes.byteLength}`,
          );
        await handle.writeFile(bytes);
        await handle.writeFile(Buffer.alloc(aligned(expected) - expected));
        written += aligned(expected);
        onProgress?.(written / total);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

/**
 * Rows as blocks of q8_0: w ≈ d q with d = max|w| / 127 and q = round(w / d), half away from zero. `scales` holds the bits of every d as
 * float16 and is computed by blockScales().
 */
export function packQ8(values: Float32Array, scales: Uint16Array, exact: Float32Array): Uint8Array {
  const out = new Uint8Array(scales.length * layouts.q8_0.bytes);
  for (let b = 0; b < scales.length; b++) {
    const at = b * layouts.q8_0.bytes;
    out[at] = scales[b]! & 255;
    out[at + 1] = scales[b]! >> 8;
    const inverse = exact[b] === 0 ? 0 : 1 / exact[b]!;
    for (let i = 0; i < blockSize; i++) {
      const x = values[b * blockSize + i]! * inverse;
      out[at + 2 + i] = Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
    }
  }
  return out;
}

/**
 * Rows as blocks of q4_0: w ≈ d (q − 8) with d = (the w of largest magnitude) / −8. Of a block the low nibble of byte i is number i, the
 * high nibble number i + 16.
 */
export function packQ4(values: Float32Array, scales: Uint16Array, exact: Float32Array): Uint8Array {
  const out = new Uint8Array(scales.length * layouts.q4_0.bytes);
  const half = blockSize / 2;
  for (let b = 0; b < scales.length; b++) {
    const at = b * layouts.q4_0.bytes;
    out[at] = scales[b]! & 255;
    out[at + 1] = scales[b]! >> 8;
    const inverse = exact[b] === 0 ? 0 : 1 / exact[b]!;
    const nibble = (i: number): number =>
      Math.min(15, Math.max(0, Math.floor(values[b * blockSize + i]! * inverse + 8.5)));
    for (let i = 0; i < half; i++) out[at + 2 + i] = nibble(i) | (nibble(i + half) << 4);
  }
  return out;
}

/** d of every block, before it is rounded to float16. */
export function blockScales(type: 'q8_0' | 'q4_0', values: Float32Array): Float32Array {
  const scales = new Float32Array(values.length / blockSize);
  for (let b = 0; b < scales.length; b++) {
    let top = 0;
    for (let i = b * blockSize; i < (b + 1) * blockSize; i++)
      if (Math.abs(values[i]!) > Math.abs(top)) top = values[i]!;
    scales[b] = type === 'q8_0' ? Math.abs(top) / 127 : top / -8;
  }
  return scales;
}
