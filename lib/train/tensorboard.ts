// TensorBoard event files: protobuf Event messages in TFRecord framing, with masked CRC-32C sums (tensorflow/core/util/event.proto,
// tensorflow/core/lib/io/record_writer.cc). Scalars only; no maintained library writes them from Node.

const table = Uint32Array.from({ length: 256 }, (_, i) => {
  let c = i;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0x82f63b78 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

/** CRC-32C (Castagnoli). */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const b of bytes) c = table[(c ^ b) & 0xff]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function masked(bytes: Uint8Array): number {
  const c = crc32c(bytes);
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
}

function varint(value: number): number[] {
  const out: number[] = [];
  let rest = BigInt(value);
  while (rest > 127n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  out.push(Number(rest));
  return out;
}

function field(number: number, content: Uint8Array): number[] {
  return [(number << 3) | 2, ...varint(content.length), ...content];
}

function float(value: number): Uint8Array {
  const out = new Uint8Array(4);
  new DataView(out.buffer).setFloat32(0, value, true);
  return out;
}

function double(value: number): Uint8Array {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setFloat64(0, value, true);
  return out;
}

export type TensorboardEvent =
  | { wallTime: number; fileVersion: string }
  | { wallTime: number; step: number; tag: string; value: number };

/** One framed record. */
export function eventRecord(event: TensorboardEvent): Uint8Array {
  const text = new TextEncoder();
  const message: number[] = [9, ...double(event.wallTime)];
  if ('fileVersion' in event) {
    message.push(...field(3, text.encode(event.fileVersion)));
  } else {
    message.push(16, ...varint(event.step));
    const value = Uint8Array.from([...field(1, text.encode(event.tag)), 21, ...float(event.value)]);
    message.push(...field(5, Uint8Array.from(field(1, value))));
  }
  const data = Uint8Array.from(message);
  const out = new Uint8Array(8 + 4 + data.length + 4);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, masked(out.subarray(0, 8)), true);
  out.set(data, 12);
  view.setUint32(12 + data.length, masked(data), true);
  return out;
}
