#include <metal_stdlib>
using namespace metal;

// One threadgroup a row; the maximum, then the sum, through one array.
kernel void softmax(
    device const float* x [[buffer(0)]], // (rows, columns)
    device float* y [[buffer(1)]],       // (rows, columns)
    constant Softmax& args [[buffer(2)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const uint n = args.columns;
  device const float* own = x + row * n;
  float most = -INFINITY;
  for (uint i = thread_index; i < n; i += threads) {
    most = max(most, own[i]);
  }
  most = simd_max(most);
  if (lane == 0) {
    partial[simd] = most;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  most = simd_max(lane < simds ? partial[lane] : -INFINITY);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0.0f;
  for (uint i = thread_index; i < n; i += threads) {
    sum += exp(own[i] - most);
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    partial[simd] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = simd_sum(lane < simds ? partial[lane] : 0.0f);
  for (uint i = thread_index; i < n; i += threads) {
    y[row * n + i] = exp(own[i] - most) / sum;
  }
}
