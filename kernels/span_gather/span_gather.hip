// span_gather: pieces of one long buffer, laid into rows; what lies in no piece becomes padding.
//
//   out[p] = tokens[p + shift of p's span], doc_ids[p] = its document         p runs over all rows, one after the other
//   out[p] = pad, doc_ids[p] = -1                                             where there is no span
//
// The rows are one long line of positions. Spans are sorted by where they start on it and never overlap there. A block makes
// TILE positions; bounds[b] says how many spans start before tile b, so a block needs bounds[b] - 1 (it may reach in) up to
// bounds[b + 1], at most TILE + 1 of them. They go to LDS, and each position finds its own by halving.
#include "gpu.h"

constexpr int THREADS = 256, TURNS = 2, TILE = THREADS * TURNS;

// begin and end on the line of positions, shift to the buffer, number of the document
typedef vec<int, 4> span;

template <class T>
DEVICE void gather(const T* tokens, const span* spans, const int* bounds, T* out, long long* doc_ids, int positions, T pad,
                   span* mine, int* range) {
  int tile = blockIdx.x;
  if (threadIdx.x < 2) range[threadIdx.x] = bounds[tile + threadIdx.x];     // once, not by every thread
  __syncthreads();
  int first = range[0] > 0 ? range[0] - 1 : 0, count = range[1] - first;
  for (int i = threadIdx.x; i < count; i += THREADS) mine[i] = spans[first + i];
  __syncthreads();
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    int position = tile * TILE + turn * THREADS + threadIdx.x;
    if (position >= positions) continue;
    int low = 0, high = count;          // how many spans begin at or before this position
    while (low < high) {
      int middle = (low + high) / 2;
      if (mine[middle][0] <= position) low = middle + 1;
      else high = middle;
    }
    bool found = low > 0 && position < mine[low - 1][1];
    T value = pad;
    if (found) value = tokens[position + mine[low - 1][2]];
    out[position] = value;
    if (doc_ids) doc_ids[position] = found ? mine[low - 1][3] : -1;
  }
}

#define SPAN_GATHER(T, suffix)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS) span_gather_##suffix(                                              \
      const T* tokens, const span* spans, const int* bounds, T* out, long long* doc_ids, int positions, int pad) {         \
    __shared__ span mine[TILE + 1];                                                                                        \
    __shared__ int range[2];                                                                                               \
    gather<T>(tokens, spans, bounds, out, doc_ids, positions, pad, mine, range);                                           \
  }                                                                                                                        \
  LAUNCHABLE(span_gather_##suffix)

typedef long long id64;
SPAN_GATHER(id64, i64)
SPAN_GATHER(int, i32)
