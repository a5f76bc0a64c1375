// Cosines and sines for rope, with the frequency scalings that checkpoints use. Computed in float64.
import type { Device } from '../native/device.js';
import { tensor } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';

export type RopeScaling =
  | { type: 'default' }
  /** positions divided by `factor` (Chen et al., arXiv 2306.15595) */
  | { type: 'linear'; factor: number }
  /** Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth blend between */
  | {
      type: 'llama3';
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalContext: number;
    };

/** The angular frequencies theta^(-2i/D), i < D/2, after scaling. */
export function ropeFrequencies(
  headDim: number,
  theta: number,
  scaling: RopeScaling,
): Float64Array {
  const frequencies = Float64Array.from(
    { length: headDim / 2 },
    (_, i) => theta ** ((-2 * i) / headDim),
  );
  if (scaling.type === 'linear') return frequencies.map((f) => f / scaling.factor);
  if (scaling.type === 'llama3') {
    const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling;
    return frequencies.map((f) => {
      const wavelength = (2 * Math.PI) / f;
      if (wavelength < originalContext / highFreqFactor) return f;
      if (wavelength > originalContext / lowFreqFactor) return f / factor;
      const smooth =
        (originalContext / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
      return ((1 - smooth) * f) / factor + smooth * f;
    });
  }
  return frequencies;
}

/** Tables (positions, D/2) of cosines and sines for positions 0 … count - 1. */
export function ropeTables(
  headDim: number,
  theta: number,
  scaling: RopeScaling,
  count: number,
  device: Device,
): { cos: Tensor; sin: Tensor } {
  const frequencies = ropeFrequencies(headDim, theta, scaling);
  const half = frequencies.length;
  const cos = new Float32Array(count * half);
  const sin = new Float32Array(count * half);
  for (let t = 0; t < count; t++)
    for (let i = 0; i < half; i++) {
      // the reference rounds the frequency to float32 before it multiplies
      const angle = Math.fround(t * Math.fround(frequencies[i]!));
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  const shape = [count, half];
  return { cos: tensor(cos, { shape, device }), sin: tensor(sin, { shape, device }) };
}
