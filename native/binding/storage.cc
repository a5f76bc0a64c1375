// Storages as JavaScript Externals: create, fill, read, dispose.
#include <cstring>

#include "binding/environment.h"
#include "runtime/external_memory.h"

namespace roots {
namespace {

// The net under handles that nobody disposed. The environment may be gone by then.
void finalize(napi_env env, void* data, void*) {
  auto* handle = static_cast<StorageHandle*>(data);
  if (handle->storage) {
    tell(env, ExternalMemory::of_thread().collected(static_cast<int64_t>(handle->storage->bytes())));
    handle->storage->release();
  }
  handle->magic = 0;
  delete handle;
}

// Lets a handle without storage stand for one; storage may be null: undecided
void arm(Environment* environment, StorageHandle* handle, Storage* storage, size_t bytes) {
  handle->storage = storage;
  handle->bytes = bytes;
  handle->undecided = !storage;
  if (storage) tell(environment->env, ExternalMemory::of_thread().allocated(static_cast<int64_t>(bytes)));
}

napi_value wrap(Environment* environment, Storage* storage, size_t bytes) {
  auto* handle = new StorageHandle;
  napi_value external;
  if (napi_create_external(environment->env, handle, finalize, nullptr, &external) != napi_ok) {
    if (storage) storage->release();
    delete handle;
    return nullptr;
  }
  arm(environment, handle, storage, bytes);
  return external;
}

std::string megabytes(int64_t bytes) {
  char text[32];
  snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

// A block whose last users are queued already, for kernels that will be queued behind them; nullptr when
// there is none of this size.
Storage* adopt_parked(Environment* environment, int64_t bytes, int device) {
  auto& parked = environment->parked[device];
  const auto found = fitting_class(parked, size_class(static_cast<size_t>(bytes)));
  if (found == parked.end()) return nullptr;
  Allocator* allocator = roots::device(device).allocator;
  if (!allocator->unpark(static_cast<size_t>(bytes), found->first)) return nullptr;
  Block* block = found->second.back();
  found->second.pop_back();
  Storage* storage = Storage::adopt(allocator, block, static_cast<size_t>(bytes));
  if (!storage) {
    allocator->count_out(static_cast<size_t>(bytes));
    block->release(allocator);
  }
  return storage;
}

Storage* allocate_or_throw(napi_env env, Environment* environment, int64_t bytes, int device) {
  Allocator* allocator = roots::device(device).allocator;
  Storage* storage = Storage::create(allocator, static_cast<size_t>(bytes));
  if (!storage) {
    environment->flush_parked();
    environment->stream.synchronize();
    storage = Storage::create(allocator, static_cast<size_t>(bytes));
  }
  if (!storage) {
    const MemoryStats stats = allocator->stats();
    throw_error(env, "ERR_OUT_OF_MEMORY",
                std::string("out of memory on ") + allocator->backend()->name + ": " + megabytes(bytes) +
                    " asked for, " + megabytes(stats.live_bytes) + " of " + megabytes(stats.limit_bytes) +
                    " in use in " + std::to_string(stats.live_blocks) +
                    " storages; dispose tensors, use tidy(), or raise the limit with setMemoryLimit()");
  }
  return storage;
}

// A device index argument; false with a pending exception.
bool to_device(napi_env env, napi_value value, int* device) {
  int64_t index;
  if (to_size(env, value, &index) && index < device_count()) {
    *device = static_cast<int>(index);
    return true;
  }
  throw_error(env, "ERR_ROOTS_NATIVE", "expected the index of a device");
  return false;
}

// The bytes of any typed array or DataView-free buffer; false with a pending exception otherwise.
bool bytes_of(napi_env env, napi_value value, void** data, size_t* bytes) {
  napi_typedarray_type type;
  size_t length;
  if (napi_get_typedarray_info(env, value, &type, &length, data, nullptr, nullptr) != napi_ok) {
    throw_error(env, "ERR_ROOTS_NATIVE", "expected a typed array");
    return false;
  }
  static constexpr size_t kSizes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  if (static_cast<size_t>(type) >= sizeof kSizes / sizeof kSizes[0]) {
    throw_error(env, "ERR_ROOTS_NATIVE", "unsupported typed array");
    return false;
  }
  *bytes = length * kSizes[type];
  return true;
}

// createStorage(bytes, host = false, device): uninitialised. With host, bytes on the CPU that no queued
// kernel uses, so that the host may write them. Otherwise they are for kernels alone, and where there is more
// than one device and none is given they get their memory from the first kernel.
napi_value create_storage(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[3];
  size_t count = 3;
  void* data;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  int64_t bytes;
  if (count < 1 || !to_size(env, arguments[0], &bytes))
    return throw_error(env, "ERR_ROOTS_NATIVE", "createStorage: expected a size in bytes");
  bool host = false;
  if (count >= 2) napi_get_value_bool(env, arguments[1], &host);
  auto* environment = static_cast<Environment*>(data);
  int device = 0;
  if (count >= 3) {
    if (!to_device(env, arguments[2], &device)) return nullptr;
  } else if (!host && device_count() > 1) {
    return wrap(environment, nullptr, static_cast<size_t>(bytes));
  }
  Storage* storage = host ? nullptr : adopt_parked(environment, bytes, device);
  if (!storage) storage = allocate_or_throw(env, environment, bytes, device);
  return storage ? wrap(environment, storage, static_cast<size_t>(bytes)) : nullptr;
}

// reuseStorage(handle, bytes): createStorage(bytes) in the object of a disposed storage, since an External
// costs ten times what the bytes do. The caller must hold the only copy of the handle.
napi_value reuse_storage(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[2];
  size_t count = 2;
  void *data, *external;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  int64_t bytes;
  if (count < 2 || napi_get_value_external(env, arguments[0], &external) != napi_ok || !external ||
      static_cast<StorageHandle*>(external)->magic != StorageHandle::kMagic ||
      static_cast<StorageHandle*>(external)->storage || static_cast<StorageHandle*>(external)->undecided ||
      !to_size(env, arguments[1], &bytes))
    return throw_error(env, "ERR_ROOTS_NATIVE", "reuseStorage: expected a disposed storage and a size");
  auto* environment = static_cast<Environment*>(data);
  Storage* storage = nullptr;
  if (device_count() == 1) {
    storage = adopt_parked(environment, bytes, 0);
    if (!storage) storage = allocate_or_throw(env, environment, bytes, 0);
    if (!storage) return nullptr;
  }
  arm(environment, static_cast<StorageHandle*>(external), storage, static_cast<size_t>(bytes));
  return nullptr;
}

// createStorageFrom(typedArray, device): a storage with a copy of its bytes
napi_value create_storage_from(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[2];
  size_t count = 2;
  void* data;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  auto* environment = static_cast<Environment*>(data);
  void* source;
  size_t bytes;
  int device = 0;
  if (count < 2 || !bytes_of(env, arguments[0], &source, &bytes) || !to_device(env, arguments[1], &device))
    return nullptr;
  Storage* storage = allocate_or_throw(env, environment, static_cast<int64_t>(bytes), device);
  if (!storage) return nullptr;
  if (bytes > 0)
    if (const Status status =
            roots::device(device).backend->copy(storage->data(), source, bytes, CopyKind::host_to_device)) {
      storage->release();
      return throw_error(env, "ERR_ROOTS_NATIVE", status);
    }
  return wrap(environment, storage, bytes);
}

// storageDevice(handle): the index of its device; the default one where no kernel has seen it
napi_value storage_device(napi_env env, napi_callback_info info) noexcept {
  napi_value argument, result = nullptr;
  size_t count = 1;
  void* data;
  if (napi_get_cb_info(env, info, &count, &argument, nullptr, &data) != napi_ok || count < 1) return nullptr;
  const StorageHandle* handle = handle_of(env, argument);
  if (!handle) return nullptr;
  const auto* environment = static_cast<Environment*>(data);
  napi_create_int32(
      env, handle->storage ? handle->storage->allocator()->device() : environment->default_device, &result);
  return result;
}

// Bytes from one device to another, in the order of the queue.
class TransferTask final : public Task {
 public:
  TransferTask(Storage* from, size_t offset, Storage* to) : from_(from), offset_(offset), to_(to) {
    from_->retain_for_task();
    to_->retain_for_task();
  }
  ~TransferTask() override {
    from_->release_for_task();
    to_->release_for_task();
  }
  Status run(const Context&) override {
    const char* source = static_cast<const char*>(from_->data()) + offset_;
    const int from = from_->allocator()->device(), to = to_->allocator()->device();
    const CopyKind kind = from == to ? CopyKind::device_to_device
                          : to == 0  ? CopyKind::device_to_host
                                     : CopyKind::host_to_device;
    return roots::device(from == 0 ? to : from).backend->copy(to_->data(), source, to_->bytes(), kind);
  }
  const char* name() const override { return "to"; }

 private:
  Storage* from_;
  size_t offset_;
  Storage* to_;
};

// transferStorage(handle, offset, bytes, device): a new storage on a device with a range of another's bytes
napi_value transfer_storage(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[4];
  size_t count = 4;
  void* data;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  auto* environment = static_cast<Environment*>(data);
  StorageHandle* handle = count >= 4 ? storage_of(env, environment, arguments[0]) : nullptr;
  int64_t offset, bytes;
  int device;
  if (!handle || !to_device(env, arguments[3], &device)) return nullptr;
  if (!to_size(env, arguments[1], &offset) || !to_size(env, arguments[2], &bytes) ||
      static_cast<size_t>(offset) > handle->bytes ||
      static_cast<size_t>(bytes) > handle->bytes - static_cast<size_t>(offset))
    return throw_error(env, "ERR_ROOTS_NATIVE", "transferStorage: the range does not lie inside its storage");
  Storage* storage = adopt_parked(environment, bytes, device);
  if (!storage) storage = allocate_or_throw(env, environment, bytes, device);
  if (!storage) return nullptr;
  environment->stream.submit(
      std::make_unique<TransferTask>(handle->storage, static_cast<size_t>(offset), storage));
  return wrap(environment, storage, static_cast<size_t>(bytes));
}

// disposeStorage(handle): idempotent
napi_value dispose_storage(napi_env env, napi_callback_info info) noexcept {
  napi_value argument;
  size_t count = 1;
  void *data, *external;
  if (napi_get_cb_info(env, info, &count, &argument, nullptr, &data) != napi_ok || count < 1) return nullptr;
  if (napi_get_value_external(env, argument, &external) != napi_ok || !external ||
      static_cast<StorageHandle*>(external)->magic != StorageHandle::kMagic)
    return throw_error(env, "ERR_ROOTS_NATIVE", "disposeStorage: not a storage");
  auto* environment = static_cast<Environment*>(data);
  auto* handle = static_cast<StorageHandle*>(external);
  Storage* storage = handle->storage;
  handle->storage = nullptr;
  handle->undecided = false;
  if (!storage) return nullptr;
  tell(env, ExternalMemory::of_thread().disposed(static_cast<int64_t>(storage->bytes())));
  if (storage->waits_for_tasks_only()) {
    Block* block = storage->surrender();
    Allocator* allocator = storage->allocator();
    allocator->park(storage->bytes(), block->rounded());
    environment->parked[allocator->device()][block->rounded()].push_back(block);
  }
  storage->release();
  return nullptr;
}

// A range of a storage to copy into a JavaScript array once the stream has come this far.
struct ReadRequest {
  Storage* storage = nullptr;
  int64_t offset = 0;
};

bool read_request(napi_env env, Environment* environment, const napi_value* arguments, void** target,
                  size_t* bytes, ReadRequest* request) {
  StorageHandle* handle = storage_of(env, environment, arguments[0]);
  if (!handle) return false;
  if (!to_size(env, arguments[1], &request->offset) || !bytes_of(env, arguments[2], target, bytes)) {
    throw_error(env, "ERR_ROOTS_NATIVE", "read: expected (storage, offset, typed array)");
    return false;
  }
  const size_t size = handle->storage->bytes();
  if (static_cast<size_t>(request->offset) > size || *bytes > size - static_cast<size_t>(request->offset)) {
    throw_error(env, "ERR_ROOTS_NATIVE", "read: the range does not lie inside its storage");
    return false;
  }
  request->storage = handle->storage;
  return true;
}

}  // namespace

struct PendingRead {
  Environment* environment;
  Storage* storage;  // nullptr for synchronize()
  int64_t offset;
  size_t bytes;
  napi_ref target;
  napi_deferred deferred;
  // Bytes of another device, fetched on the stream's thread, which may wait for it.
  std::unique_ptr<char[]> fetched;
  Status failure;
};

namespace {

Status fetch(PendingRead& read) {
  if (!read.storage || read.storage->allocator()->device() == 0) {
    // synchronize(): what the other devices still do, and what went wrong there
    for (int d = 1; d < device_count() && !read.storage; ++d)
      if (const Status status = device(d).backend->copy(nullptr, nullptr, 0, CopyKind::device_to_host))
        return status;
    return nullptr;
  }
  read.fetched.reset(new (std::nothrow) char[read.bytes > 0 ? read.bytes : 1]);
  if (!read.fetched) return "out of memory";
  return read.storage->allocator()->backend()->copy(read.fetched.get(),
                                                    static_cast<char*>(read.storage->data()) + read.offset,
                                                    read.bytes, CopyKind::device_to_host);
}

class CompletionTask final : public Task {
 public:
  explicit CompletionTask(PendingRead* read) : read_(read) {}
  Status run(const Context&) override {
    read_->failure = fetch(*read_);
    napi_call_threadsafe_function(read_->environment->completions, read_, napi_tsfn_nonblocking);
    return nullptr;
  }
  const char* name() const override { return "read"; }

 private:
  PendingRead* read_;
};

void settle(napi_env env, napi_value, void*, void* data) noexcept {
  std::unique_ptr<PendingRead> read(static_cast<PendingRead*>(data));
  if (!env) {  // the environment is going away
    if (read->storage) read->storage->release();
    return;
  }
  std::string error = read->environment->stream.take_error();
  if (error.empty() && read->failure) error = read->failure;
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  if (read->storage) {
    napi_value target = nullptr;
    void* to;
    size_t bytes;
    if (error.empty() && napi_get_reference_value(env, read->target, &target) == napi_ok && target &&
        bytes_of(env, target, &to, &bytes)) {
      // detached or shrunk meanwhile: copy no more than there is
      const size_t available = read->storage->bytes() - static_cast<size_t>(read->offset);
      const char* from =
          read->fetched ? read->fetched.get() : static_cast<char*>(read->storage->data()) + read->offset;
      if (read->fetched && bytes > read->bytes) bytes = read->bytes;
      if (bytes > 0) memcpy(to, from, bytes < available ? bytes : available);
      value = target;
    }
    napi_delete_reference(env, read->target);
    read->storage->release();
  }
  if (error.empty()) {
    napi_resolve_deferred(env, read->deferred, value);
  } else {
    napi_value code, message, reason;
    napi_create_string_utf8(env, "ERR_ROOTS_NATIVE", NAPI_AUTO_LENGTH, &code);
    napi_create_string_utf8(env, error.c_str(), error.size(), &message);
    napi_create_error(env, code, message, &reason);
    napi_reject_deferred(env, read->deferred, reason);
  }
  // the queue has come this far: what was parked for it can be cached, or given back, by the usual rules
  read->environment->flush_parked();
  read->environment->remove_pending();
}

// read(handle, offset, typedArray): Promise of the array, filled. Without arguments: a promise that
// everything ran.
napi_value read_async(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[3];
  size_t count = 3;
  void* data;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  auto* environment = static_cast<Environment*>(data);
  ReadRequest request;
  void* target;
  size_t bytes;
  if (count >= 3 && !read_request(env, environment, arguments, &target, &bytes, &request)) return nullptr;
  auto read = std::make_unique<PendingRead>();
  read->environment = environment;
  read->storage = request.storage;
  read->offset = request.offset;
  read->bytes = request.storage ? bytes : 0;
  if (read->storage && napi_create_reference(env, arguments[2], 1, &read->target) != napi_ok) return nullptr;
  napi_value promise;
  if (napi_create_promise(env, &read->deferred, &promise) != napi_ok) return nullptr;
  if (read->storage) read->storage->retain();
  environment->add_pending();
  environment->stream.submit(std::make_unique<CompletionTask>(read.release()));
  return promise;
}

// readSync(handle, offset, typedArray): waits, then copies.
napi_value read_sync(napi_env env, napi_callback_info info) noexcept {
  napi_value arguments[3];
  size_t count = 3;
  void* data;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, &data) != napi_ok) return nullptr;
  auto* environment = static_cast<Environment*>(data);
  ReadRequest request;
  void* target;
  size_t bytes;
  if (count >= 3 && !read_request(env, environment, arguments, &target, &bytes, &request)) return nullptr;
  environment->stream.synchronize();
  const std::string error = environment->stream.take_error();
  if (!error.empty()) return throw_error(env, "ERR_ROOTS_NATIVE", error);
  if (request.storage && bytes > 0)
    if (const Status status = request.storage->allocator()->backend()->copy(
            target, static_cast<char*>(request.storage->data()) + request.offset, bytes,
            CopyKind::device_to_host))
      return throw_error(env, "ERR_ROOTS_NATIVE", status);
  for (int d = 1; d < device_count() && !request.storage; ++d)
    if (const Status status = device(d).backend->copy(nullptr, nullptr, 0, CopyKind::device_to_host))
      return throw_error(env, "ERR_ROOTS_NATIVE", status);
  return nullptr;
}

}  // namespace

StorageHandle* handle_of(napi_env env, napi_value value) {
  void* data;
  if (napi_get_value_external(env, value, &data) != napi_ok || !data ||
      static_cast<StorageHandle*>(data)->magic != StorageHandle::kMagic) {
    throw_error(env, "ERR_ROOTS_NATIVE", "expected a tensor storage");
    return nullptr;
  }
  auto* handle = static_cast<StorageHandle*>(data);
  if (!handle->storage && !handle->undecided) {
    throw_error(env, "ERR_ROOTS_DISPOSED", "the tensor has been disposed");
    return nullptr;
  }
  return handle;
}

StorageHandle* storage_of(napi_env env, Environment* environment, napi_value value) {
  StorageHandle* handle = handle_of(env, value);
  return !handle || handle->storage || decide(env, environment, handle, environment->default_device)
             ? handle
             : nullptr;
}

bool decide(napi_env env, Environment* environment, StorageHandle* handle, int device) {
  const auto bytes = static_cast<int64_t>(handle->bytes);
  Storage* storage = adopt_parked(environment, bytes, device);
  if (!storage) storage = allocate_or_throw(env, environment, bytes, device);
  if (!storage) return false;
  handle->storage = storage;
  handle->undecided = false;
  tell(env, ExternalMemory::of_thread().allocated(bytes));
  return true;
}

Environment::Environment(napi_env e) : env(e) {
  napi_value name;
  NAPI_THROW_IF_FAILED_VOID(env, napi_create_string_utf8(env, "roots completions", NAPI_AUTO_LENGTH, &name));
  NAPI_THROW_IF_FAILED_VOID(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr,
                                                                 nullptr, nullptr, settle, &completions));
  napi_unref_threadsafe_function(env, completions);
}

// The thread ends first; then nobody calls the threadsafe function any more.
Environment::~Environment() {
  stream.stop();
  flush_parked();
  napi_release_threadsafe_function(completions, napi_tsfn_abort);
}

void Environment::flush_parked() {
  for (int d = 0; d < device_count(); ++d) {
    Allocator* allocator = device(d).allocator;
    for (auto& [rounded, blocks] : parked[d])
      for (Block* block : blocks) {
        allocator->unpark_unused(rounded);
        block->release(allocator);
      }
    parked[d].clear();
  }
}

void Environment::add_pending() {
  if (pending++ == 0) napi_ref_threadsafe_function(env, completions);
}

void Environment::remove_pending() {
  if (--pending == 0) napi_unref_threadsafe_function(env, completions);
}

void register_storage(Napi::Env env, Napi::Object exports, Environment* environment) {
  const auto add = [&](const char* name, napi_callback callback) {
    napi_value function;
    NAPI_THROW_IF_FAILED_VOID(
        env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, environment, &function));
    NAPI_THROW_IF_FAILED_VOID(env, napi_set_named_property(env, exports, name, function));
  };
  add("createStorage", create_storage);
  add("reuseStorage", reuse_storage);
  add("createStorageFrom", create_storage_from);
  add("storageDevice", storage_device);
  add("transferStorage", transfer_storage);
  add("disposeStorage", dispose_storage);
  add("read", read_async);
  add("readSync", read_sync);
}

}  // namespace roots
