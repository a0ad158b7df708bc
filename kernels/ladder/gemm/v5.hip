// v5: 128 x 128, two stages. A wave holds four squares of 32 x 32, so what it reads from LDS is used twice; and while one stage
// is read, the next is written into the other, so a step has one barrier. This is `gemm.h`, as moe and newton_schulz use it.
#include "gpu.h"
#include "gemm.h"

extern "C" __global__ void MATRIX_BOUNDS(256, 2) v5(const bf16* a, const bf16* b, bf16* c, int m, int n, int k) {
  __shared__ __align__(16) Strip strips[2][4];
  int top = blockIdx.y * 2 * TILE, left = blockIdx.x * 2 * TILE, mine = threadIdx.x / 4;
  const bf16 *rows[2], *columns[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rows[half] = a + (size_t)at_most(top + half * TILE + mine, m - 1) * k;
    columns[half] = b + (size_t)at_most(left + half * TILE + mine, n - 1) * k;
  }
  f32x16 acc[2][2];
  multiply<bf16, 2, 2>(strips, rows, columns, k, whole_pieces(a, k) && whole_pieces(b, k), acc);
#pragma unroll
  for (int part = 0; part < 4; part++)
#pragma unroll
    for (int r = 0; r < 16; r++) {
      int row = top + part / 2 * TILE + tile_row(r % MFMA_HELD), column = left + part % 2 * TILE + tile_column(r / MFMA_HELD);
      if (row < m && column < n) c[(size_t)row * n + column] = from_float<bf16>(acc[part / 2][part % 2][r]);
    }
}
LAUNCHABLE(v5)
