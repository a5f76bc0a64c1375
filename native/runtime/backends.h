// The devices of this process: the CPU is built in; others are added when their library is opened.
#pragma once

#include <string>
#include <vector>

#include "core/backend.h"
#include "runtime/allocator.h"

namespace roots {

struct Device {
  const Backend* backend;
  Allocator* allocator;  // lives as long as the process
};

// Index 0 is the CPU.
const std::vector<Device>& devices();

}  // namespace roots
