#include "io/json_reader.h"

#include <cmath>
#include <cstdlib>
#include <unordered_set>

namespace roots {

KeySet::KeySet() : set_(nullptr) {}
KeySet::~KeySet() { delete static_cast<std::unordered_set<std::string>*>(set_); }
bool KeySet::insert(const std::string& key) {
  if (!set_) set_ = new std::unordered_set<std::string>;
  return static_cast<std::unordered_set<std::string>*>(set_)->insert(key).second;
}

bool JsonReader::fail(const char* what) {
  if (!error_) error_ = what;
  return false;
}

void JsonReader::skip_space() {
  while (at_ < size_) {
    const char c = data_[at_];
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    ++at_;
  }
}

bool JsonReader::expect(char c, const char* what) {
  skip_space();
  if (at_ >= size_ || data_[at_] != c) return fail(what);
  ++at_;
  return true;
}

bool JsonReader::enter() {
  if (++depth_ > max_depth_) return fail("nested too deeply");
  return true;
}

bool JsonReader::peek(char* next) {
  skip_space();
  if (at_ >= size_) return fail("unexpected end");
  *next = data_[at_];
  return true;
}

bool JsonReader::hex4(uint32_t* out) {
  if (size_ - at_ < 4) return fail("bad \\u escape");
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = data_[at_++];
    uint32_t digit;
    if (c >= '0' && c <= '9')
      digit = static_cast<uint32_t>(c - '0');
    else if (c >= 'a' && c <= 'f')
      digit = static_cast<uint32_t>(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F')
      digit = static_cast<uint32_t>(c - 'A' + 10);
    else
      return fail("bad \\u escape");
    value = value << 4 | digit;
  }
  *out = value;
  return true;
}

namespace {

void append_utf8(std::string* out, uint32_t code) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xc0 | code >> 6));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | code >> 12));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else {
    out->push_back(static_cast<char>(0xf0 | code >> 18));
    out->push_back(static_cast<char>(0x80 | (code >> 12 & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  }
}

}  // namespace

// One multi-byte sequence: no overlong form, no surrogate, nothing above U+10FFFF.
bool JsonReader::utf8_sequence(std::string* out) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(data_[i]); };
  const unsigned char lead = byte(at_);
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || size_ - at_ < length) return fail("invalid UTF-8");
  for (size_t i = 1; i < length; ++i)
    if ((byte(at_ + i) & 0xc0) != 0x80) return fail("invalid UTF-8");
  const unsigned char second = byte(at_ + 1);
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) || (lead == 0xf0 && second < 0x90) ||
      (lead == 0xf4 && second > 0x8f))
    return fail("invalid UTF-8");
  out->append(data_ + at_, length);
  at_ += length;
  return true;
}

bool JsonReader::string(std::string* out) {
  out->clear();
  if (!expect('"', "expected a string")) return false;
  while (at_ < size_) {
    const unsigned char c = static_cast<unsigned char>(data_[at_]);
    if (c == '"') {
      ++at_;
      return true;
    }
    if (c < 0x20) return fail("raw control character in a string");
    if (c >= 0x80) {
      if (!utf8_sequence(out)) return false;
      continue;
    }
    ++at_;
    if (c != '\\') {
      out->push_back(static_cast<char>(c));
      continue;
    }
    if (at_ >= size_) break;
    const char escape = data_[at_++];
    switch (escape) {
      case '"': out->push_back('"'); break;
      case '\\': out->push_back('\\'); break;
      case '/': out->push_back('/'); break;
      case 'b': out->push_back('\b'); break;
      case 'f': out->push_back('\f'); break;
      case 'n': out->push_back('\n'); break;
      case 'r': out->push_back('\r'); break;
      case 't': out->push_back('\t'); break;
      case 'u': {
        uint32_t code;
        if (!hex4(&code)) return false;
        if (code >= 0xdc00 && code <= 0xdfff) return fail("lone surrogate");
        if (code >= 0xd800 && code <= 0xdbff) {
          if (size_ - at_ < 6 || data_[at_] != '\\' || data_[at_ + 1] != 'u') return fail("lone surrogate");
          at_ += 2;
          uint32_t low;
          if (!hex4(&low)) return false;
          if (low < 0xdc00 || low > 0xdfff) return fail("lone surrogate");
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(out, code);
        break;
      }
      default: return fail("bad escape");
    }
  }
  return fail("unterminated string");
}

bool JsonReader::unsigned_integer(uint64_t* out) {
  skip_space();
  if (at_ >= size_ || data_[at_] < '0' || data_[at_] > '9') return fail("expected a non-negative integer");
  if (data_[at_] == '0' && at_ + 1 < size_ && data_[at_ + 1] >= '0' && data_[at_ + 1] <= '9')
    return fail("leading zero");
  uint64_t value = 0;
  while (at_ < size_ && data_[at_] >= '0' && data_[at_] <= '9') {
    const uint64_t digit = static_cast<uint64_t>(data_[at_] - '0');
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) || __builtin_add_overflow(value, digit, &value))
      return fail("integer above 2^64 - 1");
    ++at_;
  }
  if (at_ < size_ && (data_[at_] == '.' || data_[at_] == 'e' || data_[at_] == 'E'))
    return fail("expected an integer");
  *out = value;
  return true;
}

bool JsonReader::number() {
  const size_t start = at_;
  const auto digit = [&] { return at_ < size_ && data_[at_] >= '0' && data_[at_] <= '9'; };
  if (data_[at_] == '-') ++at_;
  if (!digit()) return fail("bad number");
  if (data_[at_] == '0') {
    ++at_;
    if (digit()) return fail("leading zero");
  } else {
    while (digit()) ++at_;
  }
  bool real = false;
  if (at_ < size_ && data_[at_] == '.') {
    real = true;
    ++at_;
    if (!digit()) return fail("bad number");
    while (digit()) ++at_;
  }
  if (at_ < size_ && (data_[at_] == 'e' || data_[at_] == 'E')) {
    real = true;
    ++at_;
    if (at_ < size_ && (data_[at_] == '+' || data_[at_] == '-')) ++at_;
    if (!digit()) return fail("bad number");
    while (digit()) ++at_;
  }
  // Only long digits or an exponent can overflow a double.
  if (real || at_ - start > 300) {
    const std::string text(data_ + start, at_ - start);
    if (std::isinf(std::strtod(text.c_str(), nullptr))) return fail("number overflows");
  }
  return true;
}

bool JsonReader::literal(std::string_view word) {
  skip_space();
  if (size_ - at_ < word.size() || std::string_view(data_ + at_, word.size()) != word)
    return fail("unexpected character");
  at_ += word.size();
  return true;
}

bool JsonReader::skip_value() {
  char c;
  if (!peek(&c)) return false;
  std::string ignored;
  switch (c) {
    case '{': return object([this](const std::string&) { return skip_value(); });
    case '[': return array([this] { return skip_value(); });
    case '"': return string(&ignored);
    case 't': return literal("true");
    case 'f': return literal("false");
    case 'n': return literal("null");
    default:
      if (c == '-' || (c >= '0' && c <= '9')) return number();
      return fail("unexpected character");
  }
}

bool JsonReader::end() {
  skip_space();
  return at_ == size_ || fail("content after the value");
}

const char* validate_json(const char* data, size_t size, int max_depth, size_t* position) {
  JsonReader reader(data, size, max_depth);
  if (reader.skip_value() && reader.end()) return nullptr;
  *position = reader.position();
  return reader.error();
}

}  // namespace roots
