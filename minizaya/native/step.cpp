// A few tokens of each of some sequences through the model: what `arch.model.Zaya` does with torch, as loops.
//
// A small model's token is a few hundred thousand multiplications a layer, and about eighty small operations, each
// called from Python, take ten times as long. `step.py` makes one call of them, or, where experts lie on disk, two
// calls a layer. Shapes: b sequences, E width of the stream, h query and j KV heads of d channels, c = (h + j) d packed
// channels, R width of the router, X experts.

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

// ---- parts of a layer, for one sequence -----------------------------------------------------------------------------

void rms_norm(const float* x, const float* weight, long n, float eps, float* y) {
    const float inverse = 1 / std::sqrt(dot(x, x, n) / n + eps);
    for (long i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void merge(const Merge& m, const float* output, long n, float* stream) {
    if (!m.output_scale)
        for (long i = 0; i < n; ++i) stream[i] += output[i];
    else
        for (long i = 0; i < n; ++i)
            stream[i] = (output[i] + m.output_bias[i]) * m.output_scale[i] +
                        (stream[i] + m.residual_bias[i]) * m.residual_scale[i];
}

// To length sqrt(d), then turned: channel i with channel i + rotary / 2.
void place(float* x, long d, float temperature, long rotary, const float* cos, const float* sin) {
    const float scale = std::sqrt((float)d) / std::max(std::sqrt(dot(x, x, d)), 1.1920929e-7f) * temperature;
    for (long i = 0; i < d; ++i) x[i] *= scale;
    const long half = rotary / 2;
    for (long i = 0; i < half; ++i) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cos[i] - second * sin[i];
        x[i + half] = second * cos[i] + first * sin[i];
    }
}

// The depthwise convolution of packed queries and keys z (c) at the last `reach` tokens; the columns kept move on.
// u: head by head, (h + j, d, reach), `apart` numbers from one head to the next. TAPS, REACH: numbers that the compiler
// knows, or 0.
template <int TAPS, int REACH, class Number>
void depthwise(const Layer& l, Number* columns, const float* z, float* u, long apart) {
    const long taps = TAPS ? TAPS : l.taps, reach = REACH ? REACH : l.reach, d = l.head;
    const long heads = l.heads + l.kv_heads, c = heads * d, lag = taps + reach - 2;
    for (long h = 0; h < heads; ++h)
        for (long channel = 0; channel < d; ++channel)
            for (long r = 0; r < reach; ++r) {
                const long i = h * d + channel;
                const auto at = [&](long tap) { return r + tap < lag ? one(columns[(r + tap) * c + i]) : z[i]; };
                float sum = l.depthwise ? l.depthwise_bias[i] : at(0);
                if (l.depthwise)
                    for (long tap = 0; tap < taps; ++tap) sum += l.depthwise[i * taps + tap] * at(tap);
                u[h * apart + channel * reach + r] = sum;
            }
    if (lag == 0) return;
    std::copy(columns + c, columns + lag * c, columns);
    for (long i = 0; i < c; ++i) put(columns + (lag - 1) * c + i, z[i]);
}

// The mean path of one KV head and its queries. z (h + j, d), not convolved, adds to mixed: each query with its key,
// each key with its queries.
void add_means(const Layer& l, const float* z, float* mixed, long j) {
    const long group = l.heads / l.kv_heads, d = l.head;
    for (long i = 0; i < d; ++i) {
        float mean = 0;
        for (long h = j * group; h < (j + 1) * group; ++h) {
            const float half = (z[h * d + i] + z[(l.heads + j) * d + i]) / 2;
            mixed[h * d + i] += half;
            mean += half;
        }
        mixed[(l.heads + j) * d + i] += mean / group;
    }
}

// y (heads, d) += share (heads, apart) times `count` values, `row` numbers from one to the next.
template <class Number>
void add_up(const float* share, long apart, long heads, const Number* values, long row, long d, long count, float* y) {
    in_fours(heads, [&](auto some, long from) {
        const float* own = share + from * apart;
        float* to = y + from * d;
        long i = 0;
        for (; i + N <= d; i += N) {
            Floats even[some], odd[some] = {};  // two sums each: a sum waits for its last addition
            for (int h = 0; h < some; ++h) even[h] = load(to + h * d + i);
            long s = 0;
            for (; s + 1 < count; s += 2) {
                const Floats v = held(load(values + s * row + i)), next = held(load(values + (s + 1) * row + i));
                for (int h = 0; h < some; ++h) {
                    even[h] += own[h * apart + s] * v;
                    odd[h] += own[h * apart + s + 1] * next;
                }
            }
            for (int h = 0; h < some; ++h) {
                if (s < count) even[h] += own[h * apart + s] * load(values + s * row + i);
                even[h] += odd[h];
                memcpy(to + h * d + i, &even[h], sizeof(Floats));
            }
        }
        for (; i < d; ++i)
            for (int h = 0; h < some; ++h)
                for (long s = 0; s < count; ++s) to[h * d + i] += own[h * apart + s] * one(values[s * row + i]);
    });
}

// Some query heads q (heads, d) against the keys `first` .. `last`, `row` numbers apart, of the KV head they share.
template <class Number>
void look(const float* q, long heads, const Number* keys, const Number* values, const uint8_t* seen, long first,
          long last, long row, long d, float* y) {
    static thread_local Room room;
    const long count = last + 1 - first;
    room.begin(heads * count);
    float* scores = room.take(heads * count);
    in_fours(heads, [&](auto some, long h) {
        in_blocks<N / some>(count, [&](auto rows, long s) {
            brief<AsFloats, rows, some>(q + h * d, d, keys + (first + s) * row, row, nullptr, scores + h * count + s,
                                        count);
        });
    });
    each(scores, heads * count, [scale = 1 / std::sqrt((float)d)](Floats v) { return v * scale; });
    for (long h = 0; h < heads; ++h) {
        for (long s = first; seen && s < last; ++s)
            if (!seen[s]) scores[h * count + s - first] = -INFINITY;
        softmax(scores + h * count, count);
    }
    std::fill(y, y + heads * d, 0.f);
    add_up(scores, count, heads, values + first * row, row, d, count, y);
}

// All query heads q (h, d) of a token against the keys `first` .. `last`, a part of a long past, in the order in which
// they lie: a processor reads ahead in a row of numbers, but not every other head's. y (h, d): values times e^(score -
// top), added up; tops, sums (h): the largest score, and the sum of what values were multiplied by.
template <class Number>
void look_along(const Layer& l, const float* q, const Number* keys, const Number* values, const uint8_t* seen,
                long first, long last, float* y, float* tops, float* sums) {
    static thread_local Room room;
    const long d = l.head, row = l.kv_heads * d, group = l.heads / l.kv_heads, count = last + 1 - first;
    room.begin(l.heads * count);
    float* scores = room.take(l.heads * count);
    const auto ask = [=](const Number* x, long s) {
        const char* at = (const char*)(x + (first + s) * row);
        for (long byte = 0; byte < std::min(NEAR, count - s) * row * (long)sizeof(Number); byte += 64)
            __builtin_prefetch(at + byte, 0, 2);
    };
    for (long s = 0; s < count; s += NEAR) {
        ask(keys, s + 2 * NEAR);
        for (long h = 0; h < l.heads; h += group)
            in_fours(group, [&](auto some, long g) {
                in_blocks<N / some>(std::min(NEAR, count - s), [&](auto rows, long r) {
                    brief<AsFloats, rows, some>(q + (h + g) * d, d, keys + (first + s + r) * row + h / group * d, row,
                                                nullptr, scores + (h + g) * count + s + r, count);
                });
            });
    }
    each(scores, l.heads * count, [scale = 1 / std::sqrt((float)d)](Floats v) { return v * scale; });
    for (long h = 0; h < l.heads; ++h) {
        float* own = scores + h * count;
        for (long s = first; seen && s <= last; ++s)
            if (!seen[s]) own[s - first] = -INFINITY;
        sums[h] = weigh(own, count, tops[h]);
    }
    std::fill(y, y + l.heads * d, 0.f);
    for (long s = 0; s < count; s += NEAR) {
        ask(values, s + 2 * NEAR);
        for (long h = 0; h < l.heads; h += group)
            add_up(scores + h * count + s, count, group, values + (first + s) * row + h / group * d, row, d,
                   std::min(NEAR, count - s), y + h * d);
    }
}

// Each sequence's query heads (b, h, d) against its whole past, in parts that threads share -> y (b, h, d). The queries
// of sequence n begin at q + n * apart.
template <class Number>
void look_back(const Layer& l, const Past& past, long from, long b, const float* q, long apart, float* y, int threads) {
    const long d = l.head, row = l.kv_heads * d, size = l.heads * (d + 2);
    struct Part { long sequence, first, last; };
    std::vector<Part> parts;
    for (long n = 0; n < b; ++n) {
        const long last = past.stored[from + n], first = l.window ? std::max(0L, last + 1 - l.window) : 0;
        for (long s = first; s <= last; s += PART) parts.push_back({n, s, std::min(last, s + PART - 1)});
    }
    Numbers made(parts.size() * size);
    const auto one_part = [&](long i) {
        const Part& p = parts[i];
        const long n = from + p.sequence, at = n * past.stride;
        float* own = &made[i * size];
        look_along(l, q + p.sequence * apart, (const Number*)past.keys + at, (const Number*)past.values + at,
                   past.seen ? past.seen + n * past.seen_stride : nullptr, p.first, p.last, own, own + l.heads * d,
                   own + l.heads * (d + 1));
    };
    shared(parts.size(), threads, one_part);
    for (size_t i = 0, end; i < parts.size(); i = end) {  // parts of one sequence
        for (end = i; end < parts.size() && parts[end].sequence == parts[i].sequence;) ++end;
        float* to = y + parts[i].sequence * l.heads * d;
        for (long h = 0; h < l.heads; ++h) {
            float top = -INFINITY, sum = 0;
            for (size_t p = i; p < end; ++p) top = std::max(top, made[p * size + l.heads * d + h]);
            std::fill(to + h * d, to + (h + 1) * d, 0.f);
            for (size_t p = i; p < end; ++p) {
                const float* own = &made[p * size];
                const float share = std::exp(own[l.heads * d + h] - top);
                sum += share * own[l.heads * (d + 1) + h];
                for (long k = 0; k < d; ++k) to[h * d + k] += share * own[h * d + k];
            }
            for (long k = 0; k < d; ++k) to[h * d + k] /= sum;
        }
    }
}

// One KV head of one sequence's token `t` and its queries, convolved already: means, norm, rotation, cache, attention,
// unless that is to come (y is null).
// own: queries, keys, values for now, values for later, as projected; mixed (c); y (h, d).
template <class Number>
void attend(const Layer& l, const Past& past, long n, long t, long j, const float* own, float* mixed, float* y) {
    const long d = l.head, kv = l.kv_heads * d, c = l.heads * d + kv, late = kv / 2, group = l.heads / l.kv_heads;
    const long turn = (past.turned[n] + t) * (l.rotary / 2);
    const float *cos = past.cos + turn, *sin = past.sin + turn;
    if (l.means) add_means(l, own, mixed, j);
    for (long h = j * group; h < (j + 1) * group; ++h) place(mixed + h * d, d, 1, l.rotary, cos, sin);
    float* key = mixed + (l.heads + j) * d;
    place(key, d, l.temperature[j], l.rotary, cos, sin);

    const long last = past.stored[n] + t, first = l.window ? std::max(0L, last + 1 - l.window) : 0;
    Number *keys = (Number*)past.keys + n * past.stride + j * d, *values = (Number*)past.values + n * past.stride + j * d;
    Number* delayed = (Number*)past.delayed + n * late;
    for (long i = 0; i < d; ++i) {
        const long channel = j * d + i, behind = channel - late;
        put(keys + last * kv + i, key[i]);
        if (behind < 0 || !l.shift) put(values + last * kv + i, own[c + channel]);
        else values[last * kv + i] = delayed[behind];
        if (behind >= 0) put(delayed + behind, own[c + channel]);
    }
    if (!y) return;
    look(mixed + j * group * d, group, keys, values, past.seen ? past.seen + n * past.seen_stride : nullptr, first, last,
         kv, d, y + j * group * d);
}

// ---- a layer for some of the sequences: those from `from` on, `steps` tokens of each, one after the other --------------

template <class Number>
void attend_and_route(const Layer& l, const Past& past, long from, long sequences, long steps, float* stream,
                      float* state, float* x, float* probs, int64_t* routes, int threads) {
    const long b = sequences * steps;
    static thread_local Room room;
    const long E = l.width, R = l.router, d = l.head, kv = l.kv_heads * d, c = l.heads * d + kv, packed = c / d;
    const long side = d * l.reach;
    room.begin(b * (2 * c + kv + packed * side + l.heads * d + E + 2 * R));
    float *z = room.take(b * (c + kv)), *u = room.take(b * packed * side), *mixed = room.take(b * c);
    float *y = room.take(b * l.heads * d), *out = room.take(b * E);
    const int many = sequences > 1 || (past.stored[from] + steps) * steps * kv > SMALL / 8 ? threads : 1;
    const int wide = b * E > SMALL ? threads : 1;
    const bool along = steps == 1 && *std::max_element(past.stored + from, past.stored + from + sequences) > LONG;

    shared(b, wide, [&](long n) {
        const long sequence = from + n / steps, at = past.stored[sequence] + n % steps;
        rms_norm(stream + n * E, l.attention_norm, E, l.eps, x + n * E);
        // padding must not leak through the convolutions
        if (past.seen && !past.seen[sequence * past.seen_stride + at]) std::fill(x + n * E, x + (n + 1) * E, 0.f);
    });
    product(l.down, x, b, z, threads);
    Number* columns = (Number*)past.columns + from * (l.taps + l.reach - 2) * c;
    const auto convolve = l.taps == 2 && l.reach == 2 ? depthwise<2, 2, Number> : depthwise<0, 0, Number>;
    for (long n = 0; n < b; ++n)
        convolve(l, columns + n / steps * (l.taps + l.reach - 2) * c, z + n * (c + kv), u + n * side, b * side);
    for (long h = 0; h < packed; ++h) {  // u: (heads, b, d * reach)
        if (l.grouped) multiply(u + h * b * side, b, side, l.grouped + h * d * side, nullptr, d, mixed + h * d, c, threads);
        for (long n = 0; n < b; ++n) {
            float* to = mixed + n * c + h * d;
            if (l.grouped)
                for (long i = 0; i < d; ++i) to[i] += l.grouped_bias[h * d + i];
            else
                std::copy(u + (h * b + n) * side, u + (h * b + n) * side + d, to);
        }
    }
    shared(sequences * l.kv_heads, many, [&](long i) {
        // ask for the next one's keys and values, or for the first of them
        if (steps == 1 && !along && i + 1 < sequences * l.kv_heads) {
            const long next = from + (i + 1) / l.kv_heads, at = next * past.stride + (i + 1) % l.kv_heads * d;
            for (long s = 0; s < std::min(past.stored[next], ASKED); ++s)
                for (long k = 0; k < d; k += 64 / sizeof(Number)) {
                    __builtin_prefetch((Number*)past.keys + at + s * kv + k, 0, 2);
                    __builtin_prefetch((Number*)past.values + at + s * kv + k, 0, 2);
                }
        }
        for (long t = 0; t < steps; ++t) {
            const long sequence = i / l.kv_heads, n = sequence * steps + t;
            attend<Number>(l, past, from + sequence, t, i % l.kv_heads, z + n * (c + kv), mixed + n * c,
                           along ? nullptr : y + n * l.heads * d);
        }
    });
    if (along) look_back<Number>(l, past, from, sequences, mixed, c, y, threads);
    product(l.up, y, b, out, threads);
    shared(b, wide, [&](long n) {
        merge(l.attention_merge, out + n * E, E, stream + n * E);
        rms_norm(stream + n * E, l.moe_norm, E, l.eps, x + n * E);
    });

    const float* read = x;
    if (R) {
        float *hidden = room.take(b * R), *next = room.take(b * R);
        product(l.router_down, x, b, hidden, threads);
        for (long n = 0; n < b; ++n) {
            float *own = state + n * R, *fresh = hidden + n * R;
            for (long i = 0; i < R; ++i) own[i] = fresh[i] + (l.eda_scale ? l.eda_scale[i] * own[i] : 0);
            rms_norm(own, l.router_norm, R, l.eps, fresh);
        }
        product(l.fc1, hidden, b, next, threads);
        gelu(next, b * R);
        product(l.fc2, next, b, hidden, threads);
        gelu(hidden, b * R);
        read = hidden;
    }
    product(l.out, read, b, probs, threads);
    for (long n = 0; n < b; ++n) {
        float* p = probs + n * (l.experts + 1);
        softmax(p, l.experts + 1);
        long best = 0;
        for (long e = 1; e <= l.experts; ++e)
            if (p[e] + l.balancing_bias[e] > p[best] + l.balancing_bias[best]) best = e;
        routes[n] = best;
    }
}

void some(const Layer& l, const Past& past, long first, long b, long steps, float* stream, float* state, float* x,
          float* probs, int64_t* routes, int threads) {
    // Many sequences and a layer that fits a core's cache: each thread takes a part of the sequences from end to end.
    const long dense = l.width * (2 * l.heads + 2 * l.kv_heads) * l.head;
    const long parts = b * steps >= 8 * threads && dense <= 1 << 21 ? std::min<long>(threads, b) : 1;
    const long each = (b + parts - 1) / parts;
    const auto part = [&](long from, int crew) {
        const auto run = past.half ? attend_and_route<uint16_t> : attend_and_route<float>;
        const long at = from * steps;
        run(l, past, first + from, std::min(each, b - from), steps, stream + at * l.width, state + at * l.router,
            x + at * l.width, probs + at * (l.experts + 1), routes + at, crew);
    };
    // trap: not num_threads(1). A region within a region, of one thread too, makes its threads anew each time, and they
    // wait for a core on which the pool's own are spinning.
    if (parts == 1) return part(0, threads);
#pragma omp parallel for num_threads(parts)
    for (long from = 0; from < b; from += each) part(from, 1);
}

}  // namespace

// Small weights of a bfloat16 model as floats.
extern "C" void widen(const Twin* twins, long count) {
    for (long i = 0; i < count; ++i)
        for (long k = 0; k < twins[i].count; ++k) twins[i].to[k] = one(twins[i].from[k]);
}

// norm -> CCA -> merge -> norm -> router, for `steps` tokens of b sequences; n = b steps. stream: (n, E), updated.
// state: (n, R), the router state of the layer below, replaced by this layer's. Returns in x (n, E) what the experts
// read, in probs (n, X + 1) and routes (n) what the router says.
extern "C" void attend_and_route(const Layer* layer, const Past* past, long b, long steps, float* stream, float* state,
                                 float* x, float* probs, int64_t* routes, int threads) {
    some(*layer, *past, 0, b, steps, stream, state, x, probs, routes, threads);
}

// Each expert for the tokens that go to it, gate * down(silu(gate half) * up half), zeros for who skips; what comes out
// joins the stream (b, E). x: (b, E), routes (b), probs (b, X + 1): what `attend_and_route` returned. Threads take a
// panel of rows at a time, of an expert with many tokens and of one with few in turn: one multiplies, the other reads.
extern "C" void visit_and_join(const Layer* layer, long b, const int64_t* routes, const float* probs, const float* x,
                               float* stream, int threads) {
    const long E = layer->width, X = layer->experts;
    struct Visit { long expert, first, count; };  // its tokens: those from `first` on, sorted by expert
    std::vector<Visit> visited;
    std::vector<long> place(b, -1);               // of each token in that order; -1: it skips
    long total = 0;
    for (long e = 0; e < X; ++e) {
        const long first = total;
        for (long n = 0; n < b; ++n)
            if (routes[n] == e) place[n] = total++;
        if (total > first) visited.push_back({e, first, total - first});
    }
    std::sort(visited.begin(), visited.end(), [](const Visit& a, const Visit& b) { return a.count > b.count; });
    std::vector<Visit> turns;  // the one with most tokens, the one with fewest, and so on
    for (long i = 0, last = (long)visited.size() - 1; i <= last; ++i)
        turns.push_back(visited[i % 2 ? last - i / 2 : i / 2]);
    const long F = turns.empty() ? 0 : layer->expert_down[turns[0].expert].columns;
    static thread_local Room room;
    room.begin(total * (3 * E + 4 * F) + E + 2);
    float *in = room.take(total * E), *both = room.take(total * 2 * F), *inner = room.take(total * F);
    float *out = room.take(total * E), *narrow = room.take(total * std::max(E, F) + 2), *nothing = room.take(E);

    long work = 0;
    for (const Visit& v : turns) work += 3 * E * F * (1 + v.count / 8);
    if (work <= SMALL) threads = 1;
    // m rows of each visited expert's matrix: tokens (total, k) in one order -> to (total, m)
    const auto multiplied = [&](const Matrix* matrices, const float* tokens, float* to) {
        const long k = matrices[turns[0].expert].columns, m = matrices[turns[0].expert].rows;
        const void* wanted = as_wanted(matrices[turns[0].expert], tokens, total * k, narrow);
        const long size = wanted == tokens ? sizeof(float) : sizeof(uint16_t), parts = (m + PANEL - 1) / PANEL;
        const long pairs = ((long)turns.size() + 1) / 2;  // of an expert with many tokens and one with few
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (long task = 0; task < 2 * pairs * parts; ++task) {
            const long which = task / (2 * parts) * 2 + task % 2, part = task / 2 % parts;
            if (which >= (long)turns.size()) continue;
            const Visit& v = turns[which];
            some_rows(*matrices[v.expert].pieces, k, (const char*)wanted + v.first * k * size, v.count, part * PANEL,
                      std::min(m, (part + 1) * PANEL), to + v.first * m, m, 1);
        }
    };
    for (long n = 0; n < b; ++n)
        if (place[n] >= 0) std::copy(x + n * E, x + (n + 1) * E, in + place[n] * E);
    if (total) multiplied(layer->gate_up, in, both);
#pragma omp parallel for num_threads(total * F > SMALL ? threads : 1)
    for (long t = 0; t < total; ++t) {
        const float *gate = both + t * 2 * F, *up = gate + F;
        float* to = inner + t * F;
        std::copy(gate, gate + F, to);
        each(to, F, [](Floats v) { return v / (1.f + exponential(-v)); });
        for (long i = 0; i < F; ++i) to[i] *= up[i];
    }
    if (total) multiplied(layer->expert_down, inner, out);
    std::fill(nothing, nothing + E, 0.f);
#pragma omp parallel for num_threads(b * E > SMALL ? threads : 1)
    for (long n = 0; n < b; ++n) {
        float* own = place[n] < 0 ? nothing : out + place[n] * E;
        const float gate = probs[n * (X + 1) + routes[n]];
        for (long i = 0; i < E && place[n] >= 0; ++i) own[i] *= gate;
        merge(layer->moe_merge, own, E, stream + n * E);
    }
}

// The whole model, all of it in memory, for `steps` more tokens of each sequence. tokens: (b, steps); pasts: one a
// layer. Returns logits (b, vocabulary) of the last tokens, probs (layers, b, steps, X + 1) and routes (layers, b, steps).
extern "C" void through(const Model* model, const Past* pasts, long b, long steps, const int64_t* tokens, float* logits,
                        float* probs, int64_t* routes, int threads) {
    static thread_local Room room;
    const Layer& top = model->layers[0];
    const long E = top.width, X = top.experts, V = model->head.rows;
    widen(model->twins, model->twin_count);
    // prompts: so many sequences at a time that what is between two layers stays in a cache
    const long most = steps == 1 ? b : std::max<long>(threads, 512 / steps);
    for (long first = 0; first < b; first += most) {
        const long here = std::min(most, b - first), rows = here * steps;
        room.begin(rows * (2 * E + top.router));
        float *stream = room.take(rows * E), *x = room.take(rows * E);
        float* state = room.take(rows * top.router);
        std::fill(state, state + rows * top.router, 0.f);
        const Piece& table = *model->embed.pieces;
        for (long n = 0; n < rows; ++n)
            for (long i = 0; i < E; ++i) {
                const long at = tokens[first * steps + n] * E + i;
                const float own = table.kind ? ((const float*)table.weight)[at] : one(((const uint16_t*)table.weight)[at]);
                stream[n * E + i] = (own + model->embed_bias[i]) * model->embed_scale[i];
            }
        for (long number = 0; number < model->count; ++number) {
            const Layer& l = model->layers[number];
            float* own = probs + (number * b + first) * steps * (X + 1);
            int64_t* chosen = routes + (number * b + first) * steps;
            some(l, pasts[number], first, here, steps, stream, state, x, own, chosen, threads);
            visit_and_join(&l, rows, chosen, own, x, stream, threads);
        }
        for (long n = 0; n < here; ++n)
            rms_norm(stream + ((n + 1) * steps - 1) * E, model->norm, E, top.eps, x + n * E);
        product(model->head, x, here, logits + first * V, threads);
    }
}
