// cca_mix: everything of CCA between its down-projection and its attention, in one pass.
//
//   u_t = b0 + w1 z_t + w0 z_{t-1}                      depthwise convolution, a filter a channel
//   y_t = b1 + W1 u_t + W0 u_{t-1}                      grouped convolution, a matrix a head: MFMA
//   q = y + (q0 + k0) / 2,  k = y + mean of the group's (q0 + k0) / 2        q0, k0: z itself, per head
//   q, k to length sqrt(d), k times its temperature, then RoPE; v = [now_t ; then_{t-1}]
//
// A block takes 32 tokens and one KV head with its g query heads: the mean path stays inside, and every activation is read
// once, but for a halo of two tokens. The key head goes first, and its values wait in registers until the queries' are
// summed. Inside a head, thread (team, lane) owns column 32 * team + lane % 32 and the 16 rows of mfma_row.
#include "gpu.h"

constexpr int THREADS = 256, ROWS = 32, HALO = 2, WIDEST = 128;

// LDS rows are 8 bytes longer than they need to be: then the 32 rows that a matrix instruction reads lie in different banks.
template <class T> struct Tile { static constexpr int STRIDE = WIDEST + 8 / sizeof(T); };
constexpr int TURNED = WIDEST + 1;     // stride of the float tile in which rows are summed and channels are turned

struct Shape {
  int steps, heads, kv_heads, dim, rotary;      // t, h, j, d, and how many channels of a head RoPE turns
  int angle_rows;                               // rows of angles between two sequences; 0: all share them
  int batches;                                  // b; only where the backward pass needs it
};

template <class T> struct Inputs {
  const T *packed;                              // (b, t, c + kv): z, then `now`, then `then`
  const T *depthwise, *depthwise_bias;          // (c, 2), (c)
  const T *grouped, *grouped_bias;              // (c, d, 2), (c)
  const T *temperature, *cosine, *sine;         // (j), (.., t, rotary / 2) twice
  const int* position;                          // (b, t), place in its own document; null: one document a row
  const T *past, *before;                       // (b, 2, c), (b, kv / 2): what came before; null: nothing
};

// One head of one tile in LDS. Row i of z is token first - 2 + i; row i of u is token first - 1 + i.
template <class T> struct Head {
  T z[ROWS + HALO][Tile<T>::STRIDE];
  union {
    T u[ROWS + 2][Tile<T>::STRIDE];             // row ROWS + 1 is b0: what u is before a document begins
    float turned[ROWS][TURNED];
  };
  float part[4][ROWS];
  int alone[ROWS + 1];                          // 1: token first - 1 + i is the first of its document
};

template <class T> DEVICE int packed_width(const Shape& s) { return (s.heads + 2 * s.kv_heads) * s.dim; }

// Brings channel columns [channel, channel + d) of the tile into LDS, past tokens included, zeros outside. WHOLE: d is a
// multiple of 8, so that 16 bytes move at a time.
template <bool WHOLE, class T> DEVICE void load_head(Head<T>& lds, const Inputs<T>& in, const Shape& s, int batch, int first, int channel) {
  int channels = (s.heads + s.kv_heads) * s.dim, width = packed_width<T>(s);
  constexpr int N = WHOLE ? 16 / sizeof(T) : 1, PER_ROW = WIDEST / N;
  int column = threadIdx.x % PER_ROW * N;
  if (column >= s.dim) return;
  for (int row = threadIdx.x / PER_ROW; row < ROWS + HALO; row += THREADS / PER_ROW) {
    int token = first - HALO + row;
    const T* from = nullptr;
    if (token >= 0 && token < s.steps) from = in.packed + ((size_t)batch * s.steps + token) * width + channel + column;
    if (token < 0 && in.past) from = in.past + ((size_t)batch * HALO + HALO + token) * channels + channel + column;
    vec<T, N> piece;
#pragma unroll
    for (int j = 0; j < N; j++) piece[j] = from_float<T>(0.f);
    if (from) piece = *(const vec<T, N>*)from;
#pragma unroll
    for (int j = 0; j < N; j++) lds.z[row][column + j] = piece[j];
  }
}

// Which tokens of the tile, and the one before it, are the first of their document.
template <class T> DEVICE void mark_starts(Head<T>& lds, const Inputs<T>& in, const Shape& s, int batch, int first) {
  if (threadIdx.x > ROWS) return;
  int token = first - 1 + threadIdx.x;
  lds.alone[threadIdx.x] = in.position && token >= 0 && token < s.steps && in.position[(size_t)batch * s.steps + token] == 0;
}

// From z to u, both in LDS: 33 rows, and b0 as one row more. Columns from d to the next multiple of 8 are zero.
template <class T> DEVICE void depthwise(Head<T>& lds, const Inputs<T>& in, const Shape& s, int channel) {
  int column = threadIdx.x % WIDEST;
  if (column >= (s.dim + 7) / 8 * 8) return;
  bool exists = column < s.dim;
  int from = channel + (exists ? column : 0);
  float bias = to_float(in.depthwise_bias[from]), tap0 = to_float(in.depthwise[from * 2]), tap1 = to_float(in.depthwise[from * 2 + 1]);
  for (int row = threadIdx.x / WIDEST; row < ROWS + 2; row += THREADS / WIDEST) {
    float u = 0.f;
    if (exists) {
      u = bias;
      if (row <= ROWS) {
        u += tap1 * to_float(lds.z[row + 1][column]);
        u += tap0 * (lds.alone[row] ? 0.f : to_float(lds.z[row][column]));
      }
    }
    lds.u[row][column] = from_float<T>(u);
  }
}

// y = b1 + W1 u_t + W0 u_{t-1} for this thread's column and 16 rows. The two taps of a weight lie side by side, so one
// load feeds two matrix instructions.
template <bool WHOLE, class T> DEVICE f32x16 grouped(Head<T>& lds, const Inputs<T>& in, const Shape& s, int channel) {
  constexpr int K = Mfma<T>::K, PER = Mfma<T>::PER;
  int lane = threadIdx.x % 64, row = lane % 32, half = lane / 32, column = threadIdx.x / 64 * 32 + lane % 32;
  bool exists = column < s.dim;
  const T* now = lds.u[row + 1];
  const T* late = lds.u[lds.alone[row + 1] ? ROWS + 1 : row];
  const T* weight = in.grouped + (size_t)(channel + (exists ? column : 0)) * s.dim * 2;   // a thread without a column adds to nothing
  f32x16 acc = mfma_zero();
  for (int k = 0; k < s.dim; k += K) {
    int i = k + PER * half;
    vec<T, 2 * PER> taps;
    if (WHOLE) {
      taps = *(const vec<T, 2 * PER>*)(weight + i * 2);
    } else {
#pragma unroll
      for (int j = 0; j < 2 * PER; j++) taps[j] = weight[i * 2 + j < s.dim * 2 ? i * 2 + j : 0];   // beyond d, u is zero
    }
    typename Mfma<T>::fragment at_t, at_before, w1, w0;
#pragma unroll
    for (int j = 0; j < PER; j++) {
      w0[j] = taps[2 * j];
      w1[j] = taps[2 * j + 1];
      at_t[j] = now[i + j];
      at_before[j] = late[i + j];
    }
    acc = mfma(at_t, w1, acc);
    acc = mfma(at_before, w0, acc);
  }
  float bias = exists ? to_float(in.grouped_bias[channel + column]) : 0.f;
#pragma unroll
  for (int r = 0; r < 16; r++) acc[r] += bias;
  return acc;
}

// To length sqrt(d) * `scale`, RoPE, and out. The barrier at the end frees the tile for the next head.
template <class T>
DEVICE void finish(Head<T>& lds, const Inputs<T>& in, const Shape& s, f32x16 x, float scale, T* to, int to_heads, int head,
                   int batch, int first) {
  int lane = threadIdx.x % 64, team = threadIdx.x / 64, column = team * 32 + lane % 32;
  __syncthreads();                              // everyone has read u, whose place `turned` takes
#pragma unroll
  for (int r = 0; r < 16; r++) {
    float square = column < s.dim ? x[r] * x[r] : 0.f;
#pragma unroll
    for (int far = 16; far > 0; far /= 2) square += __shfl_xor(square, far);      // over the 32 lanes of a row
    if (lane % 32 == 0) lds.part[team][mfma_row(r, lane)] = square;
    if (column < s.dim) lds.turned[mfma_row(r, lane)][column] = x[r];
  }
  __syncthreads();
  int c = threadIdx.x % WIDEST, half = s.rotary / 2, heads_row = to_heads * s.dim, pair = c < half ? c : c - half;
  for (int row = threadIdx.x / WIDEST; row < ROWS; row += THREADS / WIDEST) {
    int token = first + row;
    if (token >= s.steps || c >= s.dim) break;
    float norm = sqrtf(lds.part[0][row] + lds.part[1][row] + lds.part[2][row] + lds.part[3][row]);
    float unit = sqrtf((float)s.dim) / fmaxf(norm, 1.1920929e-7f) * scale;
    float y = lds.turned[row][c] * unit;
    if (c < s.rotary) {
      size_t angle = ((size_t)batch * s.angle_rows + token) * half + pair;
      float other = lds.turned[row][c < half ? c + half : c - half] * unit;
      y = y * to_float(in.cosine[angle]) + (c < half ? -other : other) * to_float(in.sine[angle]);
    }
    to[((size_t)batch * s.steps + token) * heads_row + head * s.dim + c] = from_float<T>(y);
  }
  __syncthreads();
}

// Channels [head * d, head * d + d) of v: the first half of all of them is from now, the second one token late.
template <class T> DEVICE void shift_values(const Inputs<T>& in, const Shape& s, T* v, int batch, int first, int head) {
  int width = packed_width<T>(s), half = s.kv_heads * s.dim / 2, values = (s.heads + s.kv_heads) * s.dim;
  int c = head * s.dim + threadIdx.x % WIDEST;
  if (threadIdx.x % WIDEST >= s.dim) return;
  for (int row = threadIdx.x / WIDEST; row < ROWS && first + row < s.steps; row += THREADS / WIDEST) {
    int token = first + row;
    size_t at = (size_t)batch * s.steps + token;
    bool starts = token == 0 || (in.position && in.position[at] == 0);
    T value = from_float<T>(0.f);
    if (c < half) value = in.packed[at * width + values + c];
    else if (!starts) value = in.packed[(at - 1) * width + values + c];
    else if (in.before) value = in.before[(size_t)batch * half + c - half];
    v[at * 2 * half + c] = value;
  }
}

template <bool WHOLE, class T> DEVICE void mix(Head<T>& lds, const Inputs<T>& in, const Shape& s, T* q, T* k, T* v) {
  int kv_head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * ROWS, group = s.heads / s.kv_heads;
  int lane = threadIdx.x % 64, column = threadIdx.x / 64 * 32 + lane % 32;
  mark_starts(lds, in, s, batch, first);
  shift_values(in, s, v, batch, first, kv_head);

  f32x16 keys = mfma_zero(), own_keys = mfma_zero(), queries = mfma_zero();    // y of k, k0, and the sum of all q0
  for (int member = -1; member < group; member++) {                            // -1 is the key head
    int head = member < 0 ? s.heads + kv_head : kv_head * group + member, channel = head * s.dim;
    load_head<WHOLE>(lds, in, s, batch, first, channel);
    __syncthreads();
    depthwise(lds, in, s, channel);
    __syncthreads();
    f32x16 x = grouped<WHOLE>(lds, in, s, channel);
    if (member < 0) {
      keys = x;
#pragma unroll
      for (int r = 0; r < 16; r++) own_keys[r] = column < s.dim ? to_float(lds.z[mfma_row(r, lane) + HALO][column]) : 0.f;
      __syncthreads();
    } else {
#pragma unroll
      for (int r = 0; r < 16; r++) {
        float own = column < s.dim ? to_float(lds.z[mfma_row(r, lane) + HALO][column]) : 0.f;
        queries[r] += own;
        x[r] += (own + own_keys[r]) / 2.f;
      }
      finish(lds, in, s, x, 1.f, q, s.heads, head, batch, first);
    }
  }
#pragma unroll
  for (int r = 0; r < 16; r++) keys[r] += (queries[r] / group + own_keys[r]) / 2.f;
  finish(lds, in, s, keys, to_float(in.temperature[kv_head]), k, s.kv_heads, kv_head, batch, first);
}

// ---- backward ----------------------------------------------------------------------------------------------------------
// Two stages. `backward_heads` makes the forward pass again, tile by tile, and goes back through RoPE and norm: it writes dy,
// the gradient of y and of the mean beside it. `backward_taps` goes back through the mean path, the convolutions and the
// value shift. The gradients of their weights are products over all tokens; torch forms them from dy and du.

template <class T> struct Gradients {
  const T *d_q, *d_k;
  T* dy;                                        // (b, t, c)
  float* d_temperature;                         // (blocks along x, j, b)
};

// The gradient of channel c of a head before RoPE: the rotation, backwards.
template <class T> DEVICE float unturned(const Inputs<T>& in, const Shape& s, const T* row, size_t angle_row, int c) {
  float d = to_float(row[c]);
  int half = s.rotary / 2;
  if (c >= s.rotary) return d;
  size_t angle = angle_row * half + (c < half ? c : c - half);
  float other = to_float(row[c < half ? c + half : c - half]);
  return d * to_float(in.cosine[angle]) + (c < half ? other : -other) * to_float(in.sine[angle]);
}

// From the gradient of a finished head to that of x, before norm and rotation. Adds to `along`, the gradient of `scale`.
// A wave takes whole rows, so both sums over a row stay inside it.
template <class T>
DEVICE f32x16 unfinish(Head<T>& lds, const Inputs<T>& in, const Shape& s, f32x16 x, float scale, const T* gradient, int of_heads,
                       int head, int batch, int first, float* along) {
  int lane = threadIdx.x % 64, column = threadIdx.x / 64 * 32 + lane % 32;
  __syncthreads();                              // everyone has read u, whose place `turned` takes
#pragma unroll
  for (int r = 0; r < 16; r++) lds.turned[mfma_row(r, lane)][column] = x[r];
  __syncthreads();
#pragma unroll 1
  for (int row = threadIdx.x / WAVE; row < ROWS; row += THREADS / WAVE) {
    int token = first + row;
    bool here = token < s.steps;
    const T* from = gradient + (((size_t)batch * s.steps + (here ? token : 0)) * of_heads + head) * s.dim;
    size_t angle_row = (size_t)batch * s.angle_rows + (here ? token : 0);
    float square = 0.f, dot = 0.f;
#pragma unroll 1
    for (int c = threadIdx.x % WAVE; c < s.dim; c += WAVE) {
      square += lds.turned[row][c] * lds.turned[row][c];
      dot += lds.turned[row][c] * unturned(in, s, from, angle_row, c);
    }
    float norm = sqrtf(wave_sum(square)), safe = fmaxf(norm, 1.1920929e-7f), unit = sqrtf((float)s.dim) / safe;
    dot = wave_sum(dot);
    if (here && threadIdx.x % WAVE == 0) *along += dot * unit;
    float inward = norm == safe ? dot / (norm * norm) : 0.f;    // the part along x, which the norm takes away
#pragma unroll 1
    for (int c = threadIdx.x % WAVE; c < s.dim; c += WAVE)
      lds.turned[row][c] = here ? unit * scale * (unturned(in, s, from, angle_row, c) - lds.turned[row][c] * inward) : 0.f;
  }
  __syncthreads();
  f32x16 d;
#pragma unroll
  for (int r = 0; r < 16; r++) d[r] = lds.turned[mfma_row(r, lane)][column];
  __syncthreads();
  return d;
}

// Writes the 16 values of every thread into (b, t, c), at the channels of one head, by way of LDS.
template <class T> DEVICE void store_head(Head<T>& lds, T* to, f32x16 x, const Shape& s, int batch, int first, int head) {
  int lane = threadIdx.x % 64, column = threadIdx.x / 64 * 32 + lane % 32, c = threadIdx.x % WIDEST;
#pragma unroll
  for (int r = 0; r < 16; r++) lds.turned[mfma_row(r, lane)][column] = x[r];
  __syncthreads();
  for (int row = threadIdx.x / WIDEST; row < ROWS && c < s.dim && first + row < s.steps; row += THREADS / WIDEST)
    to[((size_t)batch * s.steps + first + row) * (s.heads + s.kv_heads) * s.dim + head * s.dim + c] = from_float<T>(lds.turned[row][c]);
  __syncthreads();
}

// z of one head as it comes in, this thread's 16 values.
template <bool WHOLE, class T>
DEVICE f32x16 own_values(Head<T>& lds, const Inputs<T>& in, const Shape& s, int batch, int first, int channel) {
  int lane = threadIdx.x % 64, column = threadIdx.x / 64 * 32 + lane % 32;
  load_head<WHOLE>(lds, in, s, batch, first, channel);
  __syncthreads();
  f32x16 own;
#pragma unroll
  for (int r = 0; r < 16; r++) own[r] = column < s.dim ? to_float(lds.z[mfma_row(r, lane) + HALO][column]) : 0.f;
  __syncthreads();
  return own;
}

template <bool WHOLE, class T>
DEVICE void backward_heads(Head<T>& lds, float* scratch, const Inputs<T>& in, const Shape& s, const Gradients<T>& out) {
  int kv_head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * ROWS, group = s.heads / s.kv_heads;
  int lane = threadIdx.x % 64, column = threadIdx.x / 64 * 32 + lane % 32;
  mark_starts(lds, in, s, batch, first);
  f32x16 own_keys = mfma_zero(), queries = mfma_zero();
#pragma unroll 1
  for (int member = -1; member < group; member++) {
    int head = member < 0 ? s.heads + kv_head : kv_head * group + member;
    f32x16 own = own_values<WHOLE>(lds, in, s, batch, first, head * s.dim);
#pragma unroll
    for (int r = 0; r < 16; r++) {
      own_keys[r] += member < 0 ? own[r] : 0.f;
      queries[r] += member < 0 ? 0.f : own[r];
    }
  }
  float d_temperature = 0.f;
#pragma unroll 1
  for (int member = -1; member < group; member++) {
    bool key = member < 0;
    int head = key ? s.heads + kv_head : kv_head * group + member, channel = head * s.dim;
    load_head<WHOLE>(lds, in, s, batch, first, channel);
    __syncthreads();
    depthwise(lds, in, s, channel);
    __syncthreads();
    f32x16 x = grouped<WHOLE>(lds, in, s, channel);
#pragma unroll
    for (int r = 0; r < 16; r++) {
      float own = column < s.dim ? to_float(lds.z[mfma_row(r, lane) + HALO][column]) : 0.f;
      x[r] += ((key ? queries[r] / group : own) + own_keys[r]) / 2.f;
    }
    float scale = key ? to_float(in.temperature[kv_head]) : 1.f, d_scale = 0.f;
    f32x16 d = unfinish(lds, in, s, x, scale, key ? out.d_k : out.d_q, key ? s.kv_heads : s.heads, key ? kv_head : head, batch, first,
                        &d_scale);
    d_temperature += key ? d_scale : 0.f;
    store_head(lds, out.dy, d, s, batch, first, head);
  }
  d_temperature = block_sum<THREADS>(d_temperature, scratch);
  if (threadIdx.x == 0) out.d_temperature[(blockIdx.x * s.kv_heads + kv_head) * s.batches + batch] = d_temperature;
}

// du_t = W1^T dy_t + W0^T dy_{t+1}, then dz_t = w1 du_t + w0 du_{t+1} + what came by the mean path; terms of token t + 1 only
// where it exists and is of the same document. 32 rows of du give 31 of dz, so a block advances by 31 tokens.
constexpr int ADVANCE = ROWS - 1;

// What reaches channel c of z at this head by the mean path, from a token's row of dy.
template <class T> DEVICE float through_mean(const T* row, const Shape& s, int head, int c) {
  int group = s.heads / s.kv_heads, kv_head = head < s.heads ? head / group : head - s.heads;
  float of_key = to_float(row[(s.heads + kv_head) * s.dim + c]) / 2.f;
  if (head < s.heads) return to_float(row[head * s.dim + c]) / 2.f + of_key / group;
  float of_queries = 0.f;
  for (int member = 0; member < group; member++) of_queries += to_float(row[(kv_head * group + member) * s.dim + c]);
  return of_queries / 2.f + of_key;
}

template <class T> struct Taps {
  T dy[ROWS + 1][Tile<T>::STRIDE];
  float du[ROWS][TURNED];
  int joined[ROWS];                             // 1: the next token exists and belongs to the same document
};

template <class T>
DEVICE void backward_taps(Taps<T>& lds, const T* dy, const T* d_v, const T* depthwise, const T* grouped, const int* position,
                          T* d_packed, float* du, const Shape& s) {
  constexpr int K = Mfma<T>::K, PER = Mfma<T>::PER;
  int head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * ADVANCE, channels = (s.heads + s.kv_heads) * s.dim;
  int c = threadIdx.x % WIDEST, channel = head * s.dim;
  for (int row = threadIdx.x / WIDEST; row <= ROWS; row += THREADS / WIDEST) {
    bool here = c < s.dim && first + row < s.steps;
    lds.dy[row][c] = here ? dy[((size_t)batch * s.steps + first + row) * channels + channel + c] : from_float<T>(0.f);
  }
  if (threadIdx.x < ROWS) {
    int next = first + threadIdx.x + 1;
    lds.joined[threadIdx.x] = next < s.steps && !(position && position[(size_t)batch * s.steps + next] == 0);
  }
  __syncthreads();
  int lane = threadIdx.x % 64, row = lane % 32, column = threadIdx.x / 64 * 32 + lane % 32;
  bool exists = column < s.dim, together = lds.joined[row];
  const T* weight = grouped + ((size_t)channel * s.dim + (exists ? column : 0)) * 2;
  f32x16 acc = mfma_zero();
  for (int k = 0; k < s.dim; k += K) {
    int o = k + PER * (lane / 32);
    typename Mfma<T>::fragment now, next, w1, w0;
#pragma unroll
    for (int j = 0; j < PER; j++) {
      bool here = o + j < s.dim;
      const T* taps = weight + (size_t)(here ? o + j : 0) * s.dim * 2;
      w0[j] = here ? taps[0] : from_float<T>(0.f);
      w1[j] = here ? taps[1] : from_float<T>(0.f);
      now[j] = lds.dy[row][o + j];
      next[j] = together ? lds.dy[row + 1][o + j] : from_float<T>(0.f);
    }
    acc = mfma(now, w1, acc);
    acc = mfma(next, w0, acc);
  }
#pragma unroll
  for (int r = 0; r < 16; r++) lds.du[mfma_row(r, lane)][column] = acc[r];
  __syncthreads();
  if (c >= s.dim) return;
  int half = s.kv_heads * s.dim / 2, width = channels + 2 * half, value = channel + c;    // which of the 2 * half values
  for (int i = threadIdx.x / WIDEST; head < s.kv_heads && i < ADVANCE && first + i < s.steps; i += THREADS / WIDEST) {
    size_t token = (size_t)batch * s.steps + first + i;
    T d = from_float<T>(0.f);                   // the first half of the values went to this token, the second to the next
    if (value < half) d = d_v[token * 2 * half + value];
    else if (lds.joined[i]) d = d_v[(token + 1) * 2 * half + value];
    d_packed[token * width + channels + value] = d;
  }
  float tap0 = to_float(depthwise[(channel + c) * 2]), tap1 = to_float(depthwise[(channel + c) * 2 + 1]);
  for (int i = threadIdx.x / WIDEST; i < ADVANCE && first + i < s.steps; i += THREADS / WIDEST) {
    size_t token = (size_t)batch * s.steps + first + i, at = token * channels + channel + c;
    float mine = lds.du[i][c];
    du[at] = mine;
    float dz = tap1 * mine + (lds.joined[i] ? tap0 * lds.du[i + 1][c] : 0.f) + through_mean(dy + token * channels, s, head, c);
    d_packed[token * width + channel + c] = from_float<T>(dz);
  }
}

#define CCA_MIX(T, suffix)                                                                                                      \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) cca_mix_##suffix(                                                       \
      const T* packed, const T* depthwise, const T* depthwise_bias, const T* grouped, const T* grouped_bias,                    \
      const T* temperature, const T* cosine, const T* sine, const int* position, const T* past, const T* before, T* q, T* k,    \
      T* v, int steps, int heads, int kv_heads, int dim, int rotary, int angle_rows) {                                          \
    Inputs<T> in = {packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, past, before}; \
    Shape s = {steps, heads, kv_heads, dim, rotary, angle_rows, 0};                                                             \
    __shared__ Head<T> lds;                                                                                                     \
    if (dim % 8 == 0) mix<true>(lds, in, s, q, k, v);                                                                           \
    else mix<false>(lds, in, s, q, k, v);                                                                                       \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_##suffix)                                                                                                  \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) cca_mix_backward_heads_##suffix(                                        \
      const T* packed, const T* depthwise, const T* depthwise_bias, const T* grouped, const T* grouped_bias,                    \
      const T* temperature, const T* cosine, const T* sine, const int* position, const T* d_q, const T* d_k, T* dy,             \
      float* d_temperature, int steps, int heads, int kv_heads, int dim, int rotary, int angle_rows,     \
      int batches) {                                                                                                            \
    Inputs<T> in = {packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, nullptr, nullptr}; \
    Gradients<T> out = {d_q, d_k, dy, d_temperature};                                                                           \
    Shape s = {steps, heads, kv_heads, dim, rotary, angle_rows, batches};                                                       \
    __shared__ Head<T> lds;                                                                                                     \
    __shared__ float scratch[THREADS / 32];                                                                                     \
    backward_heads<false>(lds, scratch, in, s, out);                                                                            \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_backward_heads_##suffix)                                                                                   \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) cca_mix_backward_taps_##suffix(                                         \
      const T* dy, const T* d_v, const T* depthwise, const T* grouped, const int* position, T* d_packed,   \
      float* du, int steps, int heads, int kv_heads, int dim) {                                                                 \
    __shared__ Taps<T> lds;                                                                                                     \
    backward_taps<T>(lds, dy, d_v, depthwise, grouped, position, d_packed, du, {steps, heads, kv_heads, dim, 0, 0, 0});              \
  }                                                                                                                             \
  LAUNCHABLE(cca_mix_backward_taps_##suffix)

CCA_MIX(float, f32)
CCA_MIX(bf16, bf16)
