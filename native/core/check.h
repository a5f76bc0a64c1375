// CHECK(condition, "words"): leaves the kernel with the words when a relation its loops rely on does not
// hold. Messages for users come from lib/ops/check.ts; these are the second line of defence.
#pragma once

#define CHECK(condition, words)     \
  do {                              \
    if (!(condition)) return words; \
  } while (0)
