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

// PER values of a row from channel `at` on, zeros past its end. WHOLE: rows are multiples of PER, and one instruction does it.
// Only the load of whole words stands under the condition: whatever else did would have to wait for it there.
template <bool WHOLE, class T> DEVICE quad load(const T* row, int at, int width) {
  quad q;
  if (WHOLE) {
    typedef vec<unsigned, PER * sizeof(T) / 4> words;
    words raw;
#pragma unroll
    for (unsigned j = 0; j < PER * sizeof(T) / 4; j++) raw[j] = 0;
    if (at < width) raw = *(const words*)(row + at);
    vec<T, PER> packed = bits_as<vec<T, PER>>(raw);
#pragma unroll
    for (int j = 0; j < PER; j++) q[j] = to_float(packed[j]);
  } else {
#pragma unroll
    for (int j = 0; j < PER; j++) q[j] = at + j < width ? to_float(row[at + j]) : 0.f;
  }
  return q;
}

template <bool WHOLE, class T> DEVICE void store(T* row, int at, int width, quad q) {
  if (at >= width) return;
  if (WHOLE) {
    vec<T, PER> packed;
#pragma unroll
    for (int j = 0; j < PER; j++) packed[j] = from_float<T>(q[j]);
    *(vec<T, PER>*)(row + at) = packed;
  } else {
#pragma unroll
    for (int j = 0; j < PER; j++)
      if (at + j < width) row[at + j] = from_float<T>(q[j]);
  }
}

template <class T> DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

template <bool WHOLE, class T>
DEVICE void forward(const T* output, const float* residual, const T* s1, const T* b1, const T* s2, const T* b2, const T* weight,
                    float* stream, T* normed, int rows, int width, int rows_each, float eps, float* scratch) {
  quad out_scale[TURNS], out_bias[TURNS], res_scale[TURNS], res_bias[TURNS], gain[TURNS];
  int at[TURNS], count[TURNS];
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    at[turn] = (turn * THREADS + threadIdx.x) * PER;
    count[turn] = width - at[turn];
    out_scale[turn] = load<WHOLE>(s1, at[turn], width);
    out_bias[turn] = load<WHOLE>(b1, at[turn], width);
    res_scale[turn] = load<WHOLE>(s2, at[turn], width);
    res_bias[turn] = load<WHOLE>(b2, at[turn], width);
    gain[turn] = load<WHOLE>(weight, at[turn], width);
  }
  int first = blockIdx.x * rows_each, last = first + rows_each < rows ? first + rows_each : rows;
  for (int row = first; row < last; row++) {
    size_t start = (size_t)row * width;
    quad x[TURNS], o[TURNS], r[TURNS];
    float squares = 0.f;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {   // all loads before the first store, which might change what they read
      o[turn] = load<WHOLE>(output + start, at[turn], width);
      r[turn] = load<WHOLE>(residual + start, at[turn], width);
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      quad s;
#pragma unroll
      for (int j = 0; j < PER; j++) {
        float scaled = rounded<T>(rounded<T>(o[turn][j] + out_bias[turn][j]) * out_scale[turn][j]);
        s[j] = scaled + (r[turn][j] + res_bias[turn][j]) * res_scale[turn][j];
        x[turn][j] = rounded<T>(s[j]);
        if (j < count[turn]) squares += x[turn][j] * x[turn][j];
      }
      store<WHOLE>(stream + start, at[turn], width, s);
    }
    float inverse = rsqrtf(block_sum<THREADS>(squares, scratch) / width + eps);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      quad y;
#pragma unroll
      for (int j = 0; j < PER; j++) y[j] = gain[turn][j] * rounded<T>(x[turn][j] * inverse);
      store<WHOLE>(normed + start, at[turn], width, y);
    }
  }
}

// The gradients of both inputs, and for each block four sums over its rows, from which those of the five vectors follow:
//   sums[0] of d, sums[1] of d * (output + b1), sums[2] of d * (residual + b2), sums[3] of d_normed * x / rms,
// where d is the gradient of the stream: what came down the stream, and what came through the norm.
template <bool WHOLE, class T>
DEVICE void backward(const float* d_stream, const T* d_normed, const T* output, const float* residual, const T* s1, const T* b1,
                     const T* s2, const T* b2, const T* weight, T* d_output, float* d_residual, float* sums, int rows,
                     int width, int rows_each, float eps, float* scratch) {
  quad total[4][TURNS], scale1[TURNS], bias1[TURNS], scale2[TURNS], bias2[TURNS], gain[TURNS];
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    int at = (turn * THREADS + threadIdx.x) * PER, count = width - at;
    scale1[turn] = load<WHOLE>(s1, at, width);
    bias1[turn] = load<WHOLE>(b1, at, width);
    scale2[turn] = load<WHOLE>(s2, at, width);
    bias2[turn] = load<WHOLE>(b2, at, width);
    gain[turn] = load<WHOLE>(weight, at, width);
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
      o[turn] = load<WHOLE>(output + start, at, width);
      r[turn] = load<WHOLE>(residual + start, at, width);
      d_norm[turn] = load<WHOLE>(d_normed + start, at, width);
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
      quad d = load<WHOLE>(d_stream + start, at, width), d_out, d_res;
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
      store<WHOLE>(d_output + start, at, width, d_out);
      store<WHOLE>(d_residual + start, at, width, d_res);
    }
  }
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int at = (turn * THREADS + threadIdx.x) * PER;
      store<WHOLE>(sums + ((size_t)blockIdx.x * 4 + k) * width, at, width, total[k][turn]);
    }
}

#define RESIDUAL_NORM(T, suffix)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS) residual_norm_##suffix(                                                   \
      const T* output, const float* residual, const T* s1, const T* b1, const T* s2, const T* b2, const T* weight, float* stream, \
      T* normed, int rows, int width, int rows_each, float eps) {                                                                 \
    __shared__ float scratch[THREADS / 32];                                                                                       \
    if (width && width % PER == 0)                                                                                                \
      forward<true, T>(output, residual, s1, b1, s2, b2, weight, stream, normed, rows, width, rows_each, eps, scratch);           \
    else                                                                                                                          \
      forward<false, T>(output, residual, s1, b1, s2, b2, weight, stream, normed, rows, width, rows_each, eps, scratch);          \
  }                                                                                                                               \
  LAUNCHABLE(residual_norm_##suffix)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) residual_norm_backward_##suffix(                                          \
      const float* d_stream, const T* d_normed, const T* output, const float* residual, const T* s1, const T* b1, const T* s2,    \
      const T* b2, const T* weight, T* d_output, float* d_residual, float* sums, int rows, int width, int rows_each, float eps) { \
    __shared__ float scratch[THREADS / 32];                                                                                       \
    if (width && width % PER == 0)                                                                                                \
      backward<true, T>(d_stream, d_normed, output, residual, s1, b1, s2, b2, weight, d_output, d_residual, sums, rows, width,    \
                        rows_each, eps, scratch);                                                                                 \
    else                                                                                                                          \
      backward<false, T>(d_stream, d_normed, output, residual, s1, b1, s2, b2, weight, d_output, d_residual, sums, rows, width,   \
                         rows_each, eps, scratch);                                                                                \
  }                                                                                                                               \
  LAUNCHABLE(residual_norm_backward_##suffix)

RESIDUAL_NORM(float, f32)
RESIDUAL_NORM(bf16, bf16)
