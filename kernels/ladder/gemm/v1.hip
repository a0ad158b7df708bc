// v1: a block's 16 rows of A and 16 of B pass through LDS, 16 numbers at a time: each is loaded once and used by 16 threads.
#include "gpu.h"

constexpr int SIDE = 16;

extern "C" __global__ void __launch_bounds__(256) v1(const bf16* a, const bf16* b, bf16* c, int m, int n, int k) {
  __shared__ float rows[SIDE][SIDE + 1], columns[SIDE][SIDE + 1];   // one longer than needed: neighbours in other banks
  int y = threadIdx.x / SIDE, x = threadIdx.x % SIDE, row = blockIdx.y * SIDE + y, column = blockIdx.x * SIDE + x;
  int mine = blockIdx.x * SIDE + y;                                 // the row of B that this thread loads from
  float sum = 0.f;
  for (int first = 0; first < k; first += SIDE) {
    bool inside = first + x < k;
    rows[y][x] = inside && row < m ? to_float(a[(size_t)row * k + first + x]) : 0.f;
    columns[y][x] = inside && mine < n ? to_float(b[(size_t)mine * k + first + x]) : 0.f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SIDE; i++) sum += rows[y][i] * columns[x][i];
    __syncthreads();
  }
  if (row < m && column < n) c[(size_t)row * n + column] = from_float<bf16>(sum);
}
LAUNCHABLE(v1)
