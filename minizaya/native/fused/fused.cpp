// What stands between the matrix products of a model, and its gradients: loops over tokens that read each number once.
//
// torch makes one pass over memory for each operation, and keeps what each of them made for its gradient. Here a row's
// numbers stay in the nearest cache from the first operation to the last, and what is cheap is computed once more.
// The plain paths are `arch/residual.py`, `arch/cca.py`, `arch/experts.py` and torch's cross entropy. All numbers are
// float32; n tokens, in b rows of t; gradients of weights are summed CHUNK tokens at a time, so that neither the number
// of threads nor a long chain of roundings changes them.

#include <cmath>

#include "../lanes.cpp"

// A loop whose turns touch numbers of their own. The compiler cannot know it of so many pointers, and would go one by one.
#define EACH(...) _Pragma("GCC ivdep") for (__VA_ARGS__)

namespace {

constexpr long CHUNK = 64;

// f(from, to, sums) for every chunk of n tokens, and what it added to its own zeros `sums` (size), added up in `total`.
template <class F>
void in_chunks(long n, long size, float* total, int threads, F f) {
    const long chunks = (n + CHUNK - 1) / CHUNK;
    Numbers sums(chunks * size);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < chunks; ++i) f(i * CHUNK, std::min(n, (i + 1) * CHUNK), sums.data() + i * size);
    std::fill(total, total + size, 0.f);
    for (long i = 0; i < chunks; ++i)
        for (long k = 0; k < size; ++k) total[k] += sums[i * size + k];
}

// N rows of N numbers -> their columns, in place. Neighbours, then pairs, then fours and eights change places.
inline void turn_over(Floats* v) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)v[i], (__m512)v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)v[i], (__m512)v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; ++k) {
            const __m512d low = _mm512_castps_pd(a[i + k]), high = _mm512_castps_pd(a[i + k + 2]);
            b[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; ++k) {
            a[i + k] = _mm512_shuffle_f32x4(b[i + k], b[i + k + 4], 0x88);
            a[i + k + 4] = _mm512_shuffle_f32x4(b[i + k], b[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 8; ++k) {
        v[k] = (Floats)_mm512_shuffle_f32x4(a[k], a[k + 8], 0x88);
        v[k + 8] = (Floats)_mm512_shuffle_f32x4(a[k], a[k + 8], 0xdd);
    }
#else
    for (int i = 0; i < N; ++i)
        for (int k = 0; k < i; ++k) {
            const float other = v[i][k];
            v[i][k] = v[k][i];
            v[k][i] = other;
        }
#endif
}

// sums (ROWS, V) = w x, of the rows w[0], w[1], ... of k numbers each. x: k times V vectors,
// `apart` numbers from one V to the next.
template <int ROWS, int V>
inline __attribute__((always_inline)) void rows_times(const float* const* w, long k, const float* x, long apart,
                                                      Floats sums[ROWS][V]) {
    Floats sum[ROWS][V] = {};
    for (long i = 0; i < k; ++i) {
        Floats xs[V];
        for (int v = 0; v < V; ++v) xs[v] = held(load(x + i * apart + v * N));
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v) sum[r][v] += w[r][i] * xs[v];
    }
    memcpy(sums, sum, sizeof sum);
}

inline Floats sigmoid(Floats v) { return 1.f / (1.f + exponential(-v)); }

}  // namespace

// ---- residual merge, then norm -------------------------------------------------------------------------------------

// merged = (output + b1) s1 + (stream + b2) s2, x = merged / rms * weight; (n, E) each; inverse (n): 1 / rms.
// `vectors`: s1, b1, s2, b2 of E numbers each. Without them a plain sum; without `output` the stream alone.
extern "C" void merge_norm(const float* output, const float* stream, const float* vectors, const float* weight,
                           float eps, long n, long E, float* merged, float* x, float* inverse, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; ++row) {
        const float *out = output + row * E, *own = stream + row * E;
        const float *s1 = vectors, *b1 = s1 + E, *s2 = b1 + E, *b2 = s2 + E;
        float *to = merged + row * E, *y = x + row * E;
        if (output && vectors)
            EACH(long i = 0; i < E; ++i) to[i] = (out[i] + b1[i]) * s1[i] + (own[i] + b2[i]) * s2[i];
        else if (output)
            EACH(long i = 0; i < E; ++i) to[i] = out[i] + own[i];
        const float* from = output ? to : own;
        const float scale = inverse[row] = 1 / std::sqrt(dot(from, from, E) / E + eps);
        EACH(long i = 0; i < E; ++i) y[i] = weight[i] * (from[i] * scale);
    }
}

// Of gradients of merged (or null) and x: those of output and stream (n, E; without vectors both are d_stream), of the
// vectors (4, E), and of the weight (E). `merged` is what the norm read.
extern "C" void merge_norm_back(const float* d_merged, const float* d_x, const float* output, const float* stream,
                                const float* vectors, const float* weight, const float* merged, const float* inverse,
                                long n, long E, float* d_output, float* d_stream, float* d_vectors, float* d_weight,
                                int threads) {
    Numbers total(4 * E);
    const float *s1 = vectors, *b1 = s1 + E, *s2 = b1 + E, *b2 = s2 + E;
    in_chunks(n, 4 * E, total.data(), threads, [&](long from, long to, float* sums) {
        float *plain = sums, *outputs = plain + E, *streams = outputs + E, *weights = streams + E;
        for (long row = from; row < to; ++row) {
            const float *g = d_x + row * E, *h = merged + row * E, *gm = d_merged + row * E;
            const float *out = output + row * E, *own = stream + row * E, scale = inverse[row];
            float *dr = d_stream + row * E, *doo = d_output + row * E;
            EACH(long i = 0; i < E; ++i) {
                weights[i] += g[i] * (h[i] * scale);
                dr[i] = g[i] * weight[i];
            }
            const float shrink = dot(dr, h, E) * scale * scale * scale / E;
            EACH(long i = 0; i < E; ++i) dr[i] = dr[i] * scale - h[i] * shrink;
            if (d_merged)
                EACH(long i = 0; i < E; ++i) dr[i] += gm[i];
            if (!vectors) continue;
            EACH(long i = 0; i < E; ++i) {
                const float d = dr[i];
                plain[i] += d;
                outputs[i] += d * (out[i] + b1[i]);
                streams[i] += d * (own[i] + b2[i]);
                doo[i] = d * s1[i];
                dr[i] = d * s2[i];
            }
        }
    });
    std::copy(&total[3 * E], &total[3 * E] + E, d_weight);
    for (long i = 0; vectors && i < E; ++i) {
        d_vectors[i] = total[E + i];
        d_vectors[E + i] = total[i] * s1[i];
        d_vectors[2 * E + i] = total[2 * E + i];
        d_vectors[3 * E + i] = total[i] * s2[i];
    }
}

// ---- SwiGLU ----------------------------------------------------------------------------------------------------------

// y (n, F) = gates * silu(left half) * right half of both (n, 2F).
extern "C" void swiglu(const float* both, const float* gates, long n, long F, float* y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; ++row) {
        const float *gate = both + row * 2 * F, *up = gate + F;
        float* to = y + row * F;
        std::copy(gate, gate + F, to);
        each(to, F, [](Floats v) { return v * sigmoid(v); });
        EACH(long i = 0; i < F; ++i) to[i] *= up[i] * gates[row];
    }
}

// Of d_y (n, F): the gradients of both and gates; and y once more.
extern "C" void swiglu_back(const float* d_y, const float* both, const float* gates, long n, long F, float* d_both,
                            float* d_gates, float* y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; ++row) {
        const float *gate = both + row * 2 * F, *up = gate + F, *g = d_y + row * F, share = gates[row];
        float *dg = d_both + row * 2 * F, *du = dg + F, *to = y + row * F;
        std::copy(gate, gate + F, dg);
        each(dg, F, sigmoid);
        EACH(long i = 0; i < F; ++i) {
            const float s = dg[i], silu = gate[i] * s, d = g[i] * share;
            to[i] = silu * up[i];
            du[i] = d * silu;
            dg[i] = d * up[i] * (s + silu * (1 - s));
        }
        d_gates[row] = dot(g, to, F);
        EACH(long i = 0; i < F; ++i) to[i] *= share;
    }
}

// ---- cross entropy -----------------------------------------------------------------------------------------------------

// Each row of logits (n, V) becomes its gradient, softmax - one at the target; nats (n): -log softmax at the target.
// A target outside 0 .. V - 1 is none: zeros.
extern "C" void cross_entropy(float* logits, const int64_t* targets, long n, long V, float* nats, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; ++row) {
        float* x = logits + row * V;
        const int64_t target = targets[row];
        if (target < 0 || target >= V) {
            std::fill(x, x + V, 0.f);
            nats[row] = 0;
            continue;
        }
        Floats tops = fill(x[0]), sums = {};
        long i = 0;
        for (; i + N <= V; i += N) { const Floats v = load(x + i); tops = v > tops ? v : tops; }
        float top = x[0], sum = 0;
        for (; i < V; ++i) top = std::max(top, x[i]);
        for (int lane = 0; lane < N; ++lane) top = std::max(top, tops[lane]);
        const float own = x[target] - top;
        each(x, V, [&](Floats v) { return exponential(v - top); });
        for (i = 0; i + N <= V; i += N) sums += load(x + i);
        for (sum = lanes(sums); i < V; ++i) sum += x[i];
        nats[row] = std::log(sum) - own;
        const float share = 1 / sum;
        for (i = 0; i < V; ++i) x[i] *= share;
        x[target] -= 1;
    }
}
