// moe: every token through its one expert, in three launches.
//
//   moe_group    order, starts = tokens sorted by expert                    stable; skipped tokens last
//   moe_hidden   h = silu(x gate^T) * (x up^T)          rows of x gathered through `order`, h left in grouped order
//   moe_output   out[token] = (h down^T) * gate         rows scattered back to their tokens; zeros for skipped tokens
//
// Nothing comes back to the host: how many tokens an expert has, each block reads from `starts`. Groups are cut into
// tiles of 128 tokens, so that a tile meets one expert's weights only. Roundings to T stand where PyTorch's are.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = GEMM_THREADS, EACH = 16;   // routes a thread loads at once
constexpr int ROWS = 2 * TILE;                       // tokens of a tile

DEVICE int group_of(long long route, int experts) { return route >= 0 && route < experts ? (int)route : experts; }

// The sum of `value` over the threads before this one. `all`: the sum over the block.
DEVICE int sum_before(int value, int* totals, int& all) {
  int sum = value, wave = threadIdx.x / WAVE;
#pragma unroll
  for (int by = 1; by < WAVE; by *= 2) {
    int other = __shfl_up(sum, by);
    if ((int)threadIdx.x % WAVE >= by) sum += other;
  }
  if (threadIdx.x % WAVE == WAVE - 1) totals[wave] = sum;
  __syncthreads();
  int earlier = all = 0;
  for (int w = 0; w < THREADS / WAVE; w++) {
    if (w < wave) earlier += totals[w];
    all += totals[w];
  }
  __syncthreads();   // everyone has read the totals: the next sum may overwrite them
  return earlier + sum - value;
}

// Block g lists the tokens of group g, experts first, then the skipped ones. It finds its own place in the order by
// counting the tokens of earlier groups, so that no block waits for another, and the order never depends on timing.
extern "C" __global__ void __launch_bounds__(THREADS) moe_group(const long long* routes, int* order, int* starts, int n,
                                                                int experts) {
  __shared__ int totals[THREADS / 32];
  int group = blockIdx.x, earlier = 0, at;
  long long route[EACH];   // loaded all at once, in place of those past the last the last one
  for (int first = threadIdx.x; first < n; first += THREADS * EACH) {
#pragma unroll
    for (int j = 0; j < EACH; j++) route[j] = routes[at_most(first + j * THREADS, n - 1)];
#pragma unroll
    for (int j = 0; j < EACH; j++) earlier += first + j * THREADS < n && group_of(route[j], experts) < group;
  }
  sum_before(earlier, totals, at);
  if (threadIdx.x == 0) starts[group] = at;
  for (int first = 0; first < n; first += THREADS * EACH) {
    int token = first + threadIdx.x * EACH, count = 0, all;
#pragma unroll
    for (int j = 0; j < EACH; j++) route[j] = routes[at_most(token + j, n - 1)];
#pragma unroll
    for (int j = 0; j < EACH; j++) count += token + j < n && group_of(route[j], experts) == group;
    int place = at + sum_before(count, totals, all);
#pragma unroll
    for (int j = 0; j < EACH; j++)
      if (token + j < n && group_of(route[j], experts) == group) order[place++] = token + j;
    at += all;
  }
}
LAUNCHABLE(moe_group)

struct Range { int group, first, last; };

// The group that tile `number` belongs to, and its places in the order; group -1: past the last tile.
DEVICE Range tile_of(int number, const int* starts, int n, int experts) {
  for (int group = 0; group <= experts; group++) {
    int first = starts[group], last = group < experts ? starts[group + 1] : n, tiles = (last - first + ROWS - 1) / ROWS;
    if (number < tiles) return {group, first + number * ROWS, last};
    number -= tiles;
  }
  return {-1, 0, 0};
}

// 128 tokens by 64 hidden numbers. Each team holds gate and up of the same 32 x 32, so SwiGLU needs no exchange.
template <class T>
DEVICE void hidden(Strip (*strips)[4], const T* x, const T* gate_up, const int* order, const int* starts, T* h, int n, int width,
                   int inner, int experts) {
  Range tile = tile_of(blockIdx.y, starts, n, experts);
  if (tile.group < 0 || tile.group == experts) return;
  int column = at_most(blockIdx.x * TILE + threadIdx.x / 4, inner - 1);
  const T *tokens[2], *weights = gate_up + (size_t)tile.group * 2 * inner * width;
#pragma unroll
  for (int m = 0; m < 2; m++)
    tokens[m] = x + (size_t)order[at_most(tile.first + m * TILE + threadIdx.x / 4, tile.last - 1)] * width;
  const T* rows[2] = {weights + (size_t)column * width, weights + (size_t)(inner + column) * width};
  f32x16 acc[2][2];
  multiply<T, 2, 2>(strips, tokens, rows, width, whole_pieces(x, width) && whole_pieces(gate_up, width), acc);
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++) {
    column = blockIdx.x * TILE + tile_column(i);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int r = 0; r < MFMA_HELD; r++) {
        int place = tile.first + m * TILE + tile_row(r);
        float gate = acc[m][0][MFMA_HELD * i + r], up = acc[m][1][MFMA_HELD * i + r];
        if (place < tile.last && column < inner)
          h[(size_t)place * inner + column] = from_float<T>(rounded<T>(silu(rounded<T>(gate))) * rounded<T>(up));
      }
  }
}

// 128 tokens by 128 channels.
template <class T>
DEVICE void output(Strip (*strips)[4], const T* h, const T* down, const float* gates, const int* order, const int* starts, T* out,
                   int n, int width, int inner, int experts) {
  Range tile = tile_of(blockIdx.y, starts, n, experts);
  if (tile.group < 0) return;
  bool skipped = tile.group == experts;
  f32x16 acc[2][2];
  if (!skipped) {
    const T *mine[2], *rows[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      mine[half] = h + (size_t)at_most(tile.first + half * TILE + threadIdx.x / 4, tile.last - 1) * inner;
      int column = at_most((blockIdx.x * 2 + half) * TILE + threadIdx.x / 4, width - 1);
      rows[half] = down + ((size_t)tile.group * width + column) * inner;
    }
    multiply<T, 2, 2>(strips, mine, rows, inner, whole_pieces(h, inner) && whole_pieces(down, inner), acc);
  }
#pragma unroll
  for (int m = 0; m < 2; m++) {
    int first = tile.first + m * TILE, token[MFMA_HELD];
    float gate[MFMA_HELD];
#pragma unroll
    for (int r = 0; r < MFMA_HELD; r++) token[r] = order[at_most(first + tile_row(r), tile.last - 1)];   // all on their way at once
#pragma unroll
    for (int r = 0; r < MFMA_HELD; r++) gate[r] = gates[token[r]];
#pragma unroll
    for (int r = 0; r < MFMA_HELD; r++) {
      if (first + tile_row(r) >= tile.last) continue;
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < MFMA_COLUMNS; i++) {
          int column = (blockIdx.x * 2 + half) * TILE + tile_column(i);
          float value = skipped ? 0.f : rounded<T>(acc[m][half][MFMA_HELD * i + r]) * gate[r];
          if (column < width) out[(size_t)token[r] * width + column] = from_float<T>(value);
        }
    }
  }
}

#define MOE(T, suffix)                                                                                                     \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) moe_hidden_##suffix(                                               \
      const T* x, const T* gate_up, const int* order, const int* starts, T* h, int n, int width, int inner, int experts) { \
    __shared__ __align__(16) Strip strips[2][4];                                                                                 \
    hidden<T>(strips, x, gate_up, order, starts, h, n, width, inner, experts);                                             \
  }                                                                                                                        \
  LAUNCHABLE(moe_hidden_##suffix)                                                                                          \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) moe_output_##suffix(                                               \
      const T* h, const T* down, const float* gates, const int* order, const int* starts, T* out, int n, int width,        \
      int inner, int experts) {                                                                                            \
    __shared__ __align__(16) Strip strips[2][4];                                                                                 \
    output<T>(strips, h, down, gates, order, starts, out, n, width, inner, experts);                                       \
  }                                                                                                                        \
  LAUNCHABLE(moe_output_##suffix)

MOE(float, f32)
MOE(bf16, bf16)
