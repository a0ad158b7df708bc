// v4: swizzled. Eight lanes that read the same piece of eight rows met in two groups of banks, four deep. Now a row's pieces
// change places with its number, and the eight meet all 32 banks once. Nothing else differs from v3.
#include "gpu.h"
#include "gemm.h"

struct Rows { bytes16 at[TILE][4]; };   // 64 rows of 32 numbers, 16 banks each
DEVICE bytes16& slot(Rows& rows, int row, int piece) { return rows.at[row][piece ^ row / 2 % 4]; }

template <bool WHOLE> DEVICE f32x16 product(Rows& rows, Rows& columns, const bf16* a, const bf16* b, int k) {
  int row = threadIdx.x / 4, piece = threadIdx.x % 4, wave = threadIdx.x / 64, lane = threadIdx.x % 64;
  f32x16 acc = mfma_zero();
  bytes16 next_a = fetch<WHOLE>(a, piece * 8, k), next_b = fetch<WHOLE>(b, piece * 8, k);
  for (int first = 0; first < k; first += 32) {
    slot(rows, row, piece) = inside(next_a, first + piece * 8 < k);
    slot(columns, row, piece) = inside(next_b, first + piece * 8 < k);
    __syncthreads();
    int ahead = (first + 32 < k ? first + 32 : first) + piece * 8;   // behind the last step: the same once more, for nobody
    next_a = fetch<WHOLE>(a, ahead, k);
    next_b = fetch<WHOLE>(b, ahead, k);
    stay_in_order();   // the compiler would put the loads where they are needed
#pragma unroll
    for (int turn = 0; turn < 4 / MFMA_SHARERS; turn++) {
      bf16x4 x[2][MFMA_ROWS], y[2][MFMA_COLUMNS];
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++)
        fours(slot(rows, wave / 2 * 32 + mfma_a_row(i, lane), MFMA_SHARERS * turn + mfma_part(lane)), x, i);
#pragma unroll
      for (int i = 0; i < MFMA_COLUMNS; i++)
        fours(slot(columns, wave % 2 * 32 + mfma_column(i, lane), MFMA_SHARERS * turn + mfma_part(lane)), y, i);
      acc = mfma(x[1], y[1], mfma(x[0], y[0], acc));
    }
    __syncthreads();
  }
  return acc;
}

extern "C" __global__ void MATRIX_BOUNDS(256, 2) v4(const bf16* a, const bf16* b, bf16* c, int m, int n, int k) {
  __shared__ __align__(16) Rows rows, columns;
  int top = blockIdx.y * TILE, left = blockIdx.x * TILE, mine = threadIdx.x / 4;
  const bf16 *from_a = a + (size_t)at_most(top + mine, m - 1) * k, *from_b = b + (size_t)at_most(left + mine, n - 1) * k;
  f32x16 acc = whole_pieces(a, k) && whole_pieces(b, k) ? product<true>(rows, columns, from_a, from_b, k)
                                                        : product<false>(rows, columns, from_a, from_b, k);
#pragma unroll
  for (int r = 0; r < 16; r++) {
    int column = left + tile_column(r / MFMA_HELD), row = top + tile_row(r % MFMA_HELD);
    if (row < m && column < n) c[(size_t)row * n + column] = from_float<bf16>(acc[r]);
  }
}
LAUNCHABLE(v4)
