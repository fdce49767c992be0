#include <metal_stdlib>
using namespace metal;

// One KV head's part of a block of the cache, in K and V alike. In F16, K is (head_dim, block_tokens) and V (block_tokens, head_dim).
// In Q8_0, int8 codes lie in the same order, then F16 scales (head_dim / 32, block_tokens).
struct Record {
  ulong begin; // its first byte
  uint head_dim;
  uint block_tokens;
};

constant uint KV_F16 = 0;

inline uint record_bytes(uint kv, uint head_dim, uint block_tokens) {
  return block_tokens * (kv == KV_F16 ? 2 * head_dim : head_dim + head_dim / 32 * 2);
}

// Where the scale of a group of 32 numbers lies.
inline ulong scale_at(Record record, uint group, uint place) {
  return record.begin + record.head_dim * record.block_tokens + 2 * (group * record.block_tokens + place);
}

// Number `d` of a head of K or V goes to place `place` of its block. In Q8_0 the lanes of a SIMD group have the 32 numbers of a
// group, and all of them call this; in F16, those that have no number do not.
inline void store_number(device uchar* cache, uint kv, Record record, uint place, bool transposed, uint d, float x) {
  const uint index = transposed ? d * record.block_tokens + place : place * record.head_dim + d;
  if (kv == KV_F16) {
    ((device half*)(cache + record.begin))[index] = half(x);
    return;
  }
  const float step = simd_max(fabs(x)) / 127.0f;
  const float inverse = step == 0.0f ? 0.0f : 1.0f / step;
  ((device char*)(cache + record.begin))[index] = char(int(round(x * inverse)));
  if (d % 32 == 0) {
    *(device half*)(cache + scale_at(record, d / 32, place)) = half(step);
  }
}
