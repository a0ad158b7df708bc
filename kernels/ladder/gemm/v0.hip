// v0: a thread a number of C, as the formula reads. Every product asks memory for both of its factors again.
#include "gpu.h"

extern "C" __global__ void __launch_bounds__(256) v0(const bf16* a, const bf16* b, bf16* c, int m, int n, int k) {
  int row = blockIdx.y * 16 + threadIdx.x / 16, column = blockIdx.x * 16 + threadIdx.x % 16;
  if (row >= m || column >= n) return;
  float sum = 0.f;
  for (int i = 0; i < k; i++) sum += to_float(a[(size_t)row * k + i]) * to_float(b[(size_t)column * k + i]);
  c[(size_t)row * n + column] = from_float<bf16>(sum);
}
LAUNCHABLE(v0)
