// The operations as anybody would first write them: plain loops over typed arrays, one thread. What a program gains by calling a kernel
// instead. `roots bench --compare naive` times them beside ours.
import type { PeerInfo, PeerSpec } from './peers.js';

type Sizes = Record<string, number>;
type Operation = (s: Sizes, spec: PeerSpec) => () => void;

/** Multiply-adds beyond which one call would take longer than anybody waits. */
const most = 1.5e9;

const random = (n: number): Float32Array => Float32Array.from({ length: n }, () => Math.random());

/** exp(x - max) over its sum, row by row, in place. */
function softmaxRows(x: Float32Array, columns: number): void {
  for (let at = 0; at < x.length; at += columns) {
    let top = -Infinity;
    for (let i = at; i < at + columns; i++) top = Math.max(top, x[i]!);
    let sum = 0;
    for (let i = at; i < at + columns; i++) sum += x[i] = Math.exp(x[i]! - top);
    for (let i = at; i < at + columns; i++) x[i]! /= sum;
  }
}

const operations: Record<string, Operation> = {
  matmul: ({ m = 0, n = 0, k = 0 }, { layout }) => {
    const [a, b] = [random(m * k), random(k * n)];
    const [ai, ap] = String(layout)[0] === 't' ? [1, m] : [k, 1];
    const [bp, bj] = String(layout)[1] === 't' ? [1, k] : [n, 1];
    return () => {
      const out = new Float32Array(m * n);
      for (let i = 0; i < m; i++)
        for (let p = 0; p < k; p++) {
          const x = a[i * ai + p * ap]!;
          for (let j = 0; j < n; j++) out[i * n + j]! += x * b[p * bp + j * bj]!;
        }
      return out;
    };
  },
  linear: ({ m = 0, n = 0, k = 0 }) => {
    const [x, w] = [random(m * k), random(n * k)];
    return () => {
      const out = new Float32Array(m * n);
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let p = 0; p < k; p++) sum += x[i * k + p]! * w[j * k + p]!;
          out[i * n + j] = sum;
        }
      return out;
    };
  },
  attention: ({ b = 1, h = 1, tq = 0, tk = 0, d = 0 }, { causal }) => {
    const [q, k, v] = [random(b * h * tq * d), random(b * h * tk * d), random(b * h * tk * d)];
    return () => {
      const out = new Float32Array(q.length);
      for (let head = 0; head < b * h; head++)
        for (let i = 0; i < tq; i++) {
          const from = (head * tq + i) * d;
          const seen = causal ? i + tk - tq + 1 : tk;
          const scores = new Float32Array(seen);
          for (let j = 0; j < seen; j++) {
            let sum = 0;
            for (let e = 0; e < d; e++) sum += q[from + e]! * k[(head * tk + j) * d + e]!;
            scores[j] = sum / Math.sqrt(d);
          }
          softmaxRows(scores, seen);
          for (let j = 0; j < seen; j++)
            for (let e = 0; e < d; e++) out[from + e]! += scores[j]! * v[(head * tk + j) * d + e]!;
        }
      return out;
    };
  },
  add: ({ rows = 0, columns = 0 }) => {
    const [a, b] = [random(rows * columns), random(rows * columns)];
    return () => {
      const out = new Float32Array(a.length);
      for (let i = 0; i < out.length; i++) out[i] = a[i]! + b[i]!;
      return out;
    };
  },
  gelu: ({ rows = 0, columns = 0 }) => {
    const x = random(rows * columns);
    const c = Math.sqrt(2 / Math.PI);
    return () => {
      const out = new Float32Array(x.length);
      for (let i = 0; i < out.length; i++) {
        const y = x[i]!;
        out[i] = 0.5 * y * (1 + Math.tanh(c * (y + 0.044715 * y * y * y)));
      }
      return out;
    };
  },
  softmax: ({ rows = 0, columns = 0 }) => {
    const x = random(rows * columns);
    return () => softmaxRows(x.slice(), columns);
  },
  layer_norm: ({ rows = 0, columns = 0 }) => {
    const x = random(rows * columns);
    return () => {
      const out = new Float32Array(x.length);
      for (let at = 0; at < x.length; at += columns) {
        let mean = 0;
        for (let i = at; i < at + columns; i++) mean += x[i]!;
        mean /= columns;
        let variance = 0;
        for (let i = at; i < at + columns; i++) variance += (x[i]! - mean) ** 2;
        const scale = 1 / Math.sqrt(variance / columns + 1e-5);
        for (let i = at; i < at + columns; i++) out[i] = (x[i]! - mean) * scale;
      }
      return out;
    };
  },
};

/** Takes turns like the peers in processes of their own. */
export class NaivePeer {
  readonly info: PeerInfo = {
    name: 'naive',
    version: process.versions.v8,
    settings: '1 thread, plain TypeScript loops',
  };
  #call: () => void = () => undefined;

  async prepare(spec: PeerSpec): Promise<number | null> {
    const operation = operations[spec.op];
    const { m = 1, n = 1, k = 1, b = 1, h = 1, tq = 1, tk = 1, d = 1 } = spec as unknown as Sizes;
    const work = spec.op === 'attention' ? 2 * b * h * tq * tk * d : m * n * k;
    const plain = (spec['dtype'] ?? 'float32') === 'float32' && spec['backward'] !== true;
    if (!operation || !plain || work > most) return null;
    this.#call = operation(spec as unknown as Sizes, spec);
    return this.run(1);
  }

  async run(repeat: number): Promise<number> {
    const start = performance.now();
    for (let i = 0; i < repeat; i++) this.#call();
    return (performance.now() - start) / repeat;
  }

  close(): void {
    this.#call = () => undefined;
  }
}
