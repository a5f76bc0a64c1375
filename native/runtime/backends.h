// The devices of this process: the CPU is built in; others are added when their library is opened.
#pragma once

#include <string>

#include "core/backend.h"
#include "runtime/allocator.h"

namespace roots {

struct Device {
  const Backend* backend = nullptr;
  Allocator* allocator = nullptr;  // lives as long as the process
};

constexpr int kMaxDevices = 4;

// Index 0 is the CPU. Entries appear, and never change or go away.
int device_count();
const Device& device(int index);

// Opens the library of a backend and appends its device, once per path. Empty, or the reason why not.
std::string load_backend(const std::string& path);

}  // namespace roots
