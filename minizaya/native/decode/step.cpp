// A few tokens of each of some sequences through the model: what `arch.model.Zaya` does with torch, as loops.
//
// A small model's token is a few hundred thousand multiplications a layer, and about eighty small operations, each
// called from Python, take ten times as long. `step.py` makes one call of them, or, where experts lie on disk, two
// calls a layer. Shapes: b sequences, E width of the stream, h query and j KV heads of d channels, c = (h + j) d packed
// channels, R width of the router, X experts.

#include "past.cpp"

namespace {

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
