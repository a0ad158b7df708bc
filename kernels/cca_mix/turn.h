// turn.h: the end of a head in cca_mix, norm and RoPE, forwards and backwards. Included by cca_mix.hip.
#pragma once

// The angles of this thread's row. FULL: it has both of a pair, and the same ones in every head, so they stay in registers.
template <bool FULL, class T> struct Angles {
  const T *cosine, *sine;
  floats<4> at, up;

  DEVICE Angles(const Inputs<T>& in, const Shape& s, size_t row) : cosine(in.cosine + row * (s.rotary / 2)), sine(in.sine + row * (s.rotary / 2)) {
    if (!FULL) return;
    at = widened(*(const vec<T, 4>*)(cosine + threadIdx.x % 8 * 4));
    up = widened(*(const vec<T, 4>*)(sine + threadIdx.x % 8 * 4));
  }
  // RoPE of 16 numbers, backwards with -1.
  DEVICE void turn(floats<4> (&y)[4], float way) const {
    floats<4> first = y[0], over = up * way;
    y[0] = fma_of(y[1], over * -1.f, first * at), y[1] = fma_of(first, over, y[1] * at);
  }
  // The same of pair i of a row.
  template <class S> DEVICE void turn(float& y_a, float& y_b, const S* row, int i, int half, float way) const {
    float x_a = to_float(row[i]), x_b = to_float(row[i + half]), along = to_float(cosine[i]), over = to_float(sine[i]) * way;
    y_a = x_a * along - x_b * over, y_b = x_b * along + x_a * over;
  }
};

// Forwards: x to length sqrt(d) * scale, RoPE, and out. Backwards: from the gradient of that to the gradient of x, and what
// this row adds to that of scale is given back. x goes by way of LDS, so that a row lies with few threads. gradient, to: those
// of the tile's first token, and how far apart two tokens lie; count: how many there are.
template <class T> struct Rows {
  const T* gradient;
  T* to;
  int gradient_stride, stride, count;
};
template <bool FULL, bool BACK, class T>
DEVICE float finish(Head<T>& lds, const Angles<FULL, T>& angles, const Shape& s, const f32x16& x, float scale, const Rows<T>& rows) {
  int lane = threadIdx.x % 64, own = threadIdx.x % 8, half = s.rotary / 2, mine = threadIdx.x / 8;
  float* row = lds.turned[mine];
  floats<4> y[4], g[4];
  float square = 0.f, dot = 0.f;
#pragma unroll
  for (int p = 0; FULL && BACK && p < 4; p++)
    g[p] = widened(*(const vec<T, 4>*)(rows.gradient + (size_t)at_most(mine, rows.count - 1) * rows.gradient_stride + own * 4 + 32 * p));
  __syncthreads();                              // everyone has read mixed, whose place this takes
  float (*top)[WIDEST + 4] = lds.turned + mfma_row(0, lane);     // the rows below it at distances that the compiler knows
#pragma unroll
  for (int r = 0; r < 16; r++) {
    top[mfma_row(r % MFMA_HELD, 0)][team() * 32 + mfma_column(r / MFMA_HELD, lane)] = x[r];
    stay_in_order();                            // two stores made one would need an addition for their place
  }
#pragma unroll 1
  for (int i = 0; !FULL && BACK && i < EACH * 2; i++) {         // whole rows at a time, where z was
    int r = team() * EACH + i / 2, c = lane + i % 2 * 64;
    if (c < s.dim && r < rows.count) lds.z[r][c] = rows.gradient[(size_t)r * rows.gradient_stride + c];
  }
  __syncthreads();
  if (FULL) {
#pragma unroll
    for (int p = 0; p < 4; p++) y[p] = widened(*(const vec<float, 4>*)(row + own * 4 + 32 * p));
    floats<4> sum = fma_of(y[0], y[0], fma_of(y[1], y[1], fma_of(y[2], y[2], y[3] * y[3])));
    square = sum[0] + sum[1] + sum[2] + sum[3];
    angles.turn(BACK ? g : y, BACK ? -1.f : 1.f);
  }
#pragma unroll 1
  for (int i = own; !FULL && i < half; i += 8) {      // pairs, then what does not turn: a thread sums what it will write
    float g_a = 0.f, g_b = 0.f;
    if (BACK) angles.turn(g_a, g_b, lds.z[mine], i, half, -1.f);
    square += row[i] * row[i] + row[i + half] * row[i + half], dot += row[i] * g_a + row[i + half] * g_b;
  }
#pragma unroll 1
  for (int c = 2 * half + own; !FULL && c < s.dim; c += 8) {
    square += row[c] * row[c];
    if (BACK) dot += row[c] * to_float(lds.z[mine][c]);
  }
  if (FULL && BACK) {
    floats<4> sum = fma_of(y[0], g[0], fma_of(y[1], g[1], fma_of(y[2], g[2], y[3] * g[3])));
    dot = sum[0] + sum[1] + sum[2] + sum[3];
  }
#pragma unroll
  for (int far = 4; far > 0; far /= 2) {
    square += __shfl_xor(square, far);
    if (BACK) dot += __shfl_xor(dot, far);
  }
  float inverse = rsqrtf(fmaxf(square, TINY)), unit = inverse * sqrtf((float)s.dim);
  float inward = square > TINY ? dot * inverse * inverse : 0.f;      // the part along x, which the norm takes away
#pragma unroll
  for (int p = 0; FULL && mine < rows.count && p < 4; p++)
    *(vec<T, 4>*)(rows.to + (unsigned)(mine * rows.stride + own * 4 + 32 * p)) = narrowed<T>((BACK ? g[p] - y[p] * inward : y[p]) * (unit * scale));
  if (!FULL) {
#pragma unroll 1
    for (int i = own; i < half; i += 8) {
      float y_a, y_b;
      if (BACK) angles.turn(y_a, y_b, lds.z[mine], i, half, -1.f);
      else angles.turn(y_a, y_b, row, i, half, 1.f);
      if (BACK) y_a -= row[i] * inward, y_b -= row[i + half] * inward;
      row[i] = y_a * (unit * scale), row[i + half] = y_b * (unit * scale);
    }
#pragma unroll 1
    for (int c = 2 * half + own; c < s.dim; c += 8)
      row[c] = (BACK ? to_float(lds.z[mine][c]) - row[c] * inward : row[c]) * (unit * scale);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < EACH * 2; i++) {        // whole rows at a time: eight numbers of a row would be eight times its pieces
      int r = team() * EACH + i / 2, c = lane + i % 2 * 64;
      if (c < s.dim && r < rows.count) rows.to[(size_t)r * rows.stride + c] = from_float<T>(lds.turned[r][c]);
    }
  }
  return own == 0 && mine < rows.count ? dot * unit : 0.f;
}
