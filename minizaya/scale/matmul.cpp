// y = x W^T for few tokens, W as it lies on disk: bfloat16, int8 with a scale a row, or float32; sums in float32.
//
// A token alone reads every weight once and uses it once, so memory is the limit and a weight must become a float in a
// register, not in a buffer. A bfloat16 is the upper half of a float: a shift makes one of the other.

#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>  // gcc 12 makes sixteen instructions of a vector cast from int8
#endif

namespace {

constexpr long SMALL = 1 << 18;  // weights below which waking a second thread costs more than it saves
#ifdef __AVX512F__
constexpr int N = 16, R = 8;  // floats in a vector; rows whose sums are in registers together: R x 4 of 32
#else
constexpr int N = 8, R = 2;   // 16 registers
#endif
typedef float Floats __attribute__((vector_size(4 * N)));
typedef uint32_t Words __attribute__((vector_size(4 * N)));
typedef uint16_t Halves __attribute__((vector_size(2 * N)));

inline Floats load(const float* p) { Floats v; memcpy(&v, p, sizeof v); return v; }
inline Floats load(const int8_t* p) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
    Floats v;
    for (int i = 0; i < N; ++i) v[i] = p[i];
    return v;
#endif
}
inline Floats load(const uint16_t* p) {
    Halves v;
    memcpy(&v, p, sizeof v);
    return (Floats)(__builtin_convertvector(v, Words) << 16);
}
inline float one(float w) { return w; }
inline float one(int8_t w) { return w; }
inline float one(uint16_t w) { uint32_t u = uint32_t(w) << 16; float f; memcpy(&f, &u, 4); return f; }

// Some rows of W against T tokens, all sums in registers.
template <int ROWS, int T, class Weight>
void block(const float* x, long step, long k, const Weight* w, const float* scale, float* y, long stride) {
    Floats sum[ROWS][T] = {};
    long i = 0;
    for (; i + N <= k; i += N) {
        Floats xs[T];
        for (int t = 0; t < T; ++t) xs[t] = load(x + t * step + i);
        for (int r = 0; r < ROWS; ++r) {
            Floats ws = load(w + r * k + i);
            for (int t = 0; t < T; ++t) sum[r][t] += ws * xs[t];
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < T; ++t) {
            float total = 0;
            for (int lane = 0; lane < N; ++lane) total += sum[r][t][lane];
            for (long rest = i; rest < k; ++rest) total += one(w[r * k + rest]) * x[t * step + rest];
            y[t * stride + r] = scale ? total * scale[r] : total;
        }
}

// One row against one token: the row is read from end to end, as memory likes it, into four independent sums.
template <class Weight>
void single(const float* x, long k, const Weight* w, const float* scale, float* y) {
    Floats sum[4] = {};
    long i = 0;
    for (; i + 4 * N <= k; i += 4 * N)
        for (int part = 0; part < 4; ++part) sum[part] += load(w + i + part * N) * load(x + i + part * N);
    Floats all = sum[0] + sum[1] + sum[2] + sum[3];
    float total = 0;
    for (int lane = 0; lane < N; ++lane) total += all[lane];
    for (; i < k; ++i) total += one(w[i]) * x[i];
    *y = scale ? total * *scale : total;
}

// Some rows against all tokens, four at a time: the rows stay in the nearest cache meanwhile.
template <int ROWS, class Weight>
void rows(const float* x, long n, long step, long k, const Weight* w, const float* scale, float* y, long stride) {
    long t = 0;
    for (; t + 4 <= n; t += 4) block<ROWS, 4>(x + t * step, step, k, w, scale, y + t * stride, stride);
    for (; t < n; ++t) block<ROWS, 1>(x + t * step, step, k, w, scale, y + t * stride, stride);
}

template <class Weight>
void multiply(const float* x, long n, long step, long k, const Weight* w, const float* scale, long m, float* y, long stride,
              int threads) {
    if (m * k <= SMALL) threads = 1;
    if (n == 1) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (long r = 0; r < m; ++r) single(x, k, w + r * k, scale ? scale + r : nullptr, y + r);
        return;
    }
    const long blocks = m / R;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long b = 0; b < blocks; ++b)
        rows<R>(x, n, step, k, w + b * R * k, scale ? scale + b * R : nullptr, y + b * R, stride);
    for (long r = blocks * R; r < m; ++r) rows<1>(x, n, step, k, w + r * k, scale ? scale + r : nullptr, y + r, stride);
}

}  // namespace

// x: (n, groups k) floats. w: (m, k): m / groups rows for each k numbers of x. scale: (m) floats or null. y: n rows of m
// floats, `stride` floats apart.
#define EXPORT(NAME, WEIGHT)                                                                                          \
    extern "C" void NAME(const float* x, long n, long k, const WEIGHT* w, const float* scale, long m, float* y,       \
                         long stride, int threads, long groups) {                                                     \
        const long each = m / groups;                                                                                 \
        for (long g = 0; g < groups; ++g)                                                                             \
            multiply(x + g * k, n, groups * k, k, w + g * each * k, scale ? scale + g * each : nullptr, each,         \
                     y + g * each, stride, threads);                                                                  \
    }
EXPORT(multiply_bfloat16, uint16_t)
EXPORT(multiply_int8, int8_t)
EXPORT(multiply_float32, float)
