// One token of each of a few sequences through one layer: what `arch.block.Block` does with torch, as loops.
//
// At 8B a layer's products take two to three milliseconds for one token. About eighty small operations around them,
// each called from Python, took two more. `step.py` makes three calls of them. Shapes: b sequences, E width of the
// stream, h query and j KV heads of d channels, c = (h + j) d packed channels, R width of the router, X experts.

#include <algorithm>
#include <cmath>
#include <vector>

#include "matmul.cpp"

extern "C" {
struct Piece { const void* weight; const float* scale; long rows; int kind; };  // kind: 0 bfloat16, 1 int8, 2 float32
struct Matrix { const Piece* pieces; long count, rows, columns; const float* bias; };  // one below the other; or null
struct Merge { const float *output_scale, *output_bias, *residual_scale, *residual_bias; };

struct Layer {
    long width, heads, kv_heads, head, taps, reach, rotary, window, router, experts;  // reach: taps of the grouped one
    float eps;
    const float* attention_norm;
    Matrix down, up;
    const float *depthwise, *depthwise_bias, *grouped, *grouped_bias;  // (taps, c), (c), (c, reach, d), (c)
    const float* temperature;  // (j)
    Merge attention_merge;
    const float* moe_norm;
    Matrix router_down;
    const float *eda_scale, *router_norm;  // eda_scale: (R) or null, in the first layer
    Matrix fc1, fc2, out;
    const float* balancing_bias;  // (X + 1)
    Merge moe_merge;
};

// What one layer remembers, and where the new tokens stand. columns: (b, lag, c); delayed: (b, j d / 2); keys, values:
// a sequence's tokens of j d numbers, `stride` numbers from one sequence to the next. stored: (b), tokens held of each.
// cos, sin: (b, rotary / 2).
struct Past { float *columns, *delayed, *keys, *values; long stride; const int64_t* stored; const float *cos, *sin; };
}

namespace {

typedef std::vector<float> Numbers;

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
        for (long i = 0; i < b * a.rows; ++i) y[i] += a.bias[i % a.rows];
}

float dot(const float* x, const float* y, long n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; ++i) sum += x[i] * y[i];
    return sum;
}

void rms_norm(const float* x, const float* weight, long n, float eps, float* y) {
    const float inverse = 1 / std::sqrt(dot(x, x, n) / n + eps);
    for (long i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void merge(const Merge& m, const float* output, long n, float* stream) {
    for (long i = 0; i < n; ++i)
        stream[i] = (output[i] + m.output_bias[i]) * m.output_scale[i] +
                    (stream[i] + m.residual_bias[i]) * m.residual_scale[i];
}

float gelu(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }

void softmax(float* x, long n) {
    const float largest = *std::max_element(x, x + n);
    float sum = 0;
    for (long i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - largest);
    for (long i = 0; i < n; ++i) x[i] /= sum;
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

// Packed queries and keys of one sequence, z (c) -> mixed (c): both convolutions; the columns kept move on.
void convolve(const Layer& l, float* columns, const float* z, float* mixed, int threads) {
    const long c = (l.heads + l.kv_heads) * l.head, lag = l.taps + l.reach - 2, d = l.head;
    Numbers u(l.reach * c);  // u of the last `reach` tokens, head by head: (h + j, reach, d)
    for (long r = 0; r < l.reach; ++r)
        for (long i = 0; i < c; ++i) {
            float sum = l.depthwise_bias[i];
            for (long tap = 0; tap < l.taps; ++tap)
                sum += l.depthwise[tap * c + i] * (r + tap < lag ? columns[(r + tap) * c + i] : z[i]);
            u[(i / d * l.reach + r) * d + i % d] = sum;
        }
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < c; ++i)
        mixed[i] = l.grouped_bias[i] + dot(l.grouped + i * l.reach * d, &u[i / d * l.reach * d], l.reach * d);
    std::copy(columns + c, columns + lag * c, columns);
    std::copy(z, z + c, columns + (lag - 1) * c);
}

// z (h + j, d), not convolved, adds the mean path to mixed: each query with its key, each key with its queries.
void add_means(const Layer& l, const float* z, float* mixed) {
    const long group = l.heads / l.kv_heads, d = l.head;
    for (long j = 0; j < l.kv_heads; ++j)
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

// One query head against the keys `first` .. `last`, `row` numbers apart.
void look(const float* q, const float* keys, const float* values, long first, long last, long row, long d, float* y) {
    Numbers scores(last + 1 - first);
    for (long s = first; s <= last; ++s) scores[s - first] = dot(q, keys + s * row, d) / std::sqrt((float)d);
    softmax(scores.data(), scores.size());
    std::fill(y, y + d, 0.f);
    for (long s = first; s <= last; ++s)
        for (long i = 0; i < d; ++i) y[i] += scores[s - first] * values[s * row + i];
}

}  // namespace

// norm -> CCA -> merge -> norm -> router. stream: (b, E), updated. state: (b, R), the router state of the layer below,
// replaced by this layer's. Returns in x (b, E) what the experts read, in probs (b, X + 1) and routes (b) what the
// router says.
extern "C" void attend_and_route(const Layer* layer, const Past* past, long b, float* stream, float* state, float* x,
                                 float* probs, int64_t* routes, int threads) {
    const Layer& l = *layer;
    const long E = l.width, R = l.router, d = l.head, kv = l.kv_heads * d, c = l.heads * d + kv, late = kv / 2;
    Numbers z(b * (c + kv)), q(b * c), y(b * l.heads * d), out(b * E);

    for (long n = 0; n < b; ++n) rms_norm(stream + n * E, l.attention_norm, E, l.eps, x + n * E);
    product(l.down, x, b, z.data(), threads);
    for (long n = 0; n < b; ++n) {
        float *mixed = &q[n * c], *own = &z[n * (c + kv)];  // own: queries, keys, values for now, values for later
        convolve(l, past->columns + n * (l.taps + l.reach - 2) * c, own, mixed, threads);
        add_means(l, own, mixed);
        for (long h = 0; h < l.heads + l.kv_heads; ++h)
            place(mixed + h * d, d, h < l.heads ? 1 : l.temperature[h - l.heads], l.rotary,
                  past->cos + n * l.rotary / 2, past->sin + n * l.rotary / 2);
        const long at = n * past->stride + past->stored[n] * kv;
        std::copy(mixed + l.heads * d, mixed + c, past->keys + at);
        std::copy(own + c, own + c + late, past->values + at);
        std::copy(past->delayed + n * late, past->delayed + (n + 1) * late, past->values + at + late);
        std::copy(own + c + late, own + c + kv, past->delayed + n * late);
    }
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < b * l.heads; ++i) {
        const long n = i / l.heads, h = i % l.heads, last = past->stored[n];
        const long first = l.window ? std::max(0L, last + 1 - l.window) : 0;
        const long head = n * past->stride + h / (l.heads / l.kv_heads) * d;  // the KV head that this query head reads
        look(&q[n * c + h * d], past->keys + head, past->values + head, first, last, kv, d, &y[i * d]);
    }
    product(l.up, y.data(), b, out.data(), threads);

    Numbers own(b * R), hidden(b * R), next(b * R);
    for (long n = 0; n < b; ++n) {
        merge(l.attention_merge, &out[n * E], E, stream + n * E);
        rms_norm(stream + n * E, l.moe_norm, E, l.eps, x + n * E);
    }
    product(l.router_down, x, b, own.data(), threads);
    for (long i = 0; i < b * R; ++i) state[i] = own[i] + (l.eda_scale ? l.eda_scale[i % R] * state[i] : 0);
    for (long n = 0; n < b; ++n) rms_norm(state + n * R, l.router_norm, R, l.eps, &hidden[n * R]);
    product(l.fc1, hidden.data(), b, next.data(), threads);
    for (float& v : next) v = gelu(v);
    product(l.fc2, next.data(), b, hidden.data(), threads);
    for (float& v : hidden) v = gelu(v);
    product(l.out, hidden.data(), b, probs, threads);
    for (long n = 0; n < b; ++n) {
        float* p = probs + n * (l.experts + 1);
        softmax(p, l.experts + 1);
        long best = 0;
        for (long e = 1; e <= l.experts; ++e)
            if (p[e] + l.balancing_bias[e] > p[best] + l.balancing_bias[best]) best = e;
        routes[n] = best;
    }
}

// One expert, for the sequences that go to it: y (b, E) gets gate * down(silu(gate half) * up half) of them.
extern "C" void visit(const Layer* layer, const Matrix* gate_up, const Matrix* down, long expert, long b,
                      const int64_t* routes, const float* probs, const float* x, float* y, int threads) {
    const long E = layer->width, F = down->columns, X = layer->experts;
    std::vector<long> mine;
    for (long n = 0; n < b; ++n)
        if (routes[n] == expert) mine.push_back(n);
    const long count = mine.size();
    Numbers in(count * E), both(count * 2 * F), inner(count * F);
    for (long m = 0; m < count; ++m) std::copy(x + mine[m] * E, x + (mine[m] + 1) * E, &in[m * E]);
    product(*gate_up, in.data(), count, both.data(), threads);
    for (long m = 0; m < count; ++m)
        for (long i = 0; i < F; ++i) {
            const float gate = both[m * 2 * F + i];
            inner[m * F + i] = gate / (1 + std::exp(-gate)) * both[m * 2 * F + F + i];
        }
    product(*down, inner.data(), count, in.data(), threads);
    for (long m = 0; m < count; ++m)
        for (long i = 0; i < E; ++i) y[mine[m] * E + i] = in[m * E + i] * probs[mine[m] * (X + 1) + expert];
}

// The experts' output, zeros for who skipped, joins the stream: (b, E) each.
extern "C" void join(const Layer* layer, long b, const float* y, float* stream) {
    for (long n = 0; n < b; ++n) merge(layer->moe_merge, y + n * layer->width, layer->width, stream + n * layer->width);
}
