// libFuzzer target: any header is accepted or refused with a message, and an accepted one describes all of
// its data.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t data_size;
  std::memcpy(&data_size, data, 8);
  roots::SafetensorsHeader header;
  const roots::ParseError error =
      roots::parse_safetensors_header(reinterpret_cast<const char*>(data + 8), size - 8, data_size, &header);
  if (error.verdict != roots::Verdict::ok) {
    if (error.message.empty()) std::abort();
    return 0;
  }
  uint64_t total = 0;
  for (const roots::TensorEntry& t : header.tensors) {
    if (t.begin > t.end || t.end > data_size) std::abort();
    total += t.end - t.begin;
  }
  if (total != data_size) std::abort();
  return 0;
}
