#include <metal_stdlib>
using namespace metal;

// One threadgroup a row.
kernel void rms_norm(
    device const float* x [[buffer(0)]], // (rows, columns)
    device const float* w [[buffer(1)]], // (columns)
    device float* y [[buffer(2)]],       // (rows, columns)
    constant RmsNorm& args [[buffer(3)]],
    threadgroup float* partial [[threadgroup(0)]],
    uint row [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  const uint n = args.columns;
  device const float* own = x + row * n;
  float sum = 0.0f;
  for (uint i = thread_index; i < n; i += threads) {
    sum += own[i] * own[i];
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    partial[simd] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = simd_sum(lane < simds ? partial[lane] : 0.0f);
  const float scale = rsqrt(sum / float(n) + args.epsilon);
  for (uint i = thread_index; i < n; i += threads) {
    y[row * n + i] = own[i] * scale * w[i];
  }
}
