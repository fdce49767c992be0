#include <metal_stdlib>
using namespace metal;

kernel void add(
    device const uint* counts [[buffer(0)]],
    device const float* y [[buffer(1)]],
    device float* x [[buffer(2)]],
    constant Args& args [[buffer(3)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint length = counts[args.count_index] * args.columns;
  for (uint i = first; i < length; i += threads) {
    x[i] += y[i];
  }
}
