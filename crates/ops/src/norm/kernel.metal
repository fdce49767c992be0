#include <metal_stdlib>
using namespace metal;

// The sum of each thread's number, for all threads: lanes first, then SIMD groups.
inline float sum_of_group(float own, threadgroup float* partial, ushort lane, ushort simd, ushort simds) {
  own = simd_sum(own);
  threadgroup_barrier(mem_flags::mem_threadgroup); // what was summed before has been read
  if (lane == 0) {
    partial[simd] = own;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simds ? partial[lane] : 0.0f);
}

// A threadgroup normalizes one group of a row.
kernel void normalize(
    device const uint* counts [[buffer(0)]],
    device const float* x [[buffer(1)]],      // (rows, columns)
    device float* y [[buffer(2)]],            // (rows, columns)
    device const float* weight [[buffer(3)]], // (group)
    device const float* bias [[buffer(4)]],   // (group)
    constant Args& args [[buffer(5)]],
    uint at [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const uint n = args.group;
  if (at >= counts[args.count_index] * (args.columns / n)) {
    return;
  }
  device const float* own = x + at * n;
  device float* result = y + at * n;
  float mean = 0.0f;
  if (args.layer == 1) {
    float sum = 0.0f;
    for (uint i = thread_index; i < n; i += threads) {
      sum += own[i];
    }
    mean = sum_of_group(sum, partial, lane, simd, simds) / float(n);
  }
  float squares = 0.0f;
  for (uint i = thread_index; i < n; i += threads) {
    const float centered = own[i] - mean;
    squares += centered * centered;
  }
  const float variance = sum_of_group(squares, partial, lane, simd, simds) / float(n);
  const float factor = 1.0f / precise::sqrt(variance + args.epsilon);
  for (uint i = thread_index; i < n; i += threads) {
    float normalized = (own[i] - mean) * factor * weight[i];
    if (args.bias == 1) {
      normalized += bias[i];
    }
    result[i] = args.accumulate == 1 ? result[i] + normalized : normalized;
  }
}
