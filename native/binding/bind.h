// A kernel's C++ signature as a Node-API function. It takes the storages (Externals, null for an absent
// tensor) as arguments; everything that is a number lies in the environment's array of doubles, in the order
// of the signature: a tensor is [dtype, offset, rank, shape..., strides...] or [-1] where absent, a number
// itself. A list of tensors is one argument, an array of storages, and their layouts one after another. An
// array that both sides know costs a tenth of reading as many Node-API values. "Native refuses": the view
// must lie inside a genuine storage; what a shape means is checked in lib/ops.
#pragma once

#include <array>
#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include "binding/environment.h"
#include "core/kernels.h"

namespace roots {

// Kernels on no more bytes than this take less time than handing them to the stream's thread; when that has
// nothing to do they run on the caller.
constexpr double kSmall = 16 << 10;

// Tensors in one list.
constexpr int kMaxList = 128;

struct Arguments {
  napi_env env;
  Environment* environment;
  const napi_value* handles;
  const double* numbers;
  const char* kernel;
  Storage** held;          // storages used, in order of appearance
  const int64_t* lengths;  // of the lists
  int held_count = 0;
  int tensor = 0;    // of the next tensor, among the handles
  double bytes = 0;  // of the elements of all tensors
  bool failed = false;
  std::vector<std::unique_ptr<Tensor[]>> lists = {};  // what lists point to

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
  if (empty) {
    *offset_bytes = 0;  // a slice of nothing may begin anywhere: nothing of it is read
    return true;
  }
  if (__builtin_mul_overflow(static_cast<int64_t>(layout[1]), size, offset_bytes)) return false;
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
inline TensorList read_argument<TensorList>(Arguments& a) {
  const int64_t count = *a.lengths++;
  a.lists.push_back(std::make_unique<Tensor[]>(static_cast<size_t>(count)));
  Tensor* items = a.lists.back().get();
  for (int64_t i = 0; i < count; ++i) items[i] = read_argument<Tensor>(a);
  return {items, count};
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
constexpr bool is_list = std::is_same_v<T, TensorList>;
template <class T>
constexpr bool is_slot = is_list<T> || std::is_base_of_v<Tensor, T>;

template <class... Args>
class KernelTask final : public Task {
 public:
  using Kernel = Status (*)(const Context&, Args...);
  static constexpr int kSlots = (0 + ... + (is_slot<Args> ? 1 : 0));
  static constexpr bool kHasLists = (is_list<Args> || ...);

  KernelTask(Kernel kernel, const char* name, std::tuple<Args...> converted, Arguments& arguments)
      : kernel_(kernel),
        name_(name),
        arguments_(std::move(converted)),
        lists_(std::move(arguments.lists)),
        count_(arguments.held_count) {
    if constexpr (kHasLists) held_.resize(static_cast<size_t>(count_));
    for (int i = 0; i < count_; ++i) {
      held_[i] = arguments.held[i];
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
  std::vector<std::unique_ptr<Tensor[]>> lists_;
  std::conditional_t<kHasLists, std::vector<Storage*>, std::array<Storage*, kSlots>> held_;
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

// `handles`: of all tensors, lists taken apart; `held` has room for as many.
template <class... Args>
napi_value enqueue_flat(napi_env env, KernelCall* call,
                        Status (*KernelTable::*member)(const Context&, Args...), const napi_value* handles,
                        int count, Storage** held, const int64_t* lengths) {
  const int device = choose_device(env, call, handles, count);
  if (device < 0) return nullptr;
  Arguments arguments{env, call->environment, handles, call->environment->numbers, call->name, held, lengths};
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
  stream.submit(std::make_unique<KernelTask<Args...>>(kernel, call->name, std::move(converted), arguments));
  if (stream.runs_inline()) {
    const std::string error = stream.take_error();
    if (!error.empty()) return throw_error(env, "ERR_ROOTS_NATIVE", error);
  }
  return nullptr;
}

// Takes the lists among the slots apart. False with a pending exception.
inline bool flatten(napi_env env, const char* kernel, const napi_value* slots, const bool* lists, int count,
                    std::vector<napi_value>* handles, std::vector<int64_t>* lengths) {
  for (int i = 0; i < count; ++i) {
    if (!lists[i]) {
      handles->push_back(slots[i]);
      continue;
    }
    uint32_t length = 0;
    if (napi_get_array_length(env, slots[i], &length) != napi_ok || length > kMaxList) {
      throw_error(
          env, "ERR_ROOTS_NATIVE",
          std::string(kernel) + ": expected an array of at most " + std::to_string(kMaxList) + " storages");
      return false;
    }
    for (uint32_t j = 0; j < length; ++j) {
      napi_value element;
      if (napi_get_element(env, slots[i], j, &element) != napi_ok) return false;
      handles->push_back(element);
    }
    lengths->push_back(length);
  }
  return true;
}

template <class... Args>
napi_value enqueue(napi_env env, napi_callback_info info,
                   Status (*KernelTable::*member)(const Context&, Args...)) {
  using Call = KernelTask<Args...>;
  constexpr int kSlots = Call::kSlots;
  static_assert(kSlots > 0 &&
                (0 + ... + (is_list<Args> ? kMaxList : 1)) * kMaxLayout <= int{Environment::kNumbers});
  napi_value slots[kSlots];
  size_t count = kSlots;
  void* data;
  if (napi_get_cb_info(env, info, &count, slots, nullptr, &data) != napi_ok) return nullptr;
  auto* call = static_cast<KernelCall*>(data);
  if (count < kSlots)
    return throw_error(env, "ERR_ROOTS_NATIVE",
                       std::string(call->name) + ": expected " + std::to_string(kSlots) + " storages, got " +
                           std::to_string(count));
  if constexpr (Call::kHasLists) {
    bool lists[kSlots];
    int slot = 0;
    ((is_slot<Args> ? void(lists[slot++] = is_list<Args>) : void()), ...);
    std::vector<napi_value> handles;
    std::vector<int64_t> lengths;
    if (!flatten(env, call->name, slots, lists, kSlots, &handles, &lengths)) return nullptr;
    std::vector<Storage*> held(handles.size());
    return enqueue_flat(env, call, member, handles.data(), static_cast<int>(handles.size()), held.data(),
                        lengths.data());
  } else {
    Storage* held[kSlots];
    return enqueue_flat(env, call, member, slots, kSlots, held, nullptr);
  }
}

}  // namespace roots
