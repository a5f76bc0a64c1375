// A kernel's C++ signature as a Node-API function. It takes the storages (Externals, null for an absent
// tensor) as arguments; everything that is a number lies in the environment's array of doubles, in the order
// of the signature: a tensor is [dtype, offset, rank, shape..., strides...] or [-1] where absent, a number
// itself. An array that both sides know costs a tenth of reading as many Node-API values. "Native refuses":
// the view must lie inside a genuine storage; what a shape means is checked in lib/ops.
#pragma once

#include <cmath>
#include <tuple>

#include "binding/environment.h"
#include "core/kernels.h"

namespace roots {

// Kernels on no more bytes than this take less time than handing them to the stream's thread; when that has
// nothing to do they run on the caller.
constexpr double kSmall = 16 << 10;

struct Arguments {
  napi_env env;
  Environment* environment;
  const napi_value* handles;
  const double* numbers;
  const char* kernel;
  Storage** held;  // storages used, in order of appearance
  int held_count = 0;
  int tensor = 0;    // of the next tensor, among the handles
  double bytes = 0;  // of the elements of all tensors
  bool failed = false;

  void fail(const std::string& message) {
    if (!failed) throw_error(env, "ERR_ROOTS_NATIVE", std::string(kernel) + ": " + message);
    failed = true;
  }
};

constexpr int kLayoutHeader = 3;
constexpr int kMaxLayout = kLayoutHeader + 2 * kMaxRank;

// Fills a tensor from layout values; false unless every element of the view lies in [0, bytes). At most
// kMaxLayout values are read.
inline bool read_layout(const double* layout, size_t bytes, Tensor* out, int64_t* offset_bytes) {
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53
  const auto exact = [](double x) {
    return x >= 0 && x < kMaxExact && x == static_cast<double>(static_cast<int64_t>(x));
  };
  if (!(exact(layout[0]) && exact(layout[1]) && exact(layout[2]))) return false;
  if (layout[0] >= kNumDTypes || layout[2] > kMaxRank) return false;
  const int32_t rank = static_cast<int32_t>(layout[2]);
  for (int32_t i = kLayoutHeader; i < kLayoutHeader + 2 * rank; ++i)
    if (!exact(layout[i])) return false;
  out->dtype = static_cast<DType>(static_cast<int32_t>(layout[0]));
  out->rank = rank;
  int64_t last = static_cast<int64_t>(layout[1]);
  bool empty = false;
  for (int32_t i = 0; i < rank; ++i) {
    out->shape[i] = static_cast<int64_t>(layout[kLayoutHeader + i]);
    out->strides[i] = static_cast<int64_t>(layout[kLayoutHeader + rank + i]);
    if (out->shape[i] == 0) {
      empty = true;
      continue;
    }
    int64_t reach;
    if (__builtin_mul_overflow(out->shape[i] - 1, out->strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      return false;
  }
  const int64_t size = dtype_size(out->dtype);
  int64_t end;
  if (__builtin_mul_overflow(static_cast<int64_t>(layout[1]), size, offset_bytes)) return false;
  if (empty) return *offset_bytes <= static_cast<int64_t>(bytes);
  if (__builtin_add_overflow(last, int64_t{1}, &end) || __builtin_mul_overflow(end, size, &end)) return false;
  return end <= static_cast<int64_t>(bytes);
}

inline void read_tensor(Arguments& a, Tensor* out) {
  StorageHandle* handle = storage_of(a.env, a.environment, a.handles[a.tensor]);
  if (!handle) {
    a.failed = true;  // storage_of has thrown
    return;
  }
  int64_t offset;
  if (!read_layout(a.numbers, handle->storage->bytes(), out, &offset))
    return a.fail("tensor " + std::to_string(a.tensor) + ": the view does not lie inside its storage of " +
                  std::to_string(handle->storage->bytes()) + " bytes");
  a.numbers += kLayoutHeader + 2 * out->rank;
  out->data = static_cast<char*>(handle->storage->data()) + offset;
  a.held[a.held_count++] = handle->storage;
  auto bytes = static_cast<double>(dtype_size(out->dtype));
  for (int32_t i = 0; i < out->rank; ++i) bytes *= static_cast<double>(out->shape[i]);
  a.bytes += bytes;
}

template <class T>
T read_argument(Arguments& a);

template <>
inline Tensor read_argument<Tensor>(Arguments& a) {
  Tensor tensor;
  if (!a.failed) read_tensor(a, &tensor);
  ++a.tensor;
  return tensor;
}

template <>
inline OptionalTensor read_argument<OptionalTensor>(Arguments& a) {
  OptionalTensor tensor;
  if (!a.failed) {
    if (*a.numbers == -1) {
      tensor.rank = -1;
      ++a.numbers;
    } else {
      read_tensor(a, &tensor);
    }
  }
  ++a.tensor;
  return tensor;
}

template <>
inline double read_argument<double>(Arguments& a) {
  return a.failed ? 0 : *a.numbers++;
}

template <>
inline int64_t read_argument<int64_t>(Arguments& a) {
  if (a.failed) return 0;
  const double value = *a.numbers++;
  if (value != std::floor(value) || std::fabs(value) > 9007199254740991.0) {
    a.fail("expected a safe integer, got " + std::to_string(value));
    return 0;
  }
  return static_cast<int64_t>(value);
}

template <class T>
constexpr int argument_tensors = std::is_base_of_v<Tensor, T> ? 1 : 0;

template <class... Args>
class KernelTask final : public Task {
 public:
  using Kernel = Status (*)(const Context&, Args...);
  static constexpr int kTensors = (0 + ... + argument_tensors<Args>);

  KernelTask(Kernel kernel, const char* name, std::tuple<Args...> arguments, Storage* const* held, int count)
      : kernel_(kernel), name_(name), arguments_(std::move(arguments)), count_(count) {
    for (int i = 0; i < count; ++i) {
      held_[i] = held[i];
      held_[i]->retain_for_task();
    }
  }
  ~KernelTask() override {
    for (int i = 0; i < count_; ++i) held_[i]->release_for_task();
  }
  Status run(const Context& context) override {
    return std::apply([&](const Args&... args) { return kernel_(context, args...); }, arguments_);
  }
  const char* name() const override { return name_; }

 private:
  Kernel kernel_;
  const char* name_;
  std::tuple<Args...> arguments_;
  Storage* held_[kTensors > 0 ? kTensors : 1];
  int count_;
};

// Which device a call runs on: that of its tensors. Storages that no kernel has seen yet follow the others,
// so that lib/ops can make results without knowing where they will live. -1 with a pending exception.
inline int choose_device(napi_env env, const KernelCall* call, const napi_value* handles, int count) {
  if (device_count() == 1) return 0;
  int device = -1;
  for (int i = 0; i < count; ++i) {
    napi_valuetype type;
    if (napi_typeof(env, handles[i], &type) == napi_ok && type == napi_null) continue;
    const StorageHandle* handle = handle_of(env, handles[i]);
    if (!handle) return -1;
    if (!handle->storage) continue;
    const int own = handle->storage->allocator()->device();
    if (device >= 0 && own != device) {
      throw_error(env, "ERR_DEVICE",
                  std::string(call->name) + ": expected tensors on one device, got " +
                      roots::device(device).backend->name + " and " + roots::device(own).backend->name +
                      "; move one with .to()");
      return -1;
    }
    device = own;
  }
  if (device < 0) device = call->environment->default_device;
  for (int i = 0; i < count; ++i) {
    void* data;
    if (napi_get_value_external(env, handles[i], &data) != napi_ok) continue;  // null
    auto* handle = static_cast<StorageHandle*>(data);
    if (!handle->storage && !decide(env, call->environment, handle, device)) return -1;
  }
  return device;
}

template <class... Args>
napi_value enqueue(napi_env env, napi_callback_info info,
                   Status (*KernelTable::*member)(const Context&, Args...)) {
  constexpr size_t kTensors = KernelTask<Args...>::kTensors;
  static_assert(kTensors > 0 && sizeof...(Args) * kMaxLayout <= Environment::kNumbers);
  napi_value handles[kTensors];
  size_t count = kTensors;
  void* data;
  if (napi_get_cb_info(env, info, &count, handles, nullptr, &data) != napi_ok) return nullptr;
  auto* call = static_cast<KernelCall*>(data);
  if (count < kTensors)
    return throw_error(env, "ERR_ROOTS_NATIVE",
                       std::string(call->name) + ": expected " + std::to_string(kTensors) +
                           " storages, got " + std::to_string(count));
  Storage* held[kTensors];
  const int device = choose_device(env, call, handles, static_cast<int>(kTensors));
  if (device < 0) return nullptr;
  Arguments arguments{env, call->environment, handles, call->environment->numbers, call->name, held};
  // braces: evaluated left to right
  std::tuple<Args...> converted{read_argument<Args>(arguments)...};
  if (arguments.failed) return nullptr;
  Stream& stream = call->environment->stream;
  const auto kernel = roots::device(device).backend->kernels()->*member;
  if (device == 0 && arguments.bytes <= kSmall && !stream.runs_inline() && stream.idle()) {
    stream.run_here(call->name, [&](const Context& context) {
      return std::apply([&](const Args&... args) { return kernel(context, args...); }, converted);
    });
    return nullptr;
  }
  stream.submit(std::make_unique<KernelTask<Args...>>(kernel, call->name, std::move(converted), held,
                                                      arguments.held_count));
  if (stream.runs_inline()) {
    const std::string error = stream.take_error();
    if (!error.empty()) return throw_error(env, "ERR_ROOTS_NATIVE", error);
  }
  return nullptr;
}

}  // namespace roots
