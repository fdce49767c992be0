// NVIDIA GPUs, compiled by NVRTC. A SIMD group is a warp.
#pragma once
#define device
#define threadgroup
#define constant const
#define thread
#define kernel __device__ inline
#define MSL_TABLE static __constant__ const
#define MSL_FUNCTION_CONSTANT(T, name, index) static constexpr T name = (T)(MSL_CONSTANT_##index)
#define MSL_THREADGROUP(T, name, dims) typedef T name##_array dims; \
  alignas(16) __shared__ char name##_bytes[sizeof(name##_array)]; \
  name##_array& name = *(name##_array*)name##_bytes
#define MSL_FLOAT(name) ::name##f
#define MSL_SPACED(declaration, definition) declaration definition
#define MSL_AT
#define MSL_HERE
#define MSL_ENTRY extern "C" __global__
#define MSL_SCRATCH alignas(16) extern __shared__ char scratch[];
#define MSL_COPY_BYTES memcpy
#define MSL_THREAD_ID threadIdx
#define MSL_GROUP_ID blockIdx
#define MSL_GROUP_SIZE blockDim
#define MSL_GROUPS gridDim
__device__ inline unsigned __msl_lane() { unsigned lane; asm("mov.u32 %0, %%laneid;" : "=r"(lane)); return lane; }
__device__ inline unsigned __msl_shuffle(unsigned x, unsigned lane) { return __shfl_sync(0xffffffffu, x, lane, 32); }
__device__ inline unsigned __msl_ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
__device__ inline void __msl_group_barrier() { __syncthreads(); }
__device__ inline void __msl_simd_barrier() { __syncwarp(); }
