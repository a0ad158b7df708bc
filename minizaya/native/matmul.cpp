// y = x W^T for few tokens, W as it lies on disk: bfloat16, int8 with a scale a row, or float32; sums in float32.
//
// A token alone reads every weight once and uses it once, so memory is the limit and a weight must become a float in a
// register, not in a buffer. A bfloat16 is the upper half of a float: a shift makes one of the other.

#include <type_traits>
#include <vector>

#include "lanes.cpp"

namespace {

constexpr long SMALL = 1 << 18;  // weights below which waking a second thread costs more than it saves
constexpr long SHORT = 512;      // numbers in a row up to which tokens stand in the lanes
constexpr long CHAIN = 32;        // of them added one after the other: in one long chain roundings add up
// R x T: rows and tokens whose sums are in registers together. Each sum waits four cycles for its last addition and two
// can begin in a cycle, so eight or more keep the arithmetic busy; inputs need a register or two each.
#ifdef __AVX512F__
constexpr int R = 6, T = 4;  // 24 of 32 registers
#else
constexpr int R = 6, T = 2;  // 12 of 16
#endif

// Weights as floats: themselves, or a copy.
inline const float* floats(const float* w, long, std::vector<float>&) { return w; }
template <class Weight>
const float* floats(const Weight* w, long n, std::vector<float>& wide) {
    wide.resize(n + N);
    long i = 0;
    for (; i + N <= n; i += N) {
        const Floats v = load(w + i);
        memcpy(&wide[i], &v, sizeof v);
    }
    for (; i < n; ++i) wide[i] = one(w[i]);
    return wide.data();
}

// How they are multiplied: as floats, or, where the processor can and the tokens are bfloat16, too, as pairs of
// bfloat16, two products added to a lane at once. WIDE: numbers in a vector.
struct AsFloats {
    typedef float Token;
    static constexpr int WIDE = N;
    template <class Weight> static Floats part(const Weight* p) { return load(p); }
    static Floats add(Floats sum, Floats w, Floats x) { return sum + w * x; }
};
#ifdef __AVX512BF16__
struct AsPairs {
    typedef uint16_t Token;
    static constexpr int WIDE = 2 * N;
    static __m512bh part(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static Floats add(Floats sum, __m512bh w, __m512bh x) { return (Floats)_mm512_dpbf16_ps((__m512)sum, w, x); }
};
#endif

// Some rows of W against some tokens, all sums in registers. AHEAD: on the way, ask for the rows that come next. A
// processor guesses what a program will read, but not that it will read these rows again first, for other tokens.
template <class Way, int ROWS, int TOKENS, bool AHEAD, class Weight>
void block(const typename Way::Token* x, long k, const Weight* w, const float* scale, float* y, long stride) {
    Floats sum[ROWS][TOKENS] = {};
    long i = 0;
    for (; i + Way::WIDE <= k; i += Way::WIDE) {
        if (AHEAD)
            for (long byte = 0; byte < long(ROWS * Way::WIDE * sizeof(Weight)); byte += 64)
                __builtin_prefetch((const char*)(w + ROWS * (k + i)) + byte, 0, 2);
        decltype(Way::part(w)) xs[TOKENS];
        for (int t = 0; t < TOKENS; ++t) xs[t] = Way::part(x + t * k + i);
        for (int r = 0; r < ROWS; ++r) {
            auto ws = Way::part(w + r * k + i);
            for (int t = 0; t < TOKENS; ++t) sum[r][t] = Way::add(sum[r][t], ws, xs[t]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TOKENS; ++t) {
            float total = lanes(sum[r][t]);
            for (long rest = i; rest < k; ++rest) total += one(w[r * k + rest]) * one(x[t * k + rest]);
            y[t * stride + r] = scale ? total * scale[r] : total;
        }
}

// One row against one token: the row is read from end to end, as memory likes it, into four independent sums.
template <class Way, class Weight>
void single(const typename Way::Token* x, long k, const Weight* w, const float* scale, float* y) {
    Floats sum[4] = {};
    long i = 0;
    for (; i + 4 * Way::WIDE <= k; i += 4 * Way::WIDE)
        for (int s = 0; s < 4; ++s)
            sum[s] = Way::add(sum[s], Way::part(w + i + s * Way::WIDE), Way::part(x + i + s * Way::WIDE));
    float total = lanes(sum[0] + sum[1] + sum[2] + sum[3]);
    for (; i < k; ++i) total += one(w[i]) * one(x[i]);
    *y = scale ? total * *scale : total;
}

// Some rows against all tokens: the rows stay in the nearest cache meanwhile.
template <class Way, int ROWS, class Weight>
void rows(const typename Way::Token* x, long n, long k, const Weight* w, const float* scale, float* y, long stride) {
    long t = 0;
    const auto some = [&](auto tokens, auto ahead) {
        block<Way, ROWS, tokens, ahead>(x + t * k, k, w, scale, y + t * stride, stride);
        t += tokens;
    };
    const auto rest = [&](auto ahead) {  // fewer than T; T is at most 4
        if (n - t == 3) some(std::integral_constant<int, 3>(), ahead);
        if (n - t == 2) some(std::integral_constant<int, 2>(), ahead);
        if (n - t == 1) some(std::integral_constant<int, 1>(), ahead);
    };
    if (n < T) return rest(std::true_type());
    some(std::integral_constant<int, T>(), std::true_type());
    while (t + T <= n) some(std::integral_constant<int, T>(), std::false_type());
    rest(std::false_type());
}

// A strip of rows against tokens that stand in the lanes, xt (k, VECS * N): no sum crosses a lane. n: tokens that count.
// With few tokens it asks for the rows that come next, as `block` does; with many their arithmetic takes longer.
template <int ROWS, int VECS>
void lanewise(const float* xt, long k, const float* w, const float* scale, long n, float* y, long stride) {
    Floats sum[ROWS][VECS] = {};
    for (long from = 0; from < k; from += CHAIN) {
        Floats part[ROWS][VECS] = {};
        for (long i = from; i < std::min(from + CHAIN, k); ++i) {
            if (VECS == 1 && i % N == 0)
                for (int r = 0; r < ROWS; ++r) __builtin_prefetch(w + ROWS * k + ROWS * i + r * N, 0, 2);
            Floats xs[VECS];
            for (int v = 0; v < VECS; ++v) xs[v] = load(xt + (i * VECS + v) * N);
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECS; ++v) part[r][v] += w[r * k + i] * xs[v];
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECS; ++v) sum[r][v] += part[r][v];
    }
    float out[ROWS][VECS * N];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECS; ++v) {
            if (scale) sum[r][v] *= scale[r];
            memcpy(out[r] + v * N, &sum[r][v], sizeof(Floats));
        }
    for (long t = 0; t < n; ++t)
        for (int r = 0; r < ROWS; ++r) y[t * stride + r] = out[r][t];
}

template <int VECS>
void strip(const float* xt, long k, const float* w, const float* scale, long m, long n, float* y, long stride) {
    constexpr int MOST = R * T / VECS;
    long r = 0;
    const auto at = [&](long row) { return scale ? scale + row : nullptr; };
    for (; r + MOST <= m; r += MOST) lanewise<MOST, VECS>(xt, k, w + r * k, at(r), n, y + r, stride);
    for (; r + 2 <= m; r += 2) lanewise<2, VECS>(xt, k, w + r * k, at(r), n, y + r, stride);
    for (; r < m; ++r) lanewise<1, VECS>(xt, k, w + r * k, at(r), n, y + r, stride);
}

// Many tokens and short rows. Four vectors of tokens at a time are turned on their side once; each strip of rows stays
// in the nearest cache while all of them pass.
template <class Weight>
void many(const float* x, long n, long k, const Weight* w, const float* scale, long m, float* y, long stride,
          int threads) {
    constexpr long WIDE = 4 * N, STRIP = R * T;
    static thread_local std::vector<float> turned;
    const long vectors = (n + N - 1) / N;
    turned.resize(vectors * N * k);
    for (long first = 0; first < n; first += WIDE) {  // a panel: (k, lanes), the last one narrower
        const long lanes = std::min(WIDE, vectors * N - first), here = std::min(lanes, n - first);
        float* to = &turned[first * k];
        for (long i = 0; i < k; ++i) {
            for (long t = 0; t < here; ++t) to[i * lanes + t] = x[(first + t) * k + i];
            for (long t = here; t < lanes; ++t) to[i * lanes + t] = 0;
        }
    }
    const float* xt = turned.data();  // trap: inside the parallel region the name would mean that thread's own vector
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < m; start += STRIP) {
        const long rows = std::min(STRIP, m - start);
        static thread_local std::vector<float> wide;
        const float* own = floats(w + start * k, rows * k, wide);
        const float* scales = scale ? scale + start : nullptr;
        for (long first = 0; first < n; first += WIDE) {
            const long vecs = std::min(WIDE, vectors * N - first) / N, here = std::min(vecs * N, n - first);
            const auto run = [&](auto width) {
                strip<width>(xt + first * k, k, own, scales, rows, here, y + first * stride + start, stride);
            };
            if (vecs == 1) run(std::integral_constant<int, 1>());
            if (vecs == 2) run(std::integral_constant<int, 2>());
            if (vecs == 3) run(std::integral_constant<int, 3>());
            if (vecs == 4) run(std::integral_constant<int, 4>());
        }
    }
}

template <class Way = AsFloats, class Weight>
void multiply(const typename Way::Token* x, long n, long k, const Weight* w, const float* scale, long m, float* y,
              long stride, int threads) {
    if (m * k * (1 + n / 8) <= SMALL) threads = 1;
    if (n == 1) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (long r = 0; r < m; ++r) single<Way>(x, k, w + r * k, scale ? scale + r : nullptr, y + r);
        return;
    }
    if constexpr (std::is_same<Way, AsFloats>::value)
        if (n > N / 2 && k <= SHORT) return many(x, n, k, w, scale, m, y, stride, threads);
    const long blocks = m / R;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long b = 0; b < blocks; ++b)
        rows<Way, R>(x, n, k, w + b * R * k, scale ? scale + b * R : nullptr, y + b * R, stride);
    for (long r = blocks * R; r < m; ++r) rows<Way, 1>(x, n, k, w + r * k, scale ? scale + r : nullptr, y + r, stride);
}

}  // namespace

// x: (n, k) floats, or bfloat16 for pairs. w: (m, k). scale: (m) floats or null. y: n rows of m floats, `stride` apart.
#define EXPORT(NAME, WAY, WEIGHT)                                                                                     \
    extern "C" void NAME(const WAY::Token* x, long n, long k, const WEIGHT* w, const float* scale, long m, float* y,  \
                         long stride, int threads) {                                                                  \
        multiply<WAY>(x, n, k, w, scale, m, y, stride, threads);                                                      \
    }
EXPORT(multiply_bfloat16, AsFloats, uint16_t)
EXPORT(multiply_int8, AsFloats, int8_t)
EXPORT(multiply_float32, AsFloats, float)
#ifdef __AVX512BF16__
EXPORT(multiply_pairs, AsPairs, uint16_t)
#endif
