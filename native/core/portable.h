// Code that every device compiles: for a processor once per instruction set, for GPUs by nvcc. Functions live
// in unnamed namespaces, so that no object file takes another's version of them.
#pragma once

#if defined(__CUDACC__)
#define ROOTS_PORTABLE __host__ __device__ inline __attribute__((always_inline))
#else
#define ROOTS_PORTABLE inline __attribute__((always_inline))
#endif
