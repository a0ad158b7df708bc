// cca_mix: everything of CCA between its down-projection and its attention, in one pass.
//
//   u_t = b0 + w1 z_t + w0 z_{t-1}                      depthwise convolution, a filter a channel
//   y_t = b1 + W1 u_t + W0 u_{t-1}                      grouped convolution, a matrix a head: MFMA
//   q = y + (q0 + k0) / 2,  k = y + mean of the group's (q0 + k0) / 2        q0, k0: z itself, per head
//   q, k to length sqrt(d), k times its temperature, then RoPE; v = [now_t ; then_{t-1}]
//
// A block takes 32 tokens and one KV head with its g query heads: the mean path stays inside, and every activation is read
// once, but for a halo of two tokens. The key head goes first and waits in registers until the queries' are summed.
//
// Three ways to share out a head's 32 x 128 numbers: a thread has 2 columns of 8 rows where tokens are walked (depthwise,
// values), what mfma.h says of column 32 * team on in products, and 16 columns of one row at the end, so that a
// row is 8 neighbours' and its sum three shuffles. FULL: heads of 128 channels, 64 of them turned, whose numbers move by whole
// words; any other head goes number by number.
#include "gpu.h"
#include "gemm.h"

constexpr int THREADS = 256, ROWS = 32, HALO = 2, WIDEST = 128, EACH = 8;   // EACH: rows that a thread walks
constexpr float TINY = 1.4210855e-14f;                                      // the square of the least length

DEVICE int team() { return same_in_wave(threadIdx.x / 64); }

struct Shape {
  int steps, heads, kv_heads, dim, rotary;      // t, h, j, d, and how many channels of a head RoPE turns
  int angle_rows;                               // rows of angles between two sequences; 0: all share them
  int batches;                                  // b; only where the backward pass needs it
  DEVICE int channels() const { return (heads + kv_heads) * dim; }            // c
  DEVICE int width() const { return (heads + 2 * kv_heads) * dim; }           // of a packed row
};

template <class T> struct Inputs {
  const T *packed;                              // (b, t, c + kv): z, then `now`, then `then`
  const T *depthwise, *depthwise_bias;          // (c, 2), (c)
  const T *grouped, *grouped_bias;              // (c, d, 2), (c)
  const T *temperature, *cosine, *sine;         // (j), (.., t, rotary / 2) twice
  const int* position;                          // (b, t), place in its own document; null: one document a row
  const T *past, *before;                       // (b, 2, c), (b, kv / 2): what came before; null: nothing
};

// Forward: q, k, v. Backward: the gradient dy (b, t, c) of what stands before the norm, and a block's share of temperature's.
template <class T> struct Results { T *q, *k, *v; const T *d_q, *d_k; T* dy; float* d_temperature; };

// One head of one tile in LDS. Row i of z is token first - 2 + i, row i of mixed and turned is token first + i. Rows are four
// numbers longer than they need to be: then the 32 rows that a matrix instruction reads lie in different banks.
template <class T> struct Head {
  union {
    T mixed[ROWS][2 * WIDEST + 4];              // u_{t-1} and u_t by turns: as the two taps of a weight lie in memory
    float turned[ROWS][WIDEST + 4];
  };
  T z[ROWS + HALO][WIDEST + 4];
};

// z of one head into LDS, zeros where no token or channel is. N: how many numbers move at a time.
template <int N, class T> DEVICE void load(Head<T>& lds, const Inputs<T>& in, const Shape& s, int batch, int first, int channel) {
#pragma unroll 1
  for (int i = threadIdx.x; i < (ROWS + HALO) * WIDEST / N; i += THREADS) {
    int row = i / (WIDEST / N), c = i % (WIDEST / N) * N, token = first - HALO + row;
    const T* from = nullptr;
    if (c < s.dim && token >= 0 && token < s.steps) from = in.packed + ((size_t)batch * s.steps + token) * s.width() + channel + c;
    if (c < s.dim && token < 0 && in.past) from = in.past + ((size_t)batch * HALO + HALO + token) * s.channels() + channel + c;
    vec<T, N> piece;
#pragma unroll
    for (int j = 0; j < N; j++) piece[j] = from_float<T>(0.f);
    if (from) piece = *(const vec<T, N>*)from;
    *(vec<T, N>*)&lds.z[row][c] = piece;
  }
}

// The same in two halves where all 34 tokens are there and d is 128: nobody asks, and the loads travel while a thread works.
template <class T> struct Coming {
  static constexpr int A_ROW = WIDEST / 4, AT_ONCE = THREADS / A_ROW, TURNS = (ROWS + HALO + AT_ONCE - 1) / AT_ONCE;
  floats<sizeof(T)> z[TURNS];                   // the bits of four each. trap: a struct carried over a barrier goes to scratch
  unsigned first, last;                         // bytes to its numbers, and to those of the last turn: rows that exist

  DEVICE Coming(int width) {
    int row = threadIdx.x / A_ROW, column = threadIdx.x % A_ROW * 4;
    first = (row * width + column) * sizeof(T);
    last = (at_most(row + (TURNS - 1) * AT_ONCE, ROWS + HALO - 1) * width + column) * sizeof(T);
  }
  DEVICE void fetch(const T* from, int width) {   // from: of the first token
#pragma unroll
    for (int i = 0; i < TURNS; i++)
      z[i] = bits_as<floats<sizeof(T)>>(*(const vec<T, 4>*)((const char*)from + (i < TURNS - 1 ? first + i * AT_ONCE * width * (unsigned)sizeof(T) : last)));
  }
  DEVICE void put(Head<T>& lds) const {
    int row = threadIdx.x / A_ROW, column = threadIdx.x % A_ROW * 4;
#pragma unroll
    for (int i = 0; i < TURNS; i++)
      if (row + i * AT_ONCE < ROWS + HALO) *(vec<T, 4>*)&lds.z[row + i * AT_ONCE][column] = bits_as<vec<T, 4>>(z[i]);
  }
};

// Bit i: token first + (this thread's rows) - 1 + i is the first of its document. A document that begins is rare, so whoever
// walks tokens asks first whether any does.
template <class T> DEVICE int borders_of(const Inputs<T>& in, const Shape& s, int batch, int first) {
  int borders = 0;
  for (int i = 0; in.position && i <= EACH; i++) {
    int token = first + team() * EACH - 1 + i;
    if (token >= 0 && token < s.steps && in.position[(size_t)batch * s.steps + token] == 0) borders |= 1 << i;
  }
  return borders;
}

// From z to mixed, u_{t-1} beside u_t: before a document begins, u is b0. For columns c, .. c + M - 1.
template <bool BORDERS, int M, class T>
DEVICE void depthwise(Head<T>& lds, const vec<T, M>& filter_bias, const vec<T, 2 * M>& taps, int c, int borders) {
  int top = team() * EACH;
  floats<M> bias = widened(filter_bias), tap0, tap1, z_before = widened(*(const vec<T, M>*)&lds.z[top][c]);
#pragma unroll
  for (int j = 0; j < M; j++) tap0[j] = to_float(taps[2 * j]), tap1[j] = to_float(taps[2 * j + 1]);
  floats<M> late = bias;
#pragma unroll M == 1 ? 3 : EACH + 1            // any head: whole, the nine questions about borders would fill scalar registers
  for (int i = 0; i <= EACH; i++) {
    floats<M> z = widened(*(const vec<T, M>*)&lds.z[top + i + 1][c]), u = fma_of(tap1, z, bias);
    bool begins = BORDERS && borders >> i & 1;
    if (!begins) u = fma_of(tap0, z_before, u);
    vec<vec<T, 2>, M> both;                     // whole words: taken apart, they would be put together again by two instructions
#pragma unroll
    for (int j = 0; j < M; j++) {
      u[j] = nearest<T>(u[j]);
      both[j] = side_by_side<T>(begins ? bias[j] : late[j], u[j]);
    }
    if (i > 0) *(vec<T, 2 * M>*)&lds.mixed[top + i - 1][2 * c] = bits_as<vec<T, 2 * M>>(bits_as<floats<M * sizeof(T) / 2>>(both));
    late = u, z_before = z;
  }
}

// The weights of this thread's columns, 16 pieces of 16 bytes in all, the numbers k .. k + 32 pieces of a column shared out. A piece
// feeds two matrix instructions or four. rows: where a column's weights begin.
constexpr int OF_COLUMN = 16 / MFMA_COLUMNS;
template <class T> DEVICE void fetch_weights(bytes16 (&weights)[16], const T* const (&rows)[MFMA_COLUMNS], int k) {
#pragma unroll
  for (int c = 0; c < 16; c++)
    weights[c] = *(const bytes16*)(rows[c % MFMA_COLUMNS] + k + (MFMA_SHARERS * (c / MFMA_COLUMNS) + (unsigned)mfma_part(threadIdx.x % 64)) * Gemm<T>::PIECE);
}

// acc += W1 u_t + W0 u_{t-1} for what this thread holds: the two taps are one inner axis, of 2 d.
template <bool FULL, class T>
DEVICE void grouped(f32x16& acc, const Head<T>& lds, bytes16 (&weights)[16], const T* const (&rows)[MFMA_COLUMNS], const Shape& s) {
  constexpr int PIECE = Gemm<T>::PIECE, STEP = MFMA_SHARERS * PIECE;
  int lane = threadIdx.x % 64;
  auto piece = [&](const bytes16* weight, int k) {
    vec<T, 4> b[PIECE / 4][MFMA_COLUMNS];
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++) fours(weight[i], b, i);
#pragma unroll
    for (int j = 0; j < PIECE / 4; j++) {
      vec<T, 4> a[MFMA_ROWS];
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++) a[i] = *(const vec<T, 4>*)&lds.mixed[mfma_a_row(i, lane)][k + mfma_part(lane) * PIECE + 4 * j];
      acc = mfma(a, b[j], acc);
    }
  };
#pragma unroll 1
  for (int k = 0; !FULL && k < 2 * s.dim; k += STEP) {
    bytes16 weight[MFMA_COLUMNS];
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++) {
      vec<vec<T, 2>, PIECE / 2> some;           // past the last channel, that one's: u is zero there
#pragma unroll
      for (int j = 0; j < PIECE / 2; j++) some[j] = *(const vec<T, 2>*)(rows[i] + at_most(k + mfma_part(lane) * PIECE + 2 * j, 2 * s.dim - 2));
      weight[i] = bits_as<bytes16>(some);
    }
    piece(weight, k);
  }
#pragma unroll 1
  for (int k = 0; FULL && k < 2 * WIDEST; k += OF_COLUMN * STEP) {
    if (k > 0) fetch_weights(weights, rows, k);
#pragma unroll
    for (int c = 0; c < OF_COLUMN; c++) piece(weights + c * MFMA_COLUMNS, k + c * STEP);
  }
}

#include "cca_mix/half.h"
#include "cca_mix/turn.h"

// Channels [head * d, head * d + d) of v: the first half of all of them is from now, the second one token late.
template <bool FULL, class T> DEVICE void shift_values(const Inputs<T>& in, const Shape& s, T* v, int batch, int first, int head, int borders) {
  constexpr int M = FULL ? 2 : 1, AT_ONCE = FULL ? EACH : 1;
  int half = s.kv_heads * s.dim / 2, top = team() * EACH;
  int begins = borders | (s.steps == 1 ? -1 : first + top == 0 ? 2 : 0);      // bit row + 1, with the first token of all
#pragma unroll 1
  for (int turn = 0; turn < (FULL ? 1 : s.dim > 64 ? 2 * EACH : EACH); turn++) {
    int own = threadIdx.x % 64 * M + turn / EACH * 64, c = head * s.dim + at_most(own, s.dim - M);
    unsigned own_row = c < half ? s.width() : 0;        // from the row before, which all lanes share: what lies in their own row
    vec<T, M> value[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {         // all loads, then all stores
      int row = turn % EACH + i, token = at_most(first + top + row, s.steps - 1);
      int starts = begins >> (row + 1) & 1;     // reckoned with: as a question it would cost vector instructions
      const T* line = in.packed + ((size_t)batch * s.steps + token - 1 + starts) * s.width() + s.channels();
      value[i] = *(const vec<T, M>*)(line + ((unsigned)c + (own_row & (unsigned)(starts - 1))));
    }
    if (begins) {                               // rare: what comes before a beginning
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        if (c < half || !(begins >> (turn % EACH + i + 1) & 1)) continue;
        if (in.before) value[i] = *(const vec<T, M>*)(in.before + (size_t)batch * half + c - half);
#pragma unroll
        for (int j = 0; j < M && !in.before; j++) value[i][j] = from_float<T>(0.f);
      }
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE && own < s.dim && first + top + turn % EACH + i < s.steps; i++)
      *(vec<T, M>*)(v + ((size_t)batch * s.steps + first + top + turn % EACH + i) * 2 * half + (unsigned)c) = value[i];
  }
}

// One block's work, forwards, or the same again and back through RoPE and norm, as far as dy.
template <bool FULL, bool BACK, class T> DEVICE void mix(Head<T>& lds, float* scratch, const Inputs<T>& in, Shape s, const Results<T>& out) {
  if (FULL) s.dim = WIDEST, s.rotary = WIDEST / 2;     // numbers that the compiler knows
  int kv_head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * ROWS, group = s.heads / s.kv_heads;
  int lane = threadIdx.x % 64, mine[MFMA_COLUMNS];
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++) mine[i] = at_most(team() * 32 + mfma_column(i, lane), s.dim - 1);
  int borders = same_in_wave(borders_of(in, s, batch, first)), token = first + threadIdx.x / 8;
  if (!BACK) shift_values<FULL>(in, s, out.v, batch, first, kv_head, borders);
  bool inner = FULL && first >= HALO && first + ROWS <= s.steps, works = FULL || team() * 32 < s.dim;
  size_t row = (size_t)batch * s.steps + first;
  int count = at_most(ROWS, s.steps - first), q_row = s.heads * s.dim, k_row = s.kv_heads * s.dim;
  Angles<FULL, T> angles(in, s, (size_t)batch * s.angle_rows + at_most(token, s.steps - 1));

  constexpr int M = FULL ? 2 : 1;
  int own = threadIdx.x % 64 * M;               // the first of the columns that it walks
  vec<T, 4> half[ROWS / MFMA_SLICE][MFMA_COLUMNS];
  half_identity(half);
  f32x16 keys = mfma_zero(), half_key = mfma_zero(), queries = mfma_zero();    // y of k, k0 / 2, and the sum of all q0 / 2
  Coming<T> coming(s.width());
  const T* tile = in.packed + ((size_t)batch * s.steps + first - HALO) * s.width();
  if (inner) coming.fetch(tile + (s.heads + kv_head) * s.dim, s.width());
  const T* weight_row[MFMA_COLUMNS];
  bytes16 weights[16];
  float bias[MFMA_COLUMNS];
  auto prepare = [&](int head, int next) {      // u of one head into LDS, its weights and z of the next one on their way
    int channel = head * s.dim;
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++)      // what all lanes share, then a lane's own
      weight_row[i] = in.grouped + (size_t)channel * s.dim * 2 + (unsigned)(mine[i] * s.dim * 2);
    vec<T, M> filter_bias;
    vec<T, 2 * M> taps;
    auto fetch_filters = [&](int c) {
      unsigned there = at_most(c, s.dim - M);
      filter_bias = *(const vec<T, M>*)(in.depthwise_bias + channel + there);
      taps = *(const vec<T, 2 * M>*)(in.depthwise + channel * 2 + there * 2);
      if (c >= s.dim) filter_bias[0] = taps[0] = taps[1] = from_float<T>(0.f);      // so u is zero past the last channel
    };
    fetch_filters(own);
    if (FULL) fetch_weights(weights, weight_row, 0);
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++) bias[i] = to_float((in.grouped_bias + channel)[(unsigned)mine[i]]);
    if (inner) coming.put(lds);
    else load<FULL ? 4 : 1>(lds, in, s, batch, first, channel);
    __syncthreads();                            // z is there, and everyone has done with turned
    if (inner && next >= 0) coming.fetch(tile + next * s.dim, s.width());
#pragma unroll 1
    for (int c = own; c < WIDEST; c += 64 * M) {
      if (c != own) fetch_filters(c);
      if (FULL && !borders) depthwise<false, M>(lds, filter_bias, taps, c, 0);
      else depthwise<true, M>(lds, filter_bias, taps, c, borders);
    }
    __syncthreads();
  };
  prepare(s.heads + kv_head, kv_head * group);  // apart from the queries: in their loop, all sums would be copied at each turn
  if (works) grouped<FULL>(keys, lds, weights, weight_row, s);
  if (works) add_half(half_key, lds, half);
  keys = plus(keys, bias);
  __syncthreads();                              // everyone has read z, whose place the next one takes
  for (int head = kv_head * group; head < kv_head * group + group; head++) {
    prepare(head, head + 1 < kv_head * group + group ? head + 1 : -1);
    int channel = head * s.dim;
    f32x16 x = plus(half_key, bias);
    if (works) grouped<FULL>(x, lds, weights, weight_row, s);
    if (works) add_half(x, lds, half);
    if (works) add_half(queries, lds, half);
    finish<FULL, BACK, T>(lds, angles, s, x, 1.f, {BACK ? out.d_q + row * q_row + channel : nullptr,
                                                   BACK ? out.dy + row * s.channels() + channel : out.q + row * q_row + channel,
                                                   q_row, BACK ? s.channels() : q_row, count});
  }
  keys = keys + (queries * (1.f / group) + half_key);
  float d_scale = finish<FULL, BACK, T>(lds, angles, s, keys, to_float(in.temperature[kv_head]),
                                        {BACK ? out.d_k + row * k_row + kv_head * s.dim : nullptr,
                                         BACK ? out.dy + row * s.channels() + q_row + kv_head * s.dim : out.k + row * k_row + kv_head * s.dim,
                                         k_row, BACK ? s.channels() : k_row, count});
  if (!BACK) return;
  d_scale = block_sum<THREADS>(d_scale, scratch);
  if (threadIdx.x == 0) out.d_temperature[(blockIdx.x * s.kv_heads + kv_head) * s.batches + batch] = d_scale;
}

#include "cca_mix/taps.h"

// Heads of 128 channels, and any other ones: kernels of their own, since one that can do both has too few scalar registers.
// Waves on a SIMD: float32 fills more than half of LDS with one block, so one wave may have all registers.
#define CCA_MIX(T, suffix, FULL)                                                                                                \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, sizeof(T) == 2 ? 2 : 1) cca_mix_##suffix(                                  \
      const T* packed, const T* depthwise, const T* depthwise_bias, const T* grouped, const T* grouped_bias,                    \
      const T* temperature, const T* cosine, const T* sine, const int* position, const T* past, const T* before, T* q, T* k,    \
      T* v, int steps, int heads, int kv_heads, int dim, int rotary, int angle_rows) {                                          \
    __shared__ __align__(16) Head<T> lds;                                                                                       \
    mix<FULL, false, T>(lds, nullptr, {packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, past, before}, \
                        {steps, heads, kv_heads, dim, rotary, angle_rows}, {q, k, v, nullptr, nullptr, nullptr, nullptr});      \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_##suffix)                                                                                                  \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, sizeof(T) == 2 ? 2 : 1) cca_mix_backward_heads_##suffix(                   \
      const T* packed, const T* depthwise, const T* depthwise_bias, const T* grouped, const T* grouped_bias,                    \
      const T* temperature, const T* cosine, const T* sine, const int* position, const T* d_q, const T* d_k, T* dy,             \
      float* d_temperature, int steps, int heads, int kv_heads, int dim, int rotary, int angle_rows, int batches) {             \
    __shared__ __align__(16) Head<T> lds;                                                                                       \
    __shared__ float scratch[THREADS / 32];                                                                                     \
    mix<FULL, true, T>(lds, scratch, {packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, nullptr, nullptr}, \
                       {steps, heads, kv_heads, dim, rotary, angle_rows, batches}, {nullptr, nullptr, nullptr, d_q, d_k, dy, d_temperature}); \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_backward_heads_##suffix)                                                                                   \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, sizeof(T) == 2 ? 2 : 1) cca_mix_backward_taps_##suffix(                    \
      const T* dy, const T* d_v, const T* depthwise, const T* grouped, const int* position, T* d_packed,                        \
      float* du, int steps, int heads, int kv_heads, int dim) {                                                                 \
    __shared__ __align__(16) Taps<T> lds;                                                                                       \
    backward_taps<FULL>(lds, dy, d_v, depthwise, grouped, position, d_packed, du, {steps, heads, kv_heads, dim, 0, 0, 0});      \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_backward_taps_##suffix)

#if !defined(MZ_CUDA)   // float32 fills 50 KB of LDS, and nvcc takes 48
CCA_MIX(float, f32, true)
#endif
CCA_MIX(bf16, bf16, true)
#if !defined(MZ_CUDA)
CCA_MIX(float, any_f32, false)
#endif
CCA_MIX(bf16, any_bf16, false)
