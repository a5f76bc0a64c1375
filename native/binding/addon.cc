// Module entry: one JavaScript function per kernel of kernels.def, and the functions for storage, devices and
// files.
#include <napi.h>

#include "binding/bind.h"

namespace roots {
namespace {

// KernelTable members are plain function pointers; this deduces the argument list for enqueue().
template <class... Args>
napi_value call_kernel(napi_env env, napi_callback_info info,
                       Status (*KernelTable::*member)(const Context&, Args...)) {
  return enqueue<Args...>(env, info, member);
}

template <auto Member>
napi_value kernel_function(napi_env env, napi_callback_info info) noexcept {
  try {
    return call_kernel(env, info, Member);
  } catch (const std::exception& error) {
    return throw_error(env, "ERR_ROOTS_NATIVE", error.what());
  } catch (...) {
    return throw_error(env, "ERR_ROOTS_NATIVE", "unknown native error");
  }
}

void add_kernel(napi_env env, napi_value kernels, Environment* environment, const char* name,
                napi_callback callback) {
  environment->kernel_calls.push_back(std::make_unique<KernelCall>(KernelCall{environment, name}));
  napi_value function;
  NAPI_THROW_IF_FAILED_VOID(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback,
                                                      environment->kernel_calls.back().get(), &function));
  NAPI_THROW_IF_FAILED_VOID(env, napi_set_named_property(env, kernels, name, function));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment(env);
  // Runs before the objects of this environment are finalized.
  napi_add_env_cleanup_hook(env, [](void* data) { delete static_cast<Environment*>(data); }, environment);
  Napi::Object kernels = Napi::Object::New(env);
#define KERNEL(name, ...) add_kernel(env, kernels, environment, #name, kernel_function<&KernelTable::name>);
#include "kernels.def"
#undef KERNEL
  exports.Set("kernels", kernels);
  auto numbers = Napi::Float64Array::New(env, Environment::kNumbers);
  napi_ref kept;  // as long as the environment
  NAPI_THROW_IF_FAILED(env, napi_create_reference(env, numbers, 1, &kept), exports);
  environment->numbers = numbers.Data();
  exports.Set("numbers", numbers);
  exports.Set("maxList", Napi::Number::New(env, kMaxList));
  exports.Set("abi", Napi::String::New(env, std::to_string(kernel_abi_hash())));
  register_storage(env, exports, environment);
  register_device(env, exports, environment);
  register_files(env, exports);
  return exports;
}

}  // namespace

napi_value throw_error(napi_env env, const char* code, const std::string& message) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && !pending)
    napi_throw_error(env, code, message.c_str());
  return nullptr;
}

bool to_size(napi_env env, napi_value value, int64_t* out) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) return false;
  if (!(number >= 0 && number <= 9007199254740991.0 && number == std::floor(number))) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

}  // namespace roots

static Napi::Object roots_init(Napi::Env env, Napi::Object exports) { return roots::init(env, exports); }
NODE_API_MODULE(roots, roots_init)
