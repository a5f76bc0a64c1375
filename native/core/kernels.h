// kernels.def as C++: one typed function pointer per kernel, and a hash of all names and signatures that the
// addon and separately built backends compare before they trust each other.
#pragma once

#include <stdint.h>

#include "core/context.h"
#include "core/status.h"
#include "core/tensor.h"

#define UNARY(name)                            \
  KERNEL(name##_forward, Tensor x, Tensor out) \
  KERNEL(name##_backward, Tensor dy, Tensor x, Tensor dx)
#define BINARY(name) KERNEL(name, Tensor a, Tensor b, Tensor out)
#define COMPARE(name) KERNEL(name, Tensor a, Tensor b, Tensor out)

namespace roots {

struct KernelTable {
#define KERNEL(name, ...) Status (*name)(const Context&, __VA_ARGS__);
#include "kernels.def"
#undef KERNEL
};

constexpr uint64_t fnv1a(const char* text, uint64_t hash) {
  for (; *text; ++text) hash = (hash ^ static_cast<uint64_t>(*text)) * 1099511628211ull;
  return hash;
}

constexpr uint64_t kernel_abi_hash() {
  uint64_t hash =
      1469598103934665603ull ^ sizeof(Tensor) ^ (sizeof(Context) << 16) ^ (sizeof(TensorList) << 24);
#define KERNEL(name, ...) hash = fnv1a(#name "(" #__VA_ARGS__ ")", hash);
#include "kernels.def"
#undef KERNEL
  return hash;
}

}  // namespace roots
