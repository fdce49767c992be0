#include <metal_stdlib>
using namespace metal;

// C = A B for one tile of 8 x 8 a SIMD group.
template <typename T>
inline void tile(device const T* a, device const T* b, device float* c, constant MatMul& args, uint2 at) {
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8>(0.0f);
  simdgroup_matrix<T, 8, 8> left;
  simdgroup_matrix<T, 8, 8> right;
  for (uint k = 0; k < args.inner; k += 8) {
    simdgroup_load(left, a + at.y * 8 * args.inner + k, args.inner);
    simdgroup_load(right, b + k * args.columns + at.x * 8, args.columns);
    simdgroup_multiply_accumulate(sum, left, right, sum);
  }
  simdgroup_store(sum, c + at.y * 8 * args.columns + at.x * 8, args.columns);
}

kernel void mat_mul_half(
    device const half* a [[buffer(0)]], // (rows, inner)
    device const half* b [[buffer(1)]], // (inner, columns)
    device float* c [[buffer(2)]],      // (rows, columns)
    constant MatMul& args [[buffer(3)]],
    uint2 at [[threadgroup_position_in_grid]]) {
  tile(a, b, c, args, at);
}

kernel void mat_mul_bfloat(
    device const bfloat* a [[buffer(0)]],
    device const bfloat* b [[buffer(1)]],
    device float* c [[buffer(2)]],
    constant MatMul& args [[buffer(3)]],
    uint2 at [[threadgroup_position_in_grid]]) {
  tile(a, b, c, args, at);
}

kernel void mat_mul_float(
    device const float* a [[buffer(0)]],
    device const float* b [[buffer(1)]],
    device float* c [[buffer(2)]],
    constant MatMul& args [[buffer(3)]],
    uint2 at [[threadgroup_position_in_grid]]) {
  tile(a, b, c, args, at);
}
