// taps.h: the rest of cca_mix's way back, from dy to the gradient of packed. Included by cca_mix.hip.
//
// du_t = W1^T dy_t + W0^T dy_{t+1}, then dz_t = w1 du_t + w0 du_{t+1} + what came by the mean path; terms of token t + 1 only
// where it exists and is of the same document. 32 rows of du give 31 of dz, so a block advances by 31 tokens. The gradients
// of the weights are products over all tokens; torch forms them from dy and du.
#pragma once

constexpr int ADVANCE = ROWS - 1;

template <class T> union Taps {
  T mixed[ROWS][2 * WIDEST + 4];                // dy_{t+1} and dy_t by turns
  float du[ROWS + 1][WIDEST + 4];
};

template <bool FULL, class T>
DEVICE void backward_taps(Taps<T>& lds, const T* dy, const T* d_v, const T* depthwise, const T* grouped, const int* position,
                          T* d_packed, float* du, Shape s) {
  if (FULL) s.dim = WIDEST;
  constexpr int M = FULL ? 2 : 1, PARTS = 2 / M, STEPS = 8 / MFMA_COLUMNS, AT_ONCE = MFMA_SLICE / 2;   // of 2 taps an output
  int head = blockIdx.y, batch = blockIdx.z, top = team() * EACH, first = blockIdx.x * ADVANCE + top, channel = head * s.dim;
  int lane = threadIdx.x % 64, column[MFMA_COLUMNS], joined = 0;   // bit i: token first + i + 1 goes on
  size_t before = (size_t)batch * s.steps;
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++) column[i] = team() * 32 + mfma_column(i, lane);
  for (int i = 0; i < EACH; i++)
    if (first + i + 1 < s.steps && !(position && position[before + first + i + 1] == 0)) joined |= 1 << i;

  const T* weight[MFMA_COLUMNS];
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++)
    weight[i] = grouped + ((size_t)channel * s.dim + at_most(column[i], s.dim - 1)) * 2;
  vec<T, 2> taps[MFMA_COLUMNS][2 * STEPS];
  auto fetch_taps = [&](int k) {                // of outputs k .. k + 31 to this thread's inputs, both taps side by side
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS * 2 * STEPS; i++) {
      int own = i / (2 * STEPS), j = i % (2 * STEPS);
      taps[own][j] = *(const vec<T, 2>*)(weight[own] + (size_t)at_most(k + j / 2 * AT_ONCE + mfma_part(lane) * 2 + j % 2, s.dim - 1) * s.dim * 2);
    }
  };
  fetch_taps(0);
  vec<T, M> own[PARTS][EACH + 1];
#pragma unroll
  for (int i = 0; i < PARTS * (EACH + 1); i++) {
    int c = lane * M + i / (EACH + 1) * 64, token = at_most(first + i % (EACH + 1), s.steps - 1);
    own[i / (EACH + 1)][i % (EACH + 1)] = *(const vec<T, M>*)(dy + (before + token) * s.channels() + channel + at_most(c, s.dim - M));
  }
#pragma unroll
  for (int i = 0; i < PARTS * EACH; i++) {
    int part = i / EACH, row = i % EACH, c = lane * M + part * 64;
    vec<T, 2 * M> both;
#pragma unroll
    for (int j = 0; j < M; j++) {
      both[2 * j] = c < s.dim && joined >> row & 1 ? own[part][row + 1][j] : from_float<T>(0.f);
      both[2 * j + 1] = c < s.dim ? own[part][row][j] : from_float<T>(0.f);
    }
    *(vec<T, 2 * M>*)&lds.mixed[top + row][2 * c] = both;
  }
  __syncthreads();
  f32x16 acc = mfma_zero();
#pragma unroll
  for (int k = 0; k < WIDEST; k += AT_ONCE * STEPS) {
    if (k >= s.dim) break;
    if (k > 0) fetch_taps(k);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      if (k + AT_ONCE * i >= s.dim || team() * 32 >= s.dim) break;
      vec<T, 4> b[MFMA_COLUMNS];
#pragma unroll
      for (int own = 0; own < MFMA_COLUMNS; own++)
        b[own] = {{taps[own][2 * i][0], taps[own][2 * i][1], taps[own][2 * i + 1][0], taps[own][2 * i + 1][1]}};
      vec<T, 4> a[MFMA_ROWS];
#pragma unroll
      for (int row = 0; row < MFMA_ROWS; row++)
        a[row] = *(const vec<T, 4>*)&lds.mixed[mfma_a_row(row, lane)][2 * k + MFMA_SLICE * i + mfma_part(lane) * 4];
      acc = mfma(a, b, acc);
    }
  }
  __syncthreads();                              // everyone has read mixed, whose place du takes
  float (*first_row)[WIDEST + 4] = lds.du + mfma_row(0, lane);
#pragma unroll
  for (int r = 0; r < 16; r++) first_row[mfma_row(r % MFMA_HELD, 0)][column[r / MFMA_HELD]] = acc[r];
  __syncthreads();

  int half = s.kv_heads * s.dim / 2, group = s.heads / s.kv_heads, kv_head = head < s.heads ? head / group : head - s.heads;
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    int c = lane * M + part * 64, value = channel + c;
    if (c >= s.dim) break;
    // the mean path: half of this head's dy, and its share of the key head's, or half of all its queries'
    floats<M> through[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) through[i] = widened(own[part][i]) * 0.5f;
    int from = head < s.heads ? s.heads + kv_head : kv_head * group, others = head < s.heads ? 1 : group;
    float share = head < s.heads ? 0.5f / group : 0.5f;
    for (int other = from; other < from + others; other++)
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        const T* row = dy + (before + at_most(first + i, s.steps - 1)) * s.channels();
        through[i] = fma_of(widened(*(const vec<T, M>*)(row + other * s.dim + c)), spread<M>(share), through[i]);
      }
    floats<M> tap0, tap1;
#pragma unroll
    for (int j = 0; j < M; j++) tap0[j] = to_float(depthwise[(value + j) * 2]), tap1[j] = to_float(depthwise[(value + j) * 2 + 1]);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (top + i >= ADVANCE || first + i >= s.steps) break;
      size_t token = before + first + i;
      vec<float, M> mine = *(const vec<float, M>*)&lds.du[top + i][c], next = *(const vec<float, M>*)&lds.du[top + i + 1][c];
      *(vec<float, M>*)(du + token * s.channels() + value) = mine;
      floats<M> dz = fma_of(tap1, widened(mine), through[i]);
      if (joined >> i & 1) dz = fma_of(tap0, widened(next), dz);
      *(vec<T, M>*)(d_packed + token * s.width() + value) = narrowed<T>(dz);
      if (head >= s.kv_heads) continue;
      vec<T, M> d;                              // the first half of the values went to this token, the second to the next
#pragma unroll
      for (int j = 0; j < M; j++) d[j] = from_float<T>(0.f);
      if (value < half || joined >> i & 1) d = *(const vec<T, M>*)(d_v + (token + (value >= half)) * 2 * half + value);
      *(vec<T, M>*)(d_packed + token * s.width() + s.channels() + value) = d;
    }
  }
}
