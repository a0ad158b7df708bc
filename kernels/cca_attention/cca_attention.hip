// cca_attention: causal attention in the latent space, without ever writing the scores.
//
//   out = softmax(q k^T / sqrt(d)) v         q (b, t, h, d), k and v (b, s, j, d); the queries are the last t of s keys
//
// A block serves one KV head and up to 128 rows, where a row is one query head at one position: all query heads of the KV
// head are rows of the same tile, so they share every key and value that comes to LDS. Each team of 64 lanes has 32 rows.
// It walks over the keys 32 at a time and keeps for each row the largest score so far, `top`, and sums relative to it.
//
// Everything is computed turned over. Scores^T = K Q^T leaves lane l with row l % 32 only, 16 keys of it in registers, and
// in just the places where the next product, out^T = V^T P^T, wants its second operand: probabilities never leave registers.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = 256, KEYS = 32;
constexpr float LOWEST = -1e30f;   // a row that has seen nothing yet. trap: with -infinity its exp(top - top) would be NaN

template <class T, int WIDE> struct Tile {
  T key[KEYS][WIDE + 4], value[WIDE][KEYS + 4];   // values turned over; 4 more a row against bank conflicts
  int document[KEYS];
  float exchange[THREADS];
};

// Numbers at[0..3], the first `left` of which exist.
template <class T> DEVICE vec<T, 4> four(const T* at, int left, bool whole) {
  if (whole && left > 0) return *(const vec<T, 4>*)at;
  vec<T, 4> some;
#pragma unroll
  for (int j = 0; j < 4; j++) some[j] = !whole && j < left ? at[j] : from_float<T>(0.f);
  return some;
}

template <class T> DEVICE bool fours(const T* at, int width) { return width % 4 == 0 && (size_t)at % sizeof(vec<T, 4>) == 0; }

// What the lane with the other 16 keys of the same row has. A wave of 64 can ask; waves of 32 must go through LDS.
DEVICE float other_half(float mine, float* exchange) {
  if (WAVE == 64) return __shfl_xor(mine, 32);
  exchange[threadIdx.x] = mine;
  __syncthreads();
  float other = exchange[threadIdx.x ^ 32];
  __syncthreads();
  return other;
}

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

// 32 keys and values from `first` on, as they lie and turned over; zeros past the last key and the last channel.
// WHOLE: they come in whole fours, so nothing needs to be packed number by number.
template <bool WHOLE, class T, int WIDE>
DEVICE void fill(Tile<T, WIDE>& tile, const T* k, const T* v, const int* documents, int first, int keys, int stride, int width,
                 int threads) {
  for (int piece = threadIdx.x; piece < KEYS * WIDE / 4; piece += threads) {
    int key = piece / (WIDE / 4), channel = piece % (WIDE / 4) * 4;
    int left = first + key < keys ? width - channel : 0;
    *(vec<T, 4>*)&tile.key[key][channel] = four(k + (size_t)(first + key) * stride + channel, left, WHOLE);
  }
  for (int piece = threadIdx.x; piece < KEYS * WIDE / 16; piece += threads) {   // 4 keys by 4 channels each
    int key = piece % (KEYS / 4) * 4, channel = piece / (KEYS / 4) * 4;
    vec<T, 4> row[4], turned;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int left = first + key + i < keys ? width - channel : 0;
      row[i] = four(v + (size_t)(first + key + i) * stride + channel, left, WHOLE);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++) turned[i] = row[i][j];
      *(vec<T, 4>*)&tile.value[channel + j][key] = turned;
    }
  }
  int key = first + threadIdx.x;
  if (documents && threadIdx.x < KEYS) tile.document[threadIdx.x] = key < keys ? documents[key] : 0;
}

template <class T, int WIDE>
DEVICE void attend(Tile<T, WIDE>& tile, const T* q, const T* k, const T* v, const int* documents, T* out, float* partial,
                   float* stats, int queries, int keys, int heads, int kv_heads, int width, int window, int parts, int tiles, int threads,
                   float scale) {
  int lane = threadIdx.x % 64, group = heads / kv_heads, past = keys - queries, stride = kv_heads * width;
  int kv = blockIdx.y % kv_heads, batch = blockIdx.y / kv_heads, part = blockIdx.x % parts;
  int block = (tiles * parts - 1 - (int)blockIdx.x) / parts;   // the last positions first: they have the most keys
  int first_row = block * (threads / 2), last_row = first_row + threads / 2 - 1;
  if (last_row >= queries * group) last_row = queries * group - 1;
  int row = first_row + threadIdx.x / 64 * 32 + lane % 32, position = past + row / group, document = 0;
  bool there = row <= last_row, whole = fours(q, width) && fours(k, width) && fours(v, width) && fours(out, width);
  size_t place = ((size_t)batch * queries + row / group) * heads + kv * group + row % group;
  k += ((size_t)batch * keys * kv_heads + kv) * width;
  v += ((size_t)batch * keys * kv_heads + kv) * width;

  vec<T, 4> query[WIDE / 8];
#pragma unroll
  for (int c = 0; c < WIDE / 8; c++) {
    int channel = c * 8 + lane / 32 * 4;
    query[c] = four(q + place * width + channel, there ? width - channel : 0, whole);
  }
  // the first key that the first row may see, the last that the last row may; between them this part's share
  int begin = 0, end = past + last_row / group + 1, lowest = past + first_row / group;
  if (window && lowest - window + 1 > 0) begin = lowest - window + 1;
  documents += documents ? (size_t)batch * keys : 0;   // not inside the `if`: the pointer would lose its address space
  if (documents) {
    if (there) document = documents[position];
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
  float top = LOWEST, total = 0.f;   // total: of this lane's own keys
  for (int first = begin; first < end; first += KEYS) {
    __syncthreads();   // everyone has done with the keys before
    if (whole) fill<true>(tile, k, v, documents, first, keys, stride, width, threads);
    else fill<false>(tile, k, v, documents, first, keys, stride, width, threads);
    __syncthreads();   // they are there
    f32x16 score = mfma_zero();
#pragma unroll
    for (int c = 0; c < WIDE / 8; c++)
      score = mfma8(*(const vec<T, 4>*)&tile.key[lane % 32][c * 8 + lane / 32 * 4], query[c], score);
    float higher = top;
#pragma unroll
    for (int r = 0; r < 16; r++) {
      int at = mfma_row(r, lane), ahead = position - (first + at);
      bool seen = ahead >= 0 && (!window || ahead < window) && (!documents || tile.document[at] == document);
      score[r] = seen ? score[r] * scale : bits_as<float>(0xff800000u);   // - infinity
      higher = fmaxf(higher, score[r]);
    }
    higher = fmaxf(higher, other_half(higher, tile.exchange));
    float fade = expf(top - higher);   // what was summed relative to the old top
    top = higher;
    total *= fade;
    vec<T, 4> weight[KEYS / 8];
#pragma unroll
    for (int r = 0; r < 16; r++) {
      weight[r / 4][r % 4] = from_float<T>(expf(score[r] - top));
      total += to_float(weight[r / 4][r % 4]);   // as rounded, so that the weights still add up to one
    }
#pragma unroll
    for (int m = 0; m < WIDE / 32; m++) {
#pragma unroll
      for (int r = 0; r < 16; r++) sums[m][r] *= fade;
#pragma unroll
      for (int c = 0; c < KEYS / 8; c++)
        sums[m] = mfma8(*(const vec<T, 4>*)&tile.value[m * 32 + lane % 32][c * 8 + lane / 32 * 4], weight[c], sums[m]);
    }
  }
  total += other_half(total, tile.exchange);
  if (!there) return;
  float inverse = 1.f / total;
#pragma unroll
  for (int m = 0; m < WIDE / 32; m++)
#pragma unroll
    for (int c = 0; c < 4; c++) {
      int channel = m * 32 + c * 8 + lane / 32 * 4;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (channel + j >= width) continue;
        if (parts > 1) partial[(place * parts + part) * width + channel + j] = sums[m][4 * c + j];
        else if (!whole) out[place * width + channel + j] = from_float<T>(sums[m][4 * c + j] * inverse);
      }
      if (parts > 1 || !whole || channel >= width) continue;
      vec<T, 4> done;
#pragma unroll
      for (int j = 0; j < 4; j++) done[j] = from_float<T>(sums[m][4 * c + j] * inverse);
      *(vec<T, 4>*)(out + place * width + channel) = done;
    }
  if (parts > 1 && lane < 32) {
    stats[(place * parts + part) * 2] = top;
    stats[(place * parts + part) * 2 + 1] = total;
  }
}

// Few queries, many keys: several blocks took a part of the keys each. A block here puts one row's parts together.
template <class T> DEVICE void merge(const float* partial, const float* stats, T* out, int width, int parts) {
  size_t row = blockIdx.x;
  float top = LOWEST;
  for (int part = 0; part < parts; part++) top = fmaxf(top, stats[(row * parts + part) * 2]);
  for (int channel = threadIdx.x; channel < width; channel += 64) {
    float sum = 0.f, total = 0.f;
    for (int part = 0; part < parts; part++) {
      float weight = expf(stats[(row * parts + part) * 2] - top);
      sum += partial[(row * parts + part) * width + channel] * weight;
      total += stats[(row * parts + part) * 2 + 1] * weight;
    }
    out[row * width + channel] = from_float<T>(sum / total);
  }
}

#define ATTENTION(T, suffix, WIDE)                                                                                            \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS) cca_attention_##WIDE##_##suffix(                                      \
      const T* q, const T* k, const T* v, const int* documents, T* out, float* partial, float* stats, int queries, int keys,  \
      int heads, int kv_heads, int width, int window, int parts, int tiles, int threads, float scale) {                       \
    __shared__ __align__(16) Tile<T, WIDE> tile;                                                                              \
    attend<T, WIDE>(tile, q, k, v, documents, out, partial, stats, queries, keys, heads, kv_heads, width, window, parts, tiles, \
                    threads, scale);                                                                                          \
  }                                                                                                                           \
  LAUNCHABLE(cca_attention_##WIDE##_##suffix)
#define MERGE(T, suffix)                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS) cca_attention_merge_##suffix(                         \
      const float* partial, const float* stats, T* out, int width, int parts) {                               \
    merge<T>(partial, stats, out, width, parts);                                                              \
  }                                                                                                           \
  LAUNCHABLE(cca_attention_merge_##suffix)

ATTENTION(float, f32, 32)
ATTENTION(float, f32, 64)
ATTENTION(float, f32, 128)
ATTENTION(bf16, bf16, 32)
ATTENTION(bf16, bf16, 64)
ATTENTION(bf16, bf16, 128)
MERGE(float, f32)
MERGE(bf16, bf16)
