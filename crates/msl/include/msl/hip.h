// AMD GPUs, compiled by clang. A SIMD group is a half of a wave of 64, or a wave of 32.
#pragma once
#pragma clang force_cuda_host_device begin
#define __shared__ __attribute__((shared))
#define device
#define threadgroup
#define constant const
#define thread
#define kernel inline
#define MSL_TABLE static __attribute__((constant)) const
#define MSL_FUNCTION_CONSTANT(T, name, index) static constexpr T name = (T)(MSL_CONSTANT_##index)
#define MSL_THREADGROUP(T, name, dims) __shared__ T name dims
#define MSL_FLOAT(name) __builtin_##name##f
#define MSL_SPACED(declaration, definition) declaration definition
#define MSL_AT
#define MSL_HERE
#define MSL_ENTRY extern "C" __attribute__((global))
#define MSL_SCRATCH extern __shared__ __attribute__((aligned(16))) char scratch[];
#define MSL_COPY_BYTES __builtin_memcpy
#define MSL_NATIVE_HALF 1
typedef _Float16 half;
struct __msl_three { unsigned x, y, z; };
inline __msl_three __msl_thread_id() {
  return {__builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(), __builtin_amdgcn_workitem_id_z()};
}
inline __msl_three __msl_group_id() {
  return {__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(), __builtin_amdgcn_workgroup_id_z()};
}
inline __msl_three __msl_group_size() {
  return {__builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(), __builtin_amdgcn_workgroup_size_z()};
}
inline __msl_three __msl_groups() {
  __msl_three size = __msl_group_size();
  return {__builtin_amdgcn_grid_size_x() / size.x, __builtin_amdgcn_grid_size_y() / size.y,
          __builtin_amdgcn_grid_size_z() / size.z};
}
#define MSL_THREAD_ID __msl_thread_id()
#define MSL_GROUP_ID __msl_group_id()
#define MSL_GROUP_SIZE __msl_group_size()
#define MSL_GROUPS __msl_groups()
inline unsigned __msl_wave_lane() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0)); }
inline unsigned __msl_lane() { return __msl_wave_lane() & 31; }
inline unsigned __msl_shuffle(unsigned x, unsigned lane) {
  return __builtin_amdgcn_ds_bpermute(((__msl_wave_lane() & 32) | (lane & 31)) * 4, x);
}
inline unsigned __msl_ballot(bool x) {
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32; lane++) mask |= (__msl_shuffle(x, lane) & 1) << lane;
  return mask;
}
inline void __msl_group_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
// A wave runs in step: only the compiler has to be kept from moving memory accesses.
inline void __msl_simd_barrier() { __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront"); __builtin_amdgcn_wave_barrier(); }
