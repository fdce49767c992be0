#include <metal_stdlib>
using namespace metal;

// Everything that lanes of a SIMD group tell each other, one word each. A row of `y` has the lane's results.
kernel void lanes(
    device const uint* x [[buffer(0)]],
    device uint* y [[buffer(1)]],
    uint at [[thread_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]]) {
  device uint* own = y + at * 16;
  const uint v = x[at];
  own[0] = simd_sum(v);
  own[1] = simd_max(v);
  own[2] = simd_min(v);
  own[3] = simd_shuffle(v, (lane + 5) % 32);
  own[4] = simd_shuffle_xor(v, 9);
  own[5] = simd_broadcast(v, 7);
  own[6] = lane < 30 ? 1u : 0u;
  const uint down = simd_shuffle_down(v, 2);
  own[6] = lane < 30 ? down : 0u;
  const uint up = simd_shuffle_up(v, 3);
  own[7] = lane >= 3 ? up : 0u;
  own[8] = simd_prefix_inclusive_sum(v);
  own[9] = simd_prefix_exclusive_sum(v);
  own[10] = uint(ulong(simd_ballot((v & 1) != 0)));
  own[11] = simd_any(v == x[3]) ? 1u : 0u;
  own[12] = simd_all(v == x[3]) ? 1u : 0u;
  own[13] = simd_or(v);
  own[14] = simd_xor(v);
  own[15] = simd_and(v);
}

// Rounding after every operation: y = (a * b) + c in the type named, through bits.
kernel void rounding(
    device const half* halves [[buffer(0)]],
    device const bfloat* bfloats [[buffer(1)]],
    device half* half_results [[buffer(2)]],
    device bfloat* bfloat_results [[buffer(3)]],
    uint at [[thread_position_in_grid]]) {
  half_results[at] = halves[3 * at] * halves[3 * at + 1] + halves[3 * at + 2];
  bfloat_results[at] = bfloats[3 * at] * bfloats[3 * at + 1] + bfloats[3 * at + 2];
}
