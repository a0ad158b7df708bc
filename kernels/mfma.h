// mfma.h: MI300's matrix cores. 64 lanes together multiply two small tiles: D = A B + C. Included by gpu.h.
//
// Who holds what, for a 32 x 32 result. Lane l brings row l % 32 of A and column l % 32 of B; lanes 32 and up bring the
// second half of the inner axis. The result is spread the same way for both types:
//
//   bf16, inner axis 8:  a[j] = A[l % 32][4 * (l / 32) + j],  b[j] = B[4 * (l / 32) + j][l % 32],  j = 0..3
//   f32,  inner axis 2:  a    = A[l % 32][l / 32],            b    = B[l / 32][l % 32]
//   both:                acc[r] = D[8 * (r / 4) + 4 * (l / 32) + r % 4][l % 32],  r = 0..15
//
// Off AMD, the 64 lanes exchange what they hold and add up in plain floats, in the same layout.
#pragma once

typedef vec<bf16, 4> bf16x4;
#if defined(MZ_AMD)
typedef float f32x16 __attribute__((ext_vector_type(16)));
#else
typedef vec<float, 16> f32x16;
DEVICE f32x16 operator+(f32x16 acc, float x) {
  for (int r = 0; r < 16; r++) acc[r] += x;
  return acc;
}
DEVICE f32x16 operator+(f32x16 acc, f32x16 x) {
  for (int r = 0; r < 16; r++) acc[r] += x[r];
  return acc;
}
DEVICE f32x16 operator*(f32x16 acc, float x) {
  for (int r = 0; r < 16; r++) acc[r] *= x;
  return acc;
}
#endif

// What one lane brings to one step: `Mfma<T>::K` long inner axis, `PER` values a lane.
template <class T> struct Mfma;
template <> struct Mfma<bf16> { static constexpr int K = 8, PER = 4; typedef bf16x4 fragment; };
template <> struct Mfma<float> { static constexpr int K = 2, PER = 1; typedef vec<float, 1> fragment; };

// The row of D in acc[r] of this lane; its column is lane % 32.
DEVICE int mfma_row(int r, int lane) { return 8 * (r / 4) + 4 * (lane / 32) + r % 4; }

DEVICE f32x16 mfma_zero() {
  f32x16 acc;
#pragma unroll
  for (int r = 0; r < 16; r++) acc[r] = 0.f;
  return acc;
}

#if defined(MZ_AMD)
#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__)
typedef short mz_short4 __attribute__((ext_vector_type(4)));
DEVICE f32x16 mfma(bf16x4 a, bf16x4 b, f32x16 acc) {
  return __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(bits_as<mz_short4>(a), bits_as<mz_short4>(b), acc, 0, 0, 0);
}
DEVICE f32x16 mfma(vec<float, 1> a, vec<float, 1> b, f32x16 acc) {
  return __builtin_amdgcn_mfma_f32_32x32x2f32(a[0], b[0], acc, 0, 0, 0);
}
#else   // hipcc's host pass: declared, never called
__device__ f32x16 mfma(bf16x4, bf16x4, f32x16);
__device__ f32x16 mfma(vec<float, 1>, vec<float, 1>, f32x16);
#endif

#else
// rows(l, j) and columns(l, j): value j that lane l brought. Adds this lane's 16 results.
template <int PER, class Rows, class Columns> DEVICE f32x16 mfma_in_floats(int lane, f32x16 acc, Rows rows, Columns columns) {
  for (int r = 0; r < 16; r++) {
    float sum = 0.f;
    for (int half = 0; half < 64; half += 32)
      for (int j = 0; j < PER; j++) sum += rows(half + mfma_row(r, lane), j) * columns(half + lane % 32, j);
    acc[r] += sum;
  }
  return acc;
}

#if defined(MZ_CPU)
template <class F> inline f32x16 mfma(F a, F b, f32x16 acc, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  constexpr int PER = sizeof(F) / sizeof(a[0]);
  const fibers::Word (*brought)[2] = fibers::meet_team(&a, &b, sizeof(F), file, line);
  auto value = [&](int which) {
    return [=](int lane, int j) { F f; __builtin_memcpy(&f, &brought[lane][which], sizeof(F)); return to_float(f[j]); };
  };
  return mfma_in_floats<PER>(fibers::team_lane(), acc, value(0), value(1));
}
#else   // CUDA: two warps of 32 make one team of 64; right numbers, no speed. At most 15 teams a block.
template <class F> DEVICE f32x16 mfma(F a, F b, f32x16 acc) {
  constexpr int PER = sizeof(F) / sizeof(a[0]);
  __shared__ F brought_a[15][64], brought_b[15][64];
  int team = threadIdx.x / 64, lane = threadIdx.x % 64;
  brought_a[team][lane] = a;
  brought_b[team][lane] = b;
  asm volatile("bar.sync %0, 64;" ::"r"(team + 1) : "memory");
  acc = mfma_in_floats<PER>(lane, acc, [&](int l, int j) { return to_float(brought_a[team][l][j]); },
                            [&](int l, int j) { return to_float(brought_b[team][l][j]); });
  asm volatile("bar.sync %0, 64;" ::"r"(team + 1) : "memory");
  return acc;
}
#endif
#endif
