// v1: one block a row. Neighbouring lanes stand at neighbouring channels: a wave instruction
// moves whole pieces. The sum of squares goes through LDS, as a tree with a barrier at each
// level. But the stream is read back from memory for the norm.
#include "gpu.h"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
v1(const float* output, const float* residual, const float* s1, const float* b1,
   const float* s2, const float* b2, const float* weight, float* stream, float* normed,
   int rows, int width, float eps) {
  __shared__ float sums[THREADS];
  size_t start = (size_t)blockIdx.x * width;
  int t = threadIdx.x;
  float squares = 0.f;
  for (int c = t; c < width; c += THREADS) {
    float x = (output[start + c] + b1[c]) * s1[c] + (residual[start + c] + b2[c]) * s2[c];
    stream[start + c] = x;
    squares += x * x;
  }
  sums[t] = squares;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
    __syncthreads();
  }
  float inverse = rsqrtf(sums[0] / width + eps);
  for (int c = t; c < width; c += THREADS) normed[start + c] = weight[c] * (stream[start + c] * inverse);
}
LAUNCHABLE(v1)
