#include <metal_stdlib>
using namespace metal;

// A row of `y` has each function of one float.
kernel void functions(
    device const float* x [[buffer(0)]],
    device float* y [[buffer(1)]], // (threads, 24)
    uint at [[thread_position_in_grid]]) {
  device float* own = y + 24 * at;
  const float v = x[at];
  const float p = fabs(v) + 0.25f;
  own[0] = exp(v);
  own[1] = exp2(v);
  own[2] = log(p);
  own[3] = log2(p);
  own[4] = sqrt(p);
  own[5] = rsqrt(p);
  own[6] = sin(v);
  own[7] = cos(v);
  own[8] = tan(v);
  own[9] = tanh(v);
  own[10] = pow(p, v);
  own[11] = floor(v);
  own[12] = ceil(v);
  own[13] = rint(v);
  own[14] = trunc(v);
  own[15] = fract(v);
  own[16] = fma(v, v, p);
  own[17] = clamp(v, -0.5f, 0.5f);
  own[18] = mix(v, p, 0.25f);
  own[19] = fmod(v, 0.75f);
  own[20] = sign(v);
  own[21] = precise::exp(v) + fast::log(p);
  own[22] = dot(float4(v, p, 1.0f, 2.0f), float4(p, v, v, p));
  own[23] = select(v, p, v < 0.0f);
}

// A row of `y` has each function of one uint.
kernel void bit_functions(
    device const uint* x [[buffer(0)]],
    device uint* y [[buffer(1)]], // (threads, 8)
    uint at [[thread_position_in_grid]]) {
  device uint* own = y + 8 * at;
  const uint v = x[at];
  own[0] = popcount(v);
  own[1] = clz(v);
  own[2] = ctz(v);
  own[3] = reverse_bits(v);
  own[4] = rotate(v, 7u);
  own[5] = mulhi(v, 0x9e3779b9u);
  own[6] = extract_bits(v, 5u, 9u);
  own[7] = as_type<uint>(as_type<uchar4>(v)) + uint(as_type<ushort2>(v).y);
}
