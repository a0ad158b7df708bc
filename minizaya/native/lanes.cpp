// Vectors of floats, as wide as the CPU's, and what the loops of this folder need of them.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>  // gcc 12 takes a vector cast from int8 or bfloat16 apart, number by number or half by half
#endif

namespace {

// N: floats in a vector.
#ifdef __AVX512F__
constexpr int N = 16;
#else
constexpr int N = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * N)));
typedef uint32_t Words __attribute__((vector_size(4 * N)));
typedef uint16_t Halves __attribute__((vector_size(2 * N)));

// Memory for vectors, which begins where a line of the cache does: a vector that lies across two is read twice.
template <class T>
struct Lines {
    typedef T value_type;
    T* allocate(size_t n) { return (T*)::operator new(n * sizeof(T), std::align_val_t(64)); }
    void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
};
typedef std::vector<float, Lines<float>> Numbers;

inline Floats load(const float* p) { Floats v; memcpy(&v, p, sizeof v); return v; }
inline Floats load(const int8_t* p) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
    Floats v;
    for (int i = 0; i < N; ++i) v[i] = p[i];
    return v;
#endif
}
inline Floats load(const uint16_t* p) {
#if defined(__AVX512F__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
    Halves v;
    memcpy(&v, p, sizeof v);
    return (Floats)(__builtin_convertvector(v, Words) << 16);
#endif
}
// In a register for all that comes: gcc 12 else reads a vector from memory at each use, and reading becomes the limit.
template <class Vector>
inline __attribute__((always_inline)) Vector held(Vector v) {
#if defined(__AVX512F__) || defined(__AVX2__)
    asm("" : "+v"(v));
#endif
    return v;
}

inline float one(float w) { return w; }
inline float one(int8_t w) { return w; }
inline float one(uint16_t w) { uint32_t u = uint32_t(w) << 16; float f; memcpy(&f, &u, 4); return f; }

// The sum of a vector's numbers, half on half. gcc 12 makes additions one after the other, by way of memory, of a loop.
inline float lanes(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
    float total = 0;
    for (int lane = 0; lane < N; ++lane) total += v[lane];
    return total;
#endif
}

// As many vectors as one has numbers -> a vector of their sums. Two become one, with the sums of halves of both; each
// step takes those half as far apart, so that the sums end in order. Unrolled early: gcc 12 else keeps all in memory.
inline Floats sums(const Floats* v) {
#if defined(__AVX512F__)
    __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4((__m512)v[i], (__m512)v[i + 8], 0x44),
                             _mm512_shuffle_f32x4((__m512)v[i], (__m512)v[i + 8], 0xee));
#pragma GCC unroll 8
    for (int i = 0; i < 4; ++i)  // quarters: of i, i + 8, i + 4, i + 12
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
#pragma GCC unroll 8
    for (int i = 0; i < 2; ++i)
        c[i] = _mm512_add_ps(_mm512_unpacklo_ps(b[i], b[i + 2]), _mm512_unpackhi_ps(b[i], b[i + 2]));
    const __m512 d = _mm512_add_ps(_mm512_unpacklo_ps(c[0], c[1]), _mm512_unpackhi_ps(c[0], c[1]));
    return (Floats)_mm512_shuffle_f32x4(d, d, 0xd8);
#elif defined(__AVX2__)
    __m256 a[4], b[2];
#pragma GCC unroll 8
    for (int i = 0; i < 4; ++i)
        a[i] = _mm256_add_ps(_mm256_permute2f128_ps((__m256)v[i], (__m256)v[i + 4], 0x20),
                             _mm256_permute2f128_ps((__m256)v[i], (__m256)v[i + 4], 0x31));
#pragma GCC unroll 8
    for (int i = 0; i < 2; ++i)
        b[i] = _mm256_add_ps(_mm256_unpacklo_ps(a[i], a[i + 2]), _mm256_unpackhi_ps(a[i], a[i + 2]));
    return (Floats)_mm256_add_ps(_mm256_unpacklo_ps(b[0], b[1]), _mm256_unpackhi_ps(b[0], b[1]));
#else
    Floats all;
    for (int i = 0; i < N; ++i) all[i] = lanes(v[i]);
    return all;
#endif
}

// The largest of a vector's numbers.
inline float largest(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
#else
    float top = v[0];
    for (int lane = 1; lane < N; ++lane) top = std::max(top, v[lane]);
    return top;
#endif
}

typedef int32_t Ints __attribute__((vector_size(4 * N)));

inline Floats fill(float x) { return Floats{} + x; }

// Number by number; NaN where x is. gcc makes two instructions of `?:`.
inline Floats larger(Floats bound, Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)bound, (__m512)x);
#else
    return bound > x ? bound : x;
#endif
}
inline Floats smaller(Floats bound, Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_min_ps((__m512)bound, (__m512)x);
#else
    return bound < x ? bound : x;
#endif
}

// e^x to about one unit in the last place: 2^n times a polynomial of the rest.
inline Floats exponential(Floats x) {
    x = smaller(fill(88.f), larger(fill(-87.f), x));
    const Floats big = x * 1.44269504f + 12582912.f, n = big - 12582912.f;  // the addition rounds to a whole number
    const Floats r = x - n * 0.693359375f - n * -2.12194440e-4f;
    Floats p = fill(1.9875691500e-4f);
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * r + next;
    p = p * r * r + r + 1.f;
    return p * (Floats)(((Ints)big << 23) + 0x3f800000);
}

// The error function, a quotient of two polynomials as in Eigen; off by less than 3e-7.
inline Floats erf(Floats x) {
    x = smaller(fill(4.f), larger(fill(-4.f), x));
    const Floats s = x * x;
    Floats p = fill(-2.72614225801306e-10f), q = fill(-1.45660718464996e-05f);
    for (float next : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                       -2.95459980854025e-03f, -1.60960333262415e-02f}) p = p * s + next;
    for (float next : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f})
        q = q * s + next;
    return x * p / q;
}

inline Floats gelu(Floats x) { return 0.5f * x * (1.f + erf(x * 0.70710678f)); }

// x[i] = f(x[i]), a vector at a time.
template <class F>
void each(float* x, long n, F f) {
    long i = 0;
    for (; i + N <= n; i += N) {
        const Floats y = f(load(x + i));
        memcpy(x + i, &y, sizeof y);
    }
    if (i == n) return;
    float part[N] = {};
    std::copy(x + i, x + n, part);
    const Floats y = f(load(part));
    for (long rest = i; rest < n; ++rest) x[rest] = y[rest - i];
}

template <class Number>
inline __attribute__((always_inline)) float dot(const float* x, const Number* y, long n) {
    Floats sum = {};
    long i = 0;
    for (; i + N <= n; i += N) sum += load(x + i) * load(y + i);
    float total = lanes(sum);
    for (; i < n; ++i) total += x[i] * one(y[i]);
    return total;
}

}  // namespace
