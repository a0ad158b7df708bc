// route_tape: which experts each token visited, written down while decoding, and read back to visit them again.
//
//   tape    bytes (slots, capacity, pitch): 0..E a route, 255 not recorded; a row holds `layers` of them, and room
//   record  tape[slot[i], position[i], :layers] = routes[i, :]          routes (n, layers), -1: not recorded
//   replay  routes[i, :] = tape[slot[i], position[i], :layers], 255 as -1
//
// Layers are the innermost axis, and a launch takes all layers of its tokens at once: a token's 40 bytes lie together, where
// one launch a layer would write single bytes, each into a 64-byte line of its own. With a pitch of 64 no row lies on two
// lines. A row outside the tape (slot -1 for padding) is not recorded, and replays as -1.
#include "gpu.h"

constexpr int THREADS = 256, TOKENS = 64;     // a block takes 64 tokens

// Ids that a thread takes at a time: 16 bytes of int64, 8 of int16. Lanes side by side then read bytes side by side.
template <class T> constexpr int SOME = sizeof(T) == 8 ? 2 : 4;
template <class T> using ids = vec<T, SOME<T>>;
template <class T> using bytes = vec<unsigned char, SOME<T>>;

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

// Calls each(token, layer) for every token of the block and every `step` layers of it. A wave takes whole tokens, as many as it
// has lanes for: a row that two waves share would be two accesses to its line.
template <class Each> DEVICE void walk(int here, int layers, int step, Each each) {
  int parts = layers / step, at_once = WAVE / parts > 0 ? WAVE / parts : 1;
  int wave = threadIdx.x / WAVE, lane = threadIdx.x % WAVE;
  if (lane / parts >= at_once) return;
  for (int token = wave * at_once + lane / parts; token < here; token += THREADS / WAVE * at_once)
    for (int part = lane % parts; part < parts; part += WAVE) each(token, part * step);
}

template <class T> DEVICE void record(const T* routes, const int* slot, const int* position, unsigned char* tape, int tokens,
                                      int layers, int pitch, int slots, int capacity, long long* row) {
  int first = blockIdx.x * TOKENS, here = tokens - first < TOKENS ? tokens - first : TOKENS;
  find_rows(row, slot, position, first, tokens, slots, capacity);
  bool whole = (layers | pitch) % SOME<T> == 0 && (size_t)routes % 16 == 0 && (size_t)tape % SOME<T> == 0;
  walk(here, layers, whole ? SOME<T> : 1, [&](int token, int layer) {
    if (row[token] < 0) return;
    const T* from = routes + (size_t)(first + token) * layers + layer;
    unsigned char* to = tape + row[token] * pitch + layer;
    if (whole) {
      ids<T> some = *(const ids<T>*)from;
      bytes<T> packed;
#pragma unroll
      for (int j = 0; j < SOME<T>; j++) packed[j] = to_byte(some[j]);
      *(bytes<T>*)to = packed;
    } else {
      *to = to_byte(*from);
    }
  });
}

template <class T> DEVICE void replay(const unsigned char* tape, const int* slot, const int* position, T* routes, int tokens,
                                      int layers, int pitch, int slots, int capacity, long long* row) {
  int first = blockIdx.x * TOKENS, here = tokens - first < TOKENS ? tokens - first : TOKENS;
  find_rows(row, slot, position, first, tokens, slots, capacity);
  bool whole = (layers | pitch) % SOME<T> == 0 && (size_t)routes % 16 == 0 && (size_t)tape % SOME<T> == 0;
  walk(here, layers, whole ? SOME<T> : 1, [&](int token, int layer) {
    const unsigned char* from = tape + row[token] * pitch + layer;
    T* to = routes + (size_t)(first + token) * layers + layer;
    if (whole) {
      bytes<T> packed;
#pragma unroll
      for (int j = 0; j < SOME<T>; j++) packed[j] = 255;
      if (row[token] >= 0) packed = *(const bytes<T>*)from;
      ids<T> some;
#pragma unroll
      for (int j = 0; j < SOME<T>; j++) some[j] = (T)from_byte(packed[j]);
      *(ids<T>*)to = some;
    } else {
      *to = (T)from_byte(row[token] >= 0 ? *from : 255);
    }
  });
}

#define ROUTE_TAPE(T, suffix)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) route_tape_record_##suffix(                                        \
      const T* routes, const int* slot, const int* position, unsigned char* tape, int tokens, int layers, int pitch,       \
      int slots, int capacity) {                                                                                           \
    __shared__ long long row[TOKENS];                                                                                      \
    record<T>(routes, slot, position, tape, tokens, layers, pitch, slots, capacity, row);                                  \
  }                                                                                                                        \
  LAUNCHABLE(route_tape_record_##suffix)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) route_tape_replay_##suffix(                                        \
      const unsigned char* tape, const int* slot, const int* position, T* routes, int tokens, int layers, int pitch,       \
      int slots, int capacity) {                                                                                           \
    __shared__ long long row[TOKENS];                                                                                      \
    replay<T>(tape, slot, position, routes, tokens, layers, pitch, slots, capacity, row);                                  \
  }                                                                                                                        \
  LAUNCHABLE(route_tape_replay_##suffix)

typedef long long id64;
typedef short id16;
ROUTE_TAPE(id64, i64)
ROUTE_TAPE(id16, i16)
