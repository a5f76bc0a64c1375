// The parts of Hopper's machinery that run on the host: tensor maps, and whether the GPU has it.
#include <stdlib.h>

#include "cuda/hopper.cuh"

namespace roots {
namespace cuda {

namespace hopper {

#if !defined(ROOTS_CUDA_EMULATED)

Status make_map(TensorMap* map, const void* base, int32_t bytes, int64_t inner, int64_t rows, int64_t pitch,
                int32_t box_rows) {
  // by way of the runtime: the module does not depend on libcuda
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry)
               : nullptr;
  }();
  CHECK(encode, "the driver has no tensor maps");
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(inner), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(pitch)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kSwizzledRow / bytes), static_cast<cuuint32_t>(box_rows)},
                   steps[] = {1, 1};
  const CUresult result = encode(
      map, bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
      const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS, "the driver refuses a tensor map");
  return nullptr;
}

#endif

bool wanted() {
#if defined(ROOTS_CUDA_EMULATED)
  return true;
#else
  static const bool yes = [] {
    const char* word = getenv("ROOTS_CUDA_HOPPER");
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    return word && word[0] == '1' && major == 9 && minor == 0;
  }();
  return yes;
#endif
}

}  // namespace hopper
}  // namespace cuda
}  // namespace roots
