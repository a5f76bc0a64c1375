// ROOTS_TEST_DEVICE=cuda runs a suite with every new tensor on that device.
import { setDefaultDevice } from '../lib/index.js';
import type { DeviceOption } from '../lib/index.js';

const device = process.env['ROOTS_TEST_DEVICE'];
if (device) setDefaultDevice(device as DeviceOption);

// Leaks are looked for at the end of the process that runs the tests (scripts/test_asan.sh), not of those that tests start: the search
// itself fails now and then ("Tracer caught signal 11 … LeakSanitizer has encountered a fatal error"), once in some hundred exits.
const sanitizer = process.env['ASAN_OPTIONS'];
if (sanitizer && !sanitizer.endsWith(':detect_leaks=0'))
  process.env['ASAN_OPTIONS'] = `${sanitizer}:detect_leaks=0`;
