// Declares every kernel of kernels.def in this folder's namespace. Hidden visibility turns one that is
// neither defined nor listed in unsupported.def into a link error.
#pragma once

#include "core/kernels.h"

#pragma GCC visibility push(hidden)
namespace roots {
namespace cuda {
#define KERNEL(name, ...) Status name(const Context& context, __VA_ARGS__);
#include "kernels.def"
#undef KERNEL
}  // namespace cuda
}  // namespace roots
#pragma GCC visibility pop
