// Attention of new tokens to a past: head by head where it is short, in the order in which it lies where it is long.

#include "model.cpp"

namespace {

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

}  // namespace
