// gemm.h: a block of 256 threads multiplies strips of rows on the matrix cores: C[i][j] = sum over k of A[i][k] B[j][k].
//
// A tile of C is 64 x 64. Four teams of 64 lanes hold 32 x 32 of it each, team 0 the upper left, team 1 the upper right.
// Both operands lie with the inner axis k in a row, so both come to LDS by the same 16-byte loads. Included after gpu.h.
#pragma once

constexpr int TILE = 64, GEMM_THREADS = 256;

template <class T> struct Gemm {
  static constexpr int PIECE = 16 / sizeof(T);   // numbers in 16 bytes, what a thread fetches at once
  static constexpr int STEP = 4 * PIECE;         // of the inner axis at a time: four threads fetch a row's 64 bytes
};

// 64 rows in LDS, one step long. trap: without the 4 numbers between rows, every second row would begin in the same bank
template <class T> struct Strip { T at[TILE][Gemm<T>::STEP + 4]; };

// Eight numbers of the inner axis: lanes 0..31 bring the first four of a row each, lanes 32..63 the last four. In
// float32 one instruction takes one number from either half. Which two meet does not matter, as long as A and B agree.
DEVICE f32x16 mfma8(vec<bf16, 4> a, vec<bf16, 4> b, f32x16 acc) { return mfma(a, b, acc); }
DEVICE f32x16 mfma8(vec<float, 4> a, vec<float, 4> b, f32x16 acc) {
#pragma unroll
  for (int j = 0; j < 4; j++) acc = mfma(vec<float, 1>{{a[j]}}, vec<float, 1>{{b[j]}}, acc);
  return acc;
}

template <class T> DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

// May rows of `width` numbers from `at` on be read 16 bytes at a time?
template <class T> DEVICE bool whole_pieces(const T* at, int width) {
  return width % Gemm<T>::PIECE == 0 && (size_t)at % 16 == 0;
}

// Numbers k, k + 1, ... of a row, 16 bytes of them; zeros past its end. WHOLE: rows consist of whole 16 bytes.
template <bool WHOLE, class T> DEVICE bytes16 fetch(const T* row, int k, int inner) {
  vec<T, Gemm<T>::PIECE> piece;
  if (WHOLE && k < inner) return *(const bytes16*)(row + k);
#pragma unroll
  for (int j = 0; j < Gemm<T>::PIECE; j++) piece[j] = !WHOLE && k + j < inner ? row[k + j] : from_float<T>(0.f);
  return bits_as<bytes16>(piece);
}

template <class T> DEVICE void put(T* to, bytes16 from) {   // in two halves, since a padded row of bf16 begins on 8 bytes
  *(vec<unsigned, 2>*)to = {{from.x, from.y}};
  *((vec<unsigned, 2>*)to + 1) = {{from.z, from.w}};
}

template <bool WHOLE, class T, int N>
DEVICE void multiply_rows(Strip<T>* strips, const T* a_row, const T* const (&b_row)[N], int inner, f32x16 (&acc)[N]) {
  constexpr int STEP = Gemm<T>::STEP;
  int row = threadIdx.x / 4, piece = threadIdx.x % 4 * Gemm<T>::PIECE, team = threadIdx.x / 64, lane = threadIdx.x % 64;
  int a_at = team / 2 * 32 + lane % 32, b_at = team % 2 * 32 + lane % 32;
  bytes16 a_next = fetch<WHOLE>(a_row, piece, inner), b_next[N];
#pragma unroll
  for (int n = 0; n < N; n++) b_next[n] = fetch<WHOLE>(b_row[n], piece, inner);
  for (int k = 0; k < inner; k += STEP) {
    __syncthreads();   // everyone has done with the step before
    put(&strips[0].at[row][piece], a_next);
#pragma unroll
    for (int n = 0; n < N; n++) put(&strips[1 + n].at[row][piece], b_next[n]);
    __syncthreads();   // the step is there
    a_next = fetch<WHOLE>(a_row, k + STEP + piece, inner);   // the next one travels while the matrix cores work
#pragma unroll
    for (int n = 0; n < N; n++) b_next[n] = fetch<WHOLE>(b_row[n], k + STEP + piece, inner);
#pragma unroll
    for (int eight = 0; eight < STEP; eight += 8) {
      int at = eight + lane / 32 * 4;
      vec<T, 4> a = *(const vec<T, 4>*)&strips[0].at[a_at][at];
#pragma unroll
      for (int n = 0; n < N; n++) acc[n] = mfma8(a, *(const vec<T, 4>*)&strips[1 + n].at[b_at][at], acc[n]);
    }
  }
}

// Adds to acc[n] this lane's share of one A times N Bs. a_row, b_row[n]: the row that this thread fetches, number
// threadIdx.x / 4 of the tile's 64. In place of a row past the last one, give any that exists: nobody stores what it
// leads to. strips: N + 1 in LDS. The row and column of acc[n][r] in the tile are tile_row(r) and tile_column().
template <class T, int N>
DEVICE void multiply(Strip<T>* strips, const T* a_row, const T* const (&b_row)[N], int inner, bool whole, f32x16 (&acc)[N]) {
  if (whole) multiply_rows<true>(strips, a_row, b_row, inner, acc);
  else multiply_rows<false>(strips, a_row, b_row, inner, acc);
}

DEVICE int at_most(int i, int last) { return i < last ? i : last; }
DEVICE int tile_row(int r) { return threadIdx.x / 128 * 32 + mfma_row(r, threadIdx.x % 64); }
DEVICE int tile_column() { return threadIdx.x / 64 % 2 * 32 + threadIdx.x % 32; }
