// Untrusted bytes: strict JSON validation and safetensors headers. Each file is opened once, must be a
// regular file, and is read by its descriptor. Reading runs on a worker thread and returns a promise.
#include <fcntl.h>
#include <napi.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>

#include "binding/environment.h"
#include "io/json_reader.h"
#include "io/safetensors.h"

namespace roots {
namespace {

// An error with a code, made on a worker thread and thrown on the JavaScript thread.
struct FileError {
  std::string code, message;
};

// work() runs on a worker thread and throws FileError; convert() runs on the JavaScript thread.
template <class Result>
class AsyncFile final : public Napi::AsyncWorker {
 public:
  AsyncFile(Napi::Env env, std::function<Result()> work,
            std::function<Napi::Value(Napi::Env, Result&)> convert)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        convert_(std::move(convert)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = work_();
    } catch (const FileError& error) {
      code_ = error.code;
      SetError(error.message);
    } catch (const std::bad_alloc&) {
      code_ = "ERR_OUT_OF_MEMORY";
      SetError("out of memory");
    }
  }
  void OnOK() override { deferred_.Resolve(convert_(Env(), result_)); }
  void OnError(const Napi::Error& error) override {
    error.Set("code", Napi::String::New(Env(), code_.empty() ? "ERR_ROOTS_NATIVE" : code_));
    deferred_.Reject(error.Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::function<Result()> work_;
  std::function<Napi::Value(Napi::Env, Result&)> convert_;
  Result result_{};
  std::string code_;
};

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) {
    fd_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd_ < 0)
      throw FileError{errno == ENOENT ? "ERR_FILE_NOT_FOUND" : "ERR_FILE_ACCESS",
                      std::string(strerror(errno))};
    struct stat info;
    if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(fd_);
      throw FileError{"ERR_FILE_ACCESS", "not a regular file"};
    }
    size_ = static_cast<uint64_t>(info.st_size);
  }
  ~Descriptor() { close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  uint64_t size() const { return size_; }
  void read(void* to, uint64_t bytes, uint64_t offset) const {
    auto* p = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t n = pread(fd_, p, bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw FileError{"ERR_FILE_ACCESS", std::string(strerror(errno))};
      if (n == 0) throw FileError{"ERR_FILE_FORMAT", "the file became shorter while it was read"};
      p += n;
      bytes -= static_cast<uint64_t>(n);
      offset += static_cast<uint64_t>(n);
    }
  }

 private:
  int fd_;
  uint64_t size_;
};

struct OpenedFile {
  std::shared_ptr<Descriptor> file;
  SafetensorsHeader header;
  uint64_t data_start = 0;
};

OpenedFile open_safetensors(const std::string& path) {
  OpenedFile opened;
  opened.file = std::make_shared<Descriptor>(path);
  const uint64_t size = opened.file->size();
  if (size < 8) throw FileError{"ERR_FILE_FORMAT", "shorter than the 8 bytes of a safetensors length"};
  unsigned char raw[8];
  opened.file->read(raw, 8, 0);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | raw[i];
  if (length == 0) throw FileError{"ERR_FILE_FORMAT", "header length is 0"};
  if (length > kMaxHeaderBytes)
    throw FileError{"ERR_FILE_LIMIT",
                    "header length " + std::to_string(length) + " exceeds the limit of 100000000 bytes"};
  if (length > size - 8)
    throw FileError{"ERR_FILE_FORMAT", "header length " + std::to_string(length) + " exceeds the " +
                                           std::to_string(size - 8) + " bytes of the file"};
  std::string header(length, '\0');
  opened.file->read(header.data(), length, 8);
  opened.data_start = 8 + length;
  const ParseError error =
      parse_safetensors_header(header.data(), header.size(), size - opened.data_start, &opened.header);
  if (error.verdict != Verdict::ok)
    throw FileError{error.verdict == Verdict::limit ? "ERR_FILE_LIMIT" : "ERR_FILE_FORMAT", error.message};
  return opened;
}

// Exact: a number below 2^53, else a BigInt.
Napi::Value to_js(Napi::Env env, uint64_t value) {
  if (value <= 9007199254740991ull) return Napi::Number::New(env, static_cast<double>(value));
  return Napi::BigInt::New(env, value);
}

struct OpenFile {
  std::shared_ptr<Descriptor> file;
  uint64_t data_start;
};

// The shape a wrong kind of External would have to forge; type-tagged, so it cannot.
constexpr napi_type_tag kFileTag = {0x726f6f74732d7374ull, 0x66696c652d313233ull};

Napi::Value open_file(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsString())
    throw Napi::TypeError::New(info.Env(), "openSafetensors: expected a path");
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  if (path.find('\0') != std::string::npos)
    throw Napi::TypeError::New(info.Env(), "openSafetensors: the path contains NUL");
  auto* worker = new AsyncFile<OpenedFile>(
      info.Env(), [path] { return open_safetensors(path); },
      [](Napi::Env env, OpenedFile& opened) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        auto* file = new OpenFile{opened.file, opened.data_start};
        auto handle = Napi::External<OpenFile>::New(env, file, [](Napi::Env, OpenFile* f) { delete f; });
        napi_type_tag_object(env, handle, &kFileTag);
        out.Set("file", handle);
        const auto& tensors = opened.header.tensors;
        Napi::Array names = Napi::Array::New(env, tensors.size()),
                    dtypes = Napi::Array::New(env, tensors.size());
        Napi::Array shapes = Napi::Array::New(env, tensors.size());
        Napi::Array offsets = Napi::Array::New(env, tensors.size());
        for (uint32_t i = 0; i < tensors.size(); ++i) {
          const Napi::HandleScope scope(env);
          names.Set(i, tensors[i].name);
          dtypes.Set(i, tensors[i].dtype);
          Napi::Array shape = Napi::Array::New(env, tensors[i].shape.size());
          for (uint32_t d = 0; d < tensors[i].shape.size(); ++d)
            shape.Set(d, to_js(env, tensors[i].shape[d]));
          shapes.Set(i, shape);
          Napi::Array range = Napi::Array::New(env, 2);
          range.Set(uint32_t{0}, to_js(env, tensors[i].begin));
          range.Set(uint32_t{1}, to_js(env, tensors[i].end));
          offsets.Set(i, range);
        }
        Napi::Array metadata = Napi::Array::New(env);
        for (const auto& [key, value] : opened.header.metadata) {
          Napi::Array pair = Napi::Array::New(env, 2);
          pair.Set(uint32_t{0}, key);
          pair.Set(uint32_t{1}, value);
          metadata.Set(metadata.Length(), pair);
        }
        Napi::Array unknown = Napi::Array::New(env);
        for (const std::string& field : opened.header.unknown_fields) unknown.Set(unknown.Length(), field);
        out.Set("names", names);
        out.Set("dtypes", dtypes);
        out.Set("shapes", shapes);
        out.Set("offsets", offsets);
        out.Set("metadata", metadata);
        out.Set("unknownFields", unknown);
        return out;
      });
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

struct Nothing {};

// readSafetensors(file, begin, end, storage): data bytes [begin, end) into a storage of that size, just
// created.
Napi::Value read_file(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int64_t begin, end;
  bool tagged = false;
  if (info.Length() < 4 || !info[0].IsExternal() ||
      napi_check_object_type_tag(env, info[0], &kFileTag, &tagged) != napi_ok || !tagged ||
      !to_size(env, info[1], &begin) || !to_size(env, info[2], &end) || begin > end)
    throw Napi::TypeError::New(env, "readSafetensors: expected (file, begin, end, storage)");
  StorageHandle* handle = handle_of(env, info[3]);
  if (!handle) return env.Undefined();
  if (!handle->storage || handle->storage->allocator()->device() != 0)
    throw Napi::TypeError::New(env, "readSafetensors: expected a storage made for the host");
  if (static_cast<uint64_t>(end - begin) != handle->storage->bytes())
    throw Napi::TypeError::New(env, "readSafetensors: the storage has another size");
  const OpenFile file = *info[0].As<Napi::External<OpenFile>>().Data();
  Storage* storage = handle->storage;
  storage->retain();
  const std::shared_ptr<Storage> held(storage, [](Storage* s) { s->release(); });
  auto* worker = new AsyncFile<Nothing>(
      env,
      [file, begin, end, held] {
        file.file->read(held->data(), static_cast<uint64_t>(end - begin),
                        file.data_start + static_cast<uint64_t>(begin));
        return Nothing{};
      },
      [](Napi::Env e, Nothing&) -> Napi::Value { return e.Undefined(); });
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

// validateJson(bytes, maxDepth): null, or [what is wrong, byte].
Napi::Value validate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int64_t depth;
  if (info.Length() < 2 || !info[0].IsTypedArray() || !to_size(env, info[1], &depth) || depth > 1000)
    throw Napi::TypeError::New(env, "validateJson: expected (bytes, maxDepth)");
  const auto bytes = info[0].As<Napi::Uint8Array>();
  size_t position = 0;
  const char* error = validate_json(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength(),
                                    static_cast<int>(depth), &position);
  if (!error) return env.Null();
  Napi::Array out = Napi::Array::New(env, 2);
  out.Set(uint32_t{0}, error);
  out.Set(uint32_t{1}, Napi::Number::New(env, static_cast<double>(position)));
  return out;
}

// fsyncPath(path): file or folder, durable when the promise resolves.
Napi::Value fsync_path(const Napi::CallbackInfo& info) {
  const std::string path = info.Length() > 0 ? info[0].ToString().Utf8Value() : "";
  auto* worker = new AsyncFile<Nothing>(
      info.Env(),
      [path] {
        const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0) throw FileError{"ERR_FILE_ACCESS", std::string(strerror(errno))};
        const int result = fsync(fd), reason = errno;
        close(fd);
        if (result != 0) throw FileError{"ERR_FILE_ACCESS", std::string("fsync: ") + strerror(reason)};
        return Nothing{};
      },
      [](Napi::Env e, Nothing&) -> Napi::Value { return e.Undefined(); });
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

// lockFile(path): a descriptor that holds an exclusive lock until it is closed or the process ends, however
// it ends; null when another process (or this one) holds it.
Napi::Value lock_file(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info.Length() > 0 ? info[0].ToString().Utf8Value() : "";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) {
    Napi::Error error = Napi::Error::New(env, path + ": " + strerror(errno));
    error.Set("code", Napi::String::New(env, "ERR_FILE_ACCESS"));
    throw error;
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return env.Null();
  }
  return Napi::Number::New(env, fd);
}

// unlockFile(descriptor of lockFile)
Napi::Value unlock_file(const Napi::CallbackInfo& info) {
  if (info.Length() > 0 && info[0].IsNumber()) close(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

}  // namespace

void register_files(Napi::Env env, Napi::Object exports) {
  exports.Set("openSafetensors", Napi::Function::New(env, open_file, "openSafetensors"));
  exports.Set("readSafetensors", Napi::Function::New(env, read_file, "readSafetensors"));
  exports.Set("validateJson", Napi::Function::New(env, validate, "validateJson"));
  exports.Set("fsyncPath", Napi::Function::New(env, fsync_path, "fsyncPath"));
  exports.Set("lockFile", Napi::Function::New(env, lock_file, "lockFile"));
  exports.Set("unlockFile", Napi::Function::New(env, unlock_file, "unlockFile"));
}

}  // namespace roots
