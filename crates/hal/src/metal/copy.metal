#include <metal_stdlib>
using namespace metal;

// Recorded copies and fills. Words where both ends are on words, bytes elsewhere.

struct Run {
  uint count;
  uint value;
};

kernel void copy_words(
    device const uint* x [[buffer(0)]],
    device uint* y [[buffer(1)]],
    constant Run& args [[buffer(2)]],
    uint at [[thread_position_in_grid]]) {
  if (at < args.count) {
    y[at] = x[at];
  }
}

kernel void copy_bytes(
    device const uchar* x [[buffer(0)]],
    device uchar* y [[buffer(1)]],
    constant Run& args [[buffer(2)]],
    uint at [[thread_position_in_grid]]) {
  if (at < args.count) {
    y[at] = x[at];
  }
}

kernel void fill_words(
    device uint* y [[buffer(0)]],
    constant Run& args [[buffer(1)]],
    uint at [[thread_position_in_grid]]) {
  if (at < args.count) {
    y[at] = args.value;
  }
}

kernel void fill_bytes(
    device uchar* y [[buffer(0)]],
    constant Run& args [[buffer(1)]],
    uint at [[thread_position_in_grid]]) {
  if (at < args.count) {
    y[at] = uchar(args.value & 255u);
  }
}
