#include <metal_stdlib>
using namespace metal;

// Cosines and sines of a step's positions. In f32 the product of a position and a frequency would be off by 0.004 at position
// 100,000: its rounding error is kept, and whole turns are taken off it in three parts.
kernel void angles(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const float* frequencies [[buffer(2)]], // (pairs)
    device float* table [[buffer(3)]],             // (tokens, 2, pairs)
    constant AnglesArgs& args [[buffer(4)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint length = counts[0] * args.pairs;
  for (uint i = first; i < length; i += threads) {
    const uint token = i / args.pairs, pair = i % args.pairs;
    const float position = float(positions[token]), frequency = frequencies[pair];
    const float product = position * frequency;
    const float error = fma(position, frequency, -product);
    const float turns = rint(product * 0.15915494309f);
    float angle = fma(turns, -6.28318548202514648f, product);
    angle = fma(turns, 1.74845553146802e-7f, angle);
    angle += error;
    device float* own = table + token * 2 * args.pairs + pair;
    own[0] = precise::cos(angle) * args.amplitude;
    own[args.pairs] = precise::sin(angle) * args.amplitude;
  }
}

// A thread turns a pair.
kernel void rope(
    device const uint* counts [[buffer(0)]],
    device const float* table [[buffer(1)]], // (tokens, 2, pairs)
    device float* x [[buffer(2)]],           // (tokens, columns)
    constant Args& args [[buffer(3)]],
    uint first [[thread_position_in_grid]],
    uint threads [[threads_per_grid]]) {
  const uint heads = args.columns / args.head_dim;
  const uint length = counts[0] * heads * args.pairs;
  for (uint i = first; i < length; i += threads) {
    const uint pair = i % args.pairs, head = i / args.pairs;
    device const float* own = table + head / heads * 2 * args.pairs + pair;
    const float c = own[0], s = own[args.pairs];
    device float* x0 = x + head * args.head_dim + (args.halves == 1 ? pair : 2 * pair);
    device float* x1 = x0 + (args.halves == 1 ? args.pairs : 1);
    const float a = *x0, b = *x1;
    *x0 = a * c - b * s;
    *x1 = a * s + b * c;
  }
}
