// A model as the loops of decoding see it: where its numbers lie, and products with its matrices.

#include <cmath>

#include "matmul.cpp"

extern "C" {
// kind: 0 bfloat16, 1 int8, 2 float32, 3 bfloat16 that is multiplied with tokens rounded to it
struct Piece { const void* weight; const float* scale; long rows; int kind; };
struct Matrix { const Piece* pieces; long count, rows, columns; const float* bias; };  // one below the other; or null
struct Merge { const float *output_scale, *output_bias, *residual_scale, *residual_bias; };  // nulls: a plain sum

struct Layer {
    long width, heads, kv_heads, head, taps, reach, rotary, window, router, experts;  // reach: taps of the grouped one
    long means, shift;  // whether there is a mean path, and whether half of the values comes late
    float eps;
    const float* attention_norm;
    Matrix down, up;
    const float *depthwise, *depthwise_bias, *grouped, *grouped_bias;  // (c, taps), (c), (c, d, reach), (c); or nulls
    const float* temperature;  // (j)
    Merge attention_merge;
    const float* moe_norm;
    Matrix router_down;
    const float *eda_scale, *router_norm;  // eda_scale: (R) or null, in the first layer
    Matrix fc1, fc2, out;                  // R = 0: `out` alone is the router
    const float* balancing_bias;           // (X + 1)
    Merge moe_merge;
    const Matrix *gate_up, *expert_down;  // X each; on disk, those that this layer's tokens have ever visited
};

// What one layer remembers, and where the new tokens stand. columns: (b, lag, c); delayed: (b, j d / 2); keys, values:
// a sequence's tokens of j d numbers, `stride` numbers from one sequence to the next; all of them floats, or, with
// half, bfloat16. stored: (b), tokens held of each. turned: (b), positions for RoPE; cos, sin: (positions, rotary / 2).
// seen: `seen_stride` bytes a sequence, 0 where a token is padding; or null.
struct Past {
    void *columns, *delayed, *keys, *values;
    long stride, half;
    const int64_t *stored, *turned;
    const float *cos, *sin;
    const uint8_t* seen;
    long seen_stride;
};

struct Twin { const uint16_t* from; float* to; long count; };  // small weights in bfloat16, and room for them as floats

struct Model {
    const Layer* layers;
    long count;
    Matrix embed;  // (vocabulary, E)
    const float *embed_scale, *embed_bias, *norm;
    Matrix head;
    const Twin* twins;
    long twin_count;
};
}

namespace {

constexpr long PANEL = 96;   // rows of an expert that a thread takes at a time: 400 KB of the 8B's
constexpr long LONG = 512;   // tokens above which a past is read in the order in which it lies, by `look_along`
constexpr long PART = 2048;  // of its tokens are one thread's
constexpr long NEAR = 16;    // are looked at by all heads before those that come next
constexpr long ASKED = 128;  // tokens of a sequence that attention asks for before it comes to them

// Memory for one call after the other, a thread's own; `take` hands out the next n floats.
struct Room {
    Numbers all;
    long used = 0;
    void begin(long n) { used = 0; if ((long)all.size() < n) all.resize(n); }
    float* take(long n) { used += n; return all.data() + used - n; }
};

inline void put(float* at, float x) { *at = x; }
inline void put(uint16_t* at, float x) {  // to the nearest, to the even one where two are as near; NaN stays one
    uint32_t u;
    memcpy(&u, &x, 4);
    *at = x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

// n numbers to the nearest bfloat16.
void rounded(const float* x, long n, uint16_t* y) {
    long i = 0;
#ifdef __AVX512BF16__
    for (; i + N <= n; i += N) _mm256_storeu_si256((__m256i*)(y + i), (__m256i)_mm512_cvtneps_pbh((__m512)load(x + i)));
#endif
    for (; i < n; ++i) put(y + i, x[i]);
}

// Some tokens as the matrix `a` wants them: x itself, or, for pairs, rounded, in `room`.
const void* as_wanted(const Matrix& a, const float* x, long n, float* room) {
    if (!a.count || a.pieces->kind != 3) return x;
    rounded(x, n, (uint16_t*)room);
    return room;
}

// Rows `from` .. `to` of a piece, against tokens that are `as_wanted`: y (b, ..), from row 0 of the piece on.
void some_rows(const Piece& p, long k, const void* x, long b, long from, long to, float* y, long stride, int threads) {
    const float* scale = p.scale ? p.scale + from : nullptr;
    const auto times = [&](auto* w) {
        multiply((const float*)x, b, k, w + from * k, scale, to - from, y + from, stride, threads);
    };
    if (p.kind == 0) times((const uint16_t*)p.weight);
    if (p.kind == 1) times((const int8_t*)p.weight);
    if (p.kind == 2) times((const float*)p.weight);
#ifdef __AVX512BF16__
    if (p.kind == 3)
        multiply<AsPairs>((const uint16_t*)x, b, k, (const uint16_t*)p.weight + from * k, scale, to - from, y + from,
                          stride, threads);
#endif
}

void product(const Matrix& a, const float* x, long b, float* y, int threads) {
    static thread_local Numbers room;
    if (a.count && a.pieces->kind == 3) room.resize(std::max<size_t>(room.size(), b * a.columns / 2 + 1));
    const void* tokens = as_wanted(a, x, b * a.columns, room.data());
    float* at = y;
    for (long i = 0; i < a.count; at += a.pieces[i++].rows)
        some_rows(a.pieces[i], a.columns, tokens, b, 0, a.pieces[i].rows, at, a.rows, threads);
    if (a.bias)
        for (long n = 0; n < b; ++n)
            for (long i = 0; i < a.rows; ++i) y[n * a.rows + i] += a.bias[i];
}

// ---- numbers --------------------------------------------------------------------------------------------------------

void gelu(float* x, long n) { each(x, n, [](Floats v) { return gelu(v); }); }

// x -> e^(x - top), top the largest of them; returns their sum.
float weigh(float* x, long n, float& top) {
    Floats most = fill(-1e30f), sum = {};  // of a part without anybody: a number, too
    long i = 0;
    for (; i + N <= n; i += N) { const Floats v = load(x + i); most = v > most ? v : most; }
    for (top = largest(most); i < n; ++i) top = std::max(top, x[i]);
    each(x, n, [=](Floats v) { return exponential(v - top); });
    for (i = 0; i + N <= n; i += N) sum += load(x + i);
    float total = lanes(sum);
    for (; i < n; ++i) total += x[i];
    return total;
}

void softmax(float* x, long n) {
    float top;
    each(x, n, [share = 1 / weigh(x, n, top)](Floats v) { return v * share; });
}

}  // namespace
