// From one packed projection to queries, keys and values, and back: the part of CCA between two matrix products, but
// for the grouped convolution's own product, which torch makes from `columns`. `arch/cca.py` says what each step means.
//
// Packed (b, t, (h + j) d + j d): queries, keys, values for now, values for later. n: one of b t tokens.

#include "fused.cpp"

extern "C" {
struct Mix {
    long b, t, heads, kv_heads, head, taps, reach, rotary, turns;  // turns: rows of cos and sin, t or b t
    const int64_t* position;  // (b, t), place in the token's own document; or null: one document a row
    const float *taps_weight, *taps_bias;  // depthwise: (taps, c), (c)
    const float *bias, *temperature;       // of the grouped convolution (c); of keys (j)
    const float *cos, *sin;                // (turns, rotary / 2)
    long packed() const { return heads + kv_heads; }
    long channels() const { return packed() * head; }
    long wide() const { return channels() + kv_heads * head; }
    long before(long n) const { return position ? position[n] : n % t; }  // tokens of the same document before it
};
}

namespace {

// y = x to length sqrt(d), times temperature. Returns 1 / length.
float normalise(const float* x, long d, float temperature, float* y) {
    const float inverse = 1 / std::max(std::sqrt(dot(x, x, d)), 1.1920929e-7f);
    const float scale = std::sqrt((float)d) * inverse * temperature;
    EACH(long i = 0; i < d; ++i) y[i] = x[i] * scale;
    return inverse;
}

// In place: channel i with channel i + half. way: 1, or -1 for the way back.
void turn(float* x, long half, const float* cos, const float* sin, float way) {
    EACH(long i = 0; i < half; ++i) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cos[i] - way * second * sin[i];
        x[i + half] = second * cos[i] + way * first * sin[i];
    }
}

}  // namespace

// The depthwise convolution of this token and the ones before it, oldest first: columns (h + j, b t, reach * d).
extern "C" void mix_columns(const Mix* mix, const float* packed, float* columns, int threads) {
    const Mix& m = *mix;
    const long d = m.head, c = m.channels(), wide = m.wide(), side = m.reach * d, all = m.b * m.t;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < m.b * m.packed(); ++task) {
        const long row = task / m.packed(), h = task % m.packed();
        const float* bias = m.taps_bias + h * d;
        for (long n = row * m.t; n < (row + 1) * m.t; ++n) {
            const long before = m.before(n);
            float* own = columns + (h * all + n) * side;
            float* u = own + side - d;
            std::copy(bias, bias + d, u);
            for (long tap = 0; tap < m.taps && tap <= before; ++tap) {
                const float *w = m.taps_weight + (m.taps - 1 - tap) * c + h * d, *z = packed + (n - tap) * wide + h * d;
                EACH(long i = 0; i < d; ++i) u[i] += w[i] * z[i];
            }
            for (long tap = 1; tap < m.reach; ++tap) {  // before the first token the taps see nothing
                const float* from = tap <= before ? u - tap * side : bias;
                std::copy(from, from + d, u - tap * d);
            }
        }
    }
}

// Adds the gradients of columns to d_packed; d_taps (b, taps + 1, c): those of the weight and, last, of the bias, a row.
extern "C" void mix_columns_back(const Mix* mix, const float* d_columns, const float* packed, float* d_packed,
                                 float* d_taps, int threads) {
    const Mix& m = *mix;
    const long d = m.head, c = m.channels(), wide = m.wide(), side = m.reach * d, all = m.b * m.t;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < m.b * m.packed(); ++task) {
        const long row = task / m.packed(), h = task % m.packed(), end = (row + 1) * m.t;
        Numbers fresh((m.taps + 1) * d), du(d);
        float* total = d_taps + row * (m.taps + 1) * c + h * d;
        for (long n = row * m.t; n < end; ++n) {
            const long before = m.before(n);
            const float* newest = d_columns + (h * all + n) * side + side - d;
            std::copy(newest, newest + d, du.begin());
            for (long tap = 1; tap < m.reach; ++tap) {
                if (n + tap < end && m.before(n + tap) >= tap)
                    EACH(long i = 0; i < d; ++i) du[i] += newest[tap * side - tap * d + i];
                if (tap > before)
                    EACH(long i = 0; i < d; ++i) fresh[m.taps * d + i] += newest[i - tap * d];
            }
            EACH(long i = 0; i < d; ++i) fresh[m.taps * d + i] += du[i];
            for (long tap = 0; tap < m.taps && tap <= before; ++tap) {
                const long k = m.taps - 1 - tap, at = (n - tap) * wide + h * d;
                const float *w = m.taps_weight + k * c + h * d, *z = packed + at;
                float *dz = d_packed + at, *dw = &fresh[k * d];
                EACH(long i = 0; i < d; ++i) {
                    dz[i] += du[i] * w[i];
                    dw[i] += du[i] * z[i];
                }
            }
            if ((n + 1) % CHUNK && n + 1 < end) continue;
            for (long k = 0; k <= m.taps; ++k)
                EACH(long i = 0; i < d; ++i) total[k * c + i] += fresh[k * d + i];
            std::fill(fresh.begin(), fresh.end(), 0.f);
        }
    }
}

// mixed (h + j, b t, d), the grouped product, gets its bias and the means and stays so for the way back. q (b, t, h, d),
// k, v (b, t, j, d): normalised, turned; values late.
extern "C" void mix_finish(const Mix* mix, const float* packed, float* mixed, float* q, float* k, float* v, int threads) {
    const Mix& m = *mix;
    const long d = m.head, c = m.channels(), wide = m.wide(), all = m.b * m.t, group = m.heads / m.kv_heads;
    const long kv = m.kv_heads * d, late = kv / 2, half = m.rotary / 2;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long n = 0; n < all; ++n) {
        const float* z = packed + n * wide;
        const long angle = n % m.turns * half;
        for (long j = 0; j < m.kv_heads; ++j) {
            const long key = m.heads + j;
            float *to = mixed + (key * all + n) * d, *out = k + (n * m.kv_heads + j) * d;
            EACH(long i = 0; i < d; ++i) to[i] += m.bias[key * d + i];
            for (long h = j * group; h < (j + 1) * group; ++h) {
                float *own = mixed + (h * all + n) * d, *turned = q + (n * m.heads + h) * d;
                EACH(long i = 0; i < d; ++i) {
                    const float mean = (z[h * d + i] + z[key * d + i]) / 2;
                    own[i] += m.bias[h * d + i] + mean;
                    to[i] += mean / group;
                }
                normalise(own, d, 1, turned);
                turn(turned, half, m.cos + angle, m.sin + angle, 1);
            }
            normalise(to, d, m.temperature[j], out);
            turn(out, half, m.cos + angle, m.sin + angle, 1);
        }
        float* value = v + n * kv;
        std::copy(z + c, z + c + late, value);
        if (m.before(n)) std::copy(z + c + late - wide, z + c + kv - wide, value + late);
        else std::fill(value + late, value + kv, 0.f);
    }
}

// Of gradients of q, k and v: those of packed (written, not added), of mixed, of the bias (c) and the temperature (j).
extern "C" void mix_finish_back(const Mix* mix, const float* dq, const float* dk, const float* dv, const float* mixed,
                                float* d_packed, float* d_mixed, float* d_bias, float* d_temperature, int threads) {
    const Mix& m = *mix;
    const long d = m.head, c = m.channels(), wide = m.wide(), all = m.b * m.t, group = m.heads / m.kv_heads;
    const long kv = m.kv_heads * d, late = kv / 2, half = m.rotary / 2;
    const float length = std::sqrt((float)d);
    Numbers total(c + m.kv_heads);
    // through rotation, temperature and norm; d_temperature or null
    const auto through = [&](const float* g, const float* x, long angle, float temperature, float* back, float* d_temp) {
        std::copy(g, g + d, back);
        turn(back, half, m.cos + angle, m.sin + angle, -1);
        const float norm = std::sqrt(dot(x, x, d)), inverse = 1 / std::max(norm, 1.1920929e-7f);
        const float along = dot(back, x, d) * inverse, scale = length * inverse;
        if (d_temp) *d_temp += along * length;
        const float shrink = norm < 1.1920929e-7f ? 0 : along * inverse;  // a clamped length has no gradient
        EACH(long i = 0; i < d; ++i) back[i] = (back[i] - x[i] * shrink) * scale * temperature;
    };
    in_chunks(all, c + m.kv_heads, total.data(), threads, [&](long from, long to, float* sums) {
        for (long n = from; n < to; ++n) {
            const long angle = n % m.turns * half;
            float* dz = d_packed + n * wide;
            for (long j = 0; j < m.kv_heads; ++j) {
                const long key = m.heads + j;
                float *own = d_mixed + (key * all + n) * d, *at = dz + key * d;
                through(dk + (n * m.kv_heads + j) * d, mixed + (key * all + n) * d, angle, m.temperature[j], own,
                        sums + c + j);
                std::fill(at, at + d, 0.f);
                for (long h = j * group; h < (j + 1) * group; ++h) {
                    float* query = d_mixed + (h * all + n) * d;
                    through(dq + (n * m.heads + h) * d, mixed + (h * all + n) * d, angle, 1, query, nullptr);
                    EACH(long i = 0; i < d; ++i) {
                        const float mean = (query[i] + own[i] / group) / 2;
                        dz[h * d + i] = mean;
                        at[i] += mean;
                        sums[h * d + i] += query[i];
                    }
                }
                EACH(long i = 0; i < d; ++i) sums[key * d + i] += own[i];
            }
            std::copy(dv + n * kv, dv + n * kv + late, dz + c);
            const bool read = (n + 1) % m.t && m.before(n + 1) > 0;  // by the next token
            EACH(long i = 0; i < late; ++i) dz[c + late + i] = read ? dv[(n + 1) * kv + late + i] : 0;
        }
    });
    std::copy(total.begin(), total.begin() + c, d_bias);
    std::copy(total.begin() + c, total.end(), d_temperature);
}
