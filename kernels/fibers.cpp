// fibers.cpp: the scheduler behind fibers.h. Built once for each wave size and linked to every kernel.
//
// Environment: MZ_ORDER = forward | reverse | a number (random, seeded): in which order the threads of a block run, from the
// start and again after each barrier. After a wave operation the lanes go on by number, the last to arrive first.
// MZ_THREADS: how many threads of the machine share the blocks of a launch.
#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#pragma GCC visibility push(hidden)
#ifdef MZ_TRACE   // trace.cpp
namespace trace { void begin_block(); }
extern "C" {
extern char __start_mz_lds[] __attribute__((weak, visibility("hidden")));
extern char __stop_mz_lds[] __attribute__((weak, visibility("hidden")));
}
#endif

namespace fibers {

#ifdef MZ_TRACE
Block* block;
#else
__thread Block* block;
#endif
const size_t STACK = 32 << 10;   // small, so that a block's fibers stay in the cache

// ---- switching from one stack to another ------------------------------------------------------------------------------
// Saves the registers that a call must keep on the old stack, and takes them off the new one. ucontext would do the same
// with two system calls, ten times slower; it is used where neither assembly below fits.
#if defined(__x86_64__)
extern "C" void mz_switch(void** from, void* to) __asm__("mz_switch");
__asm__(
    ".text\n.p2align 4\n.hidden mz_switch\n.globl mz_switch\n.type mz_switch,@function\nmz_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size mz_switch,.-mz_switch\n");
static void* first_stack(char* top, void (*enter)()) {
  void** word = (void**)((uintptr_t)top & ~(uintptr_t)15);
  *--word = nullptr;
  *--word = (void*)enter;
  for (int i = 0; i < 6; i++) *--word = nullptr;
  return word;
}
#elif defined(__aarch64__)
extern "C" void mz_switch(void** from, void* to) __asm__("mz_switch");
__asm__(
    ".text\n.p2align 4\n.hidden mz_switch\n.globl mz_switch\n.type mz_switch,%function\nmz_switch:\nsub sp,sp,#160\n"
    "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\n"
    "stp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n.size mz_switch,.-mz_switch\n");
static void* first_stack(char* top, void (*enter)()) {
  char* stack = (char*)((uintptr_t)top & ~(uintptr_t)15) - 160;
  memset(stack, 0, 160);
  ((void**)stack)[11] = (void*)enter;   // x30, where `ret` goes
  return stack;
}
#else
static void mz_switch(void** from, void* to) {
  *from = new ucontext_t;
  ucontext_t* back = (ucontext_t*)*from;
  swapcontext(back, (ucontext_t*)to);
  delete back;
}
static void* first_stack(char* top, void (*enter)()) {
  ucontext_t* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = top - STACK;
  context->uc_stack.ss_size = STACK - 512;
  context->uc_link = nullptr;
  makecontext(context, enter, 0);
  return context;
}
#endif

// ---- who runs next ----------------------------------------------------------------------------------------------------
static std::string where(const char* file, int line) {
  const char* name = strrchr(file, '/');
  return std::string(name ? name + 1 : file) + ":" + std::to_string(line);
}

// Ends the block with an error; its other fibers are dropped where they stand.
static void fail(const std::string& what) {
  Block& b = *block;
  if (!b.error[0])
    snprintf(b.error, sizeof b.error, "%s [block %u,%u,%u thread %d]", what.c_str(), b.id[0], b.id[1], b.id[2], b.current);
  mz_switch(&b.thread[b.current].stack, b.scheduler);
}

// The first thread that can run, from this place in the order on and around; -1 if none can.
static int first_runnable(int at) {
  Block& b = *block;
  for (int k = 0; k < b.threads; k++, at++) {
    if (at >= b.threads) at = 0;
    if (b.thread[b.order[at]].state == RUNNING) return b.order[at];
  }
  return -1;
}

static int next_runnable() {
  Block& b = *block;
  if (b.thread[b.current].state == AT_WAVE || b.thread[b.current].state == AT_TEAM) {   // its own wave first: warm caches
    int first = b.current / 64 * 64, mine = b.current - first;
    for (int k = 1; k < 64; k++) {
      int other = first + (mine + k) % 64;
      if (other < b.threads && b.thread[other].state == RUNNING) return other;
    }
  }
  return first_runnable(b.place[b.current] + 1);
}

static void deadlock() {
  Block& b = *block;
  std::string story = "deadlock:";
  auto same = [&](int i, int j) {
    Thread &x = b.thread[i], &y = b.thread[j];
    return x.state == y.state && (x.state == RETURNED || x.line == y.line);
  };
  for (int first = 0, i = 1; i <= b.threads; i++) {
    if (i < b.threads && same(first, i)) continue;
    Thread& x = b.thread[first];
    story += " threads " + std::to_string(first) + "-" + std::to_string(i - 1);
    if (x.state == RETURNED) story += " have returned;";
    else story += std::string(" wait at ") + (x.state == AT_BARRIER ? "__syncthreads" : "a wave operation") + " at " + where(x.file, x.line) + ";";
    first = i;
  }
  fail(story);
}

static void go_on_with(int next) {
  Block& b = *block;
  int me = b.current;
  if (next < 0) return deadlock();
  b.current = next;
  if (next != me) mz_switch(&b.thread[me].stack, b.thread[next].stack);
}

static void sleep() { go_on_with(next_runnable()); }

static void wake(State state, int from, int to) {
  for (int i = from; i < std::min(to, block->threads); i++)
    if (block->thread[i].state == state) block->thread[i].state = RUNNING;
}

static void open_barrier() {
  block->arrived = 0;
  block->epoch++;
  wake(AT_BARRIER, 0, block->threads);
}

// ---- where threads meet -----------------------------------------------------------------------------------------------
void barrier(const char* file, int line) {
  Block& b = *block;
  if (b.arrived == 0) b.line = line, b.file = file;
  else if (b.line != line)
    fail("divergent barrier: threads of one block wait at " + where(b.file, b.line) + " and at " + where(file, line));
  if (++b.arrived == b.alive) {
    open_barrier();
    return go_on_with(first_runnable(0));   // not with the last to arrive: the order begins anew
  }
  Thread& me = b.thread[b.current];
  me.line = line, me.file = file, me.state = AT_BARRIER;
  sleep();
}

// finish: what the last to arrive does with what all have brought.
static int meet(Meeting& m, int mine, int first, int size, State state, const void* words, size_t bytes, const char* file, int line,
                void (*finish)(Meeting&) = nullptr) {
  if (m.arrived == 0) {
    m.line = line, m.file = file;
    m.turn ^= 1;
    m.present[m.turn] = 0;
  } else if (m.line != line) {
    fail("divergent wave operation: lanes of one wave are at " + where(m.file, m.line) + " and at " + where(file, line));
  }
  int turn = m.turn;
  memcpy(m.slot[turn][mine], words, bytes);
  m.present[turn] |= 1ull << mine;
  Thread& me = block->thread[block->current];
  me.line = line, me.file = file;
  if (++m.arrived == m.alive) {
    m.arrived = 0;
    if (finish) finish(m);
    wake(state, first, first + size);
  } else {
    me.state = state;
    sleep();
  }
  return turn;
}

static Seen meet_lanes(const void* words, size_t bytes, const char* file, int line, void (*finish)(Meeting&) = nullptr) {
  int wave = block->current / MZ_WAVE;
  Meeting& m = block->wave[wave];
  int turn = meet(m, block->current % MZ_WAVE, wave * MZ_WAVE, MZ_WAVE, AT_WAVE, words, bytes, file, line, finish);
  return {m.slot[turn], m.present[turn]};
}

Seen meet_wave(const void* value, size_t bytes, const char* file, int line) {
  Word word = 0;
  memcpy(&word, value, bytes);
  return meet_lanes(&word, sizeof word, file, line);
}

static void all_lanes(uint64_t present, int lanes, const char* file, int line) {
  if (~present << (64 - lanes)) fail("a matrix instruction needs all " + std::to_string(lanes) + " lanes; some have returned, at " + where(file, line));
}

const Word (*meet_team(const void* a, const void* b, size_t bytes, const char* file, int line))[WORDS] {
  Word words[2] = {0, 0};
  memcpy(&words[0], a, bytes);
  memcpy(&words[1], b, bytes);
  int team = block->current / 64;
  Meeting& m = block->team[team];
  int turn = meet(m, block->current % 64, team * 64, 64, AT_TEAM, words, sizeof words, file, line);
  all_lanes(m.present[turn], 64, file, line);
  return m.slot[turn];
}

const Word (*meet_floats(const void* a, size_t a_bytes, const void* b, size_t b_bytes, const char* file, int line))[WORDS] {
  char both[sizeof(Word) * WORDS];
  memcpy(both, a, a_bytes);
  memcpy(both + a_bytes, b, b_bytes);
  Seen seen = meet_lanes(both, a_bytes + b_bytes, file, line);
  all_lanes(seen.present, 32, file, line);
  return seen.slot;
}

// ---- NVIDIA's matrix instruction ----------------------------------------------------------------------------------------
// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 as the PTX ISA's tables have it ("Matrix Fragments for mma.m16n8k16"), by
// their own names, and by nothing that mfma.h says: lane groupID * 4 + threadID_in_group holds
//
//   a0 .. a7    row = groupID for ai where 0 <= i < 2 or 4 <= i < 6, else groupID + 8;  col = threadID_in_group * 2 + (i & 1), + 8 for i >= 4
//   b0 .. b3    row = threadID_in_group * 2 + (i & 1), + 8 for i >= 2;                  col = groupID
//   c0 .. c3    row = groupID for i < 2, else groupID + 8;                              col = threadID_in_group * 2 + (i & 1)
//
// Two neighbours share a register, the one with the lower number in its lower half. Here four of them, with the same A.
struct MmaRegisters { unsigned a[4], b[4][2]; };

static float half_of(const unsigned* registers, int i) {   // number i of a fragment
  unsigned bits = i % 2 ? registers[i / 2] & 0xffff0000u : registers[i / 2] << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static void mma_finish(Meeting& m) {
  float A[16][16], B[16][32];
  for (int lane = 0; lane < 32; lane++) {
    MmaRegisters r;
    memcpy(&r, m.slot[m.turn][lane], sizeof r);
    int groupID = lane >> 2, threadID_in_group = lane % 4;
    for (int i = 0; i < 8; i++) {
      int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? groupID : groupID + 8;
      int col = threadID_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      A[row][col] = half_of(r.a, i);
    }
    for (int n = 0; n < 4; n++)
      for (int i = 0; i < 4; i++) B[threadID_in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][n * 8 + groupID] = half_of(r.b[n], i);
  }
  for (int row = 0; row < 16; row++) {
    float sum[32] = {};
    for (int k = 0; k < 16; k++)
      for (int col = 0; col < 32; col++) sum[col] += A[row][k] * B[k][col];
    memcpy(m.product[m.turn][row], sum, sizeof sum);
  }
}

void mma_sync(float (&d)[4][4], const unsigned (&a)[4], const unsigned (&b)[4][2], const char* file, int line) {
  MmaRegisters mine;
  memcpy(mine.a, a, sizeof a);
  memcpy(mine.b, b, sizeof b);
  Meeting& m = block->wave[block->current / MZ_WAVE];
  Seen seen = meet_lanes(&mine, sizeof mine, file, line, mma_finish);
  all_lanes(seen.present, 32, file, line);
  int turn = seen.slot == m.slot[1], groupID = block->current % 32 >> 2, threadID_in_group = block->current % 4;
  for (int n = 0; n < 4; n++)
    for (int i = 0; i < 4; i++)
      d[n][i] += m.product[turn][i < 2 ? groupID : groupID + 8][n * 8 + threadID_in_group * 2 + (i & 1)];
}

void absent_lane(int lane, const char* file, int line) {
  fail("shuffle reads lane " + std::to_string(lane) + ", which is not active, at " + where(file, line));
}

// ---- a block, a launch ------------------------------------------------------------------------------------------------
static void enter() {
  block->call(block->kernel, block->args);
  Block& b = *block;   // read anew: this fiber may have moved
  int me = b.current;
  b.thread[me].state = RETURNED;   // a thread that has returned is waited for no longer
  Meeting &wave = b.wave[me / MZ_WAVE], &team = b.team[me / 64];
  if (--wave.alive == wave.arrived && wave.arrived) wave.arrived = 0, wake(AT_WAVE, me / MZ_WAVE * MZ_WAVE, (me / MZ_WAVE + 1) * MZ_WAVE);
  if (--team.alive == team.arrived && team.arrived) team.arrived = 0, wake(AT_TEAM, me / 64 * 64, (me / 64 + 1) * 64);
  bool opened = --b.alive == b.arrived && b.arrived;
  if (opened) open_barrier();
  if (b.alive == 0) mz_switch(&b.thread[me].stack, b.scheduler);
  go_on_with(opened ? first_runnable(0) : next_runnable());
  __builtin_unreachable();
}

static void run_block(uint64_t seed) {
  Block& b = *block;
  b.alive = b.threads;
  b.arrived = 0;
  b.epoch = 0;
  auto prepare = [&](Meeting* m, int size) {
    for (int first = 0; first < b.threads; first += size, m++) {
      m->alive = std::min(size, b.threads - first);
      m->arrived = m->turn = 0;
    }
  };
  prepare(b.wave, MZ_WAVE);
  prepare(b.team, 64);
  if (seed > 1)
    for (int i = b.threads - 1; i >= 0; i--) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(b.order[i], b.order[(seed >> 33) % (i + 1)]);
      b.place[b.order[i]] = i;
    }
  for (int i = 0; i < b.threads; i++) b.place[b.order[i]] = i;
#ifdef MZ_TRACE
  if (__start_mz_lds) memset(__start_mz_lds, 0xff, __stop_mz_lds - __start_mz_lds);   // LDS that nobody wrote is NaN
  trace::begin_block();
#endif
  memset(b.dynamic, 0xff, b.dynamic_bytes);
  for (int i = 0; i < b.threads; i++) {
    b.thread[i].state = RUNNING;
    b.thread[i].stack = first_stack(b.stacks + STACK * (i + 1) - (i & 15) * 128, enter);   // spread over cache sets
  }
  b.current = b.order[0];
  mz_switch(&b.scheduler, b.thread[b.current].stack);
}

int launch(void (*call)(void*, void**), void* kernel, const unsigned* grid, const unsigned* size, size_t dynamic_bytes,
           void** args, char* error, int error_bytes) {
  const char* order = getenv("MZ_ORDER");
  uint64_t seed = !order || !strcmp(order, "forward") ? 0 : !strcmp(order, "reverse") ? 1 : 2 + strtoull(order, 0, 10);
  const char* wanted = getenv("MZ_THREADS");
  long workers = wanted ? atoi(wanted) : std::thread::hardware_concurrency();
  long blocks = (long)grid[0] * grid[1] * grid[2];
  int threads = size[0];
  if (threads < 1 || threads > 1024 || size[1] != 1 || size[2] != 1) {
    snprintf(error, error_bytes, "a block must have 1 to 1024 threads along x, got %u x %u x %u", size[0], size[1], size[2]);
    return 1;
  }
  if (dynamic_bytes > 65536) {
    snprintf(error, error_bytes, "a block has at most 65536 bytes of LDS, got %zu", dynamic_bytes);
    return 1;
  }
#ifdef MZ_TRACE
  workers = 1;
#endif
  std::atomic<long> next{0};
  std::atomic<bool> failed{false};
  auto work = [&] {
    std::vector<Thread> thread(threads);
    std::vector<Meeting> wave((threads + MZ_WAVE - 1) / MZ_WAVE), team((threads + 63) / 64);
    std::vector<int> run_order(threads), place(threads);
    Block b{};
    size_t stack_bytes = STACK * threads, room = (dynamic_bytes + 127) & ~(size_t)63;
    b.stacks = (char*)mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    b.dynamic = (char*)aligned_alloc(64, room);
    b.dynamic_bytes = dynamic_bytes;
    b.threads = threads;
    b.thread = thread.data(), b.wave = wave.data(), b.team = team.data();
    b.order = run_order.data(), b.place = place.data();
    b.call = call, b.kernel = kernel, b.args = args;
    for (int i = 0; i < 3; i++) b.grid[i] = grid[i], b.size[i] = size[i];
    for (int i = 0; i < threads; i++) thread[i].index = i, run_order[i] = seed == 1 ? threads - 1 - i : i;
    block = &b;
    for (long k; !failed && (k = next++) < blocks;) {
      b.id[0] = k % grid[0], b.id[1] = k / grid[0] % grid[1], b.id[2] = k / ((long)grid[0] * grid[1]);
      run_block(seed > 1 ? seed + k : seed);
      if (b.error[0] && !failed.exchange(true)) snprintf(error, error_bytes, "%s", b.error);
    }
    block = nullptr;
    munmap(b.stacks, stack_bytes);
    free(b.dynamic);
  };
  std::vector<std::thread> helpers;
  for (long i = 1; i < std::min(workers, blocks); i++) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  return failed;
}

void stop(const char* what) { fail(what); }

}  // namespace fibers
#pragma GCC visibility pop
