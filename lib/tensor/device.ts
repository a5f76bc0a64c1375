// Which device a tensor is made on.
import { cudaProblem, deviceAt, nativeIndex } from '../native/device.js';
import type { Device } from '../native/device.js';
import { native } from '../native/load.js';
import { DeviceError } from './errors.js';

/** A device, or 'auto': the GPU where there is one that can be used, else the CPU, silently. */
export type DeviceOption = Device | 'auto';

/** The device that an option means. Asking for 'cuda' where it cannot be used throws, with the reason. */
export function resolveDevice(op: string, device: string): Device {
  if (device === 'cpu') return 'cpu';
  if (device !== 'cuda' && device !== 'auto')
    throw new DeviceError(
      `${op}: unknown device ${JSON.stringify(device)}; expected 'cpu', 'cuda' or 'auto'`,
    );
  const problem = cudaProblem();
  if (!problem) return 'cuda';
  if (device === 'auto') return 'cpu';
  throw new DeviceError(`${op}: device 'cuda' cannot be used here: ${problem}`);
}

let byDefault: Device = 'cpu';

/** New tensors go to this device unless told otherwise (in this thread). Results of operations follow their inputs. */
export function setDefaultDevice(device: DeviceOption): void {
  byDefault = resolveDevice('setDefaultDevice', device);
  native().setDefaultDevice(nativeIndex(byDefault));
}

export function defaultDevice(): Device {
  return byDefault;
}

/** The native index for a new tensor. */
export function placeFor(op: string, device: string | undefined): number {
  return nativeIndex(device === undefined ? byDefault : resolveDevice(op, device));
}

export { deviceAt };
