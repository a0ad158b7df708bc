// trace.cpp: sees every access of a kernel to memory. Only in builds for the tracer.
//
// The mechanism is borrowed: `g++ -fsanitize=thread` calls a function at every load and store, meant for its own race
// detector. We do not link that detector; these functions are ours. They write the access down and check it:
//   misaligned         16 bytes moved at once from an address that is no multiple of 16, and so on
//   out of bounds      neither in a tensor of the launch nor in LDS
//   nobody wrote it    LDS read before any thread of the block wrote it
//   race               two threads, one of them writing, with no barrier between. Blocks have no barrier between them.
//   an index           that its array does not have (`-fsanitize=bounds-strict`): it may well lie in LDS that another array wrote
//   endless            a block that has gone through too many branches (`-fsanitize-coverage=trace-pc` calls at each)
// Lanes of one wave get no exemption: they run in step on today's hardware, but the compiler may reorder their accesses.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>

#include <vector>

#include "fibers.h"

#define VISIBLE extern "C" __attribute__((visibility("default")))

enum Kind : uint8_t { READ, WRITE, ATOMIC };

struct Event {                // 32 bytes; minizaya/hip/trace.py reads them
  uint64_t offset, instruction;
  uint32_t block, thread, epoch;
  uint16_t range;             // number of the tensor; STATIC or DYNAMIC for LDS
  uint8_t bytes, kind;
};
static const uint16_t STATIC = 65535, DYNAMIC = 65534;

struct Shadow {               // what is known of one byte; threads count from 1, 0 is nobody
  uint32_t writer, written, reader, read;   // who, and in which epoch of its block
  uint32_t write_line, read_line;           // instruction, relative to the library
  bool many, atomic;          // several threads have read; the writer was an atomic operation
};
struct Range { uintptr_t start; size_t bytes; std::vector<Shadow> shadow; };

static std::vector<Range> tensors;
static Range lds[2];          // static, dynamic
static std::vector<Event> events;
static size_t most_events;
static uint64_t steps, most_steps;   // branches that the threads of this block have come by
static bool lost_events, active;
static uintptr_t library_start, library_end;

extern "C" {
extern char __start_mz_lds[] __attribute__((weak, visibility("hidden")));
extern char __stop_mz_lds[] __attribute__((weak, visibility("hidden")));
}

// Nobody's: the linker puts it behind the arrays of mz_lds, so that who runs past their end arrives here.
static char behind_lds[16384] __attribute__((used, aligned(64), section("mz_behind")));

namespace trace {

static uint32_t linear_block() {
  fibers::Block& b = *fibers::block;
  return b.id[0] + b.grid[0] * (b.id[1] + b.grid[1] * b.id[2]);
}

void begin_block() {
  fibers::Block& b = *fibers::block;
  steps = 0;
  lds[0].start = (uintptr_t)__start_mz_lds;
  lds[0].bytes = __start_mz_lds ? __stop_mz_lds - __start_mz_lds : 0;
  lds[1].start = (uintptr_t)b.dynamic;
  lds[1].bytes = b.dynamic_bytes;
  for (Range& part : lds) part.shadow.assign(part.bytes, Shadow{});
}

static bool within(uintptr_t address, const void* start, size_t bytes) {
  return address >= (uintptr_t)start && address < (uintptr_t)start + bytes;
}

// The runtime's own memory, which the kernel's code touches on the way: thread numbers, slots of a wave.
static bool ours(uintptr_t address) {
  fibers::Block& b = *fibers::block;
  return within(address, &b, sizeof b) ||
         within(address, b.thread, sizeof(fibers::Thread) * b.threads) ||
         within(address, b.wave, sizeof(fibers::Meeting) * ((b.threads + MZ_WAVE - 1) / MZ_WAVE)) ||
         within(address, b.team, sizeof(fibers::Meeting) * ((b.threads + 63) / 64)) ||
         within(address, &fibers::block, sizeof(void*)) || (address >= library_start && address < library_end);
}

static void complain(const char* what, uint64_t instruction, uint64_t other) {
  char text[400];
  if (other) snprintf(text, sizeof text, "%s at <%lx> and at <%lx>", what, (long)instruction, (long)other);
  else snprintf(text, sizeof text, "%s at <%lx>", what, (long)instruction);
  active = false;
  fibers::stop(text);
}

static void outside(uintptr_t address, size_t bytes, Kind kind, uint64_t instruction) {
  char text[200];
  size_t nearest = 0;
  long best = -1, over = 0;
  for (size_t i = 0; i < tensors.size(); i++) {
    long after = (long)(address + bytes) - (long)(tensors[i].start + tensors[i].bytes), before = (long)tensors[i].start - (long)address;
    long distance = after > 0 ? after : before;
    if (best < 0 || distance < best) best = distance, nearest = i, over = after > 0 ? after : -before;
  }
  snprintf(text, sizeof text, "out of bounds: %s of %zu bytes, %ld bytes %s tensor #%zu", kind == READ ? "read" : "write", bytes,
           over > 0 ? over : -over, over > 0 ? "past the end of" : "before the start of", nearest);
  complain(text, instruction, 0);
}

void note(uintptr_t address, size_t bytes, Kind kind, void* return_address) {
  if (!active || !fibers::block) return;
  fibers::Block& b = *fibers::block;
  if (within(address, b.stacks, fibers::STACK * b.threads)) return;   // most accesses: a thread's own variables
  uint64_t instruction = (uintptr_t)return_address - 1 - library_start;
  Range* range = nullptr;
  uint16_t number = 0;
  for (size_t i = 0; i < tensors.size() && !range; i++)
    if (within(address, (void*)tensors[i].start, tensors[i].bytes)) range = &tensors[i], number = i;
  for (int i = 0; i < 2 && !range; i++)
    if (within(address, (void*)lds[i].start, lds[i].bytes)) range = &lds[i], number = i ? DYNAMIC : STATIC;
  if (!range) {
    // trap: the compiler drops `section` from a static inside a template, so such LDS would go unchecked
    if (within(address, behind_lds, sizeof behind_lds)) return complain("out of bounds: behind the end of LDS", instruction, 0);
    if (kind != READ && address >= library_start && address < library_end && !within(address, &fibers::block, sizeof(void*)))
      return complain("LDS inside a template function; declare it in the kernel and hand it over:", instruction, 0);
    if (!ours(address)) outside(address, bytes, kind, instruction);
    return;
  }
  size_t offset = address - range->start;
  if (offset + bytes > range->bytes) return outside(address, bytes, kind, instruction);

  if (events.size() < most_events)
    events.push_back({offset, instruction, linear_block(), (uint32_t)b.current, b.epoch, number, (uint8_t)bytes, kind});
  else lost_events = true;

  uint32_t me = linear_block() * b.threads + b.current + 1;
  bool local = number >= DYNAMIC;
  auto ordered = [&](uint32_t other, uint32_t epoch) {   // did `other` come before me for certain?
    return other == me || ((other - 1) / b.threads == (me - 1) / b.threads && epoch < b.epoch);
  };
  const char* space = local ? "LDS" : "global memory";
  char text[120];
  for (size_t i = offset; i < offset + bytes; i++) {
    Shadow& s = range->shadow[i];
    if (local && kind != WRITE && !s.writer) {
      snprintf(text, sizeof text, "reads LDS that nobody wrote:");
      return complain(text, instruction, 0);
    }
    if (s.writer && !ordered(s.writer, s.written) && !(kind == ATOMIC && s.atomic)) {
      snprintf(text, sizeof text, "race in %s: threads %u and %u, no barrier between,", space, (s.writer - 1) % b.threads, b.current);
      return complain(text, instruction, s.write_line);
    }
    if (kind == READ) {
      if (!s.reader || ordered(s.reader, s.read)) {
        if (s.reader != me || s.read != b.epoch) s.many = false;
        s.reader = me, s.read = b.epoch;
      } else {
        s.many = true;
      }
      s.read_line = instruction;
    } else {
      bool same_block = s.reader && (s.reader - 1) / b.threads == (me - 1) / b.threads;
      if (s.reader && (s.many || s.reader != me) && !(same_block && s.read < b.epoch)) {
        snprintf(text, sizeof text, "race in %s: threads %u and %u, no barrier between,", space, (s.reader - 1) % b.threads, b.current);
        return complain(text, instruction, s.read_line);
      }
      s.writer = me, s.written = b.epoch, s.write_line = instruction, s.atomic = kind == ATOMIC;
    }
  }
}

void aligned(void* address, size_t bytes, void* return_address) {
  if (!active || !fibers::block || (uintptr_t)address % bytes == 0) return;
  char text[80];
  snprintf(text, sizeof text, "misaligned: %zu bytes at an address that is no multiple of %zu", bytes, bytes);
  complain(text, (uintptr_t)return_address - 1 - library_start, 0);
}

}  // namespace trace

namespace fibers {
void atomic_access(const volatile void* address, size_t bytes) { trace::note((uintptr_t)address, bytes, ATOMIC, __builtin_return_address(0)); }
}

// ---- what Python calls ------------------------------------------------------------------------------------------------
static int find_library(dl_phdr_info* info, size_t, void*) {
  uintptr_t low = ~0ul, high = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD) continue;
    low = std::min<uintptr_t>(low, info->dlpi_addr + part.p_vaddr);
    high = std::max<uintptr_t>(high, info->dlpi_addr + part.p_vaddr + part.p_memsz);
  }
  if ((uintptr_t)&find_library < low || (uintptr_t)&find_library >= high) return 0;
  library_start = info->dlpi_addr, library_end = high;
  return 1;
}

VISIBLE void mz_trace_begin(int count, const uintptr_t* start, const size_t* bytes, size_t most, uint64_t branches) {
  dl_iterate_phdr(find_library, nullptr);
  tensors.clear();
  for (int i = 0; i < count; i++) tensors.push_back({start[i], bytes[i], std::vector<Shadow>(bytes[i])});
  events.clear();
  most_events = most;
  most_steps = branches;
  lost_events = false;
  active = true;
}

// Returns how many events there are, -1 - that number if some were dropped for want of room.
VISIBLE long mz_trace_end(const Event** first) {
  active = false;
  *first = events.data();
  return lost_events ? -1 - (long)events.size() : (long)events.size();
}

// ---- what the compiler calls ------------------------------------------------------------------------------------------
#define AT __builtin_return_address(0)
#define ACCESS(bytes)                                                                                                    \
  extern "C" void __tsan_read##bytes(void* a) { trace::aligned(a, bytes, AT); trace::note((uintptr_t)a, bytes, READ, AT); }   \
  extern "C" void __tsan_write##bytes(void* a) { trace::aligned(a, bytes, AT); trace::note((uintptr_t)a, bytes, WRITE, AT); } \
  extern "C" void __tsan_unaligned_read##bytes(void* a) { trace::note((uintptr_t)a, bytes, READ, AT); }                  \
  extern "C" void __tsan_unaligned_write##bytes(void* a) { trace::note((uintptr_t)a, bytes, WRITE, AT); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
extern "C" void __tsan_read_range(void* a, size_t bytes) { trace::note((uintptr_t)a, bytes, READ, AT); }
extern "C" void __tsan_write_range(void* a, size_t bytes) { trace::note((uintptr_t)a, bytes, WRITE, AT); }
extern "C" void __sanitizer_cov_trace_pc() {
  if (!active || !fibers::block || ++steps <= most_steps) return;
  trace::complain("endless: a block has come by more branches than it may, the last", (uintptr_t)AT - 1 - library_start, 0);
}
struct Type { uint16_t kind, bits; char name[1]; };   // what gcc says of a type; kind 0: an integer, bits & 1: signed
struct Indexed { const char* file; uint32_t line, column; const Type *array, *index; };
extern "C" void __ubsan_handle_out_of_bounds(const Indexed* at, uint64_t index) {
  if (!active || !fibers::block) return;
  char text[200];
  snprintf(text, sizeof text, "out of bounds: index %lld of %s", at->index->bits >> 1 == 5 ? (long long)(int)index : (long long)index, at->array->name);
  trace::complain(text, (uintptr_t)AT - 1 - library_start, 0);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
// atomicAdd has announced itself already (fibers::atomic_access); here the operation itself is done
extern "C" uint32_t __tsan_atomic32_load(const volatile uint32_t* a, int) { return *a; }
extern "C" uint64_t __tsan_atomic64_load(const volatile uint64_t* a, int) { return *a; }
template <class T> static bool exchange(volatile T* a, T* expected, T desired) {
  if (*a != *expected) return *expected = *a, false;
  return *a = desired, true;
}
extern "C" bool __tsan_atomic32_compare_exchange_weak(volatile uint32_t* a, uint32_t* e, uint32_t d, int, int) { return exchange(a, e, d); }
extern "C" bool __tsan_atomic64_compare_exchange_weak(volatile uint64_t* a, uint64_t* e, uint64_t d, int, int) { return exchange(a, e, d); }
