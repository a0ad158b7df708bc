// residual_norm: out of one layer and into the next, in one pass over memory.
//
//   stream = (output + b1) * s1 + (residual + b2) * s2          float32, written once
//   normed = rms_norm(stream, weight)                           in the model's type T
//
// A block walks over `rows_each` rows. It reads the five vectors of length `width` once and keeps them in registers:
// a thread owns PER neighbouring channels of each of TURNS pieces of the row. Roundings to T stand where PyTorch's are.
#include "gpu.h"

constexpr int THREADS = 256, PER = 4, TURNS = 2, WIDEST = THREADS * PER * TURNS;   // rows of at most 2048 channels

typedef vec<float, PER> quad;

// PER values from `at`, the first `count` of which exist. `whole`: rows are multiples of PER, so one instruction does it.
template <class T> DEVICE quad load(const T* at, int count, bool whole) {
  quad q;
  if (whole && count > 0) {
    vec<T, PER> packed = *(const vec<T, PER>*)at;
#pragma unroll
    for (int j = 0; j < PER; j++) q[j] = to_float(packed[j]);
  } else {
#pragma unroll
    for (int j = 0; j < PER; j++) q[j] = j < count ? to_float(at[j]) : 0.f;
  }
  return q;
}

template <class T> DEVICE void store(T* at, quad q, int count, bool whole) {
  if (whole && count > 0) {
    vec<T, PER> packed;
#pragma unroll
    for (int j = 0; j < PER; j++) packed[j] = from_float<T>(q[j]);
    *(vec<T, PER>*)at = packed;
  } else {
#pragma unroll
    for (int j = 0; j < PER; j++)
      if (j < count) at[j] = from_float<T>(q[j]);
  }
}

template <class T> DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

template <class T>
DEVICE void forward(const T* output, const float* residual, const T* s1, const T* b1, const T* s2, const T* b2, const T* weight,
                    float* stream, T* normed, int rows, int width, int rows_each, float eps, float* scratch) {
  bool whole = width % PER == 0;
  quad out_scale[TURNS], out_bias[TURNS], res_scale[TURNS], res_bias[TURNS], gain[TURNS];
  int at[TURNS], count[TURNS];
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    at[turn] = (turn * THREADS + threadIdx.x) * PER;
    count[turn] = width - at[turn];
    out_scale[turn] = load(s1 + at[turn], count[turn], whole);
    out_bias[turn] = load(b1 + at[turn], count[turn], whole);
    res_scale[turn] = load(s2 + at[turn], count[turn], whole);
    res_bias[turn] = load(b2 + at[turn], count[turn], whole);
    gain[turn] = load(weight + at[turn], count[turn], whole);
  }
  int first = blockIdx.x * rows_each, last = first + rows_each < rows ? first + rows_each : rows;
  for (int row = first; row < last; row++) {
    size_t start = (size_t)row * width;
    quad x[TURNS];
    float squares = 0.f;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      quad o = load(output + start + at[turn], count[turn], whole), r = load(residual + start + at[turn], count[turn], whole), s;
#pragma unroll
      for (int j = 0; j < PER; j++) {
        float scaled = rounded<T>(rounded<T>(o[j] + out_bias[turn][j]) * out_scale[turn][j]);
        s[j] = scaled + (r[j] + res_bias[turn][j]) * res_scale[turn][j];
        x[turn][j] = rounded<T>(s[j]);
        if (j < count[turn]) squares += x[turn][j] * x[turn][j];
      }
      store(stream + start + at[turn], s, count[turn], whole);
    }
    float inverse = rsqrtf(block_sum<THREADS>(squares, scratch) / width + eps);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      quad y;
#pragma unroll
      for (int j = 0; j < PER; j++) y[j] = gain[turn][j] * rounded<T>(x[turn][j] * inverse);
      store(normed + start + at[turn], y, count[turn], whole);
    }
  }
}

// The gradients of both inputs, and for each block four sums over its rows, from which those of the five vectors follow:
//   sums[0] of d, sums[1] of d * (output + b1), sums[2] of d * (residual + b2), sums[3] of d_normed * x / rms,
// where d is the gradient of the stream: what came down the stream, and what came through the norm.
template <class T>
DEVICE void backward(const float* d_stream, const T* d_normed, const T* output, const float* residual, const T* s1, const T* b1,
                     const T* s2, const T* b2, const T* weight, T* d_output, float* d_residual, float* sums, int rows,
                     int width, int rows_each, float eps, float* scratch) {
  bool whole = width % PER == 0;
  quad total[4][TURNS], scale1[TURNS], bias1[TURNS], scale2[TURNS], bias2[TURNS], gain[TURNS];
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    int at = (turn * THREADS + threadIdx.x) * PER, count = width - at;
    scale1[turn] = load(s1 + at, count, whole);
    bias1[turn] = load(b1 + at, count, whole);
    scale2[turn] = load(s2 + at, count, whole);
    bias2[turn] = load(b2 + at, count, whole);
    gain[turn] = load(weight + at, count, whole);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int j = 0; j < PER; j++) total[k][turn][j] = 0.f;
  }
  int first = blockIdx.x * rows_each, last = first + rows_each < rows ? first + rows_each : rows;
  for (int row = first; row < last; row++) {
    size_t start = (size_t)row * width;
    quad o[TURNS], r[TURNS], x[TURNS], gained[TURNS], d_norm[TURNS];
    float squares = 0.f, along = 0.f;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int at = (turn * THREADS + threadIdx.x) * PER, count = width - at;
      o[turn] = load(output + start + at, count, whole);
      r[turn] = load(residual + start + at, count, whole);
      d_norm[turn] = load(d_normed + start + at, count, whole);
#pragma unroll
      for (int j = 0; j < PER; j++) {
        o[turn][j] = rounded<T>(o[turn][j] + bias1[turn][j]);
        r[turn][j] += bias2[turn][j];
        x[turn][j] = rounded<T>(rounded<T>(o[turn][j] * scale1[turn][j]) + r[turn][j] * scale2[turn][j]);
        gained[turn][j] = d_norm[turn][j] * gain[turn][j];
        if (j < count) {
          squares += x[turn][j] * x[turn][j];
          along += gained[turn][j] * x[turn][j];
        }
      }
    }
    float inverse = rsqrtf(block_sum<THREADS>(squares, scratch) / width + eps);
    float mean = block_sum<THREADS>(along, scratch) * inverse / width;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int at = (turn * THREADS + threadIdx.x) * PER, count = width - at;
      quad d = load(d_stream + start + at, count, whole), d_out, d_res;
#pragma unroll
      for (int j = 0; j < PER; j++) {
        float unit = x[turn][j] * inverse;
        d[j] += inverse * (gained[turn][j] - unit * mean);
        d_out[j] = d[j] * scale1[turn][j];
        d_res[j] = d[j] * scale2[turn][j];
        total[0][turn][j] += d[j];
        total[1][turn][j] += d[j] * o[turn][j];
        total[2][turn][j] += d[j] * r[turn][j];
        total[3][turn][j] += d_norm[turn][j] * unit;
      }
      store(d_output + start + at, d_out, count, whole);
      store(d_residual + start + at, d_res, count, whole);
    }
  }
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int at = (turn * THREADS + threadIdx.x) * PER;
      store(sums + ((size_t)blockIdx.x * 4 + k) * width + at, total[k][turn], width - at, whole);
    }
}

#define RESIDUAL_NORM(T, suffix)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS) residual_norm_##suffix(                                                   \
      const T* output, const float* residual, const T* s1, const T* b1, const T* s2, const T* b2, const T* weight, float* stream, \
      T* normed, int rows, int width, int rows_each, float eps) {                                                                 \
    __shared__ float scratch[THREADS / 32];                                                                                       \
    forward<T>(output, residual, s1, b1, s2, b2, weight, stream, normed, rows, width, rows_each, eps, scratch);                   \
  }                                                                                                                               \
  LAUNCHABLE(residual_norm_##suffix)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) residual_norm_backward_##suffix(                                          \
      const float* d_stream, const T* d_normed, const T* output, const float* residual, const T* s1, const T* b1, const T* s2,    \
      const T* b2, const T* weight, T* d_output, float* d_residual, float* sums, int rows, int width, int rows_each, float eps) { \
    __shared__ float scratch[THREADS / 32];                                                                                       \
    backward<T>(d_stream, d_normed, output, residual, s1, b1, s2, b2, weight, d_output, d_residual, sums, rows, width, rows_each, \
                eps, scratch);                                                                                                    \
  }                                                                                                                               \
  LAUNCHABLE(residual_norm_backward_##suffix)

RESIDUAL_NORM(float, f32)
RESIDUAL_NORM(bf16, bf16)
