// Copies between pageable host memory and a device through two pinned buffers in turn, so that the copy of
// one piece by the processor and of the one before by the device overlap (a device copies pageable memory at
// half the rate, and the driver waits meanwhile). Device: pinned(slot), start(to, from, bytes), mark(slot)
// after a start, wait(slot) for what was marked.
#pragma once

#include <string.h>

#include "core/status.h"

namespace roots {
namespace cuda {

// Returns when `from` may change; later work of the same stream finds the bytes.
template <class Device>
Status stage_in(Device& device, char* to, const char* from, size_t bytes, size_t piece) {
  for (size_t at = 0, i = 0; at < bytes; at += piece, ++i) {
    const int slot = static_cast<int>(i % 2);
    const size_t n = bytes - at < piece ? bytes - at : piece;
    if (const Status status = device.wait(slot)) return status;  // its bytes are still on their way
    memcpy(device.pinned(slot), from + at, n);
    if (const Status status = device.start(to + at, device.pinned(slot), n)) return status;
    if (const Status status = device.mark(slot)) return status;
  }
  return nullptr;
}

// Returns when the bytes are at `to`.
template <class Device>
Status stage_out(Device& device, char* to, const char* from, size_t bytes, size_t piece) {
  const auto fetch = [&](size_t at) {
    const int slot = static_cast<int>(at / piece % 2);
    const Status status = device.wait(slot);
    if (!status) memcpy(to + at, device.pinned(slot), bytes - at < piece ? bytes - at : piece);
    return status;
  };
  size_t at = 0;
  for (; at < bytes; at += piece) {
    const int slot = static_cast<int>(at / piece % 2);
    // the piece before last has been fetched from this slot
    if (const Status status =
            device.start(device.pinned(slot), from + at, bytes - at < piece ? bytes - at : piece))
      return status;
    if (const Status status = device.mark(slot)) return status;
    if (at > 0)
      if (const Status status = fetch(at - piece)) return status;
  }
  return bytes > 0 ? fetch(at - piece) : nullptr;
}

}  // namespace cuda
}  // namespace roots
