// onnxruntime-node as a peer of `roots bench` (protocol.mjs): linear layers in float32 and in dynamic int8, called from JavaScript as ours are.
import { installed, serve } from './protocol.mjs';

const threads = Number(process.argv[2]);
const { library, version } = await installed('onnxruntime-node');
const ort = library.default ?? library;

// ONNX models are protocol buffers: (field << 3 | type) and a value, type 0 a varint, type 2 bytes with their length.
const varint = (value) => {
  const bytes = [];
  for (let v = BigInt(value); bytes.length === 0 || v > 0n; v >>= 7n)
    bytes.push(Number(v & 127n) | (v > 127n ? 128 : 0));
  return Buffer.from(bytes);
};
const int = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) => {
  const data = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([varint((field << 3) | 2), varint(data.length), data]);
};
const message = (field, ...parts) => bytes(field, Buffer.concat(parts));
const FLOAT = 1;
const INT8 = 3;
const raw = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

const node = (type, inputs, outputs, ...attributes) =>
  message(
    1,
    ...inputs.map((n) => bytes(1, n)),
    ...outputs.map((n) => bytes(2, n)),
    bytes(4, type),
    ...attributes,
  );
const attribute = (name, value) => message(5, bytes(1, name), int(3, value), int(20, 2));
const initializer = (name, type, shape, data) =>
  message(5, ...shape.map((d) => int(1, d)), int(2, type), bytes(8, name), bytes(9, raw(data)));
const value = (field, name, shape) =>
  message(
    field,
    bytes(1, name),
    message(2, message(1, int(1, FLOAT), message(2, ...shape.map((d) => message(1, int(1, d)))))),
  );

const random = (count, scale) =>
  Float32Array.from({ length: count }, () => (Math.random() - 0.5) * scale);

function model({ op, m, n, k }) {
  const nodes = [];
  if (op === 'linear') {
    nodes.push(
      initializer('w', FLOAT, [k, n], random(k * n, 0.04)),
      node('MatMul', ['x', 'w'], ['y']),
    );
  } else {
    // the form that onnxruntime.quantization.quantize_dynamic writes, a scale per output
    const q = Int8Array.from({ length: k * n }, () => Math.round((Math.random() - 0.5) * 254));
    nodes.push(
      initializer('w', INT8, [k, n], q),
      initializer('w_scale', FLOAT, [n], random(n, 0.001)),
      initializer('w_zero', INT8, [n], new Int8Array(n)),
      node('DynamicQuantizeLinear', ['x'], ['xq', 'x_scale', 'x_zero']),
      node('MatMulInteger', ['xq', 'w', 'x_zero', 'w_zero'], ['sums']),
      node('Cast', ['sums'], ['wide'], attribute('to', FLOAT)),
      node('Mul', ['x_scale', 'w_scale'], ['scales']),
      node('Mul', ['wide', 'scales'], ['y']),
    );
  }
  const graph = message(7, ...nodes, bytes(2, op), value(11, 'x', [m, k]), value(12, 'y', [m, n]));
  return Buffer.concat([int(1, 9), graph, message(8, bytes(1, ''), int(2, 17))]);
}

let session = null;
async function prepare(spec) {
  if (
    !['linear', 'linear_dynamic_int8'].includes(spec.op) ||
    (spec.dtype ?? 'float32') !== 'float32'
  )
    throw new Error(`no ${spec.op}`);
  await session?.release();
  session = await ort.InferenceSession.create(model(spec), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionProviders: ['cpu'],
  });
  const own = session;
  const x = new ort.Tensor('float32', random(spec.m * spec.k, 2), [spec.m, spec.k]);
  return () => own.run({ x });
}

await serve(
  { name: 'onnxruntime-node', version, settings: `${threads} threads, dynamic int8 per channel` },
  prepare,
);
