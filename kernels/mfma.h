// mfma.h: the matrix cores. 64 neighbouring threads, a team, multiply two small tiles together: D = A B + C, where D is 32 x 32
// and the inner axis is a slice of MFMA_SLICE. Included by gpu.h.
//
// Who holds what differs from machine to machine, so a kernel asks and reckons no place itself. A slice comes in fours of
// neighbours; a lane (0..63 in its team) brings four number `mfma_part` of these
//
//   of each row mfma_a_row(i) of A, i < MFMA_ROWS, and of each column mfma_column(i) of B, i < MFMA_COLUMNS,
//   and holds of D, in acc[MFMA_HELD * i + r], row mfma_row(r) of column mfma_column(i), r < MFMA_HELD
//
//             MFMA_ROWS, COLUMNS, HELD, SLICE   mfma_part   mfma_a_row(i)                           mfma_column(i)
//   MI300         1         1      16     8     l / 32      l % 32                                  l % 32
//   NVIDIA        4         2       8    16     l % 4       16 (i/2) + 2 (i%2) + 4 (g/2) + g%2      16 (l/32) + 8 i + g     g = l % 32 / 4
//
// Four rows of D in turn always lie with one lane, in the place where the next product wants its B: a column of D may go on as
// a column of B, four by four, without leaving the registers.
//
// MI300: a team is a wave, and one instruction does 32x32x8 in bfloat16, 32x32x2 in float32. NVIDIA: a team is two warps, each
// with half of the columns; bfloat16 by mma.sync m16n8k16, turned over, so that our columns are its 16 rows: its results then lie
// as its next operands do. Its 8 columns are every other two rows of ours, since two neighbours of its make four of ours.
// float32 there is plain multiplication: tensor cores would round to 11 bits. The CPU plays MI300 in waves of 64, NVIDIA in 32.
#pragma once

typedef vec<bf16, 4> bf16x4;
#if defined(MZ_AMD)
typedef float f32x16 __attribute__((ext_vector_type(16)));
#else
typedef vec<float, 16> f32x16;
DEVICE f32x16 operator+(f32x16 acc, float x) {
  for (int r = 0; r < 16; r++) acc[r] += x;
  return acc;
}
DEVICE f32x16 operator+(f32x16 acc, f32x16 x) {
  for (int r = 0; r < 16; r++) acc[r] += x[r];
  return acc;
}
DEVICE f32x16 operator*(f32x16 acc, float x) {
  for (int r = 0; r < 16; r++) acc[r] *= x;
  return acc;
}
#endif

#if MZ_WAVE == 32
constexpr int MFMA_ROWS = 4;
constexpr int MFMA_COLUMNS = 2;
DEVICE int mfma_part(int lane) { return lane % 4; }
DEVICE int mfma_a_row(int i, int lane) { return i / 2 * 16 + i % 2 * 2 + lane % 32 / 8 * 4 + lane / 4 % 2; }
DEVICE int mfma_column(int i, int lane) { return lane / 32 * 16 + i * 8 + lane % 32 / 4; }
#else
constexpr int MFMA_ROWS = 1;
constexpr int MFMA_COLUMNS = 1;
// Macros: as functions they would be simplified before they are inlined, and clang would reckon a lane's places otherwise.
#define mfma_part(lane) ((lane) / 32)
#define mfma_a_row(i, lane) ((lane) % 32)
#define mfma_column(i, lane) ((lane) % 32)
#endif
constexpr int MFMA_HELD = 16 / MFMA_COLUMNS;
constexpr int MFMA_SHARERS = 2 * MFMA_COLUMNS;
constexpr int MFMA_SLICE = 4 * MFMA_SHARERS;
constexpr int MFMA_NEXT = WAVE == 64 ? 32 : 1;   // MFMA_SHARERS lanes share a column: l ^ i * MFMA_NEXT, i < MFMA_SHARERS
DEVICE int mfma_row(int r, int lane) { return r / 4 * MFMA_SLICE + 4 * mfma_part(lane) + r % 4; }

DEVICE f32x16 mfma_zero() {
  f32x16 acc;
#pragma unroll
  for (int r = 0; r < 16; r++) acc[r] = 0.f;
  return acc;
}

// acc + x[i] in each column i.
DEVICE f32x16 plus(f32x16 acc, const float (&x)[MFMA_COLUMNS]) {
  if (MFMA_COLUMNS == 1) return acc + x[0];
#pragma unroll
  for (int r = 0; r < 16; r++) acc[r] += x[r / MFMA_HELD];
  return acc;
}

// The largest, and the sum, of what the lanes have that share a column.
DEVICE float column_max(float x) {
#pragma unroll
  for (int i = 1; i < MFMA_SHARERS; i *= 2) x = fmaxf(x, __shfl_xor(x, i * MFMA_NEXT));
  return x;
}
DEVICE float column_sum(float x) {
#pragma unroll
  for (int i = 1; i < MFMA_SHARERS; i *= 2) x += __shfl_xor(x, i * MFMA_NEXT);
  return x;
}

#if defined(MZ_CPU)   // the caller's file and line travel along
#define MZ_CALLED , const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define MZ_CALLER , file, line
#else
#define MZ_CALLED
#define MZ_CALLER
#endif

#if MZ_WAVE == 64   // ---- MI300: one instruction, then a slice ----------------------------------------------------------------
#if defined(MZ_CPU)
template <class F> inline f32x16 mfma_in_floats(F a, F b, f32x16 acc, const char* file, int line) {
  constexpr int PER = sizeof(F) / sizeof(a[0]);
  const fibers::Word (*brought)[fibers::WORDS] = fibers::meet_team(&a, &b, sizeof(F), file, line);
  int me = fibers::team_lane();
  auto value = [&](int which, int lane, int j) {
    F f;
    __builtin_memcpy(&f, &brought[lane][which], sizeof(F));
    return to_float(f[j]);
  };
  for (int r = 0; r < 16; r++) {
    float sum = 0.f;
    for (int half = 0; half < 64; half += 32)
      for (int j = 0; j < PER; j++) sum += value(0, half + mfma_row(r, me), j) * value(1, half + me % 32, j);
    acc[r] += sum;
  }
  return acc;
}
inline f32x16 mfma(bf16x4 a, bf16x4 b, f32x16 acc MZ_CALLED) { return mfma_in_floats(a, b, acc, file, line); }
inline f32x16 mfma(vec<float, 1> a, vec<float, 1> b, f32x16 acc MZ_CALLED) { return mfma_in_floats(a, b, acc, file, line); }
#elif defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__)
typedef short mz_short4 __attribute__((ext_vector_type(4)));
DEVICE f32x16 mfma(bf16x4 a, bf16x4 b, f32x16 acc) {
  return __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(bits_as<mz_short4>(a), bits_as<mz_short4>(b), acc, 0, 0, 0);
}
DEVICE f32x16 mfma(vec<float, 1> a, vec<float, 1> b, f32x16 acc) {
  return __builtin_amdgcn_mfma_f32_32x32x2f32(a[0], b[0], acc, 0, 0, 0);
}
#else   // hipcc's host pass: declared, never called
__device__ f32x16 mfma(bf16x4, bf16x4, f32x16);
__device__ f32x16 mfma(vec<float, 1>, vec<float, 1>, f32x16);
#endif

DEVICE f32x16 mz_slice(vec<bf16, 4> a, vec<bf16, 4> b, f32x16 acc MZ_CALLED) { return mfma(a, b, acc MZ_CALLER); }
// One instruction takes one number from either half. Which two meet does not matter, as long as A and B agree.
DEVICE f32x16 mz_slice(vec<float, 4> a, vec<float, 4> b, f32x16 acc MZ_CALLED) {
#pragma unroll
  for (int j = 0; j < 4; j++) acc = mfma(vec<float, 1>{{a[j]}}, vec<float, 1>{{b[j]}}, acc MZ_CALLER);
  return acc;
}
template <class T> DEVICE f32x16 mfma(const vec<T, 4> (&a)[1], const vec<T, 4> (&b)[1], f32x16 acc MZ_CALLED) {
  return mz_slice(a[0], b[0], acc MZ_CALLER);
}

#else   // ---- NVIDIA: mma.sync for bfloat16, fused multiplication for float32 --------------------------------------------------
// Four of mma.sync.m16n8k16: one A, 16 x 16, beside four Bs, 16 x 8. d[n] += A B[n].
#if defined(MZ_CPU)
inline void mma_sync(float (&d)[4][4], const unsigned (&a)[4], const unsigned (&b)[4][2] MZ_CALLED) { fibers::mma_sync(d, a, b MZ_CALLER); }
#else
DEVICE void mma_sync(float (&d)[4][4], const unsigned (&a)[4], const unsigned (&b)[4][2]) {
#pragma unroll
  for (int n = 0; n < 4; n++)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[n][0]), "r"(b[n][1]));
}
#endif

// Of a lane's four numbers the first two go where its pair of the lower eight belongs, the others to the upper eight: places of
// the inner axis may be exchanged, as long as A and B agree, and so a lane reads four neighbours, or eight in two slices.
DEVICE f32x16 mfma(const vec<bf16, 4> (&a)[4], const vec<bf16, 4> (&b)[2], f32x16 acc MZ_CALLED) {
  typedef vec<unsigned, 2> pairs;
  pairs left = bits_as<pairs>(b[0]), right = bits_as<pairs>(b[1]);
  unsigned ours[4] = {left[0], right[0], left[1], right[1]}, theirs[4][2];
  float d[4][4];
#pragma unroll
  for (int n = 0; n < 4; n++) {
    pairs row = bits_as<pairs>(a[n]);
    theirs[n][0] = row[0], theirs[n][1] = row[1];
#pragma unroll
    for (int i = 0; i < 4; i++) d[n][i] = acc[i / 2 * 8 + n * 2 + i % 2];
  }
  mma_sync(d, ours, theirs MZ_CALLER);
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[i / 2 * 8 + n * 2 + i % 2] = d[n][i];
  return acc;
}

// The same places in float32: each number of the slice in turn, from the lanes that brought it.
DEVICE f32x16 mfma(const vec<float, 4> (&a)[4], const vec<float, 4> (&b)[2], f32x16 acc MZ_CALLED) {
#if defined(MZ_CPU)
  const fibers::Word (*brought)[fibers::WORDS] = fibers::meet_floats(a, sizeof a, b, sizeof b MZ_CALLER);
  auto from = [&](int lane, int i, int j) { return ((const float*)brought[lane])[4 * i + j]; };   // B's fours behind A's
#else
  auto from = [&](int lane, int i, int j) { return __shfl(i < 4 ? a[i % 4][j] : b[i % 2][j], lane); };
#endif
  int lane = threadIdx.x % 32, mine = lane / 4 * 4, rows = lane % 4 * 8;   // four lanes bring a column, and a row
#pragma unroll
  for (int part = 0; part < 4; part++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float left = from(mine + part, 4, j), right = from(mine + part, 5, j);
#pragma unroll
      for (int r = 0; r < 8; r++) {
        float row = from(rows + r % 2 * 4 + part, r / 2, j);
        acc[r] = fmaf(row, left, acc[r]), acc[8 + r] = fmaf(row, right, acc[8 + r]);
      }
    }
  return acc;
}
#endif
