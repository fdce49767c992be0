kernel void activate(
    device const uint* counts [[buffer(0)]],
    device float* gate [[buffer(1)]],
    device const float* up [[buffer(2)]],
    constant Args& args [[buffer(3)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint length = counts[args.count_index] * args.columns;
  for (uint i = first; i < length; i += threads) {
    const float result = activation_of(gate[i], args.activation);
    gate[i] = args.gated == 1 ? result * up[i] : result;
  }
}

kernel void softcap(
    device const uint* counts [[buffer(0)]],
    device float* x [[buffer(1)]],
    constant Args& args [[buffer(2)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint length = counts[args.count_index] * args.columns;
  for (uint i = first; i < length; i += threads) {
    x[i] = args.cap * precise::tanh(clamp(x[i] / args.cap, -10.0f, 10.0f));
  }
}
