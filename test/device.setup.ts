// ROOTS_TEST_DEVICE=cuda runs a suite with every new tensor on that device.
import { setDefaultDevice } from '../lib/index.js';
import type { DeviceOption } from '../lib/index.js';

const device = process.env['ROOTS_TEST_DEVICE'];
if (device) setDefaultDevice(device as DeviceOption);
