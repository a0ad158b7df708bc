// newton_schulz: Muon's iteration on a stack of matrices, one GEMM kernel launched three times a step.
//
//   X = M / |M|                                       |M|: Frobenius; X lies wide: m <= n
//   five times:  G = X X^T,  P = b G + c G G,  X <- a X + P X
//
// A product here multiplies rows by rows (gemm.h). G is symmetric, so its rows are its columns; for P X the columns of X are
// wanted as rows, so X is kept both ways, and each launch writes its result both ways. `turned` is that other way.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = GEMM_THREADS, SIDE = 32;

// Each block adds up the squares of its share of one matrix: sums (batch, shares).
template <class T> DEVICE void squares(const T* matrix, float* sums, float* scratch, int size, int shares) {
  matrix += (size_t)blockIdx.y * size;
  float sum = 0.f;
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < size; i += shares * THREADS) {
    float x = to_float(matrix[i]);
    sum += x * x;
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
  float total = 0.f;
  for (int i = 0; i < shares; i++) total += sums[batch * shares + i];
  float norm = fmaxf(sqrtf(total), eps);
  for (int y = threadIdx.x / SIDE; y < SIDE; y += THREADS / SIDE) {
    if (row + y >= rows || column + x >= columns) continue;
    size_t at = start + (size_t)(row + y) * columns + column + x;
    tile[y][x] = to_float(matrix[at]) / norm;
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
DEVICE void product(Strip<T>* strips, const T* a, const T* b, const T* before, T* out, T* turned, int rows, int columns,
                    int inner, int symmetric, float alpha, float beta) {
  int down = (rows + TILE - 1) / TILE, batch = blockIdx.y / down, first = blockIdx.y % down * TILE, column = blockIdx.x * TILE;
  if (symmetric && column < first) return;
  a += (size_t)batch * rows * inner;
  b += (size_t)batch * columns * inner;
  const T* a_row = a + (size_t)at_most(first + threadIdx.x / 4, rows - 1) * inner;
  const T* b_row[1] = {b + (size_t)at_most(column + threadIdx.x / 4, columns - 1) * inner};
  f32x16 acc[1] = {mfma_zero()};
  multiply<T, 1>(strips, a_row, b_row, inner, whole_pieces(a, inner) && whole_pieces(b, inner), acc);
  size_t start = (size_t)batch * rows * columns;
  bool mirrored = !(symmetric && column == first);   // a tile on the diagonal holds both halves already
  bool fours = rows % 4 == 0;                        // turned over, a lane's four neighbours in a column lie in a row
  column += tile_column();
  if (column >= columns) return;
#pragma unroll
  for (int four = 0; four < 4; four++) {
    int row = first + tile_row(4 * four);
    T* flipped = turned + start + (size_t)column * rows + row;
    vec<T, 4> results;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (row + j >= rows) continue;
      size_t at = start + (size_t)(row + j) * columns + column;
      results[j] = from_float<T>(alpha * (before ? to_float(before[at]) : 0.f) + beta * acc[0][4 * four + j]);
      out[at] = results[j];
      if (mirrored && !fours) flipped[j] = results[j];
    }
    if (mirrored && fours && row < rows) *(vec<T, 4>*)flipped = results;
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
  extern "C" __global__ void __launch_bounds__(THREADS) newton_schulz_product_##suffix(                                       \
      const T* a, const T* b, const T* before, T* out, T* turned, int rows, int columns, int inner, int symmetric,            \
      float alpha, float beta) {                                                                                              \
    __shared__ __align__(16) Strip<T> strips[2];                                                                              \
    product<T>(strips, a, b, before, out, turned, rows, columns, inner, symmetric, alpha, beta);                              \
  }                                                                                                                           \
  LAUNCHABLE(newton_schulz_product_##suffix)

NEWTON_SCHULZ(float, f32)
NEWTON_SCHULZ(bf16, bf16)
