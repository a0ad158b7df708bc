// fibers.h: what makes a kernel ordinary C++, for the CPU. Included by gpu.h; the scheduler is fibers.cpp.
//
// Every GPU thread is a fiber: a stack of its own, switched by hand. The fibers of a block run one at a time, each up to
// its next barrier or wave operation, so a launch repeats exactly, and the scheduler can see what a GPU hides: barriers
// and shuffles in divergent code, shuffles from lanes that are not there, threads that wait for ever.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uint3 { unsigned x, y, z; };

#pragma GCC visibility push(hidden)
namespace fibers {

enum State : uint8_t { RUNNING, AT_BARRIER, AT_WAVE, AT_TEAM, RETURNED };
typedef uint64_t Word;
constexpr int WORDS = MZ_WAVE == 32 ? 12 : 2;   // what a lane can bring: of NVIDIA's products all fours of a slice

// Threads that meet: a wave, or a team of 64 for the matrix cores. Two sets of slots, used in turn, so that the next
// meeting can begin while the last one is still being read.
struct Meeting {
  int alive, arrived, line, turn;
  const char* file;
  uint64_t present[2];
  Word slot[2][64][WORDS];
  float product[2][16][32];   // of mma_sync
};

struct Thread {
  void* stack;       // where it went to sleep
  unsigned index;
  int line;          // where it waits
  const char* file;
  State state;
};

// The one block that this thread of the machine is running.
struct Block {
  unsigned grid[3], size[3], id[3];
  int threads, alive, arrived, current, line;
  const char* file;
  unsigned epoch;    // barriers passed
  Thread* thread;
  Meeting *wave, *team;
  int *order, *place;
  void* scheduler;
  char *stacks, *dynamic;
  size_t dynamic_bytes;
  void (*call)(void*, void**);
  void* kernel;
  void** args;
  char error[512];
};

#ifdef MZ_TRACE   // a traced launch uses one thread of the machine, and looking for a thread's own is slow
extern Block* block;
#else
extern __thread Block* block;   // trap: never initial-exec, which would squeeze all LDS into the small static TLS block
#endif

void barrier(const char* file, int line);
struct Seen { const Word (*slot)[WORDS]; uint64_t present; };
Seen meet_wave(const void* value, size_t bytes, const char* file, int line);
const Word (*meet_team(const void* a, const void* b, size_t bytes, const char* file, int line))[WORDS];
const Word (*meet_floats(const void* a, size_t a_bytes, const void* b, size_t b_bytes, const char* file, int line))[WORDS];
void mma_sync(float (&d)[4][4], const unsigned (&a)[4], const unsigned (&b)[4][2], const char* file, int line);
void absent_lane(int lane, const char* file, int line);
void stop(const char* what);   // ends the block with an error
extern const size_t STACK;     // bytes of one fiber's stack
void atomic_access(const volatile void* address, size_t bytes);
int launch(void (*call)(void*, void**), void* kernel, const unsigned* grid, const unsigned* size, size_t dynamic_bytes,
           void** args, char* error, int error_bytes);

inline int lane() { return block->current % MZ_WAVE; }
inline int team_lane() { return block->current % 64; }

template <class T> inline T from_lane(T value, int lane, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 64 bits");
  Seen seen = meet_wave(&value, sizeof(T), file, line);
  if (lane < 0 || lane >= MZ_WAVE || !(seen.present >> lane & 1)) absent_lane(lane, file, line);
  memcpy(&value, &seen.slot[lane][0], sizeof(T));
  return value;
}

// Calls a kernel from a list of pointers to its arguments.
template <size_t... I> struct Numbers {};
template <size_t N, size_t... I> struct Count : Count<N - 1, N - 1, I...> {};
template <size_t... I> struct Count<0, I...> { typedef Numbers<I...> type; };
template <class... A, size_t... I>
__attribute__((no_sanitize("thread"))) inline void spread(void* kernel, void** args, Numbers<I...>) {
  ((void (*)(A...))kernel)(*(A*)args[I]...);
}
template <class... A> struct Caller {
  static void call(void* kernel, void** args) { spread<A...>(kernel, args, typename Count<sizeof...(A)>::type()); }
};
template <class... A> inline auto caller(void (*)(A...)) -> void (*)(void*, void**) { return &Caller<A...>::call; }

}  // namespace fibers
#pragma GCC visibility pop

#define __host__
#define __device__
#define __global__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#ifdef MZ_TRACE   // all LDS in one known place; a traced launch uses one thread of the machine
#define __shared__ static __attribute__((section("mz_lds")))
#else
#define __shared__ static __thread
#endif
#define HIP_DYNAMIC_SHARED(T, name) T* name = (T*)fibers::block->dynamic;

#define threadIdx (uint3{fibers::block->thread[fibers::block->current].index, 0, 0})
#define blockIdx (uint3{fibers::block->id[0], fibers::block->id[1], fibers::block->id[2]})
#define blockDim (uint3{fibers::block->size[0], 1, 1})
#define gridDim (uint3{fibers::block->grid[0], fibers::block->grid[1], fibers::block->grid[2]})

#define LAUNCHABLE(kernel)                                                                                      \
  extern "C" __attribute__((visibility("default"))) int mz_##kernel(const unsigned* grid, const unsigned* size, \
                                                                    size_t dynamic_bytes, void** args,          \
                                                                    char* error, int error_bytes) {             \
    return fibers::launch(fibers::caller(kernel), (void*)kernel, grid, size, dynamic_bytes, args, error, error_bytes); \
  }

// The caller's own file and line travel as default arguments.
#define MZ_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MZ_HERE) { fibers::barrier(file, line); }
inline int __lane_id() { return fibers::lane(); }
template <class T> inline T __shfl(T value, int lane, MZ_HERE) { return fibers::from_lane(value, lane & (MZ_WAVE - 1), file, line); }
template <class T> inline T __shfl_xor(T value, int mask, MZ_HERE) { return fibers::from_lane(value, fibers::lane() ^ mask, file, line); }
template <class T> inline T __shfl_up(T value, unsigned by, MZ_HERE) {
  int lane = fibers::lane();
  return fibers::from_lane(value, lane < (int)by ? lane : lane - (int)by, file, line);
}
template <class T> inline T __shfl_down(T value, unsigned by, MZ_HERE) {
  int lane = fibers::lane();
  return fibers::from_lane(value, lane + (int)by < MZ_WAVE ? lane + (int)by : lane, file, line);
}
inline unsigned long long __ballot(int predicate, MZ_HERE) {
  int vote = predicate != 0;
  fibers::Seen seen = fibers::meet_wave(&vote, sizeof vote, file, line);
  unsigned long long bits = 0;
  for (int lane = 0; lane < MZ_WAVE; lane++)
    if (seen.present >> lane & 1 && (int)seen.slot[lane][0]) bits |= 1ull << lane;
  return bits;
}
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
template <class T> inline T atomicAdd(T* at, T value) {
#ifdef MZ_TRACE
  fibers::atomic_access(at, sizeof(T));
#endif
  T old, sum;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  do sum = old + value;
  while (!__atomic_compare_exchange(at, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

// declared here, since <cmath> would multiply the time to build by ten
extern "C" {
float expf(float) noexcept;
float logf(float) noexcept;
float sqrtf(float) noexcept;
float fabsf(float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
