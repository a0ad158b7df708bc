// newton_schulz: Muon's iteration on a stack of matrices, one GEMM kernel launched three times a step.
//
//   X = M / |M|                                       |M|: Frobenius; X lies wide: m <= n
//   five times:  G = X X^T,  P = b G + c G G,  X <- a X + P X
//
// A product here multiplies rows by rows (gemm.h). G is symmetric, so its rows are its columns; for P X the columns of X are
// wanted as rows, so X is kept both ways, and each launch writes its result both ways. `turned` is that other way.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = GEMM_THREADS, SIDE = 32, AHEAD = 16;
constexpr int DOWN = 2, ACROSS = 2;   // a product's tile is 128 x 128

// Each block adds up the squares of its share of one matrix: sums (batch, shares).
template <class T> DEVICE void squares(const T* matrix, float* sums, float* scratch, int size, int shares) {
  matrix += (size_t)blockIdx.y * size;
  float sum = 0.f;
  for (size_t first = blockIdx.x * THREADS + threadIdx.x; first < size; first += (size_t)shares * THREADS * AHEAD) {
    T some[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {   // all on their way at once
      size_t i = first + (size_t)j * shares * THREADS;
      some[j] = matrix[i < size ? i : first];
    }
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
      if (first + (size_t)j * shares * THREADS < size) sum += to_float(some[j]) * to_float(some[j]);
  }
  sum = block_sum<THREADS>(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.y * shares + blockIdx.x] = sum;
}

// out = matrix / max(norm, eps), and turned over. A block does 32 x 32 numbers, so that both ways are written in runs.
template <class T>
DEVICE void scale(const T* matrix, const float* sums, T* out, T* turned, float (*tile)[SIDE + 1], int rows, int columns,
                  int shares, float eps) {
  int batch = blockIdx.y, across = (columns + SIDE - 1) / SIDE;
  int row = blockIdx.x / across * SIDE, column = blockIdx.x % across * SIDE, x = threadIdx.x % SIDE;
  size_t start = (size_t)batch * rows * columns;
  float mine = threadIdx.x < shares ? sums[batch * shares + threadIdx.x] : 0.f;   // one load each, not all of them in turn
  float inverse = 1.f / fmaxf(sqrtf(block_sum<THREADS>(mine, tile[0])), eps);
  for (int y = threadIdx.x / SIDE; y < SIDE; y += THREADS / SIDE) {
    if (row + y >= rows || column + x >= columns) continue;
    size_t at = start + (size_t)(row + y) * columns + column + x;
    tile[y][x] = to_float(matrix[at]) * inverse;
    out[at] = from_float<T>(tile[y][x]);
  }
  __syncthreads();
  for (int y = threadIdx.x / SIDE; y < SIDE; y += THREADS / SIDE)
    if (column + y < columns && row + x < rows)
      turned[start + (size_t)(column + y) * rows + row + x] = from_float<T>(tile[x][y]);
}

// out = alpha * before + beta * A B^T, also written turned over. A (rows, inner), B (columns, inner), out and before (rows,
// columns); before may be missing. symmetric: `turned` is `out`, and tiles under the diagonal, which are the others turned
// over, are not computed.
template <class T>
DEVICE void product(Strip (*strips)[ACROSS + DOWN], const T* a, const T* b, const T* before, T* out, T* turned, int rows, int columns,
                    int inner, int symmetric, float alpha, float beta) {
  int down = (rows + DOWN * TILE - 1) / (DOWN * TILE), batch = blockIdx.y / down;
  int top = blockIdx.y % down * DOWN * TILE, left = blockIdx.x * ACROSS * TILE;
  if (symmetric && left < top) return;
  a += (size_t)batch * rows * inner;
  b += (size_t)batch * columns * inner;
  const T *a_row[DOWN], *b_row[ACROSS];
#pragma unroll
  for (int m = 0; m < DOWN; m++) a_row[m] = a + (size_t)at_most(top + m * TILE + threadIdx.x / 4, rows - 1) * inner;
#pragma unroll
  for (int n = 0; n < ACROSS; n++) b_row[n] = b + (size_t)at_most(left + n * TILE + threadIdx.x / 4, columns - 1) * inner;
  f32x16 acc[DOWN][ACROSS];
  multiply<T, DOWN, ACROSS>(strips, a_row, b_row, inner, whole_pieces(a, inner) && whole_pieces(b, inner), acc);
  size_t start = (size_t)batch * rows * columns;
  bool mirrored = !(symmetric && left == top);   // a tile on the diagonal holds both halves already
  bool by_fours = rows % 4 == 0;                    // turned over, a lane's four neighbours in a column lie in a row
#pragma unroll
  for (int part = 0; part < ACROSS * MFMA_COLUMNS; part++) {
    int n = part / MFMA_COLUMNS, i = part % MFMA_COLUMNS, column = left + n * TILE + tile_column(i);
    if (column >= columns) continue;
#pragma unroll
    for (int m = 0; m < DOWN; m++) {
      T old[MFMA_HELD];
      if (before) {   // all on their way at once; in place of a row past the last one, that one
#pragma unroll
        for (int r = 0; r < MFMA_HELD; r++)
          old[r] = before[start + (size_t)at_most(top + m * TILE + tile_row(r), rows - 1) * columns + column];
      } else {
#pragma unroll
        for (int r = 0; r < MFMA_HELD; r++) old[r] = from_float<T>(0.f);
      }
#pragma unroll
      for (int four = 0; four < MFMA_HELD / 4; four++) {
        int row = top + m * TILE + tile_row(4 * four);
        T* flipped = turned + start + (size_t)column * rows + row;
        vec<T, 4> results;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          results[j] = from_float<T>(alpha * to_float(old[4 * four + j]) + beta * acc[m][n][MFMA_HELD * i + 4 * four + j]);
          if (row + j >= rows) continue;
          out[start + (size_t)(row + j) * columns + column] = results[j];
          if (mirrored && !by_fours) flipped[j] = results[j];
        }
        if (mirrored && by_fours && row < rows) *(vec<T, 4>*)flipped = results;
      }
    }
  }
}

#define NEWTON_SCHULZ(T, suffix)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) newton_schulz_squares_##suffix(const T* matrix, float* sums, int size,   \
                                                                                       int shares) {                           \
    __shared__ float scratch[THREADS / 32];                                                                                   \
    squares<T>(matrix, sums, scratch, size, shares);                                                                          \
  }                                                                                                                           \
  LAUNCHABLE(newton_schulz_squares_##suffix)                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS) newton_schulz_scale_##suffix(                                         \
      const T* matrix, const float* sums, T* out, T* turned, int rows, int columns, int shares, float eps) {                  \
    __shared__ float tile[SIDE][SIDE + 1];                                                                                    \
    scale<T>(matrix, sums, out, turned, tile, rows, columns, shares, eps);                                                    \
  }                                                                                                                           \
  LAUNCHABLE(newton_schulz_scale_##suffix)                                                                                    \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) newton_schulz_product_##suffix(                                       \
      const T* a, const T* b, const T* before, T* out, T* turned, int rows, int columns, int inner, int symmetric,            \
      float alpha, float beta) {                                                                                              \
    __shared__ __align__(16) Strip strips[2][ACROSS + DOWN];                                                                              \
    product<T>(strips, a, b, before, out, turned, rows, columns, inner, symmetric, alpha, beta);                              \
  }                                                                                                                           \
  LAUNCHABLE(newton_schulz_product_##suffix)

NEWTON_SCHULZ(float, f32)
NEWTON_SCHULZ(bf16, bf16)
