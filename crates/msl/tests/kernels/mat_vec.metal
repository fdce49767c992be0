#include <metal_stdlib>
using namespace metal;

struct Block {
  half scale;
  uchar codes[16];
};

constant bool NEGATE [[function_constant(0)]];

// y = W x, W in q4_0: a SIMD group a row, a lane every 32nd block.
kernel void mat_vec(
    device const Block* w [[buffer(0)]], // (rows, columns / 32)
    device const float* x [[buffer(1)]], // (columns)
    device float* y [[buffer(2)]],       // (rows)
    constant MatVec& args [[buffer(3)]],
    uint group [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  const uint row = group * simds + simd;
  if (row >= args.rows) {
    return;
  }
  const uint blocks = args.columns / 32;
  float sum = 0.0f;
  for (uint b = lane; b < blocks; b += 32) {
    device const Block& block = w[row * blocks + b];
    device const float4* part = (device const float4*)(x + b * 32);
    float4 products = 0.0f;
    for (uint i = 0; i < 4; i++) {
      const uchar4 codes = uchar4(block.codes[4 * i], block.codes[4 * i + 1], block.codes[4 * i + 2], block.codes[4 * i + 3]);
      products += (float4(codes & uchar4(15)) - 8.0f) * part[i];
      products += (float4(codes >> uchar4(4)) - 8.0f) * part[i + 4];
    }
    sum += float(block.scale) * (products.x + products.y + products.z + products.w);
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    y[row] = NEGATE ? -sum : sum;
  }
}
