// cca_attention: causal attention in the latent space, without ever writing the scores.
//
//   out = softmax(q k^T / sqrt(d)) v         q (b, t, h, d), k and v (b, s, j, d); the queries are the last t of s keys
//
// A block serves one KV head and up to 128 rows, where a row is one query head at one position: all query heads of the KV
// head are rows of the same tile, so they share every key and value that comes to LDS. Each team of 64 lanes has 32 rows.
// It walks over the keys 32 at a time and keeps for each row the largest score so far, `top`, and sums relative to it.
//
// Everything is computed turned over. Scores^T = K Q^T leaves a lane with one row only (on NVIDIA two), some keys of it in
// registers, and in just the places where the next product, out^T = V^T P^T, wants its second operand: probabilities never
// leave registers.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = 256, KEYS = 32;
constexpr int CHANNELS = 128, SHARERS = 4, MERGERS = CHANNELS * SHARERS, AHEAD = 16;   // of `merge`
constexpr float LOWEST = -1e30f;   // a row that has seen nothing yet. trap: with -infinity its exp2(top - top) would be NaN
constexpr float TO_POWERS_OF_2 = 1.4426950408889634f;   // exp(x) = 2^(x log2(e)), and powers of two are one instruction

template <class T, int WIDE> struct Tile {
  T key[KEYS][WIDE + 4], value[WIDE][KEYS + 4];   // values turned over; 4 more a row against bank conflicts
  int document[KEYS];
};

// Numbers channel .. channel + 3 of a row. Channels past the width bring something finite: queries are zero there, and what
// becomes of values there is not stored. So nothing stands under a condition, where it would be waited for at once.
template <bool WHOLE, class T> DEVICE vec<T, 4> four(const T* row, int channel, int width) {
  if (WHOLE) return *(const vec<T, 4>*)(row + at_most(channel, width - 4));
  vec<T, 4> some;
#pragma unroll
  for (int j = 0; j < 4; j++) some[j] = row[at_most(channel + j, width - 1)];
  return some;
}

template <class T> DEVICE bool fours(const T* at, int width) { return width % 4 == 0 && (size_t)at % sizeof(vec<T, 4>) == 0; }

// Four numbers of LDS. float32 by way of a vector type: moved as a struct, the 16 bytes would be read as four words.
template <class T> DEVICE vec<T, 4> at_once(const T* at);
template <> DEVICE vec<float, 4> at_once<float>(const float* at) { return bits_as<vec<float, 4>>(*(const bytes16*)at); }
template <> DEVICE vec<bf16, 4> at_once<bf16>(const bf16* at) { return *(const vec<bf16, 4>*)at; }

// A weight between 0 and 1 as T will hold it: no NaN to look for. And T's bits of such a number.
template <class T> DEVICE float as_held(float x);
template <> DEVICE float as_held<float>(float x) { return x; }
template <> DEVICE float as_held<bf16>(float x) {
  unsigned u = bits_as<unsigned>(x);
  return bits_as<float>((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
}
DEVICE void hold(float x, float& to) { to = x; }
DEVICE void hold(float x, bf16& to) { to.bits = (unsigned short)(bits_as<unsigned>(x) >> 16); }

// The first key of the document that `position` stands in. Numbers never fall along a row, so halving finds it.
DEVICE int document_start(const int* documents, int position) {
  int low = 0, high = position;
  while (low < high) {
    int middle = (low + high) / 2;
    if (documents[middle] < documents[position]) low = middle + 1;
    else high = middle;
  }
  return low;
}

// What thread t of 256 brings of 32 keys and values: fetched into registers, later put into LDS, values turned over.
template <class T, int WIDE> struct Coming {
  static constexpr int OF_KEYS = KEYS * WIDE / 4 / THREADS, FOURS = KEYS * WIDE / 16;      // FOURS: 4 keys by 4 channels each
  vec<T, 4> key[OF_KEYS], value[4];
  int document;

  template <bool WHOLE>
  DEVICE void fetch(int t, const T* k, const T* v, const int* documents, int first, int keys, int stride, int width) {
#pragma unroll
    for (int i = 0; i < OF_KEYS; i++) {
      int piece = t + i * THREADS, at = at_most(first + piece / (WIDE / 4), keys - 1);
      key[i] = four<WHOLE>(k + (size_t)at * stride, piece % (WIDE / 4) * 4, width);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int piece = t % FOURS, at = at_most(first + piece % (KEYS / 4) * 4 + j, keys - 1);
      value[j] = four<WHOLE>(v + (size_t)at * stride, piece / (KEYS / 4) * 4, width);
    }
    document = documents ? documents[at_most(first + t % KEYS, keys - 1)] : 0;
  }

  DEVICE void put(int t, Tile<T, WIDE>& tile) const {
#pragma unroll
    for (int i = 0; i < OF_KEYS; i++) {
      int piece = t + i * THREADS;
      *(vec<T, 4>*)&tile.key[piece / (WIDE / 4)][piece % (WIDE / 4) * 4] = key[i];
    }
    if (t < KEYS) tile.document[t] = document;
    if (t >= FOURS) return;
    int at = t % (KEYS / 4) * 4, channel = t / (KEYS / 4) * 4;
#pragma unroll
    for (int j = 0; j < 4; j++)
      *(vec<T, 4>*)&tile.value[channel + j][at] = {{value[0][j], value[1][j], value[2][j], value[3][j]}};
  }
};

// A block of 4 teams fetches the next keys while it works on these; one of 1 team fetches what it needs, a quarter at a time.
// WHOLE: rows come in whole fours.
template <bool WHOLE, int TEAMS, class T, int WIDE>
DEVICE void attend(Tile<T, WIDE>& tile, const T* q, const T* k, const T* v, const int* documents, T* out, float* partial,
                   float* stats, int queries, int keys, int heads, int kv_heads, int width, int window, int parts, int tiles, float scale) {
  constexpr bool EARLY = sizeof(T) == 2 && WIDE == 128;   // LDS answers after some four products; elsewhere registers are too few
  constexpr int SLICES = KEYS / MFMA_SLICE, OWN = MFMA_COLUMNS;   // OWN: rows that a lane has a share of
  int lane = threadIdx.x % 64, group = heads / kv_heads, past = keys - queries, stride = kv_heads * width;
  int kv = blockIdx.y % kv_heads, batch = blockIdx.y / kv_heads, part = blockIdx.x % parts;
  int block = (tiles * parts - 1 - (int)blockIdx.x) / parts;   // the last positions first: they have the most keys
  int first_row = block * (32 * TEAMS), last_row = first_row + 32 * TEAMS - 1;
  if (last_row >= queries * group) last_row = queries * group - 1;
  int position[OWN], document[OWN];
  bool there[OWN];
  size_t place[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    int row = first_row + threadIdx.x / 64 * 32 + mfma_column(i, lane);
    position[i] = past + row / group, document[i] = 0;
    there[i] = row <= last_row;
    place[i] = ((size_t)batch * queries + row / group) * heads + kv * group + row % group;
  }
  k += ((size_t)batch * keys * kv_heads + kv) * width;
  v += ((size_t)batch * keys * kv_heads + kv) * width;

  vec<T, 4> query[WIDE / MFMA_SLICE][OWN];
#pragma unroll
  for (int c = 0; c < WIDE / MFMA_SLICE; c++)
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      int channel = c * MFMA_SLICE + mfma_part(lane) * 4, left = there[i] ? width - channel : 0;
#pragma unroll
      for (int j = 0; j < 4; j++) query[c][i][j] = from_float<T>(0.f);
      if (WHOLE && left > 0) query[c][i] = *(const vec<T, 4>*)(q + place[i] * width + channel);
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (!WHOLE && j < left) query[c][i][j] = q[place[i] * width + channel + j];
    }
  // the first key that the first row may see, the last that the last row may; between them this part's share
  int begin = 0, end = past + last_row / group + 1, lowest = past + first_row / group;
  if (window && lowest - window + 1 > 0) begin = lowest - window + 1;
  documents += documents ? (size_t)batch * keys : 0;   // not inside the `if`: the pointer would lose its address space
  if (documents) {
#pragma unroll
    for (int i = 0; i < OWN; i++)
      if (there[i]) document[i] = documents[position[i]];
    int start = document_start(documents, lowest);
    if (start > begin) begin = start;
  }
  begin = begin / KEYS * KEYS;
  int each = ((end - begin + KEYS - 1) / KEYS + parts - 1) / parts * KEYS;
  begin += part * each;
  if (end > begin + each) end = begin + each;

  f32x16 sums[WIDE / 32];
#pragma unroll
  for (int m = 0; m < WIDE / 32; m++) sums[m] = mfma_zero();
  float top[OWN], total[OWN], fade[OWN], powers = scale * TO_POWERS_OF_2;   // total: of this lane's own keys
#pragma unroll
  for (int i = 0; i < OWN; i++) top[i] = LOWEST, total[i] = 0.f;
  Coming<T, WIDE> coming;
  if (TEAMS == 4) coming.template fetch<WHOLE>(threadIdx.x, k, v, documents, begin, keys, stride, width);
  for (int first = begin; first < end; first += KEYS) {
    __syncthreads();   // everyone has done with the keys before
    if (TEAMS == 4) {
      coming.put(threadIdx.x, tile);
    } else {
#pragma unroll
      for (int t = threadIdx.x; t < THREADS; t += 64 * TEAMS) {
        coming.template fetch<WHOLE>(t, k, v, documents, first, keys, stride, width);
        coming.put(t, tile);
      }
    }
    __syncthreads();   // they are there
    if (TEAMS == 4)    // behind the last ones: something that exists, for nobody
      coming.template fetch<WHOLE>(threadIdx.x, k, v, documents, first + KEYS, keys, stride, width);
    stay_in_order();   // the loads travel while the matrix cores work
    auto key = [&](int c, vec<T, 4> (&to)[MFMA_ROWS]) {
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++) to[i] = at_once<T>(&tile.key[mfma_a_row(i, lane)][c * MFMA_SLICE + mfma_part(lane) * 4]);
    };
    auto value = [&](int m, int c, vec<T, 4> (&to)[MFMA_ROWS]) {
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++) to[i] = at_once<T>(&tile.value[m * 32 + mfma_a_row(i, lane)][c * MFMA_SLICE + mfma_part(lane) * 4]);
    };
    vec<T, 4> piece[2][SLICES][MFMA_ROWS];   // EARLY: some slices are multiplied, the next ones are on their way
#pragma unroll
    for (int i = 0; EARLY && i < SLICES; i++) key(i, piece[0][i]);
    f32x16 score = mfma_zero();
#pragma unroll
    for (int c = 0; c < WIDE / MFMA_SLICE; c++) {
#pragma unroll
      for (int i = 0; EARLY && c % SLICES == 0 && c + SLICES < WIDE / MFMA_SLICE && i < SLICES; i++)
        key(c + SLICES + i, piece[(c / SLICES + 1) % 2][i]);
      if (EARLY && c % SLICES == 0) stay_in_order();
      if (!EARLY) key(c, piece[0][0]);
      score = mfma(EARLY ? piece[c / SLICES % 2][c % SLICES] : piece[0][0], query[c], score);
    }
    if (EARLY) stay_in_order();
#pragma unroll
    for (int i = 0; EARLY && i < SLICES; i++) value(0, i, piece[0][i]);   // wanted after the weights
    // may every row see every key here? Then nobody asks, key by key
    bool open = !documents && first + KEYS - 1 <= lowest && (!window || past + last_row / group - first < window);
    if (!open) {
#pragma unroll
      for (int r = 0; r < 16; r++) {
        int i = r / MFMA_HELD, at = mfma_row(r % MFMA_HELD, lane), ahead = position[i] - (first + at);
        bool seen = ahead >= 0 && (!window || ahead < window) && (!documents || tile.document[at] == document[i]);
        score[r] = seen ? score[r] : bits_as<float>(0xff800000u);   // - infinity
      }
    }
    vec<T, 4> weight[SLICES][OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      float higher = top[i];
#pragma unroll
      for (int r = 0; r < MFMA_HELD; r++) higher = fmaxf(higher, score[MFMA_HELD * i + r]);
      higher = column_max(higher);
      fade[i] = power_of_2((top[i] - higher) * powers);   // what was summed relative to the old top
      top[i] = higher;
      total[i] *= fade[i];
#pragma unroll
      for (int r = 0; r < MFMA_HELD; r++) {
        float held = as_held<T>(power_of_2((score[MFMA_HELD * i + r] - top[i]) * powers));
        hold(held, weight[r / 4][i][r % 4]);
        total[i] += held;   // as rounded, so that the weights still add up to one
      }
    }
#pragma unroll
    for (int m = 0; m < WIDE / 32; m++) {
#pragma unroll
      for (int i = 0; EARLY && m + 1 < WIDE / 32 && i < SLICES; i++) value(m + 1, i, piece[(m + 1) % 2][i]);
#pragma unroll
      for (int r = 0; r < 16; r++) sums[m][r] *= fade[r / MFMA_HELD];
      if (EARLY) stay_in_order();
#pragma unroll
      for (int c = 0; c < SLICES; c++) {
        if (!EARLY) value(m, c, piece[0][0]);
        sums[m] = mfma(EARLY ? piece[m % 2][c] : piece[0][0], weight[c], sums[m]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    total[i] = column_sum(total[i]);
    if (!there[i]) continue;
    float inverse = 1.f / total[i];
#pragma unroll
    for (int m = 0; m < WIDE / 32; m++)
#pragma unroll
      for (int c = 0; c < SLICES; c++) {
        int channel = m * 32 + c * MFMA_SLICE + mfma_part(lane) * 4, at = MFMA_HELD * i + 4 * c;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if (channel + j >= width) continue;
          if (parts > 1) partial[(place[i] * parts + part) * width + channel + j] = sums[m][at + j];
          else if (!WHOLE) out[place[i] * width + channel + j] = from_float<T>(sums[m][at + j] * inverse);
        }
        if (parts > 1 || !WHOLE || channel >= width) continue;
        vec<T, 4> done;
#pragma unroll
        for (int j = 0; j < 4; j++) done[j] = from_float<T>(sums[m][at + j] * inverse);
        *(vec<T, 4>*)(out + place[i] * width + channel) = done;
      }
    if (parts > 1 && mfma_part(lane) == 0) {
      stats[(place[i] * parts + part) * 2] = top[i] * scale;
      stats[(place[i] * parts + part) * 2 + 1] = total[i];
    }
  }
}

// Few queries, many keys: several blocks took a part of the keys each. A block here puts one row's parts together: a thread a
// channel, and SHARERS of them share the parts, AHEAD of them loaded at a time; in place of those past the last one, that one.
struct Share { float tops[MERGERS / 32], total[SHARERS], sum[SHARERS][CHANNELS]; };

template <class T> DEVICE void merge(Share& share, const float* partial, const float* stats, T* out, int width, int parts) {
  size_t row = blockIdx.x;
  int team = threadIdx.x / CHANNELS, channel = threadIdx.x % CHANNELS;
  float top = LOWEST;
  for (int part = threadIdx.x; part < parts; part += MERGERS) top = fmaxf(top, stats[(row * parts + part) * 2]);
  top = wave_max(top);
  if (threadIdx.x % WAVE == 0) share.tops[threadIdx.x / WAVE] = top;
  __syncthreads();
#pragma unroll
  for (int wave = 0; wave < MERGERS / WAVE; wave++) top = fmaxf(top, share.tops[wave]);
  float sum = 0.f, total = 0.f;
  for (int part = team * AHEAD; part < parts; part += SHARERS * AHEAD) {
    vec<float, 2> stat[AHEAD];
    float sums[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      size_t at = row * parts + at_most(part + j, parts - 1);
      stat[j] = *(const vec<float, 2>*)&stats[at * 2];
      sums[j] = partial[at * width + at_most(channel, width - 1)];
    }
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      float weight = part + j < parts ? expf(stat[j][0] - top) : 0.f;
      sum += sums[j] * weight;
      total += stat[j][1] * weight;
    }
  }
  share.sum[team][channel] = sum;
  if (channel == 0) share.total[team] = total;
  __syncthreads();
  if (team > 0 || channel >= width) return;
#pragma unroll
  for (int other = 1; other < SHARERS; other++) {
    sum += share.sum[other][channel];
    total += share.total[other];
  }
  out[row * width + channel] = from_float<T>(sum / total);
}

// Four teams, or one where there are few rows: kernels of their own, since one that can do both has too few registers.
// WAVES on a SIMD: float32 heads of 128 channels fill half of LDS with one block, so one wave may have all registers.
#define ATTENTION(T, suffix, WIDE, WAVES)                                \
  ATTENTION_OF(cca_attention_##WIDE##_##suffix, 4, T, WIDE, WAVES)       \
  LAUNCHABLE(cca_attention_##WIDE##_##suffix)                            \
  ATTENTION_OF(cca_attention_few_##WIDE##_##suffix, 1, T, WIDE, WAVES)   \
  LAUNCHABLE(cca_attention_few_##WIDE##_##suffix)
#define ATTENTION_OF(name, TEAMS, T, WIDE, WAVES)                                                                               \
  extern "C" __global__ void MATRIX_BOUNDS(64 * TEAMS, WAVES) name(                                                            \
      const T* q, const T* k, const T* v, const int* documents, T* out, float* partial, float* stats, int queries, int keys,   \
      int heads, int kv_heads, int width, int window, int parts, int tiles, float scale) {                                     \
    __shared__ __align__(16) Tile<T, WIDE> tile;                                                                               \
    if (fours(q, width) && fours(k, width) && fours(v, width) && fours(out, width))                                            \
      attend<true, TEAMS>(tile, q, k, v, documents, out, partial, stats, queries, keys, heads, kv_heads, width, window, parts, \
                          tiles, scale);                                                                                       \
    else                                                                                                                       \
      attend<false, TEAMS>(tile, q, k, v, documents, out, partial, stats, queries, keys, heads, kv_heads, width, window,       \
                           parts, tiles, scale);                                                                               \
  }
#define MERGE(T, suffix)                                                                                      \
  extern "C" __global__ void __launch_bounds__(MERGERS) cca_attention_merge_##suffix(                         \
      const float* partial, const float* stats, T* out, int width, int parts) {                               \
    __shared__ Share share;                                                                                   \
    merge<T>(share, partial, stats, out, width, parts);                                                       \
  }                                                                                                           \
  LAUNCHABLE(cca_attention_merge_##suffix)

ATTENTION(float, f32, 32, 2)
ATTENTION(float, f32, 64, 2)
ATTENTION(float, f32, 128, 1)
ATTENTION(bf16, bf16, 32, 2)
ATTENTION(bf16, bf16, 64, 2)
ATTENTION(bf16, bf16, 128, 2)
MERGE(float, f32)
MERGE(bf16, bf16)
