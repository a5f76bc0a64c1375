// The parts of Hopper's machinery that run on the host: tensor maps, and whether the GPU has it.
#include <stdlib.h>

#include "cuda/hopper.cuh"

namespace roots {
namespace cuda {

namespace hopper {

#if !defined(ROOTS_CUDA_EMULATED)

namespace {

// By way of the runtime: the module does not depend on libcuda.
Status encode_map(TensorMap* map, CUtensorMapDataType type, cuuint32_t rank, const void* base,
                  const cuuint64_t* sizes, const cuuint64_t* pitches, const cuuint32_t* box) {
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
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result = encode(map, type, rank, const_cast<void*>(base), sizes, pitches, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS, "the driver refuses a tensor map");
  return nullptr;
}

}  // namespace

Status make_map(TensorMap* map, const void* base, int32_t bytes, int64_t inner, int64_t rows, int64_t pitch,
                int32_t box_rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(inner), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitches[] = {static_cast<cuuint64_t>(pitch)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kSwizzledRow / bytes), static_cast<cuuint32_t>(box_rows)};
  return encode_map(map, bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
                    base, sizes, pitches, box);
}

Status make_heads_map(TensorMap* map, const void* base, int64_t width, const int64_t (&counts)[3],
                      const int64_t (&pitches)[3], int32_t box_rows) {
  cuuint64_t sizes[4] = {static_cast<cuuint64_t>(width)}, steps[3];
  for (int i = 0; i < 3; ++i) {
    sizes[i + 1] = static_cast<cuuint64_t>(counts[i]);
    steps[i] = static_cast<cuuint64_t>(pitches[i]);
  }
  const cuuint32_t box[] = {kSwizzledRow / 2, static_cast<cuuint32_t>(box_rows), 1, 1};
  return encode_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, base, sizes, steps, box);
}

#endif

bool wanted() {
  static const bool yes = [] {
    const char* word = getenv("ROOTS_CUDA_HOPPER");
    if (!word || word[0] != '1') return false;
#if defined(ROOTS_CUDA_EMULATED)
    return true;
#else
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    return major == 9 && minor == 0;
#endif
  }();
  return yes;
}

}  // namespace hopper
}  // namespace cuda
}  // namespace roots
