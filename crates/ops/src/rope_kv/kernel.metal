// A SIMD group finishes one head of q, k or v of one token.
kernel void rope_kv(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* k [[buffer(4)]], // (tokens, kv_heads, head_dim)
    device const float* v [[buffer(5)]],
    device float* q [[buffer(6)]], // (tokens, heads, head_dim)
    device uchar* k_cache [[buffer(7)]],
    device uchar* v_cache [[buffer(8)]],
    device const float* angles [[buffer(9)]], // (tokens, 2, pairs)
    device const float* q_norm [[buffer(10)]],
    device const float* k_norm [[buffer(11)]],
    constant Args& args [[buffer(12)]],
    threadgroup float* scratch [[threadgroup(0)]], // (SIMD groups, head_dim)
    uint token [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  if (token >= counts[0]) {
    return;
  }
  const uint n = args.head_dim;
  const uint position = positions[token];
  const uint block = tables[sequences[token] * args.blocks + position / args.block_tokens];
  const uint place = position % args.block_tokens;
  device const float* table = angles + token * 2 * args.pairs;
  threadgroup float* own = scratch + simd * n;
  const bool halves = args.halves == 1;
  for (uint item = simd; item < args.heads + 2 * args.kv_heads; item += simds) {
    if (item < args.heads) {
      device float* x = q + (token * args.heads + item) * n;
      load_head(x, q_norm, args.q_norm == 1, args.q_epsilon, n, own, lane);
      for (uint d = lane; d < n; d += 32) {
        x[d] = rotated(own, table, args.pairs, halves, d);
      }
    } else {
      const uint head = (item - args.heads) % args.kv_heads;
      const bool key = item < args.heads + args.kv_heads;
      const ulong begin = ulong(block * args.kv_heads + head) * record_bytes(args.kv, n, args.block_tokens);
      const Record record = {begin, n, args.block_tokens};
      device const float* x = (key ? k : v) + (token * args.kv_heads + head) * n;
      load_head(x, k_norm, key && args.k_norm == 1, args.k_epsilon, n, own, lane);
      for (uint d = lane; d < n; d += 32) {
        const float number = key ? rotated(own, table, args.pairs, halves, d) : own[d];
        store_number(key ? k_cache : v_cache, args.kv, record, place, key, d, number);
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
