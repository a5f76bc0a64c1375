// Declares every kernel of kernels.def in this instruction set's namespace. Hidden visibility turns a
// forgotten definition into a link error.
#pragma once

#include "core/check.h"
#include "core/kernels.h"
#include "cpu/isa.h"

#pragma GCC visibility push(hidden)
namespace roots {
namespace ROOTS_ISA {
#define KERNEL(name, ...) Status name(const Context& context, __VA_ARGS__);
#include "kernels.def"
#undef KERNEL
}  // namespace ROOTS_ISA
}  // namespace roots
#pragma GCC visibility pop
