// A few tokens of each of some sequences through the model: what `arch.model.Zaya` does with torch, as loops.
//
// A small model's token is a few hundred thousand multiplications a layer, and about eighty small operations, each
// called from Python, take ten times as long. `step.py` makes one call of them, or, where experts lie on disk, three
// calls a layer. Shapes: b sequences, E width of the stream, h query and j KV heads of d channels, c = (h + j) d packed
// channels, R width of the router, X experts.

#include <cmath>

#include "matmul.cpp"

extern "C" {
struct Piece { const void* weight; const float* scale; long rows; int kind; };  // kind: 0 bfloat16, 1 int8, 2 float32
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
    const Matrix *gate_up, *expert_down;  // X each, or null: they are given to `visit`
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

constexpr long ASKED = 128;  // tokens of a sequence that attention asks for before it comes to them

// Memory for one call after the other, a thread's own; `take` hands out the next n floats.
struct Room {
    std::vector<float> all;
    long used = 0;
    void begin(long n) { used = 0; if ((long)all.size() < n) all.resize(n); }
    float* take(long n) { used += n; return all.data() + used - n; }
};

void product(const Matrix& a, const float* x, long b, float* y, int threads) {
    float* at = y;
    for (long i = 0; i < a.count; ++i) {
        const Piece& p = a.pieces[i];
        const auto times = [&](auto* w) { multiply(x, b, a.columns, w, p.scale, p.rows, at, a.rows, threads); };
        if (p.kind == 0) times((const uint16_t*)p.weight);
        if (p.kind == 1) times((const int8_t*)p.weight);
        if (p.kind == 2) times((const float*)p.weight);
        at += p.rows;
    }
    if (a.bias)
        for (long n = 0; n < b; ++n)
            for (long i = 0; i < a.rows; ++i) y[n * a.rows + i] += a.bias[i];
}

// ---- numbers --------------------------------------------------------------------------------------------------------

inline void put(float* at, float x) { *at = x; }
inline void put(uint16_t* at, float x) {  // to the nearest, to the even one where two are as near; NaN stays one
    uint32_t u;
    memcpy(&u, &x, 4);
    *at = x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

void gelu(float* x, long n) { each(x, n, [](Floats v) { return gelu(v); }); }

void softmax(float* x, long n) {
    Floats top = fill(x[0]), sums = {};
    long i = 0;
    for (; i + N <= n; i += N) { const Floats v = load(x + i); top = v > top ? v : top; }
    float most = largest(top);
    for (; i < n; ++i) most = std::max(most, x[i]);
    each(x, n, [&](Floats v) { return exponential(v - most); });
    for (i = 0; i + N <= n; i += N) sums += load(x + i);
    float sum = lanes(sums);
    for (; i < n; ++i) sum += x[i];
    each(x, n, [share = 1 / sum](Floats v) { return v * share; });
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
    in_fours(heads, [&](auto some, long from) {
        const float* share = scores + from * count - first;
        float* to = y + from * d;
        long i = 0;
        for (; i + N <= d; i += N) {
            Floats even[some] = {}, odd[some] = {};  // two sums each: a sum waits for its last addition
            long s = first;
            for (; s < last; s += 2)
                for (int h = 0; h < some; ++h) {
                    even[h] += share[h * count + s] * load(values + s * row + i);
                    odd[h] += share[h * count + s + 1] * load(values + (s + 1) * row + i);
                }
            for (int h = 0; h < some; ++h) {
                if (s == last) even[h] += share[h * count + s] * load(values + s * row + i);
                even[h] += odd[h];
                memcpy(to + h * d + i, &even[h], sizeof(Floats));
            }
        }
        for (int h = 0; h < some; ++h) {
            std::fill(to + h * d + i, to + (h + 1) * d, 0.f);
            for (long s = first; i < d && s <= last; ++s) {
                const float own = share[h * count + s];
                for (long rest = i; rest < d; ++rest) to[h * d + rest] += own * one(values[s * row + rest]);
            }
        }
    });
}

// One KV head of one sequence's token `t` and its queries, convolved already: means, norm, rotation, cache, attention.
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
    const int many = sequences > 1 || past.stored[from] * kv > SMALL / 8 ? threads : 1;

    for (long n = 0; n < b; ++n) {
        const long sequence = from + n / steps, at = past.stored[sequence] + n % steps;
        rms_norm(stream + n * E, l.attention_norm, E, l.eps, x + n * E);
        // padding must not leak through the convolutions
        if (past.seen && !past.seen[sequence * past.seen_stride + at]) std::fill(x + n * E, x + (n + 1) * E, 0.f);
    }
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
#pragma omp parallel for num_threads(many)
    for (long i = 0; i < sequences * l.kv_heads; ++i) {
        if (steps == 1 && i + 1 < sequences * l.kv_heads) {  // ask for the next one's keys and values, or for the first
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
                           y + n * l.heads * d);
        }
    }
    product(l.up, y, b, out, threads);
    for (long n = 0; n < b; ++n) {
        merge(l.attention_merge, out + n * E, E, stream + n * E);
        rms_norm(stream + n * E, l.moe_norm, E, l.eps, x + n * E);
    }

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

// norm -> CCA -> merge -> norm -> router. stream: (b, E), updated. state: (b, R), the router state of the layer below,
// replaced by this layer's. Returns in x (b, E) what the experts read, in probs (b, X + 1) and routes (b) what the
// router says.
extern "C" void attend_and_route(const Layer* layer, const Past* past, long b, float* stream, float* state, float* x,
                                 float* probs, int64_t* routes, int threads) {
    some(*layer, *past, 0, b, 1, stream, state, x, probs, routes, threads);
}

// One expert, for the sequences that go to it: y (b, E) gets gate * down(silu(gate half) * up half) of them.
extern "C" void visit(const Layer* layer, const Matrix* gate_up, const Matrix* down, long expert, long b,
                      const int64_t* routes, const float* probs, const float* x, float* y, int threads) {
    static thread_local Room room;
    static thread_local std::vector<long> mine;
    const long E = layer->width, F = down->columns, X = layer->experts;
    mine.clear();
    for (long n = 0; n < b; ++n)
        if (routes[n] == expert) mine.push_back(n);
    const long count = mine.size();
    room.begin(count * (E + 3 * F));
    float *in = room.take(count * E), *both = room.take(count * 2 * F), *inner = room.take(count * F);
    for (long m = 0; m < count; ++m) std::copy(x + mine[m] * E, x + (mine[m] + 1) * E, in + m * E);
    product(*gate_up, in, count, both, threads);
    for (long m = 0; m < count; ++m) {
        const float *gate = both + m * 2 * F, *up = gate + F;
        float* to = inner + m * F;
        std::copy(gate, gate + F, to);
        each(to, F, [](Floats v) { return v / (1.f + exponential(-v)); });
        for (long i = 0; i < F; ++i) to[i] *= up[i];
    }
    product(*down, inner, count, in, threads);
    for (long m = 0; m < count; ++m)
        for (long i = 0; i < E; ++i) y[mine[m] * E + i] = in[m * E + i] * probs[mine[m] * (X + 1) + expert];
}

// The experts' output, zeros for who skipped, joins the stream: (b, E) each.
extern "C" void join(const Layer* layer, long b, const float* y, float* stream) {
    for (long n = 0; n < b; ++n) merge(layer->moe_merge, y + n * layer->width, layer->width, stream + n * layer->width);
}

// The whole model, all of it in memory, for `steps` more tokens of each sequence. tokens: (b, steps); pasts: one a
// layer. Returns logits (b, vocabulary) of the last tokens, probs (layers, b, steps, X + 1) and routes (layers, b, steps).
extern "C" void through(const Model* model, const Past* pasts, long b, long steps, const int64_t* tokens, float* logits,
                        float* probs, int64_t* routes, int threads) {
    static thread_local Room room;
    const Layer& top = model->layers[0];
    const long E = top.width, X = top.experts, V = model->head.rows;
    for (long i = 0; i < model->twin_count; ++i)
        for (long k = 0; k < model->twins[i].count; ++k) model->twins[i].to[k] = one(model->twins[i].from[k]);
    // prompts: so many sequences at a time that what is between two layers stays in a cache
    const long most = steps == 1 ? b : std::max<long>(threads, 512 / steps);
    for (long first = 0; first < b; first += most) {
        const long here = std::min(most, b - first), rows = here * steps;
        room.begin(rows * (3 * E + top.router));
        float *stream = room.take(rows * E), *x = room.take(rows * E), *y = room.take(rows * E);
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
            std::fill(y, y + rows * E, 0.f);
            // experts side by side where there are enough of them, else all threads at one
            const auto asked = [&](long e, int crew) {
                if (std::find(chosen, chosen + rows, e) != chosen + rows)
                    visit(&l, l.gate_up + e, l.expert_down + e, e, rows, chosen, own, x, y, crew);
            };
            if (rows < 2 * threads || X < 2 * threads) {  // trap: as in `some`
                for (long e = 0; e < X; ++e) asked(e, threads);
            } else {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
                for (long e = 0; e < X; ++e) asked(e, 1);
            }
            join(&l, rows, y, stream);
        }
        for (long n = 0; n < here; ++n)
            rms_norm(stream + ((n + 1) * steps - 1) * E, model->norm, E, top.eps, x + n * E);
        product(model->head, x, here, logits + first * V, threads);
    }
}
