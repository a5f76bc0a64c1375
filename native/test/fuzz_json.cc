// libFuzzer target: strict JSON validation never reads outside its bytes and always ends.
#include <cstdint>
#include <cstdlib>

#include "io/json_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t position = 0;
  const char* error = roots::validate_json(reinterpret_cast<const char*>(data), size, 64, &position);
  if (error && position > size) std::abort();
  return 0;
}
