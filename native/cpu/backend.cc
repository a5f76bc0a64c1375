// The CPU as a Backend: system memory (huge pages for large blocks) and the best kernels of this machine,
// filled as BLIS fills a context: baseline first, then every level that the processor has.
#include "core/backend.h"

#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "cpu/features.h"

namespace roots {

#pragma GCC visibility push(hidden)
void install_baseline(KernelTable* table);
void install_avx2(KernelTable* table);
void install_avx512(KernelTable* table);
void install_avx512_vnni(KernelTable* table);
void install_avx512_vbmi2(KernelTable* table);
void install_avx512_bf16(KernelTable* table);
void install_amx(KernelTable* table);
const Backend* cpu_backend();
#pragma GCC visibility pop

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

const char* g_error = "";

#if defined(__linux__)
size_t whole_pages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}
#endif

#if defined(__linux__)
// Large blocks are mappings of their own, so that releasing one gives its pages back at once: malloc keeps
// blocks of up to 32 MiB in its heap. Aligned to huge pages by trimming a longer mapping.
Status map_pages(size_t bytes, void** out) {
  const size_t length = bytes + kHugePage;
  void* mapped = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return "out of memory";
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t start = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = start + whole_pages(bytes);
  if (start > address) munmap(mapped, start - address);
  if (address + length > end) munmap(reinterpret_cast<void*>(end), address + length - end);
  *out = reinterpret_cast<void*>(start);
  madvise(*out, bytes, MADV_HUGEPAGE);  // a hint: without it pages are just smaller
  return nullptr;
}
#endif

Status allocate(size_t bytes, void** out) {
#if defined(__linux__)
  if (bytes >= kHugePage) return map_pages(bytes, out);
#endif
  return posix_memalign(out, 64, bytes > 0 ? bytes : 1) == 0 ? nullptr : "out of memory";
}

void release(void* data, size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHugePage) {
    munmap(data, whole_pages(bytes));
    return;
  }
#endif
  free(data);
}

Status copy(void* destination, const void* source, size_t bytes, CopyKind) {
  memcpy(destination, source, bytes);
  return nullptr;
}

struct Selected {
  KernelTable table{};
  IsaLevel level;
};

const Selected& selected() {
  static const Selected* const result = [] {
    auto* s = new Selected;
    s->level = selected_isa(&g_error);
    if (!g_error) g_error = "";
    install_baseline(&s->table);
#if defined(ROOTS_HAVE_avx2)
    if (s->level >= IsaLevel::avx2) install_avx2(&s->table);
#endif
#if defined(ROOTS_HAVE_avx512)
    if (s->level >= IsaLevel::avx512) install_avx512(&s->table);
    if (s->level >= IsaLevel::avx512_vnni) install_avx512_vnni(&s->table);
    // "avx512_core" caps these as well
    if (s->level >= IsaLevel::avx512_vnni && has_avx512_vbmi2()) install_avx512_vbmi2(&s->table);
    if (s->level >= IsaLevel::avx512_vnni && has_avx512_bf16()) install_avx512_bf16(&s->table);
#endif
#if defined(ROOTS_HAVE_amx)
    if (s->level >= IsaLevel::amx) install_amx(&s->table);
#else
    if (s->level >= IsaLevel::amx) s->level = IsaLevel::avx512_vnni;
#endif
    return s;
  }();
  return *result;
}

}  // namespace

const Backend* cpu_backend() {
  static const Backend backend = {backend_abi_hash(),
                                  "cpu",
                                  [] { return int32_t{1}; },
                                  [] { return int64_t{0}; },
                                  allocate,
                                  release,
                                  copy,
                                  [] { return &selected().table; },
                                  nullptr,
                                  nullptr,
                                  [] { return isa_name(selected().level); },
                                  [] {
                                    selected();
                                    return g_error;
                                  }};
  return &backend;
}

}  // namespace roots
