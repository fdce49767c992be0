#include <metal_stdlib>
using namespace metal;

// How often each of 64 values occurs, and the largest value, in any order of threads.
kernel void histogram(
    device const uint* x [[buffer(0)]],
    device atomic_uint* counts [[buffer(1)]], // (64)
    device atomic_int* largest [[buffer(2)]],
    device atomic_float* total [[buffer(3)]],
    constant Histogram& args [[buffer(4)]],
    uint at [[thread_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint own[64];
  if (thread_index < 64) {
    atomic_store_explicit(&own[thread_index], 0u, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at < args.count) {
    atomic_fetch_add_explicit(&own[x[at] & 63], 1u, memory_order_relaxed);
    atomic_fetch_max_explicit(largest, int(x[at]), memory_order_relaxed);
    atomic_fetch_add_explicit(total, float(x[at]), memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index < 64) {
    const uint count = atomic_load_explicit(&own[thread_index], memory_order_relaxed);
    atomic_fetch_add_explicit(&counts[thread_index], count, memory_order_relaxed);
  }
}
