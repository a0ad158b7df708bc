// route_tape: which experts each token visited, written down while decoding, and read back to visit them again.
//
//   tape    bytes (slots, capacity, layers): 0..E a route, 255 not recorded
//   record  tape[slot[i], position[i], :] = routes[i, :]          routes (n, layers), -1: not recorded
//   replay  routes[i, :] = tape[slot[i], position[i], :], 255 as -1
//
// Layers are the innermost axis, and a launch takes all layers of its tokens at once: a token's 40 bytes lie together, where
// one launch a layer would write single bytes, each into a 64-byte line of its own. A row outside the tape (slot -1 for
// padding) is not recorded, and replays as -1.
#include "gpu.h"

constexpr int THREADS = 256, TOKENS = 64, QUAD = 4;   // a block takes 64 tokens, a thread 4 layers at a time

// Where each token's row starts, in LDS; every slot and position is read once. -1: outside the tape.
DEVICE void find_rows(long long* row, const int* slot, const int* position, int first, int tokens, int slots, int capacity) {
  if (threadIdx.x < TOKENS && first + (int)threadIdx.x < tokens) {
    int s = slot[first + threadIdx.x], p = position[first + threadIdx.x];
    row[threadIdx.x] = s >= 0 && s < slots && p >= 0 && p < capacity ? (long long)s * capacity + p : -1;
  }
  __syncthreads();
}

DEVICE unsigned char to_byte(long long route) { return route < 0 || route > 254 ? 255 : (unsigned char)route; }
DEVICE long long from_byte(unsigned char byte) { return byte == 255 ? -1 : byte; }

template <class I> DEVICE void record(const I* routes, const int* slot, const int* position, unsigned char* tape, int tokens,
                                      int layers, int slots, int capacity, long long* row) {
  int first = blockIdx.x * TOKENS, here = tokens - first < TOKENS ? tokens - first : TOKENS;
  find_rows(row, slot, position, first, tokens, slots, capacity);
  bool whole = layers % QUAD == 0 && (size_t)routes % 16 == 0 && (size_t)tape % QUAD == 0;
  int each = whole ? QUAD : 1, per_token = layers / each;
  for (int i = threadIdx.x; i < here * per_token; i += THREADS) {
    int token = i / per_token, layer = i % per_token * each;
    if (row[token] < 0) continue;
    const I* from = routes + (size_t)(first + token) * layers + layer;
    unsigned char* to = tape + row[token] * layers + layer;
    if (whole) {
      vec<I, QUAD> some = *(const vec<I, QUAD>*)from;
      vec<unsigned char, QUAD> bytes;
#pragma unroll
      for (int j = 0; j < QUAD; j++) bytes[j] = to_byte(some[j]);
      *(vec<unsigned char, QUAD>*)to = bytes;
    } else {
      *to = to_byte(*from);
    }
  }
}

template <class I> DEVICE void replay(const unsigned char* tape, const int* slot, const int* position, I* routes, int tokens,
                                      int layers, int slots, int capacity, long long* row) {
  int first = blockIdx.x * TOKENS, here = tokens - first < TOKENS ? tokens - first : TOKENS;
  find_rows(row, slot, position, first, tokens, slots, capacity);
  bool whole = layers % QUAD == 0 && (size_t)routes % 16 == 0 && (size_t)tape % QUAD == 0;
  int each = whole ? QUAD : 1, per_token = layers / each;
  for (int i = threadIdx.x; i < here * per_token; i += THREADS) {
    int token = i / per_token, layer = i % per_token * each;
    const unsigned char* from = tape + row[token] * layers + layer;
    I* to = routes + (size_t)(first + token) * layers + layer;
    if (whole) {
      vec<unsigned char, QUAD> bytes = {{255, 255, 255, 255}};
      if (row[token] >= 0) bytes = *(const vec<unsigned char, QUAD>*)from;
      vec<I, QUAD> some;
#pragma unroll
      for (int j = 0; j < QUAD; j++) some[j] = (I)from_byte(bytes[j]);
      *(vec<I, QUAD>*)to = some;
    } else {
      *to = (I)from_byte(row[token] >= 0 ? *from : 255);
    }
  }
}

#define ROUTE_TAPE(I, suffix)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) route_tape_record_##suffix(                                        \
      const I* routes, const int* slot, const int* position, unsigned char* tape, int tokens, int layers, int slots,       \
      int capacity) {                                                                                                      \
    __shared__ long long row[TOKENS];                                                                                      \
    record<I>(routes, slot, position, tape, tokens, layers, slots, capacity, row);                                         \
  }                                                                                                                        \
  LAUNCHABLE(route_tape_record_##suffix)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) route_tape_replay_##suffix(                                        \
      const unsigned char* tape, const int* slot, const int* position, I* routes, int tokens, int layers, int slots,       \
      int capacity) {                                                                                                      \
    __shared__ long long row[TOKENS];                                                                                      \
    replay<I>(tape, slot, position, routes, tokens, layers, slots, capacity, row);                                         \
  }                                                                                                                        \
  LAUNCHABLE(route_tape_replay_##suffix)

ROUTE_TAPE(long long, i64)
ROUTE_TAPE(short, i16)
