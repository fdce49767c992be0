#include <metal_stdlib>
using namespace metal;

// Each thread reads what its neighbour in the threadgroup left in device memory.
kernel void neighbours(
    device const float* x [[buffer(0)]],
    device float* y [[buffer(1)]],
    device float* between [[buffer(2)]],
    uint at [[thread_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]]) {
  between[at] = x[at] * 2.0f;
  threadgroup_barrier(mem_flags::mem_device);
  y[at] = between[at - thread_index + (thread_index + 1) % threads];
}
