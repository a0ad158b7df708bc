// Causal attention and its gradients: each query's softmax is made as the keys pass by, a tile of them at a time. torch's
// own works on blocks of 512 keys, so a short text's upper triangle is computed and thrown away.

#include "mix.cpp"

namespace {

constexpr long KEYS = 4 * N, QUERIES = 64;  // in a tile of keys, which stay in the nearest cache for so many queries
#ifdef __AVX512F__
constexpr int SCORED = 4;  // queries whose scores are in registers together: 16 of 32
#else
constexpr int SCORED = 2;
#endif
constexpr int ROWS = 2 * SCORED;  // queries whose answers are

// scores (SCORED, V vectors) = q k, of a tile's first keys, which lie in the lanes: turned (d, KEYS).
template <int V>
inline void scores_of(const float* q, const float* turned, long d, float scale, Floats out[SCORED][V]) {
    const float* rows[SCORED];
    for (int r = 0; r < SCORED; ++r) rows[r] = q + r * d;
    rows_times<SCORED, V>(rows, d, turned, KEYS, out);
    for (int r = 0; r < SCORED; ++r)
        for (int v = 0; v < V; ++v) out[r][v] *= scale;
}

// y (ROWS, d) = y * shrink + shares v, some vectors of channels at a time. Not within its caller: gcc ran out of
// registers there, and kept what this loop reads in memory.
template <int VECS>
__attribute__((noinline)) void weigh(const float* shares, const float* shrink, const float* v, long row, long count,
                                     float* y, long d) {
    Floats sum[ROWS][VECS];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < VECS; ++c) sum[r][c] = load(y + r * d + c * N) * shrink[r];
    for (long s = 0; s < count; ++s)
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < VECS; ++c) sum[r][c] += shares[r * KEYS + s] * load(v + s * row + c * N);
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < VECS; ++c) memcpy(y + r * d + c * N, &sum[r][c], sizeof(Floats));
}

// y (ROWS, d) += shares v: share s of row r lies at r * apart + s * step. v: count rows, `row` numbers apart.
template <int VECS>
void add_up(const float* shares, long apart, long step, const float* v, long row, long count, float* y, long d) {
    Floats sum[ROWS][VECS];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < VECS; ++c) sum[r][c] = load(y + r * d + c * N);
    for (long s = 0; s < count; ++s)
        for (int r = 0; r < ROWS; ++r)
            for (int c = 0; c < VECS; ++c) sum[r][c] += shares[r * apart + s * step] * load(v + s * row + c * N);
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < VECS; ++c) memcpy(y + r * d + c * N, &sum[r][c], sizeof(Floats));
}

void add_all(const float* shares, long apart, long step, const float* v, long row, long count, float* y, long d) {
    long i = 0;
    for (; i + 2 * N <= d; i += 2 * N) add_up<2>(shares, apart, step, v + i, row, count, y + i, d);
    for (; i < d; i += N) add_up<1>(shares, apart, step, v + i, row, count, y + i, d);
}

// Some tokens' keys or values, `row` numbers apart, on their side: (tiles, d, KEYS), zeros behind the last one.
void lay(const float* from, long t, long row, long d, float* to) {
    for (long s = 0; s < (t + KEYS - 1) / KEYS * KEYS; s += N)
        for (long i = 0; i < d; i += N) {
            Floats square[N];
            for (int k = 0; k < N; ++k) square[k] = s + k < t ? load(from + (s + k) * row + i) : Floats{};
            turn_over(square);
            float* corner = to + s / KEYS * d * KEYS + i * KEYS + s % KEYS;
            for (int k = 0; k < N; ++k) memcpy(corner + k * KEYS, &square[k], sizeof(Floats));
        }
}

// ROWS queries, the first of which sees `seen` keys of this tile, as far as they go, each next one key more, but for the
// first `hidden` ones of each. `there`: how many there are. top: the largest score so far; sum (ROWS, N): those of
// e^(score - top), lane by lane. V: as many vectors of keys as any of these queries sees.
template <int V>
void look_at(const float* q, const float* turned, const float* v, long row, long seen, const long* hidden, long there,
             long d, float* top, float* sum, float* y) {
    Floats scores[ROWS][V];
    alignas(64) float shares[ROWS * KEYS], old[N] = {}, now[N] = {}, shrink[N];
    Ints lane;
    for (int i = 0; i < N; ++i) lane[i] = i;
    const float scale = 1 / std::sqrt((float)d);
    const bool all = seen >= KEYS && hidden[ROWS - 1] == 0;   // of the tile, for each of these queries
    scores_of<V>(q, turned, d, scale, scores);
    scores_of<V>(q + SCORED * d, turned, d, scale, scores + SCORED);
    if (!all)
        for (int r = 0; r < ROWS; ++r)
            for (int i = 0; i < V; ++i) {
                const Ints key = lane + i * N, before = Ints{} + int(std::min(KEYS, seen + r));
                scores[r][i] = (key < before) & (key >= int(hidden[r])) ? scores[r][i] : fill(-INFINITY);
            }
    for (int r = 0; r < ROWS; ++r) {
        Floats tops = scores[r][0];
        for (int i = 1; i < V; ++i) tops = larger(scores[r][i], tops);
        old[r] = top[r];
        now[r] = top[r] = std::max(top[r], largest(tops));
    }
    // who has seen nothing yet has nothing to shrink
    const Floats less = load(old) < load(now) ? exponential(load(old) - load(now)) : fill(1);
    memcpy(shrink, &less, sizeof less);
    for (int r = 0; r < ROWS; ++r) {
        Floats sums = load(sum + r * N) * shrink[r];
        for (int i = 0; i < V; ++i) {
            Floats share = exponential(scores[r][i] - now[r]);
            if (!all) share = scores[r][i] == fill(-INFINITY) ? Floats{} : share;  // e^-infinity is not quite nothing
            memcpy(shares + r * KEYS + i * N, &share, sizeof share);
            sums += share;
        }
        memcpy(sum + r * N, &sums, sizeof sums);
    }
    const long begin = hidden[0], count = std::min(there, seen + ROWS - 1) - begin;
    long i = 0;
    v += begin * row;
    for (; i + 2 * N <= d; i += 2 * N) weigh<2>(shares + begin, shrink, v + i, row, count, y + i, d);
    for (; i < d; i += N) weigh<1>(shares + begin, shrink, v + i, row, count, y + i, d);
}

}  // namespace

// q, y (b, t, h, d); k, v (b, t, j, d). d is a multiple of N. first (b, t): the first key that each query sees, no later
// than itself, nor than the next one's; null: all do from the start. logs (b, h, t) or null: of what each softmax is
// divided by.
extern "C" void attend(const float* q, const float* k, const float* v, const int64_t* first, long b, long t, long heads,
                       long kv_heads, long d, float* y, float* logs, int threads) {
    const long group = heads / kv_heads, tiles = (t + KEYS - 1) / KEYS, blocks = (t + QUERIES - 1) / QUERIES;
    Numbers all(b * kv_heads * tiles * KEYS * d);
    float* turned = all.data();
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long task = 0; task < b * kv_heads * tiles; ++task) {  // keys on their side, zeros behind the last one
            const long pair = task / tiles, start = task % tiles * KEYS, n = std::min(KEYS, t - start);
            const float* from = k + ((pair / kv_heads * t + start) * kv_heads + pair % kv_heads) * d;
            lay(from, n, kv_heads * d, d, turned + task * KEYS * d);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < b * heads * blocks; ++task) {
            const long from = (blocks - 1 - task % blocks) * QUERIES, row = task / blocks / heads;  // long ones first
            const long h = task / blocks % heads, pair = row * kv_heads + h / group, end = std::min(t, from + QUERIES);
            const auto since = [&](long s) { return first ? first[row * t + std::min(s, t - 1)] : 0; };
            static thread_local Numbers room;
            room.assign(QUERIES * (2 * d + N + 1), 0.f);
            float *own = room.data(), *out = own + QUERIES * d, *sum = out + QUERIES * d, *top = sum + QUERIES * N;
            std::fill(top, top + QUERIES, -INFINITY);
            for (long s = from; s < end; ++s) {
                const float* query = q + ((row * t + s) * heads + h) * d;
                std::copy(query, query + d, own + (s - from) * d);
            }
            for (long tile = since(from) / KEYS; tile * KEYS < end; ++tile)
                for (long s = from; s < end; s += ROWS) {
                    const long seen = s + 1 - tile * KEYS;
                    if (seen <= 0 || since(s) >= (tile + 1) * KEYS) continue;  // tiles begin where ROWS queries do
                    long hidden[ROWS];
                    for (int r = 0; r < ROWS; ++r) hidden[r] = std::max(0L, since(s + r) - tile * KEYS);
                    const auto look = seen + ROWS > 3 * N + 1   ? look_at<4>
                                      : seen + ROWS > 2 * N + 1 ? look_at<3>
                                      : seen + ROWS > N + 1     ? look_at<2>
                                                                : look_at<1>;
                    look(own + (s - from) * d, turned + (pair * tiles + tile) * KEYS * d,
                         v + ((row * t + tile * KEYS) * kv_heads + h / group) * d, kv_heads * d, seen, hidden,
                         std::min(KEYS, t - tile * KEYS), d, top + s - from, sum + (s - from) * N,
                         out + (s - from) * d);
                }
            for (long s = from; s < end; ++s) {
                float* to = y + ((row * t + s) * heads + h) * d;
                const float whole = lanes(load(sum + (s - from) * N)), share = 1 / whole;
                if (logs) logs[(row * heads + h) * t + s] = top[s - from] + std::log(whole);
                EACH(long i = 0; i < d; ++i) to[i] = out[(s - from) * d + i] * share;
            }
        }
    }
}

// Of d_y (b, t, h, d) the gradients of q, k and v; y and logs are what `attend` made of them. A thread has one KV
// head of one text, with its queries. The shares of the softmax are computed once more.
extern "C" void attend_back(const float* q, const float* k, const float* v, const int64_t* first, const float* y,
                            const float* logs, const float* d_y, long b, long t, long heads, long kv_heads, long d,
                            float* d_q, float* d_k, float* d_v, int threads) {
    constexpr long BLOCK = 32;  // queries: so many terms has a sum of keys' gradients before it goes back to memory
    const long group = heads / kv_heads, tiles = (t + KEYS - 1) / KEYS, whole = tiles * KEYS * d;
    const float scale = 1 / std::sqrt((float)d);
    Ints lane;
    for (int i = 0; i < N; ++i) lane[i] = i;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long task = 0; task < b * kv_heads; ++task) {
        static thread_local Numbers room;
        room.resize(std::max<size_t>(room.size(), 4 * whole + 3 * BLOCK * d + 2 * BLOCK * KEYS + 2 * BLOCK));
        float *turned = room.data(), *sides = turned + whole, *dk = sides + whole, *dv = dk + whole, *own = dv + whole;
        float *dy = own + BLOCK * d, *dq = dy + BLOCK * d, *log = dq + BLOCK * d, *through = log + BLOCK;
        float *shares = through + BLOCK, *slopes = shares + BLOCK * KEYS;
        const long row = task / kv_heads, j = task % kv_heads, apart = kv_heads * d;
        const float *keys = k + (row * t * kv_heads + j) * d, *values = v + (row * t * kv_heads + j) * d;
        lay(keys, t, apart, d, turned);
        lay(values, t, apart, d, sides);
        std::fill(dk, own, 0.f);
        for (long at = 0, here; at < group * t; at += here) {  // blocks of one head after the other
            const long h = j * group + at / t, start = at % t;
            const auto since = [&](long s) { return first ? first[row * t + std::min(s, t - 1)] : 0; };
            here = std::min(BLOCK, t - start);
            std::fill(own, shares, 0.f);  // who is not there has no gradient
            for (long n = 0; n < here; ++n) {
                const long from = ((row * t + start + n) * heads + h) * d;
                std::copy(q + from, q + from + d, own + n * d);
                std::copy(d_y + from, d_y + from + d, dy + n * d);
                log[n] = logs[(row * heads + h) * t + start + n];
                through[n] = dot(d_y + from, y + from, d);
            }
            for (long tile = since(start) / KEYS; tile * KEYS < start + here; ++tile) {
                // of these keys, for each of these queries
                const bool all = (tile + 1) * KEYS <= start + 1 && since(start + BLOCK - 1) <= tile * KEYS;
                for (long n = 0; n < BLOCK; n += SCORED) {
                    Floats scores[SCORED][4], slope[SCORED][4];
                    scores_of<4>(own + n * d, turned + tile * KEYS * d, d, scale, scores);
                    scores_of<4>(dy + n * d, sides + tile * KEYS * d, d, 1, slope);
                    for (int r = 0; r < SCORED; ++r)
                        for (int i = 0; i < 4; ++i) {
                            Floats share = exponential(scores[r][i] - log[n + r]);
                            const Ints key = lane + int(tile * KEYS + i * N), own = Ints{} + int(start + n + r);
                            const Ints sees = (key <= own) & (key >= Ints{} + int(since(start + n + r)));
                            if (!all) share = sees ? share : Floats{};
                            const Floats ds = share * (slope[r][i] - through[n + r]) * scale;
                            memcpy(shares + (n + r) * KEYS + i * N, &share, sizeof share);
                            memcpy(slopes + (n + r) * KEYS + i * N, &ds, sizeof ds);
                        }
                }
                const long begin = std::max(0L, since(start) - tile * KEYS) / ROWS * ROWS;
                const long count = std::min(KEYS, start + here - tile * KEYS);
                for (long n = 0; n < BLOCK; n += ROWS)
                    add_all(slopes + n * KEYS + begin, KEYS, 1, keys + (tile * KEYS + begin) * apart, apart,
                            count - begin, dq + n * d, d);
                for (long s = begin; s < count; s += ROWS) {
                    add_all(slopes + s, 1, KEYS, own, d, BLOCK, dk + (tile * KEYS + s) * d, d);
                    add_all(shares + s, 1, KEYS, dy, d, BLOCK, dv + (tile * KEYS + s) * d, d);
                }
            }
            for (long n = 0; n < here; ++n)
                std::copy(dq + n * d, dq + (n + 1) * d, d_q + ((row * t + start + n) * heads + h) * d);
        }
        for (long s = 0; s < t; ++s) {
            std::copy(dk + s * d, dk + (s + 1) * d, d_k + ((row * t + s) * kv_heads + j) * d);
            std::copy(dv + s * d, dv + (s + 1) * d, d_v + ((row * t + s) * kv_heads + j) * d);
        }
    }
}
