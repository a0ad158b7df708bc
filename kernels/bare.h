// bare.h: the few parts of HIP that our kernels use, from clang's builtins alone. Included by gpu.h.
#pragma once

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads) __attribute__((amdgpu_flat_work_group_size(1, threads)))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define HIP_DYNAMIC_SHARED(T, name) extern __shared__ T name[];
typedef unsigned long size_t;

// threadIdx.x and its kin are registers, not memory: a property calls the builtin
#define MZ_REGISTER(type, builtin)                                                       \
  struct type {                                                                          \
    __declspec(property(get = get_x)) unsigned x;                                        \
    __declspec(property(get = get_y)) unsigned y;                                        \
    __declspec(property(get = get_z)) unsigned z;                                        \
    static __device__ __forceinline__ unsigned get_x() { return builtin##_x(); }         \
    static __device__ __forceinline__ unsigned get_y() { return builtin##_y(); }         \
    static __device__ __forceinline__ unsigned get_z() { return builtin##_z(); }         \
  };
MZ_REGISTER(mz_thread, __builtin_amdgcn_workitem_id)
MZ_REGISTER(mz_block, __builtin_amdgcn_workgroup_id)
MZ_REGISTER(mz_block_size, __builtin_amdgcn_workgroup_size)
struct mz_grid_size {
  __declspec(property(get = get_x)) unsigned x;
  __declspec(property(get = get_y)) unsigned y;
  __declspec(property(get = get_z)) unsigned z;
  static __device__ __forceinline__ unsigned get_x() { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
  static __device__ __forceinline__ unsigned get_y() { return __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y(); }
  static __device__ __forceinline__ unsigned get_z() { return __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z(); }
};
static __device__ const mz_thread threadIdx{};
static __device__ const mz_block blockIdx{};
static __device__ const mz_block_size blockDim{};
static __device__ const mz_grid_size gridDim{};

__device__ __forceinline__ void __syncthreads() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");   // what I wrote is visible ...
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");   // ... before anyone reads on
}

__device__ __forceinline__ int __lane_id() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u)); }

// Shuffles are one LDS-crossbar instruction, ds_bpermute, which addresses lanes in bytes.
template <class T> __device__ __forceinline__ T mz_from_lane(T value, int lane) {
  static_assert(sizeof(T) == 4, "shuffles move 32 bits");
  return __builtin_bit_cast(T, __builtin_amdgcn_ds_bpermute(lane * 4, __builtin_bit_cast(int, value)));
}
template <class T> __device__ __forceinline__ T __shfl(T value, int lane) { return mz_from_lane(value, lane & 63); }
template <class T> __device__ __forceinline__ T __shfl_xor(T value, int mask) { return mz_from_lane(value, __lane_id() ^ mask); }
template <class T> __device__ __forceinline__ T __shfl_up(T value, unsigned by) {
  int lane = __lane_id();
  return mz_from_lane(value, lane < (int)by ? lane : lane - (int)by);
}
template <class T> __device__ __forceinline__ T __shfl_down(T value, unsigned by) {
  int lane = __lane_id();
  return mz_from_lane(value, lane + (int)by > 63 ? lane : lane + (int)by);
}
__device__ __forceinline__ unsigned long long __ballot(int predicate) { return __builtin_amdgcn_uicmp(predicate, 0, 33); }
__device__ __forceinline__ int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }

template <class T> __device__ __forceinline__ T atomicAdd(T* at, T value) {
  return __hip_atomic_fetch_add(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

// Float arithmetic that the AMDGPU back end expands by itself; sin, cos and erf would need ROCm's device libraries.
__device__ __forceinline__ float expf(float x) { return __builtin_expf(x); }
__device__ __forceinline__ float logf(float x) { return __builtin_logf(x); }
__device__ __forceinline__ float sqrtf(float x) { return __builtin_sqrtf(x); }
__device__ __forceinline__ float rsqrtf(float x) { return __builtin_amdgcn_rsqf(x); }
__device__ __forceinline__ float fabsf(float x) { return __builtin_fabsf(x); }
__device__ __forceinline__ float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
__device__ __forceinline__ float fminf(float a, float b) { return __builtin_fminf(a, b); }
__device__ __forceinline__ float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
