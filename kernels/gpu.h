// gpu.h: what a kernel needs, on four targets, under HIP's own names.
//
//   bare    clang++ -x hip --offload-arch=gfx942 -DMZ_BARE   MI300 machine code, without ROCm installed
//   hip     hipcc                                            MI300, with ROCm's own headers
//   cuda    nvcc -x cu                                       NVIDIA, warps of 32
//   cpu     g++ -x c++ -DMZ_CPU                              every GPU thread is a fiber: fibers.h
//
// Kernels include this file and nothing else.
#pragma once

#if defined(MZ_CPU)
#include "fibers.h"
#elif defined(__CUDACC__) && !defined(__HIP__)
#define MZ_CUDA 1
#else
#define MZ_AMD 1
#if !defined(MZ_BARE)
#include <hip/hip_runtime.h>
#endif
#endif

// ---- the wave: how many threads run in step ---------------------------------------------------------------------------
// A constant of our own: HIP's `warpSize` is no compile-time constant from ROCm 7 on.
#if !defined(MZ_WAVE)
#if defined(MZ_CUDA)
#define MZ_WAVE 32
#else
#define MZ_WAVE 64
#endif
#endif
constexpr int WAVE = MZ_WAVE;

#if defined(MZ_BARE)
#include "bare.h"      // what hip_runtime.h would give
#endif

#if defined(MZ_CUDA)   // HIP's names for what CUDA calls otherwise
#define __shfl(value, lane) __shfl_sync(0xffffffffu, (value), (lane))
#define __shfl_xor(value, mask) __shfl_xor_sync(0xffffffffu, (value), (mask))
#define __shfl_up(value, by) __shfl_up_sync(0xffffffffu, (value), (by))
#define __shfl_down(value, by) __shfl_down_sync(0xffffffffu, (value), (by))
#define __ballot(predicate) ((unsigned long long)__ballot_sync(0xffffffffu, (predicate)))
#define HIP_DYNAMIC_SHARED(T, name) extern __shared__ T name[];
__device__ __forceinline__ int __lane_id() { int lane; asm("mov.u32 %0, %%laneid;" : "=r"(lane)); return lane; }
#endif

#if !defined(MZ_CPU)
#define LAUNCHABLE(kernel)   // on a CPU this makes the function that Python calls
#endif

#define DEVICE __device__ __forceinline__

// Launch bounds of a kernel on the matrix cores. The compiler is told that so few waves a SIMD are enough: with two it lets
// sums lie in ordinary registers, of which each wave has 256. Without, they go to the accumulation registers, and every step
// moves them there and back.
#if defined(MZ_AMD)
#define MATRIX_BOUNDS(threads, waves) __launch_bounds__(threads) __attribute__((amdgpu_waves_per_eu(waves)))
#else
#define MATRIX_BOUNDS(threads, waves) __launch_bounds__(threads)
#endif

// The compiler may not move an instruction over this.
#if defined(MZ_AMD)
DEVICE void stay_in_order() { __builtin_amdgcn_sched_barrier(0); }
#else
DEVICE void stay_in_order() {}
#endif

// A number that all lanes of a wave share, such as threadIdx.x / WAVE. Told so, the compiler keeps it, and what follows from it, in
// scalar registers: a branch on it needs no mask, an address no vector instruction.
#if defined(MZ_AMD)
DEVICE int same_in_wave(int x) { return __builtin_amdgcn_readfirstlane(x); }
#else
DEVICE int same_in_wave(int x) { return x; }
#endif

#include "numbers.h"
#include "mfma.h"

// ---- sums and maxima over a wave: every lane gets the result ----------------------------------------------------------
template <class T> DEVICE T wave_sum(T value) {
#pragma unroll
  for (int far = WAVE / 2; far > 0; far /= 2) value += __shfl_xor(value, far);
  return value;
}

DEVICE float wave_max(float value) {
#pragma unroll
  for (int far = WAVE / 2; far > 0; far /= 2) value = fmaxf(value, __shfl_xor(value, far));
  return value;
}

// The sum over the THREADS threads of a block, the same in every thread. `scratch` is LDS, a float for each wave. It ends
// with a barrier, so that the next sum may use the same scratch. The number of threads is a constant of ours: blockDim would
// be read from memory.
template <int THREADS> DEVICE float block_sum(float value, float* scratch) {
  value = wave_sum(value);
  if (threadIdx.x % WAVE == 0) scratch[threadIdx.x / WAVE] = value;
  __syncthreads();
  float total = 0.f;
#pragma unroll
  for (int wave = 0; wave < THREADS / WAVE; wave++) total += scratch[wave];
  __syncthreads();
  return total;
}
