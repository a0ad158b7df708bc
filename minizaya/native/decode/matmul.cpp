// y = x W^T for few tokens, W as it lies on disk: bfloat16, int8 with a scale a row, or float32; sums in float32.
//
// A token alone reads every weight once and uses it once, so memory is the limit and a weight must become a float in a
// register, not in a buffer. A bfloat16 is the upper half of a float: a shift makes one of the other.

#include <type_traits>

#include "../lanes.cpp"

namespace {

constexpr long SMALL = 1 << 18;  // weights below which waking a second thread costs more than it saves
constexpr long SHORT = 512;      // numbers in a row up to which adding across lanes costs as much as multiplying
constexpr long STRIP = 1 << 14;  // bytes of short rows that stay in the nearest cache while all tokens pass
// R x T: rows and tokens whose sums are in registers together. Each sum waits four cycles for its last addition and two
// can begin in a cycle, so eight or more keep the arithmetic busy; inputs need a register or two each.
#ifdef __AVX512F__
constexpr int R = 6, T = 4;  // 24 of 32 registers
#else
constexpr int R = 6, T = 2;  // 12 of 16
#endif

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

// Some rows of W against some tokens, all sums in registers. AHEAD: on the way, ask for a share, `part` of `parts`, of
// the rows that come next. A processor guesses what a program will read, but not that it will read these rows again
// first, for other tokens.
template <class Way, int ROWS, int TOKENS, bool AHEAD, class Weight>
void block(const typename Way::Token* x, long k, const Weight* w, const float* scale, float* y, long stride, long part,
           long parts) {
    Floats sum[ROWS][TOKENS] = {};
    const long turns = k / Way::WIDE, bytes = k * sizeof(Weight), lines = bytes / 64;
    const char* next = (const char*)(w + ROWS * k);
    long line = lines * part / parts, due = 0;
    const long share = lines * (part + 1) / parts - line;
    for (long turn = 0; turn < turns; ++turn) {
        if (AHEAD)
            for (due += share; due >= turns; due -= turns, ++line)
                for (int r = 0; r < ROWS; ++r) __builtin_prefetch(next + r * bytes + line * 64, 0, 2);
        const long i = turn * Way::WIDE;
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
            for (long i = turns * Way::WIDE; i < k; ++i) total += one(w[r * k + i]) * one(x[t * k + i]);
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

// n tokens, four at a time.
template <class Work>
inline void in_fours(long n, Work work) {
    for (long t = 0; t < n; t += 4) {
        if (n - t >= 4) work(std::integral_constant<int, 4>(), t);
        if (n - t == 3) work(std::integral_constant<int, 3>(), t);
        if (n - t == 2) work(std::integral_constant<int, 2>(), t);
        if (n - t == 1) work(std::integral_constant<int, 1>(), t);
    }
}

// Some rows against all tokens, T at most together and as many each time as can be; the rows stay in the nearest cache
// meanwhile. What comes next is asked for evenly on the way, and early among many tokens.
template <class Way, int ROWS, class Weight>
void rows(const typename Way::Token* x, long n, long k, const Weight* w, const float* scale, float* y, long stride) {
    const long parts = (n + T - 1) / T, ahead = std::min(parts, 6L);
    for (long part = 0; part < parts; ++part) {
        const long t = n * part / parts, count = n * (part + 1) / parts - t;
        const auto all = [&](auto asks) {
            in_fours(count, [&](auto tokens, long) {  // once: T is at most 4
                block<Way, ROWS, tokens, asks>(x + t * k, k, w, scale, y + t * stride, stride, part, ahead);
            });
        };
        part < ahead ? all(std::true_type()) : all(std::false_type());
    }
}

// Short rows, no more of them than all sums end in one vector; `apart` numbers from one to the next. On the way, asks
// evenly for so many lines of the cache from `next` on.
template <class Way, int ROWS, int TOKENS, class Weight>
void brief(const typename Way::Token* x, long k, const Weight* w, long apart, const float* scale, float* y,
           long stride, const char* next = nullptr, long lines = 0) {
    Floats sum[N] = {};
    long i = 0, due = 0;
    for (const long turns = k / Way::WIDE; i + Way::WIDE <= k; i += Way::WIDE) {
        for (due += lines; due >= turns; due -= turns, next += 64) __builtin_prefetch(next, 0, 2);
        decltype(Way::part(w)) xs[TOKENS];
        for (int t = 0; t < TOKENS; ++t) xs[t] = held(Way::part(x + t * k + i));
        for (int r = 0; r < ROWS; ++r) {
            const auto ws = held(Way::part(w + r * apart + i));
            for (int t = 0; t < TOKENS; ++t) sum[t * ROWS + r] = Way::add(sum[t * ROWS + r], ws, xs[t]);
        }
    }
    float total[N];
    const Floats all = sums(sum);
    memcpy(total, &all, sizeof all);
    for (; i < k; ++i)
        for (int t = 0; t < TOKENS; ++t)
            for (int r = 0; r < ROWS; ++r) total[t * ROWS + r] += one(w[r * apart + i]) * one(x[t * k + i]);
    if (scale)
        for (int t = 0; t < TOKENS; ++t)
            for (int r = 0; r < ROWS; ++r) total[t * ROWS + r] *= scale[r];
    for (int t = 0; t < TOKENS; ++t) memcpy(y + t * stride, total + t * ROWS, ROWS * sizeof(float));
}

// m rows, ROWS at a time; the last ones with some that were done before, or, where there are fewer, each by itself.
template <int ROWS, class Work>
inline void in_blocks(long m, Work work) {
    if (m < ROWS)
        for (long r = 0; r < m; ++r) work(std::integral_constant<int, 1>(), r);
    else
        for (long r = 0; r < m; r += ROWS) work(std::integral_constant<int, ROWS>(), std::min(r, m - ROWS));
}

// Short rows, a strip of m, against the tokens from t on, of n; meanwhile it asks for their share of the next strip.
template <class Way, int TOKENS, class Weight>
void strip(const typename Way::Token* x, long k, const Weight* w, long m, const float* scale, float* y, long stride,
           long t, long n) {
    const auto line = [=](long products) { return products * k * (long)sizeof(Weight) / n / 64; };
    in_blocks<N / TOKENS>(m, [&](auto rows, long r) {
        const long first = line(t * m + r * TOKENS), end = line(t * m + (r + rows) * TOKENS);
        brief<Way, rows, TOKENS>(x + t * k, k, w + r * k, k, scale ? scale + r : nullptr, y + t * stride + r, stride,
                                 (const char*)(w + m * k) + first * 64, end - first);
    });
}

// f(0) .. f(count - 1), threads sharing them. trap: not num_threads(1). A region within a region, of one thread too,
// has gcc's runtime make threads anew.
template <class F>
void shared(long count, int threads, F f) {
    if (threads == 1) {
        for (long i = 0; i < count; ++i) f(i);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; ++i) f(i);
}

template <class Way = AsFloats, class Weight>
void multiply(const typename Way::Token* x, long n, long k, const Weight* w, const float* scale, long m, float* y,
              long stride, int threads) {
    const auto at = [=](long r) { return scale ? scale + r : nullptr; };
    if (m * k * (1 + n / 8) <= SMALL) threads = 1;
    if (n == 1) return shared(m, threads, [=](long r) { single<Way>(x, k, w + r * k, at(r), y + r); });
    if (k <= SHORT) {
        const long most = std::max<long>(N, STRIP / (k * sizeof(Weight)) / N * N);
        return shared((m + most - 1) / most, threads, [=](long i) {
            const long r = i * most;
            in_fours(n, [&](auto tokens, long t) {
                strip<Way, tokens>(x, k, w + r * k, std::min(most, m - r), at(r), y + r, stride, t, n);
            });
        });
    }
    shared((m + R - 1) / R, threads, [=](long b) {  // the last ones, fewer than R, one by one
        if ((b + 1) * R <= m) return rows<Way, R>(x, n, k, w + b * R * k, at(b * R), y + b * R, stride);
        for (long r = b * R; r < m; ++r) rows<Way, 1>(x, n, k, w + r * k, at(r), y + r, stride);
    });
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
