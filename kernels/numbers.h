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
