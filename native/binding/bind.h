// A kernel's C++ signature as a Node-API function. Each tensor takes two JavaScript arguments: its storage
// (External) and its layout, a cached Float64Array [dtype, offset, rank, shape..., strides...]; an absent
// tensor is null, null. "Native refuses": the view must lie inside a genuine storage; what a shape means is
// checked in lib/ops.
#pragma once

#include <cmath>
#include <tuple>

#include "binding/environment.h"
#include "core/kernels.h"

namespace roots {

struct Arguments {
  napi_env env;
  Environment* environment;
  const napi_value* values;
  const char* kernel;
  Storage** held;  // storages used, in order of appearance
  int held_count = 0;
  int next = 0;
  bool failed = false;

  void fail(const std::string& message) {
    if (!failed) throw_error(env, "ERR_ROOTS_NATIVE", std::string(kernel) + ": " + message);
    failed = true;
  }
};

// Fills a tensor from layout values; false unless every element of the view lies in [0, bytes).
inline bool read_layout(const double* layout, size_t length, size_t bytes, Tensor* out,
                        int64_t* offset_bytes) {
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53
  if (length < 3) return false;
  for (size_t i = 0; i < length; ++i)
    if (!(layout[i] >= 0 && layout[i] < kMaxExact && layout[i] == std::floor(layout[i]))) return false;
  if (layout[0] >= kNumDTypes || layout[2] > kMaxRank) return false;
  const int32_t rank = static_cast<int32_t>(layout[2]);
  if (length != 3 + 2 * static_cast<size_t>(rank)) return false;
  out->dtype = static_cast<DType>(static_cast<int32_t>(layout[0]));
  out->rank = rank;
  int64_t last = static_cast<int64_t>(layout[1]);
  bool empty = false;
  for (int32_t i = 0; i < rank; ++i) {
    out->shape[i] = static_cast<int64_t>(layout[3 + i]);
    out->strides[i] = static_cast<int64_t>(layout[3 + rank + i]);
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
  StorageHandle* handle = storage_of(a.env, a.environment, a.values[a.next]);
  if (!handle) {
    a.failed = true;  // storage_of has thrown
    return;
  }
  napi_typedarray_type type;
  size_t length;
  void* layout;
  if (napi_get_typedarray_info(a.env, a.values[a.next + 1], &type, &length, &layout, nullptr, nullptr) !=
          napi_ok ||
      type != napi_float64_array)
    return a.fail("argument " + std::to_string(a.next + 1) + ": expected a layout (Float64Array)");
  int64_t offset;
  if (!read_layout(static_cast<const double*>(layout), length, handle->storage->bytes(), out, &offset))
    return a.fail("argument " + std::to_string(a.next) + ": the view does not lie inside its storage of " +
                  std::to_string(handle->storage->bytes()) + " bytes");
  out->data = static_cast<char*>(handle->storage->data()) + offset;
  a.held[a.held_count++] = handle->storage;
}

template <class T>
T read_argument(Arguments& a);

template <>
inline Tensor read_argument<Tensor>(Arguments& a) {
  Tensor tensor;
  if (!a.failed) read_tensor(a, &tensor);
  a.next += 2;
  return tensor;
}

template <>
inline OptionalTensor read_argument<OptionalTensor>(Arguments& a) {
  OptionalTensor tensor;
  if (!a.failed) {
    napi_valuetype type;
    if (napi_typeof(a.env, a.values[a.next], &type) == napi_ok && type == napi_null)
      tensor.rank = -1;
    else
      read_tensor(a, &tensor);
  }
  a.next += 2;
  return tensor;
}

template <>
inline double read_argument<double>(Arguments& a) {
  double value = 0;
  if (!a.failed && napi_get_value_double(a.env, a.values[a.next], &value) != napi_ok)
    a.fail("argument " + std::to_string(a.next) + ": expected a number");
  a.next += 1;
  return value;
}

template <>
inline int64_t read_argument<int64_t>(Arguments& a) {
  double value = 0;
  if (!a.failed && (napi_get_value_double(a.env, a.values[a.next], &value) != napi_ok ||
                    value != std::floor(value) || std::fabs(value) > 9007199254740991.0))
    a.fail("argument " + std::to_string(a.next) + ": expected a safe integer");
  a.next += 1;
  return a.failed ? 0 : static_cast<int64_t>(value);
}

template <class T>
constexpr int argument_slots = std::is_base_of_v<Tensor, T> ? 2 : 1;
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
template <class... Args>
int choose_device(napi_env env, const KernelCall* call, const napi_value* values) {
  if (device_count() == 1) return 0;
  StorageHandle* undecided[(0 + ... + argument_tensors<Args>)+1];
  int count = 0, device = -1, slot = 0;
  bool failed = false;
  const auto look = [&](bool is_tensor) {
    const napi_value value = values[slot];
    slot += is_tensor ? 2 : 1;
    napi_valuetype type;
    if (!is_tensor || failed || (napi_typeof(env, value, &type) == napi_ok && type == napi_null)) return;
    StorageHandle* handle = handle_of(env, value);
    if (!handle) {
      failed = true;
    } else if (!handle->storage) {
      undecided[count++] = handle;
    } else {
      const int own = handle->storage->allocator()->device();
      if (device >= 0 && own != device) {
        throw_error(env, "ERR_DEVICE",
                    std::string(call->name) + ": expected tensors on one device, got " +
                        roots::device(device).backend->name + " and " + roots::device(own).backend->name +
                        "; move one with .to()");
        failed = true;
      }
      device = own;
    }
  };
  (look(argument_slots<Args> == 2), ...);
  if (device < 0) device = call->environment->default_device;
  for (int i = 0; i < count && !failed; ++i)
    if (!undecided[i]->storage) failed = !decide(env, call->environment, undecided[i], device);
  return failed ? -1 : device;
}

template <class... Args>
napi_value enqueue(napi_env env, napi_callback_info info,
                   Status (*KernelTable::*member)(const Context&, Args...)) {
  constexpr size_t kSlots = (size_t{0} + ... + argument_slots<Args>);
  napi_value values[kSlots];
  size_t count = kSlots;
  void* data;
  if (napi_get_cb_info(env, info, &count, values, nullptr, &data) != napi_ok) return nullptr;
  auto* call = static_cast<KernelCall*>(data);
  if (count < kSlots)
    return throw_error(env, "ERR_ROOTS_NATIVE",
                       std::string(call->name) + ": expected " + std::to_string(kSlots) + " arguments, got " +
                           std::to_string(count));
  Storage* held[KernelTask<Args...>::kTensors > 0 ? KernelTask<Args...>::kTensors : 1];
  const int device = choose_device<Args...>(env, call, values);
  if (device < 0) return nullptr;
  Arguments arguments{env, call->environment, values, call->name, held};
  // braces: evaluated left to right
  std::tuple<Args...> converted{read_argument<Args>(arguments)...};
  if (arguments.failed) return nullptr;
  Stream& stream = call->environment->stream;
  const auto kernel = roots::device(device).backend->kernels()->*member;
  stream.submit(std::make_unique<KernelTask<Args...>>(kernel, call->name, std::move(converted), held,
                                                      arguments.held_count));
  if (stream.runs_inline()) {
    const std::string error = stream.take_error();
    if (!error.empty()) return throw_error(env, "ERR_ROOTS_NATIVE", error);
  }
  return nullptr;
}

}  // namespace roots
