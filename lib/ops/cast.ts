// Conversion of element types, and dense copies.
import { record } from '../autograd/record.js';
import { nativeIndex } from '../native/device.js';
import type { Device } from '../native/device.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { resolveDevice } from '../tensor/device.js';
import type { DeviceOption } from '../tensor/device.js';
import { dtypes, isFloat } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import { DTypeError } from '../tensor/errors.js';
import { contiguousStrides } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';
import * as check from './check.js';

/**
 * The same values in another element type: floats round to nearest even; float to integer truncates towards zero and
 * saturates (NaN gives 0); anything but 0 is `true`. (…) → (…)
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  check.tensor('cast', 'x', x);
  if (!Object.hasOwn(dtypes, dtype))
    throw new DTypeError(
      `cast: unknown dtype ${JSON.stringify(dtype)}; expected one of ${Object.keys(dtypes).join(', ')}`,
    );
  const out = empty(x.shape, dtype);
  kernels.copy(x, out);
  if (!isFloat(dtype)) return out;
  const from = x.dtype;
  return record(out, { x }, {}, (dy) => {
    const dx = empty(dy.shape, from);
    kernels.copy(dy, dx);
    return { x: dx };
  });
}

/**
 * The same values on another device, dense, or another handle on x when it is there already; 'auto' is the GPU where there is one.
 * Gradients come back to x's device. (…) → (…)
 */
export function toDevice(x: Tensor, device: DeviceOption): Tensor {
  check.tensor('toDevice', 'x', x);
  const target = resolveDevice('toDevice', device);
  const from = x.device;
  if (target === from) return record(x.detach(), { x }, {}, (dy) => ({ x: dy }));
  return record(move(x, target), { x }, {}, (dy) => ({ x: move(dy, from) }));
}

function move(x: Tensor, device: Device): Tensor {
  const { bytes } = dtypes[x.dtype];
  const source = contiguous(x.detach());
  const storage = source.storage.transfer(
    source.offset * bytes,
    source.size * bytes,
    nativeIndex(device),
  );
  source.dispose();
  return new Tensor(storage, x.shape, contiguousStrides(x.shape), 0, x.dtype);
}

/** A dense row-major copy, or another handle on x when it is dense already. (…) → (…) */
export function contiguous(x: Tensor): Tensor {
  check.tensor('contiguous', 'x', x);
  let out: Tensor;
  if (x.isContiguous) {
    out = x.detach();
  } else {
    out = empty(x.shape, x.dtype);
    kernels.copy(x, out);
  }
  return record(out, { x }, {}, (dy) => ({ x: dy }));
}

/** A copy with its own bytes. (…) → (…) */
export function clone(x: Tensor): Tensor {
  check.tensor('clone', 'x', x);
  const out = empty(x.shape, x.dtype);
  kernels.copy(x, out);
  return record(out, { x }, {}, (dy) => ({ x: dy }));
}
