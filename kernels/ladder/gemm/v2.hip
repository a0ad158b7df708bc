// v2: the matrix cores. A block's tile is 64 x 64, each of its four waves holds 32 x 32 in registers, and one instruction does
// what 8,192 multiplications did. What a lane needs of a row, it reads from LDS in one go of 8 bytes.
#include "gpu.h"

constexpr int TILE = 64, STEP = 32;

extern "C" __global__ void MATRIX_BOUNDS(256, 2) v2(const bf16* a, const bf16* b, bf16* c, int m, int n, int k) {
  __shared__ __align__(16) bf16 rows[TILE][STEP], columns[TILE][STEP];
  int wave = threadIdx.x / 64, lane = threadIdx.x % 64, from = mfma_part(lane) * 4;
  int top = blockIdx.y * TILE, left = blockIdx.x * TILE, at = threadIdx.x % STEP;
  f32x16 acc = mfma_zero();
  for (int first = 0; first < k; first += STEP) {
#pragma unroll
    for (int row = threadIdx.x / STEP; row < TILE; row += 256 / STEP) {
      bool inside = first + at < k;
      rows[row][at] = inside && top + row < m ? a[(size_t)(top + row) * k + first + at] : from_float<bf16>(0.f);
      columns[row][at] = inside && left + row < n ? b[(size_t)(left + row) * k + first + at] : from_float<bf16>(0.f);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < STEP; k += MFMA_SLICE) {
      bf16x4 x[MFMA_ROWS], y[MFMA_COLUMNS];
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++) x[i] = *(const bf16x4*)&rows[wave / 2 * 32 + mfma_a_row(i, lane)][k + from];
#pragma unroll
      for (int i = 0; i < MFMA_COLUMNS; i++) y[i] = *(const bf16x4*)&columns[wave % 2 * 32 + mfma_column(i, lane)][k + from];
      acc = mfma(x, y, acc);
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 16; r++) {
    int column = left + wave % 2 * 32 + mfma_column(r / MFMA_HELD, lane), row = top + wave / 2 * 32 + mfma_row(r % MFMA_HELD, lane);
    if (row < m && column < n) c[(size_t)row * n + column] = from_float<bf16>(acc[r]);
  }
}
LAUNCHABLE(v2)
