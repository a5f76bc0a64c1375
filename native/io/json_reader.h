// A strict JSON reader for untrusted bytes (RFC 8259 and nothing more): valid UTF-8, no byte-order mark, no
// duplicate keys, no leading zeros, bounded depth. It pulls values from a buffer without building a tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace roots {

class JsonReader {
 public:
  JsonReader(const char* data, size_t size, int max_depth)
      : data_(data), size_(size), max_depth_(max_depth) {}

  // Each of these returns false after recording an error.
  bool peek(char* next);                 // the first character of the next value, whitespace skipped
  bool string(std::string* out);         // decoded
  bool unsigned_integer(uint64_t* out);  // plain digits, exact
  bool skip_value();                     // any value, checked completely
  bool literal(std::string_view word);   // true, false, null
  // body() is called for each key (decoded) and must consume its value. Duplicate keys are refused here.
  template <class Body>
  bool object(const Body& body);
  template <class Body>
  bool array(const Body& body);
  bool end();  // nothing but whitespace is left

  bool fail(const char* what);
  const char* error() const { return error_; }
  size_t position() const { return at_; }

 private:
  void skip_space();
  bool expect(char c, const char* what);
  bool enter();
  bool utf8_sequence(std::string* out);
  bool hex4(uint32_t* out);
  bool number();

  const char* data_;
  size_t size_;
  size_t at_ = 0;
  int depth_ = 0;
  int max_depth_;
  const char* error_ = nullptr;
};

// The keys seen in one object, compared after unescaping.
class KeySet {
 public:
  KeySet();
  ~KeySet();
  KeySet(const KeySet&) = delete;
  KeySet& operator=(const KeySet&) = delete;
  bool insert(const std::string& key);  // false: seen before

 private:
  void* set_;
};

template <class Body>
bool JsonReader::object(const Body& body) {
  if (!expect('{', "expected an object") || !enter()) return false;
  KeySet keys;
  skip_space();
  if (at_ < size_ && data_[at_] == '}') {
    ++at_;
    --depth_;
    return true;
  }
  for (;;) {
    std::string key;
    skip_space();
    if (!string(&key)) return false;
    if (!keys.insert(key)) return fail("duplicate key");
    if (!expect(':', "expected ':' after a key")) return false;
    if (!body(key)) return false;
    skip_space();
    if (at_ < size_ && data_[at_] == ',') {
      ++at_;
      continue;
    }
    if (!expect('}', "expected ',' or '}'")) return false;
    --depth_;
    return true;
  }
}

template <class Body>
bool JsonReader::array(const Body& body) {
  if (!expect('[', "expected an array") || !enter()) return false;
  skip_space();
  if (at_ < size_ && data_[at_] == ']') {
    ++at_;
    --depth_;
    return true;
  }
  for (;;) {
    if (!body()) return false;
    skip_space();
    if (at_ < size_ && data_[at_] == ',') {
      ++at_;
      continue;
    }
    if (!expect(']', "expected ',' or ']'")) return false;
    --depth_;
    return true;
  }
}

// nullptr: the bytes are one strict JSON value. Otherwise what is wrong, and where.
const char* validate_json(const char* data, size_t size, int max_depth, size_t* position);

}  // namespace roots
