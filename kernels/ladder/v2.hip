// v2: the row stays in registers between the two loops, so nothing is read twice; and waves add up by shuffles, lane to lane,
// so that two barriers do instead of nine. The loop is unrolled: an array indexed by a variable would go to scratch memory.
#include "gpu.h"

constexpr int TURNS = 8;   // rows of at most 8 * 256 channels

extern "C" __global__ void __launch_bounds__(256) v2(const float* output, const float* residual, const float* s1, const float* b1,
                                                     const float* s2, const float* b2, const float* weight, float* stream,
                                                     float* normed, int rows, int width, float eps) {
  __shared__ float scratch[8];
  size_t start = (size_t)blockIdx.x * width;
  float x[TURNS], squares = 0.f;
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    int c = turn * 256 + threadIdx.x;
    x[turn] = 0.f;
    if (c < width) {
      x[turn] = (output[start + c] + b1[c]) * s1[c] + (residual[start + c] + b2[c]) * s2[c];
      stream[start + c] = x[turn];
    }
    squares += x[turn] * x[turn];
  }
  float inverse = rsqrtf(block_sum<256>(squares, scratch) / width + eps);
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    int c = turn * 256 + threadIdx.x;
    if (c < width) normed[start + c] = weight[c] * (x[turn] * inverse);
  }
}
LAUNCHABLE(v2)
