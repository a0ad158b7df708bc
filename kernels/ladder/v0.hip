// v0: one thread a row, as a loop over a row reads in C. Right, and as slow as it gets: at
// each step the 64 lanes of a wave stand in 64 different rows.
#include "gpu.h"

extern "C" __global__ void __launch_bounds__(256)
v0(const float* output, const float* residual, const float* s1, const float* b1,
   const float* s2, const float* b2, const float* weight, float* stream, float* normed,
   int rows, int width, float eps) {
  int row = blockIdx.x * 256 + threadIdx.x;
  if (row >= rows) return;
  size_t start = (size_t)row * width;
  float squares = 0.f;
  for (int c = 0; c < width; c++) {
    float x = (output[start + c] + b1[c]) * s1[c] + (residual[start + c] + b2[c]) * s2[c];
    stream[start + c] = x;
    squares += x * x;
  }
  float inverse = rsqrtf(squares / width + eps);
  for (int c = 0; c < width; c++) normed[start + c] = weight[c] * (stream[start + c] * inverse);
}
LAUNCHABLE(v0)
