// The header of a safetensors file, parsed by a strict policy (docs/formats.md): what is accepted here
// describes every byte of the file exactly once.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace roots {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxRankInFile = 16;
constexpr size_t kMaxNameBytes = 65536;
constexpr int kMaxHeaderDepth = 8;

struct TensorEntry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes, from the start of the data
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in the order of the header
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<std::string> unknown_fields;  // ignored, reported once each
};

enum class Verdict { ok, malformed, limit };

struct ParseError {
  Verdict verdict = Verdict::ok;
  std::string message;
};

// header: the N bytes after the length; data_size: bytes after them. Bit width of a dtype of the format, or
// 0.
ParseError parse_safetensors_header(const char* header, size_t size, uint64_t data_size,
                                    SafetensorsHeader* out);
int safetensors_dtype_bits(const std::string& dtype);

}  // namespace roots
