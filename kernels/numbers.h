// numbers.h: bfloat16, short vectors, and the functions that no target has in common. Included by gpu.h.
#pragma once

#if defined(MZ_CUDA)
#define MZ_COPY memcpy
#else
#define MZ_COPY __builtin_memcpy
#endif

// The same bits under another type.
template <class To, class From> DEVICE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as: sizes differ");
  To to;
  MZ_COPY(&to, &from, sizeof(To));
  return to;
}

// bfloat16: the upper half of a float. Our own type, since no header for it is common to all targets.
struct bf16 { unsigned short bits; };

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return bits_as<float>((unsigned)x.bits << 16); }

// Rounds to the nearest, ties to even, as torch does.
template <class T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE bf16 from_float<bf16>(float x) {
  unsigned u = bits_as<unsigned>(x), near = u + 0x7fffu + ((u >> 16) & 1u);
  bf16 rounded;
  // a choice of two numbers ready to be chosen: with the sum inside it, the compiler makes it a branch
  rounded.bits = (unsigned short)((x != x ? u | 0x400000u : near) >> 16);
  return rounded;
}

// The same in two steps, for numbers made from T's by sums and products: a float whose upper half is T's number, then two of them
// side by side. NaN among them has an empty lower half, so what is added leaves it NaN and nobody looks for it; not on NVIDIA,
// whose own NaN is all ones.
template <class T> DEVICE float nearest(float x);
template <> DEVICE float nearest<float>(float x) { return x; }
template <> DEVICE float nearest<bf16>(float x) {
  unsigned u = bits_as<unsigned>(x), near = u + 0x7fffu + ((u >> 16) & 1u);
#if defined(MZ_CUDA)
  if (x != x) near = u;
#endif
  return bits_as<float>(near);
}
template <class T> DEVICE T upper(float x);
template <> DEVICE float upper<float>(float x) { return x; }
template <> DEVICE bf16 upper<bf16>(float x) {
  bf16 half;
  half.bits = (unsigned short)(bits_as<unsigned>(x) >> 16);
  return half;
}

// 2 to the power x: one instruction on MI300, where exp takes a dozen. Results below 2^-126 may come out as 0.
#if defined(MZ_AMD)
DEVICE float power_of_2(float x) { return __builtin_amdgcn_exp2f(x); }
#elif defined(MZ_CUDA)
DEVICE float power_of_2(float x) { return exp2f(x); }
#else
DEVICE float power_of_2(float x) { return __builtin_exp2f(x); }
#endif

// N neighbours in memory, moved by one instruction when they make 16 bytes or fewer.
template <class T, int N> struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) vec {
  T at[N];
  DEVICE T& operator[](int i) { return at[i]; }
  DEVICE const T& operator[](int i) const { return at[i]; }
};

template <class T> DEVICE vec<T, 2> side_by_side(float a, float b) { return {{upper<T>(a), upper<T>(b)}}; }
#if defined(MZ_AMD)
// four bytes chosen from eight by one instruction
template <> DEVICE vec<bf16, 2> side_by_side<bf16>(float a, float b) {
  return bits_as<vec<bf16, 2>>(__builtin_amdgcn_perm(bits_as<unsigned>(b), bits_as<unsigned>(a), 0x07060302u));
}
#endif

// N floats to reckon with at once: MI300 adds and multiplies them by two.
#if defined(MZ_AMD)
template <int N> using floats = float __attribute__((ext_vector_type(N)));
template <class F> DEVICE F fma_of(F a, F b, F c) { return __builtin_elementwise_fma(a, b, c); }
#else
template <int N> struct floats {
  float at[N];
  DEVICE float& operator[](int i) { return at[i]; }
  DEVICE const float& operator[](int i) const { return at[i]; }
};
template <int N, class F> DEVICE floats<N> mz_each(F f) {
  floats<N> y;
  for (int j = 0; j < N; j++) y[j] = f(j);
  return y;
}
template <int N> DEVICE floats<N> operator*(floats<N> a, floats<N> b) { return mz_each<N>([&](int j) { return a[j] * b[j]; }); }
template <int N> DEVICE floats<N> operator*(floats<N> a, float b) { return mz_each<N>([&](int j) { return a[j] * b; }); }
template <int N> DEVICE floats<N> operator-(floats<N> a, floats<N> b) { return mz_each<N>([&](int j) { return a[j] - b[j]; }); }
template <int N> DEVICE floats<N> fma_of(floats<N> a, floats<N> b, floats<N> c) {
  return mz_each<N>([&](int j) { return fmaf(a[j], b[j], c[j]); });
}
#endif
template <int N> DEVICE floats<N> spread(float x) {
  floats<N> y;
#pragma unroll
  for (int j = 0; j < N; j++) y[j] = x;
  return y;
}
template <int N, class T> DEVICE floats<N> widened(vec<T, N> x) {
  floats<N> y;
#pragma unroll
  for (int j = 0; j < N; j++) y[j] = to_float(x[j]);
  return y;
}
template <class T, int N> DEVICE vec<T, N> narrowed(floats<N> x) {
  vec<T, N> y;
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    vec<T, 2> two = side_by_side<T>(nearest<T>(x[j]), nearest<T>(x[j + 1 < N ? j + 1 : j]));
    y[j] = two[0];
    if (j + 1 < N) y[j + 1] = two[1];
  }
  return y;
}

// 16 bytes to carry over a barrier. trap: a struct carried over a barrier ends up in scratch memory on MI300; a vector
// type stays in registers.
#if defined(MZ_AMD)
typedef unsigned bytes16 __attribute__((ext_vector_type(4)));
#else
struct alignas(16) bytes16 { unsigned x, y, z, w; };
#endif

// erf by Abramowitz and Stegun 7.1.26: the formula is wrong by at most 1.5e-7 anywhere, in floats by 5e-7
// (test_kernel_router.py).
DEVICE float erf_bounded(float x) {
  float a = fabsf(x), t = 1.f / (1.f + 0.3275911f * a);
  float poly = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  float y = 1.f - poly * expf(-a * a);
  return x < 0.f ? -y : y;
}
DEVICE float gelu(float x) { return 0.5f * x * (1.f + erf_bounded(x * 0.70710678118654752f)); }
DEVICE float silu(float x) { return x / (1.f + expf(-x)); }
