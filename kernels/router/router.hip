// router: from a token's activation to its expert, for a tile of tokens, every activation moved once.
//
//   state  = down(x) + scale * below             x (n, D) in, state (n, R) out; below and scale are left out in layer 0
//   probs  = softmax(out(gelu(fc2(gelu(fc1(rms_norm(state)))))))                          (n, E + 1) out
//   route  = pinned, or the argmax in float32 of probs + bias, ties to the lower number
//   gate   = probs[route], load[route] += 1
//
// A block takes 64 tokens (32 in float32) through all of it. What lies between the layers stays in LDS; the weights come
// from cache, and each wave reads only the rows that make its own 32 output columns. Roundings to T stand where PyTorch's
// are: after each linear layer, each GELU, twice in the depth average, twice in the norm, after the softmax.
#include "gpu.h"

constexpr int THREADS = 512, WIDEST = 256, MOST_ROUTES = 64, SCORE_ROW = MOST_ROUTES + 1;

template <class T> struct Tile {
  static constexpr int PIECE = 16 / sizeof(T);             // values in 16 bytes, what a lane moves at once
  static constexpr int COUNT = sizeof(T) == 2 ? 2 : 1;     // tiles of 32 tokens
  static constexpr int TOKENS = 32 * COUNT;
  static constexpr int GROUP = THREADS / TOKENS;           // neighbouring lanes that share a token where rows are walked
  static constexpr int SPAN = GROUP * PIECE;               // what these have of a row at a time
  static constexpr int STEP = 8 * PIECE;                   // inner axis of one step: 128 bytes of each row
  static constexpr int STEP_ROW = STEP + PIECE, WIDE_ROW = WIDEST + PIECE;   // 16 bytes more: rows start in other banks
};

template <class T> DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

// ---- pieces of 16 bytes -----------------------------------------------------------------------------------------------
template <class T> using piece = vec<T, 16 / sizeof(T)>;

// May a matrix be read by whole steps of either kind? Null: there is none.
template <class T> DEVICE bool in_steps(const T* at, int width) { return width % Tile<T>::SPAN == 0 && (size_t)at % 16 == 0; }

template <bool WHOLE, class T> struct Matrix {
  const T* at;
  int rows, width;
  DEVICE Matrix(const T* at, int rows, int width) : at(at), rows(rows), width(width) {}

  // WHOLE: k lies inside, and for a row outside comes the last one, for nobody: a load that some lanes must not make would be
  // waited for at once. Otherwise zeros outside.
  DEVICE bytes16 get(int row, int k) const {
    if (WHOLE) return bits_as<bytes16>(*(const piece<T>*)(at + (size_t)(row < rows ? row : rows - 1) * width + k));
    bytes16 none = {0u, 0u, 0u, 0u};
    if (row >= rows || k >= width) return none;
    const T* from = at + (size_t)row * width + k;
    piece<T> some;
#pragma unroll
    for (int j = 0; j < Tile<T>::PIECE; j++) some[j] = k + j < width ? from[j] : from_float<T>(0.f);
    return bits_as<bytes16>(some);
  }
};

// ---- products -----------------------------------------------------------------------------------------------------------
// A step of the inner axis is eight pieces of 16 bytes, of which a lane brings its share of each weight row and of each token's:
// the axis is summed in another order, the same on both sides, and every read is 16 bytes.
constexpr int OF_STEP = 8 / MFMA_SHARERS;   // pieces of a row that a lane brings
struct Weights { bytes16 at[OF_STEP][MFMA_COLUMNS]; };

// 16 bytes of row or column i as fours.
template <class T, int N> DEVICE void part(const piece<T>& from, vec<T, 4> (&to)[Tile<T>::PIECE / 4][N], int i) {
  vec<vec<T, 4>, Tile<T>::PIECE / 4> some = bits_as<vec<vec<T, 4>, Tile<T>::PIECE / 4>>(from);
#pragma unroll
  for (int turn = 0; turn < Tile<T>::PIECE / 4; turn++) to[turn][i] = some[turn];
}

// One step of COUNT products of 32 tokens in LDS with this wave's 32 rows of weights.
template <class T, int COUNT>
DEVICE void multiply(f32x16 (&acc)[COUNT], const T* tokens, int stride, const Weights& weights, int lane) {
  constexpr int PIECE = Tile<T>::PIECE, TURNS = PIECE / 4;
#pragma unroll
  for (int c = 0; c < OF_STEP; c++) {
    vec<T, 4> a[TURNS][MFMA_ROWS], b[TURNS][MFMA_COLUMNS];
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++) part(bits_as<piece<T>>(weights.at[c][i]), b, i);
#pragma unroll
    for (int tile = 0; tile < COUNT; tile++) {
#pragma unroll
      for (int i = 0; i < MFMA_ROWS; i++) {
        const T* from = tokens + (32 * tile + mfma_a_row(i, lane)) * stride + (MFMA_SHARERS * c + mfma_part(lane)) * PIECE;
        part(*(const piece<T>*)from, a, i);
      }
#pragma unroll
      for (int turn = 0; turn < TURNS; turn++) acc[tile] = mfma(a[turn], b[turn], acc[tile]);
    }
  }
}

template <bool WHOLE, class T> DEVICE void fetch(Weights& weights, const Matrix<WHOLE, T>& m, int column, int k, int lane) {
#pragma unroll
  for (int c = 0; c < OF_STEP; c++)
#pragma unroll
    for (int i = 0; i < MFMA_COLUMNS; i++)
      weights.at[c][i] = m.get(column + mfma_column(i, lane), k + (MFMA_SHARERS * c + mfma_part(lane)) * Tile<T>::PIECE);
}

// Tokens whose whole rows lie in LDS, zeros beyond the width, with 32 rows of weights from `column` on. now: those of the
// first step, asked for before the tokens were ready.
template <int COUNT, bool WHOLE, class T>
DEVICE void dense(f32x16 (&acc)[COUNT], const T* tokens, const Matrix<WHOLE, T>& weights, Weights& now, int column, int lane) {
  Weights next;
  int k = 0;
  for (; k + Tile<T>::STEP < weights.width; k += Tile<T>::STEP) {
    fetch(next, weights, column, k + Tile<T>::STEP, lane);
    stay_in_order();   // on its way while the matrix cores work; the compiler would ask later, or wait now
    multiply<T, COUNT>(acc, tokens + k, Tile<T>::WIDE_ROW, now, lane);
    now = next;
  }
  multiply<T, COUNT>(acc, tokens + k, Tile<T>::WIDE_ROW, now, lane);   // the last step: nothing comes after it
}

// Results and bias into rows in LDS. Columns beyond the bias come out as zeros: their weights were.
template <class T, int COUNT, bool ACTIVATE>
DEVICE void put(T* wide, const f32x16 (&acc)[COUNT], const T* bias, int size, int column, int lane) {
  float add[MFMA_COLUMNS];
#pragma unroll
  for (int i = 0; i < MFMA_COLUMNS; i++)
    add[i] = column + mfma_column(i, lane) < size ? to_float(bias[column + mfma_column(i, lane)]) : 0.f;
#pragma unroll
  for (int tile = 0; tile < COUNT; tile++)
#pragma unroll
    for (int r = 0; r < 16; r++) {
      int i = r / MFMA_HELD;
      float value = acc[tile][r] + add[i];
      if (ACTIVATE) value = gelu(rounded<T>(value));
      wide[(32 * tile + mfma_row(r % MFMA_HELD, lane)) * Tile<T>::WIDE_ROW + column + mfma_column(i, lane)] = from_float<T>(value);
    }
}

template <class T> DEVICE void clear(f32x16 (&acc)[Tile<T>::COUNT]) {
#pragma unroll
  for (int tile = 0; tile < Tile<T>::COUNT; tile++) acc[tile] = mfma_zero();
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------
template <bool WHOLE, class T>
DEVICE void route_tile(const T* x, const T* below, const T* scale, const T* down, const T* down_bias, const T* gain, const T* fc1,
                       const T* bias1, const T* fc2, const T* bias2, const T* out, const float* bias, const long long* pinned,
                       const unsigned char* counted, T* state, T* probs, long long* routes, T* gates, int* load, int tokens,
                       int width, int size, int choices, float eps, bytes16* lds) {
  constexpr int PIECE = Tile<T>::PIECE, COUNT = Tile<T>::COUNT, TOKENS = Tile<T>::TOKENS, GROUP = Tile<T>::GROUP;
  constexpr int STEP = Tile<T>::STEP, STEP_ROW = Tile<T>::STEP_ROW, WIDE_ROW = Tile<T>::WIDE_ROW;
  T* steps = (T*)lds;                                // 2 steps of x, one read while the other is filled
  T* wide = steps + 2 * TOKENS * STEP_ROW;           // the tokens between two layers
  int *visits = (int*)(wide + TOKENS * WIDE_ROW), *chosen = visits + MOST_ROUTES;   // tokens of each route, route of each
  float* scores = (float*)lds;                       // logits, then probabilities, where x was
  int wave = same_in_wave(threadIdx.x / 64), lane = threadIdx.x % 64, column = 32 * wave, first = blockIdx.x * TOKENS;
  if (threadIdx.x < MOST_ROUTES) visits[threadIdx.x] = 0;

  // what the norm will want, so early that nobody waits for it; and the first weights of each layer, a layer ahead
  constexpr int TURNS = WIDEST / (GROUP * PIECE);
  constexpr bool EARLY = WHOLE && WAVE == 64;        // NVIDIA: with 512 threads a thread has 128 registers, too few for that
  int token = threadIdx.x / GROUP, part = threadIdx.x % GROUP;
  Matrix<WHOLE, T> under(below, tokens, size), factor(scale, 1, size), weight(gain, 1, size), hidden1(fc1, size, size), hidden2(fc2, size, size),
      last(out, choices, size);
  bytes16 early[3][TURNS];
  Weights first_weights;
#pragma unroll
  for (int turn = 0; EARLY && turn < TURNS; turn++) {
    int k = (turn * GROUP + part) * PIECE;
    if (turn * Tile<T>::SPAN >= size) break;
    if (below) early[0][turn] = under.get(first + token, k), early[1][turn] = factor.get(0, k);
    early[2][turn] = weight.get(0, k);
  }

  // down: x comes in by 128 bytes a row, while the step before is multiplied
  f32x16 acc[COUNT];
  clear<T>(acc);
  {
    Matrix<WHOLE, T> in(x, tokens, width), weights(down, size, width);
    int row = threadIdx.x / 8, k = threadIdx.x % 8 * PIECE, mine = WHOLE ? column % size : column;   // no column: another wave's
    bool brings = 8 * TOKENS == THREADS || row < TOKENS;
    Weights now, next;
    bytes16 coming = {0u, 0u, 0u, 0u}, after = coming;
    if (brings) coming = in.get(first + row, k);
    fetch(now, weights, mine, 0, lane);
    if (brings) *(piece<T>*)(steps + row * STEP_ROW + k) = bits_as<piece<T>>(coming);
    if (brings && STEP < width) coming = in.get(first + row, STEP + k);
    __syncthreads();
    auto step = [&](int from, int turn, bytes16& coming, bytes16& after, bool inside) {
      if (brings && (inside || from + 2 * STEP < width)) after = in.get(first + row, from + 2 * STEP + k);   // memory: two steps ahead
      if (inside || from + STEP < width) fetch(next, weights, mine, from + STEP, lane);                      // cache: one
      stay_in_order();   // on their way while the matrix cores work
      if (column < size) multiply<T, COUNT>(acc, steps + turn * TOKENS * STEP_ROW, STEP_ROW, now, lane);
      if (brings) *(piece<T>*)(steps + ((turn ^ 1) * TOKENS + row) * STEP_ROW + k) = bits_as<piece<T>>(coming);
      now = next;
      __syncthreads();   // the step is read, the next one is there
    };
    int from = 0;
    for (; from + 3 * STEP < width; from += 2 * STEP) {   // by twos: what is on its way must not move between registers
      step(from, 0, coming, after, true);
      step(from + STEP, 1, after, coming, true);
    }
    // the last ones ask no further than the row goes: with these questions in the loop, each step would wait for all its loads
    step(from, 0, coming, after, false);
    if (from + STEP < width) step(from + STEP, 1, after, coming, false);
    if (from + 2 * STEP < width) step(from + 2 * STEP, 0, coming, after, false);
  }
  if (column < size) fetch(first_weights, hidden1, column, 0, lane);
  put<T, COUNT, false>(wide, acc, down_bias, size, column, lane);
  __syncthreads();

  // depth average and norm: GROUP lanes walk along each token's row
  {
    T* row = wide + token * WIDE_ROW;
    float squares = 0.f;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int k = (turn * GROUP + part) * PIECE;
      if (k >= size) continue;
      piece<T> value = *(piece<T>*)(row + k);
      if (below) {
        piece<T> b = bits_as<piece<T>>(EARLY ? early[0][turn] : under.get(first + token, k));
        piece<T> s = bits_as<piece<T>>(EARLY ? early[1][turn] : factor.get(0, k));
#pragma unroll
        for (int j = 0; j < PIECE; j++)
          value[j] = from_float<T>(to_float(value[j]) + rounded<T>(to_float(s[j]) * to_float(b[j])));
        *(piece<T>*)(row + k) = value;
      }
#pragma unroll
      for (int j = 0; j < PIECE; j++) squares += to_float(value[j]) * to_float(value[j]);
      if (first + token >= tokens) continue;
      T* at = state + (size_t)(first + token) * size + k;
      if (WHOLE) {
        *(piece<T>*)at = value;
      } else {
#pragma unroll
        for (int j = 0; j < PIECE; j++)
          if (k + j < size) at[j] = value[j];
      }
    }
#pragma unroll
    for (int far = GROUP / 2; far > 0; far /= 2) squares += __shfl_xor(squares, far);
    float inverse = rsqrtf(squares / size + eps);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int k = (turn * GROUP + part) * PIECE;
      if (k >= size) continue;
      piece<T> value = *(piece<T>*)(row + k), g = bits_as<piece<T>>(EARLY ? early[2][turn] : weight.get(0, k));
#pragma unroll
      for (int j = 0; j < PIECE; j++) value[j] = from_float<T>(to_float(g[j]) * rounded<T>(to_float(value[j]) * inverse));
      *(piece<T>*)(row + k) = value;
    }
  }
  __syncthreads();

  // the two hidden layers, in place: all have read before any writes
  clear<T>(acc);
  if (column < size) dense<COUNT>(acc, wide, hidden1, first_weights, column, lane);
  __syncthreads();
  if (column < size) fetch(first_weights, hidden2, column, 0, lane);
  put<T, COUNT, true>(wide, acc, bias1, size, column, lane);
  __syncthreads();
  clear<T>(acc);
  if (column < size) dense<COUNT>(acc, wide, hidden2, first_weights, column, lane);
  __syncthreads();
  int tile = wave / 2, choice = wave % 2 * 32;
  bool choosing = tile < COUNT && choice < choices;
  if (choosing) fetch(first_weights, last, choice, 0, lane);
  put<T, COUNT, true>(wide, acc, bias2, size, column, lane);
  __syncthreads();

  // logits: a wave makes 32 choices of 32 tokens
  if (choosing) {
    f32x16 logits[1] = {mfma_zero()};
    dense<1>(logits, wide + 32 * tile * WIDE_ROW, last, first_weights, choice, lane);
#pragma unroll
    for (int r = 0; r < 16; r++)
      if (choice + mfma_column(r / MFMA_HELD, lane) < choices)
        scores[(32 * tile + mfma_row(r % MFMA_HELD, lane)) * SCORE_ROW + choice + mfma_column(r / MFMA_HELD, lane)] = rounded<T>(logits[0][r]);
  }
  __syncthreads();

  // softmax and choice: GROUP lanes share a token
  {
    constexpr int TURNS = MOST_ROUTES / GROUP;
    const float nothing = bits_as<float>(0xff800000u);   // -infinity
    float* row = scores + token * SCORE_ROW;
    float score[TURNS], top = nothing, sum = 0.f, best = nothing;
    int route = MOST_ROUTES;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int e = turn * GROUP + part;
      score[turn] = e < choices ? row[e] : nothing;
      top = fmaxf(top, score[turn]);
    }
#pragma unroll
    for (int far = GROUP / 2; far > 0; far /= 2) top = fmaxf(top, __shfl_xor(top, far));
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      score[turn] = turn * GROUP + part < choices ? expf(score[turn] - top) : 0.f;
      sum += score[turn];
    }
#pragma unroll
    for (int far = GROUP / 2; far > 0; far /= 2) sum += __shfl_xor(sum, far);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      int e = turn * GROUP + part;
      if (e >= choices) continue;
      float prob = rounded<T>(score[turn] / sum), biased = prob + bias[e];
      row[e] = prob;
      if (biased > best) best = biased, route = e;        // e rises, so the first of equals stays
    }
#pragma unroll
    for (int far = GROUP / 2; far > 0; far /= 2) {
      float other = __shfl_xor(best, far);
      int its = __shfl_xor(route, far);
      if (other > best || (other == best && its < route)) best = other, route = its;
    }
    if (part == 0) chosen[token] = route < choices ? route : 0;   // nothing but NaN: 0, as torch.argmax says
  }
  __syncthreads();

  int here = tokens - first < TOKENS ? tokens - first : TOKENS;
  for (int i = threadIdx.x; i < here * choices; i += THREADS)
    probs[(size_t)first * choices + i] = from_float<T>(scores[i / choices * SCORE_ROW + i % choices]);
  if (threadIdx.x < here) {
    int row = first + threadIdx.x;
    long long route = chosen[threadIdx.x];
    if (pinned && pinned[row] >= 0) route = pinned[row];
    bool known = route < choices;                         // a route that does not exist: NaN for a gate, never a wild read
    routes[row] = route;
    gates[row] = from_float<T>(known ? scores[threadIdx.x * SCORE_ROW + route] : bits_as<float>(0x7fc00000u));
    if (known && (!counted || counted[row])) atomicAdd(&visits[route], 1);
  }
  __syncthreads();
  if (threadIdx.x < choices && visits[threadIdx.x]) atomicAdd(&load[threadIdx.x], visits[threadIdx.x]);
}

#define ROUTER(T, suffix)                                                                                                         \
  extern "C" __global__ void MATRIX_BOUNDS(THREADS, 2) router_##suffix(                                                          \
      const T* x, const T* below, const T* scale, const T* down, const T* down_bias, const T* gain, const T* fc1, const T* bias1, \
      const T* fc2, const T* bias2, const T* out, const float* bias, const long long* pinned, const unsigned char* counted,       \
      T* state, T* probs, long long* routes, T* gates, int* load, int tokens, int width, int size, int choices, float eps) {      \
    HIP_DYNAMIC_SHARED(bytes16, lds)                                                                                              \
    if (in_steps(x, width) && in_steps(down, width) && in_steps(below, size) && in_steps(scale, size) && in_steps(gain, size) &&  \
        in_steps(fc1, size) && in_steps(fc2, size) && in_steps(out, size) && in_steps(state, size))                               \
      route_tile<true>(x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias, pinned, counted, state, probs,  \
                       routes, gates, load, tokens, width, size, choices, eps, lds);                                              \
    else                                                                                                                          \
      route_tile<false>(x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias, pinned, counted, state, probs, \
                        routes, gates, load, tokens, width, size, choices, eps, lds);                                             \
  }                                                                                                                               \
  LAUNCHABLE(router_##suffix)

ROUTER(float, f32)
ROUTER(bf16, bf16)
