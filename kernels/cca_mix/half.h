// half.h: z / 2 added by the matrix cores, for cca_mix's mean path. Included by cca_mix.hip.
#pragma once

// What this lane brings of half the identity's columns. Two neighbours of a column are chosen at once, as bits: number by
// number it would be a hundred instructions.
template <class T> DEVICE void half_identity(vec<T, 4> (&half)[ROWS / MFMA_SLICE][MFMA_COLUMNS]) {
  constexpr int WORDS = sizeof(T) / 2;          // in two T's
  int lane = threadIdx.x % 64;
#pragma unroll
  for (int column = 0; column < MFMA_COLUMNS; column++) {
    int at = mfma_column(column, lane) - mfma_part(lane) * 4;
    vec<T, 2> pair = {{from_float<T>(at & 1 ? 0.f : 0.5f), from_float<T>(at & 1 ? 0.5f : 0.f)}};
    vec<unsigned, WORDS> bits = bits_as<vec<unsigned, WORDS>>(pair);
#pragma unroll
    for (int step = 0; step < ROWS / MFMA_SLICE; step++) {
      vec<unsigned, 2 * WORDS> words;
#pragma unroll
      for (int i = 0; i < 2 * WORDS; i++) words[i] = (at & ~1) == step * MFMA_SLICE + i / WORDS * 2 ? bits[i % WORDS] : 0u;
      half[step][column] = bits_as<vec<T, 4>>(words);
    }
  }
}

// acc += z / 2 of this thread's columns: a product with half the identity, which costs no vector instruction.
template <class T> DEVICE void add_half(f32x16& acc, const Head<T>& lds, const vec<T, 4> (&half)[ROWS / MFMA_SLICE][MFMA_COLUMNS]) {
  int lane = threadIdx.x % 64;
#pragma unroll
  for (int step = 0; step < ROWS / MFMA_SLICE; step++) {
    vec<T, 4> a[MFMA_ROWS];
#pragma unroll
    for (int i = 0; i < MFMA_ROWS; i++)
      a[i] = *(const vec<T, 4>*)&lds.z[HALO + mfma_a_row(i, lane)][team() * 32 + step * MFMA_SLICE + mfma_part(lane) * 4];
    acc = mfma(a, half[step], acc);
  }
}
