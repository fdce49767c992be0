#include <metal_stdlib>
using namespace metal;

kernel void gather(
    device const uint* counts [[buffer(0)]],
    device const uint* rows [[buffer(1)]],
    device const float* x [[buffer(2)]], // (tokens, columns)
    device float* y [[buffer(3)]],       // (rows, columns)
    constant Args& args [[buffer(4)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint length = counts[1] * args.columns;
  for (uint i = first; i < length; i += threads) {
    y[i] = x[rows[i / args.columns] * args.columns + i % args.columns];
  }
}
