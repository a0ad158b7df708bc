// balance: one AdamW step on the routing biases, from the histogram of where the tokens went.
//
//   error = (visits - mean visits of an expert) / all visits     the skip route counts in the whole and is not steered
//   mean, square: moving averages of error, error^2
//   bias -= lr * (mean / fade1) / (sqrt(square / fade2) + eps), and then the mean of the layer's new biases
//
// One block for each layer, one thread for each expert. In `bias` rows hold E + 1 numbers, as the router's own buffer does:
// the last is the skip route's, and it is not touched. The host counts steps and computes in double what depends on them:
// 1 - beta in float32 would be off by 1e-5 for a beta of 0.999.
#include "gpu.h"

constexpr int THREADS = 64;

extern "C" __global__ void __launch_bounds__(THREADS) balance_f32(const int* visits, float* bias, float* mean, float* square,
                                                                 int experts, float lr, float beta1, float gain1, float beta2,
                                                                 float gain2, float eps, float keep, float fade1, float fade2) {
  __shared__ int partial[THREADS];
  __shared__ float biases[THREADS];
  int layer = blockIdx.x, me = threadIdx.x;
  visits += (size_t)layer * (experts + 1), bias += (size_t)layer * (experts + 1);
  mean += (size_t)layer * experts, square += (size_t)layer * experts;

  int sum = 0;
  for (int e = me; e < experts; e += THREADS) sum += visits[e];
  partial[me] = sum;
  __syncthreads();
  int total = 0;
  for (int i = 0; i < THREADS; i++) total += partial[i];     // in whole numbers: exact
  int all = total;
  total += visits[experts];
  float whole = total > 0 ? (float)total : 1.f;

  float mine = 0;
  for (int e = me; e < experts; e += THREADS) {
    float error = (float)((long long)visits[e] * experts - all) / experts / whole;   // exact, then rounded
    float m = beta1 * mean[e] + gain1 * error, s = beta2 * square[e] + gain2 * (error * error);
    mean[e] = m;
    square[e] = s;
    bias[e] = bias[e] * keep - lr * (m / fade1) / (sqrtf(s / fade2) + eps);
    mine += bias[e];
  }
  biases[me] = mine;
  __syncthreads();
  float shared = 0;
  for (int i = 0; i < THREADS; i++) shared += biases[i];     // every thread in the same order: the same sum
  for (int e = me; e < experts; e += THREADS) bias[e] -= shared / experts;
}
LAUNCHABLE(balance_f32)
