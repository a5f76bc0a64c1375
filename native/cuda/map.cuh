// out = f(inputs...) element by element over views of one shape. Dense views move 16 bytes at a time.
#pragma once

#include <utility>

#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {

constexpr int kMapThreads = 256;

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <class F, int N, size_t... K, class... In>
ROOTS_DEVICE auto apply_at(const F& f, const int64_t (&at)[N], std::index_sequence<K...>, const In*... in) {
  (void)at;
  return f(in[at[1 + K]]...);
}

template <class F, class Out, class... In>
__global__ void map_strided(F f, Walk<1 + sizeof...(In)> walk, Out* out, const In*... in) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < walk.count; i += step) {
    int64_t at[1 + sizeof...(In)];
    walk.offsets(i, at);
    out[at[0]] = apply_at(f, at, std::index_sequence_for<In...>{}, in...);
  }
}

template <int P, class F, class Out, class... In>
ROOTS_DEVICE Pack<Out, P> apply_packs(const F& f, Pack<Out, P>, Pack<In, P>... x) {
  Pack<Out, P> out;
  for (int j = 0; j < P; ++j) out.v[j] = f(x.v[j]...);
  return out;
}

template <int P, class F, class Out, class... In>
__global__ void map_dense(F f, int64_t count, Out* out, const In*... in) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, packs = count / P;
  for (int64_t i = first; i < packs; i += step)
    reinterpret_cast<Pack<Out, P>*>(out)[i] =
        apply_packs<P, F, Out, In...>(f, {}, reinterpret_cast<const Pack<In, P>*>(in)[i]...);
  for (int64_t i = packs * P + first; i < count; i += step) out[i] = f(in[i]...);
}

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class Out, class... In, class F, size_t... K>
Status map_views(const F& f, const Tensor* const (&views)[1 + sizeof...(In)], std::index_sequence<K...>) {
  const Walk<1 + sizeof...(In)> walk(views);
  if (walk.count == 0) return nullptr;
  constexpr int P = sizeof(Out) >= 8 ? 2 : 4;
  if (walk.dense() && aligned(views[0]->data, sizeof(Out) * P) &&
      (aligned(views[1 + K]->data, sizeof(In) * P) && ...))
    return launch(map_dense<P, F, Out, In...>, grid_for(ceil_div(walk.count, kMapThreads * P)), kMapThreads,
                  0, f, walk.count, data<Out>(*views[0]), static_cast<const In*>(views[1 + K]->data)...);
  return launch(map_strided<F, Out, In...>, grid_for(ceil_div(walk.count, kMapThreads)), kMapThreads, 0, f,
                walk, data<Out>(*views[0]), static_cast<const In*>(views[1 + K]->data)...);
}

// views[0] is the output.
template <class Out, class... In, class F>
Status map(const F& f, const Tensor* const (&views)[1 + sizeof...(In)]) {
  for (const Tensor* view : views) CHECK(same_shape(*views[0], *view), "shapes differ");
  return map_views<Out, In...>(f, views, std::index_sequence_for<In...>{});
}

}  // namespace cuda
}  // namespace roots
