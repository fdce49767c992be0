// A SIMD group stores one head of K or V of one token.
kernel void write_kv(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* k [[buffer(4)]], // (tokens, kv_heads, head_dim)
    device const float* v [[buffer(5)]],
    device uchar* k_cache [[buffer(6)]],
    device uchar* v_cache [[buffer(7)]],
    constant Args& args [[buffer(8)]],
    uint token [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  if (token >= counts[0]) {
    return;
  }
  const uint position = positions[token], n = args.head_dim;
  const uint block = tables[sequences[token] * args.blocks + position / args.block_tokens];
  const uint place = position % args.block_tokens;
  for (uint item = simd; item < 2 * args.kv_heads; item += simds) {
    const uint head = item / 2;
    const bool key = item % 2 == 0;
    device const float* x = (key ? k : v) + (token * args.kv_heads + head) * n;
    device uchar* cache = key ? k_cache : v_cache;
    const ulong begin = ulong(block * args.kv_heads + head) * record_bytes(args.kv, n, args.block_tokens);
    const Record record = {begin, n, args.block_tokens};
    for (uint d = lane; d < n; d += 32) {
      store_number(cache, args.kv, record, place, key, d, x[d]);
    }
  }
}
