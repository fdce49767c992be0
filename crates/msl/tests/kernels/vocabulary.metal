#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// Compiled, never run: the words that kernels are made of.

constant uint FORMAT [[function_constant(0)]];
constant bool WIDE [[function_constant(1)]];
constant float SCALE [[function_constant(2)]];
constant bool BOTH = WIDE && FORMAT == 1;
constant float TABLE[16] = {-1.0f, -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.09105004f, 0.0f, 0.07958030f, 0.16093020f, 0.24611230f, 0.33791524f, 0.44070983f, 0.56261700f, 0.72295684f, 1.0f};
constant char CODES[4] = {-127, -104, -83, -65};
constant constexpr uint TILE = 8;

enum Kind : uint { FIRST = 0, SECOND = 1 };

struct Args { uint rows; uint columns; float epsilon; int shift; };

struct BlockQ8 { half d; char q[32]; };
struct BlockQ4K { half d; half dmin; uchar scales[12]; uchar q[128]; };

template <typename T> struct Format;
template <> struct Format<BlockQ8> {
  static inline float at(device const BlockQ8* b, uint i) { return float(b->d) * float(b->q[i]); }
};

struct Pair { float value; uint index; };

inline Pair better(Pair a, Pair b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index) ? a : b;
}

inline void scale_min(uint j, device const uchar* q, thread uchar& d, thread uchar& m) {
  if (j < 4) {
    d = q[j] & 63;
    m = q[j + 4] & 63;
  } else {
    d = (q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4);
    m = (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
  }
}

template <typename Block, uint N>
inline float product(device const Block* w, device const float* x, uint lane, uint blocks) {
  float sum = 0.0f;
  for (uint b = lane; b < blocks; b += 32) {
    float part[N];
    #pragma unroll
    for (uint i = 0; i < N; i++) {
      part[i] = Format<Block>::at(w + b, i) * x[b * N + i];
    }
    for (uint i = 0; i < N; i++) {
      sum += part[i];
    }
  }
  return simd_sum(sum);
}

inline float reduce(float value, threadgroup float* partial, ushort lane, ushort simd, ushort simds) {
  value = simd_sum(value);
  if (lane == 0) {
    partial[simd] = value;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simds ? partial[lane] : 0.0f);
}

kernel void vocabulary(
    device const BlockQ8* w [[buffer(0)]],
    device const float* x [[buffer(1)]],
    device float* y [[buffer(2)]],
    device const uint* tokens [[buffer(3)]],
    device half* cache [[buffer(4)]],
    constant Args& args [[buffer(5)]],
    threadgroup char* scratch [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 at [[thread_position_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  threadgroup half tile[TILE][TILE + 1];
  threadgroup Pair best[32];
  threadgroup float* shared = (threadgroup float*)scratch;
  threadgroup half4* quads = (threadgroup half4*)(scratch + 256);
  const uint row = group.x;
  if (row >= args.rows) {
    return;
  }
  Pair own = {-INFINITY, 0};
  for (uint i = at.x; i < args.columns; i += size.x) {
    const Pair next = {x[i], i};
    own = better(own, next);
  }
  for (ushort step = 16; step > 0; step /= 2) {
    Pair other;
    other.value = simd_shuffle_xor(own.value, step);
    other.index = simd_shuffle_xor(own.index, step);
    own = better(own, other);
  }
  best[simd] = own;
  shared[at.x] = x[at.x];
  quads[at.x % 4] = half4(x[at.x], 1.0f, half(2.0f), 0);
  tile[at.x % 8][at.x / 8 % 8] = half(TABLE[at.x & 15]);
  float total = reduce(x[at.x], partial, lane, simd, simds);
  float z = product<BlockQ8, 32>(w + row * args.columns / 32, x, lane, args.columns / 32);
  float4 v = float4(0.0f);
  v += float4(quads[0]) * SCALE;
  v = fma(v, float4(2.0f), v);
  v = clamp(v, float4(-1.0f), float4(1.0f));
  v.x = as_type<float>(as_type<uint>(v.x) & 0xffff0000u);
  half2 pair = as_type<half2>(tokens[0]);
  const uchar4 bytes = as_type<uchar4>(tokens[1]);
  const bfloat b = bfloat(z);
  const float theta = pow(10000.0f, -2.0f * float(at.x) / 64.0f) * float(tokens[2]);
  const float c = cos(theta), s = sin(theta);
  const float gelu = 0.5f * z * (1.0f + precise::tanh(0.79788456f * (z + 0.044715f * z * z * z)));
  const float silu = z / (1.0f + exp(-z));
  switch (FORMAT) {
    case FIRST: total += 1.0f; break;
    case SECOND: total += 2.0f; break;
    default: break;
  }
  uchar sc = 0, m = 0;
  scale_min(at.x & 7, (device const uchar*)w, sc, m);
  bool4 mask = v > float4(0.5f);
  v = select(v, float4(1.0f), mask);
  total += any(mask) ? dot(v, v) : length(v);
  total += float(pair.x) + float(bytes.y) + float(b) + c * s + gelu + silu + float(sc) + float(m) + CODES[at.x & 3];
  total += float(max(int(at.x) - args.shift, 0)) + rsqrt(args.epsilon) + abs(z) + float(popcount(tokens[1]));
  simdgroup_half8x8 ma;
  simdgroup_float8x8 sums[2];
  for (ushort i = 0; i < 2; i++) {
    sums[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
  simdgroup_load(ma, &tile[0][0], 9, ulong2(0, 0), true);
  simdgroup_multiply_accumulate(sums[0], ma, ma, sums[1]);
  sums[0].thread_elements()[0] *= 2.0f;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  if (WIDE) {
    simdgroup_store(sums[0], shared, 8);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0 && BOTH) {
    y[row] = total + shared[0] + float(best[0].index);
    cache[row] = half(total);
    *((device packed_half4*)(cache + 4 * row)) = packed_half4(half4(v));
  }
}
