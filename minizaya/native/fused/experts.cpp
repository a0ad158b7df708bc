// Router and experts of prompts, forward only, a tile of tokens at a time.
//
// In a tile the tokens lie side by side in the lanes of vectors: number i of all of them, then number i + 1. So a weight
// is one number that all of them are multiplied by, nothing is added across lanes, a softmax over routes compares whole
// vectors, and what one product makes lies as the next one wants to read it.

#include "attend.cpp"

namespace {

constexpr int WIDTH = 3;  // vectors of tokens in a tile
constexpr long TILE = WIDTH * N;
#ifdef __AVX512F__
constexpr int SUMS = 24;  // of 32 registers; of a tile of V vectors so many rows' sums as fit in are made together
#else
constexpr int SUMS = 12;  // of 16
#endif

// y (m, V vectors) = f(w x + bias), w (m, k); some rows at a time: where there are fewer, the last one stands for them.
template <int V, class F>
void product(const float* w, const float* bias, long m, long k, const float* x, float* y, F f) {
    constexpr int ROWS = SUMS / V;
    Floats sums[ROWS][V];
    const float* own[ROWS];
    for (long r = 0; r < m; r += ROWS) {
        for (int i = 0; i < ROWS; ++i) own[i] = w + std::min(r + i, m - 1) * k;
        rows_times<ROWS, V>(own, k, x, V * N, sums);
        for (long i = 0; i < std::min<long>(ROWS, m - r); ++i)
            for (int v = 0; v < V; ++v) {
                const Floats made = f(bias ? sums[i][v] + bias[r + i] : sums[i][v]);
                memcpy(y + ((r + i) * V + v) * N, &made, sizeof made);
            }
    }
}

inline Floats same(Floats v) { return v; }

// Rows of x (n, size) side by side, at (size, T); places after the last of them hold it again.
template <class Row>
void side_by_side(const float* x, long size, long count, long T, Row row, float* at) {
    const auto from = [&](long t) { return x + row(std::min(t, count - 1)) * size; };
    long i = 0;
    for (; i + N <= size; i += N)
        for (long t = 0; t < T; t += N) {
            Floats square[N];
            for (int k = 0; k < N; ++k) square[k] = load(from(t + k) + i);
            turn_over(square);
            for (int k = 0; k < N; ++k) memcpy(at + (i + k) * T + t, &square[k], sizeof(Floats));
        }
    for (; i < size; ++i)
        for (long t = 0; t < T; ++t) at[i * T + t] = from(t)[i];
}

// And back: (size, T) into rows of y.
template <class Row>
void apart(const float* at, long size, long count, long T, Row row, float* y) {
    long i = 0;
    for (; i + N <= size; i += N)
        for (long t = 0; t < count; t += N) {
            Floats square[N];
            for (int k = 0; k < N; ++k) square[k] = load(at + (i + k) * T + t);
            turn_over(square);
            for (int k = 0; k < std::min<long>(N, count - t); ++k)
                memcpy(y + row(t + k) * size + i, &square[k], sizeof(Floats));
        }
    for (; i < size; ++i)
        for (long t = 0; t < count; ++t) y[row(t) * size + i] = at[i * T + t];
}

// One expert for some tokens, at most V vectors of them: the rows `mine` of x (n, D) and gates -> the same rows of y.
template <int V>
void visit(const float* x, const float* gates, const long* mine, long count, const float* gate_up, const float* down,
           long D, long F, float* in, float* inner, float* out, float* y) {
    constexpr int ROWS = SUMS / V, PAIRS = ROWS / 2;
    constexpr long T = V * N;
    const auto row = [&](long t) { return mine[t]; };
    float shares[T];
    side_by_side(x, D, count, T, row, in);
    side_by_side(gates, 1, count, T, row, shares);
    Floats sums[ROWS][V];
    const float* own[ROWS];
    for (long f = 0; f < F; f += PAIRS) {  // gates and what they open, side by side
        for (int i = 0; i < PAIRS; ++i) {
            own[i] = gate_up + std::min(f + i, F - 1) * D;
            own[PAIRS + i] = own[i] + F * D;
        }
        rows_times<ROWS, V>(own, D, in, T, sums);
        for (long i = 0; i < std::min<long>(PAIRS, F - f); ++i)
            for (int v = 0; v < V; ++v) {
                const Floats gate = sums[i][v];
                const Floats made = gate * sigmoid(gate) * sums[PAIRS + i][v] * load(shares + v * N);
                memcpy(inner + (f + i) * T + v * N, &made, sizeof made);
            }
    }
    product<V>(down, nullptr, D, F, inner, out, same);
    apart(out, D, count, T, row, y);
}

}  // namespace

// y (n, D) = gate * down(silu(gate half) * up half) of each token's expert; zeros for those who skip, routes = experts.
// x: (n, D). routes, gates: (n). gate_up: (experts, 2F, D). down: (experts, D, F).
extern "C" void visits(const float* x, const int64_t* routes, const float* gates, const float* gate_up,
                       const float* down, long n, long D, long F, long experts, float* y, int threads) {
    std::vector<long> order(n), start(experts + 2, 0);  // tokens by expert, those of expert e from start[e] on
    for (long t = 0; t < n; ++t) ++start[routes[t] + 1];
    for (long e = 0; e <= experts; ++e) start[e + 1] += start[e];
    std::vector<long> next(start);
    for (long t = 0; t < n; ++t) order[next[routes[t]]++] = t;
    struct Tile { long expert, first, count; };
    std::vector<Tile> tiles;
    for (long e = 0; e < experts; ++e)
        for (long t = start[e]; t < start[e + 1]; t += TILE) tiles.push_back({e, t, std::min(TILE, start[e + 1] - t)});
    for (long t = start[experts]; t < n; ++t) std::fill(y + order[t] * D, y + (order[t] + 1) * D, 0.f);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long i = 0; i < (long)tiles.size(); ++i) {
        static thread_local Numbers room;
        const Tile& tile = tiles[i];
        room.resize((2 * D + F) * TILE);
        float *in = room.data(), *out = in + D * TILE, *inner = out + D * TILE;
        const auto run = tile.count > 2 * N ? visit<3> : tile.count > N ? visit<2> : visit<1>;
        run(x, gates, &order[tile.first], tile.count, gate_up + tile.expert * 2 * F * D, down + tile.expert * D * F,
            D, F, in, inner, out, y);
    }
}

// What `arch/router.py` does with x (n, E): state (n, R), probs (n, X + 1), routes and gates (n). below: (n, R) and
// scale: (R), or null: no router is below. pinned: (n), routes to take where they are not negative; or null.
extern "C" void route(const float* x, const float* down, const float* down_bias, const float* below, const float* scale,
                      const float* norm, float eps, const float* fc1, const float* fc1_bias, const float* fc2,
                      const float* fc2_bias, const float* out, const float* balancing, const int64_t* pinned, long n,
                      long E, long R, long X, float* state, float* probs, int64_t* routes, float* gates, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long from = 0; from < n; from += TILE) {
        static thread_local Numbers room;
        room.resize((E + 3 * R + X + 1) * TILE);
        float *in = room.data(), *own = in + E * TILE, *a = own + R * TILE, *b = a + R * TILE, *p = b + R * TILE;
        const long count = std::min(TILE, n - from);
        const auto row = [&](long t) { return from + t; };
        const auto bend = [](Floats v) { return gelu(v); };
        side_by_side(x, E, count, TILE, row, in);
        product<WIDTH>(down, down_bias, R, E, in, own, same);
        if (scale) {
            side_by_side(below, R, count, TILE, row, a);
            for (long i = 0; i < R; ++i)
                for (long t = 0; t < TILE; ++t) own[i * TILE + t] += scale[i] * a[i * TILE + t];
        }
        apart(own, R, count, TILE, row, state);
        for (long v = 0; v < TILE; v += N) {
            Floats squares = {}, inverse;
            for (long i = 0; i < R; ++i) squares += load(own + i * TILE + v) * load(own + i * TILE + v);
            for (int t = 0; t < N; ++t) inverse[t] = 1 / std::sqrt(squares[t] / R + eps);
            for (long i = 0; i < R; ++i) {
                const Floats y = load(own + i * TILE + v) * inverse * norm[i];
                memcpy(a + i * TILE + v, &y, sizeof y);
            }
        }
        product<WIDTH>(fc1, fc1_bias, R, R, a, b, bend);
        product<WIDTH>(fc2, fc2_bias, R, R, b, a, bend);
        product<WIDTH>(out, nullptr, X + 1, R, a, p, same);
        for (long v = 0; v < TILE; v += N) {
            Floats top = load(p + v), sum = {};
            for (long e = 1; e <= X; ++e) top = larger(load(p + e * TILE + v), top);
            for (long e = 0; e <= X; ++e) {
                const Floats y = exponential(load(p + e * TILE + v) - top);
                memcpy(p + e * TILE + v, &y, sizeof y);
                sum += y;
            }
            for (long e = 0; e <= X; ++e) {
                const Floats y = load(p + e * TILE + v) / sum;
                memcpy(p + e * TILE + v, &y, sizeof y);
            }
        }
        apart(p, X + 1, count, TILE, row, probs);
        for (long t = from; t < from + count; ++t) {
            const float* own = probs + t * (X + 1);
            long best = 0;
            for (long e = 1; e <= X; ++e)
                if (own[e] + balancing[e] > own[best] + balancing[best]) best = e;
            routes[t] = pinned && pinned[t] >= 0 ? pinned[t] : best;
            gates[t] = own[routes[t]];
        }
    }
}
