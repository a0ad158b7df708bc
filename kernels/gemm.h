// gemm.h: a block of 256 threads multiplies strips of rows on the matrix cores: C[i][j] = sum over k of A[i][k] B[j][k].
//
// A tile of C is M * 64 rows by N * 64 columns. In each of its 64 x 64 parts four teams of 64 lanes hold 32 x 32, team 0
// the upper left, team 1 the upper right, each lane what mfma.h says. Both operands lie with the inner axis k in a row, so both come to LDS by the
// same 16-byte loads. Included after gpu.h.
#pragma once

constexpr int TILE = 64, GEMM_THREADS = 256;

template <class T> struct Gemm {
  static constexpr int PIECE = 16 / sizeof(T);   // numbers in 16 bytes, what a thread fetches at once
  static constexpr int STEP = 4 * PIECE;         // of the inner axis at a time: four threads fetch a row's 64 bytes
};

// 64 rows in LDS, one step long. Where a row's piece lies is swizzled: rows are 16 banks long, and eight of them, read at the
// same piece, would meet in two places; as it is they meet all 32 banks once, and so do the writes of two whole rows.
struct Strip { bytes16 at[TILE][4]; };
DEVICE bytes16& slot(Strip& strip, int row, int piece) { return strip.at[row][piece ^ row / 2 % 4]; }

template <class T> DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

// May rows of `width` numbers from `at` on be read 16 bytes at a time?
template <class T> DEVICE bool whole_pieces(const T* at, int width) {
  return width % Gemm<T>::PIECE == 0 && (size_t)at % 16 == 0;
}

// Numbers k, k + 1, ... of a row, 16 bytes of them. WHOLE: rows consist of whole 16 bytes. Past the row's end something comes
// that `inside` takes away later: a load under a condition would be waited for at once.
template <bool WHOLE, class T> DEVICE bytes16 fetch(const T* row, int k, int inner) {
  if (WHOLE) return *(const bytes16*)(row + (k < inner ? k : 0));
  vec<T, Gemm<T>::PIECE> piece;
#pragma unroll
  for (int j = 0; j < Gemm<T>::PIECE; j++) piece[j] = k + j < inner ? row[k + j] : from_float<T>(0.f);
  return bits_as<bytes16>(piece);
}
// 16 bytes as fours for mfma: of each slice, those of row or column i. Word by word: copied as one, the first word would come from
// LDS twice.
template <int N> DEVICE void fours(bytes16 from, vec<bf16, 4> (&to)[2][N], int i) {
  to[0][i] = bits_as<vec<bf16, 4>>(vec<unsigned, 2>{{from.x, from.y}});
  to[1][i] = bits_as<vec<bf16, 4>>(vec<unsigned, 2>{{from.z, from.w}});
}
template <int N> DEVICE void fours(bytes16 from, vec<float, 4> (&to)[1][N], int i) {
  to[0][i] = bits_as<vec<float, 4>>(vec<unsigned, 4>{{from.x, from.y, from.z, from.w}});
}
DEVICE bytes16 inside(bytes16 piece, bool there) {
  bytes16 none = {0u, 0u, 0u, 0u};
  return there ? piece : none;
}

template <bool WHOLE, class T, int M, int N>
DEVICE void multiply_rows(Strip (*strips)[M + N], const T* const (&a_row)[M], const T* const (&b_row)[N], int inner,
                          f32x16 (&acc)[M][N]) {
  constexpr int STEP = Gemm<T>::STEP, PIECE = Gemm<T>::PIECE, TURNS = 4 / MFMA_SHARERS;   // TURNS: pieces of a row that a lane reads
  int row = threadIdx.x / 4, piece = threadIdx.x % 4, team = threadIdx.x / 64, lane = threadIdx.x % 64, stage = 0;
  int a_at[MFMA_ROWS], b_at[MFMA_COLUMNS];
#pragma unroll
  for (int i = 0; i < MFMA_ROWS; i++) a_at[i] = team / 2 * 32 + mfma_a_row(i, lane);
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++) b_at[i] = team % 2 * 32 + mfma_column(i, lane);
  bytes16 next[M + N];
#pragma unroll
  for (int s = 0; s < M + N; s++) next[s] = fetch<WHOLE>(s < M ? a_row[s] : b_row[s - M], piece * PIECE, inner);
#pragma unroll
  for (int s = 0; s < M + N; s++) slot(strips[0][s], row, piece) = inside(next[s], piece * PIECE < inner);
  __syncthreads();
  for (int k = 0; k < inner; k += STEP, stage ^= 1) {
    int ahead = (k + STEP < inner ? k + STEP : k) + piece * PIECE;   // behind the last step: the same once more, for nobody
#pragma unroll
    for (int s = 0; s < M + N; s++) next[s] = fetch<WHOLE>(s < M ? a_row[s] : b_row[s - M], ahead, inner);
    stay_in_order();   // the loads travel while the matrix cores work; the compiler would put them behind
    vec<T, 4> a[TURNS][M][PIECE / 4][MFMA_ROWS], b[TURNS][N][PIECE / 4][MFMA_COLUMNS];   // read by 16 bytes
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < MFMA_ROWS; i++) fours(slot(strips[stage][m], a_at[i], MFMA_SHARERS * turn + mfma_part(lane)), a[turn][m], i);
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < MFMA_COLUMNS; i++) fours(slot(strips[stage][M + n], b_at[i], MFMA_SHARERS * turn + mfma_part(lane)), b[turn][n], i);
    }
    stay_in_order();   // all of a step is read at once: one wait for LDS, not two
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++)
#pragma unroll
      for (int four = 0; four < PIECE / 4; four++)
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
          for (int n = 0; n < N; n++) acc[m][n] = mfma(a[turn][m][four], b[turn][n][four], acc[m][n]);
    stay_in_order();   // nobody waits for them before that
#pragma unroll
    for (int s = 0; s < M + N; s++) slot(strips[stage ^ 1][s], row, piece) = inside(next[s], ahead < inner);
    __syncthreads();   // this stage is read, the other one is there
  }
}

// Adds to acc[m][n] this lane's share of M As times N Bs. a_row[m], b_row[n]: the row that this thread fetches, number
// threadIdx.x / 4 of 64. In place of a row past the last one, give any that exists: nobody stores what it leads to.
// strips: two stages of M + N in LDS. acc[m][n][MFMA_HELD * i + r] stands in row tile_row(r) and column
// tile_column(i) of its part.
template <class T, int M, int N>
DEVICE void multiply(Strip (*strips)[M + N], const T* const (&a_row)[M], const T* const (&b_row)[N], int inner, bool whole,
                     f32x16 (&acc)[M][N]) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) acc[m][n] = mfma_zero();
  if (whole) multiply_rows<true>(strips, a_row, b_row, inner, acc);
  else multiply_rows<false>(strips, a_row, b_row, inner, acc);
}

DEVICE int at_most(int i, int last) { return i < last ? i : last; }
DEVICE int tile_row(int r) { return threadIdx.x / 128 * 32 + mfma_row(r, threadIdx.x % 64); }
DEVICE int tile_column(int i) { return threadIdx.x / 64 % 2 * 32 + mfma_column(i, threadIdx.x % 64); }
