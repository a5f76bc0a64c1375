#include "io/safetensors.h"

#include <algorithm>
#include <set>

#include "io/json_reader.h"

namespace roots {

int safetensors_dtype_bits(const std::string& dtype) {
  static const std::pair<const char*, int> kBits[] = {
      {"BOOL", 8},        {"U8", 8},   {"I8", 8},      {"U16", 16},    {"I16", 16},    {"U32", 32},
      {"I32", 32},        {"U64", 64}, {"I64", 64},    {"F16", 16},    {"BF16", 16},   {"F32", 32},
      {"F64", 64},        {"C64", 64}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : kBits)
    if (dtype == name) return bits;
  return 0;
}

namespace {

// Names come from the file: escape and cut them before they enter a message.
std::string quoted(const std::string& name) {
  std::string out = "\"";
  for (const char c : name) {
    if (out.size() > 80) {
      out += "...";
      break;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '"' || c == '\\') {
      static const char* const kHex = "0123456789abcdef";
      out += "\\x";
      out += kHex[static_cast<unsigned char>(c) >> 4];
      out += kHex[static_cast<unsigned char>(c) & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

class HeaderParser {
 public:
  HeaderParser(const char* data, size_t size, uint64_t data_size, SafetensorsHeader* out)
      : reader_(data, size, kMaxHeaderDepth), data_size_(data_size), out_(out) {}

  ParseError run() {
    const bool ok = reader_.object([this](const std::string& name) {
      return name == "__metadata__" ? metadata() : tensor(name);
    }) && reader_.end() &&
                    layout();
    if (ok) return {};
    if (error_.verdict == Verdict::ok) {
      error_.verdict = reader_.error() && std::string(reader_.error()) == "nested too deeply"
                           ? Verdict::limit
                           : Verdict::malformed;
      error_.message = std::string("header JSON: ") + (reader_.error() ? reader_.error() : "malformed") +
                       " at byte " + std::to_string(reader_.position());
    }
    return error_;
  }

 private:
  bool refuse(std::string message, Verdict verdict = Verdict::malformed) {
    if (error_.verdict == Verdict::ok) error_ = {verdict, std::move(message)};
    return false;
  }

  bool metadata() {
    char c;
    if (!reader_.peek(&c)) return false;
    if (c == 'n') return reader_.literal("null");
    if (c != '{') return refuse("__metadata__ must be an object of strings");
    return reader_.object([this](const std::string& key) {
      char next;
      if (!reader_.peek(&next)) return false;
      if (next != '"') return refuse("__metadata__ must be an object of strings");
      std::string value;
      if (!reader_.string(&value)) return false;
      out_->metadata.emplace_back(key, std::move(value));
      return true;
    });
  }

  bool tensor(const std::string& name) {
    if (name.size() > kMaxNameBytes) return refuse("tensor name longer than 65536 bytes", Verdict::limit);
    if (out_->tensors.size() >= kMaxTensors) return refuse("more than 1000000 tensors", Verdict::limit);
    TensorEntry entry;
    entry.name = name;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    char c;
    if (!reader_.peek(&c)) return false;
    if (c != '{') return refuse("tensor " + quoted(name) + ": expected an object");
    const bool ok = reader_.object([&](const std::string& field) {
      if (field == "dtype") {
        has_dtype = true;
        return reader_.string(&entry.dtype);
      }
      if (field == "shape") {
        has_shape = true;
        return reader_.array([&] {
          uint64_t n;
          if (!reader_.unsigned_integer(&n)) return false;
          if (entry.shape.size() >= kMaxRankInFile)
            return refuse("tensor " + quoted(name) + ": more than 16 dimensions", Verdict::limit);
          entry.shape.push_back(n);
          return true;
        });
      }
      if (field == "data_offsets") {
        has_offsets = true;
        std::vector<uint64_t> offsets;
        if (!reader_.array([&] {
              uint64_t n;
              if (!reader_.unsigned_integer(&n)) return false;
              if (offsets.size() >= 2)
                return refuse("tensor " + quoted(name) + ": data_offsets needs two numbers");
              offsets.push_back(n);
              return true;
            }))
          return false;
        if (offsets.size() != 2) return refuse("tensor " + quoted(name) + ": data_offsets needs two numbers");
        entry.begin = offsets[0];
        entry.end = offsets[1];
        return true;
      }
      if (unknown_.size() < 64 && unknown_.insert(field).second) out_->unknown_fields.push_back(field);
      return reader_.skip_value();
    });
    if (!ok) return false;
    if (!has_dtype || !has_shape || !has_offsets)
      return refuse("tensor " + quoted(name) + ": needs dtype, shape and data_offsets");
    return check(entry) && (out_->tensors.push_back(std::move(entry)), true);
  }

  // The product of the shape, left to right, and its bits fit 64 bits and agree with the offsets.
  bool check(const TensorEntry& entry) {
    const int bits = safetensors_dtype_bits(entry.dtype);
    if (bits == 0) return refuse("tensor " + quoted(entry.name) + ": unknown dtype " + quoted(entry.dtype));
    uint64_t count = 1, total_bits;
    for (const uint64_t n : entry.shape)
      if (__builtin_mul_overflow(count, n, &count))
        return refuse("tensor " + quoted(entry.name) + ": shape overflows");
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(bits), &total_bits))
      return refuse("tensor " + quoted(entry.name) + ": size overflows");
    if (total_bits % 8 != 0) return refuse("tensor " + quoted(entry.name) + ": ends inside a byte");
    if (entry.begin > entry.end || entry.end > data_size_)
      return refuse("tensor " + quoted(entry.name) + ": data_offsets [" + std::to_string(entry.begin) + ", " +
                    std::to_string(entry.end) + "] lie outside the " + std::to_string(data_size_) +
                    " data bytes");
    if (entry.end - entry.begin != total_bits / 8)
      return refuse("tensor " + quoted(entry.name) + ": " + std::to_string(entry.end - entry.begin) +
                    " data bytes, but dtype and shape need " + std::to_string(total_bits / 8));
    return true;
  }

  // Sorted by offset, the tensors cover the data without hole or overlap.
  bool layout() {
    std::vector<const TensorEntry*> order;
    order.reserve(out_->tensors.size());
    for (const TensorEntry& entry : out_->tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
      return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
    });
    uint64_t at = 0;
    for (const TensorEntry* entry : order) {
      if (entry->begin != at)
        return refuse("tensor " + quoted(entry->name) + ": starts at byte " + std::to_string(entry->begin) +
                      ", expected " + std::to_string(at) + " (hole or overlap)");
      at = entry->end;
    }
    if (at != data_size_)
      return refuse(std::to_string(data_size_ - at) + " bytes after the last tensor belong to none");
    return true;
  }

  JsonReader reader_;
  uint64_t data_size_;
  SafetensorsHeader* out_;
  std::set<std::string> unknown_;
  ParseError error_;
};

}  // namespace

ParseError parse_safetensors_header(const char* header, size_t size, uint64_t data_size,
                                    SafetensorsHeader* out) {
  return HeaderParser(header, size, data_size, out).run();
}

}  // namespace roots
