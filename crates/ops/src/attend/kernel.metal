inline Seen seen_by(device const uint* positions, device const uint* sequences, uint token, uint kv_head, constant AttendArgs& args) {
  Seen seen;
  seen.end = positions[token] + 1;
  seen.first = seen.end > args.window ? seen.end - args.window : 0;
  seen.table = sequences[token] * args.blocks;
  seen.kv_head = kv_head;
  seen.kv_heads = args.kv_heads;
  return seen;
}

// The first query head of a threadgroup, and how many it has.
struct Heads {
  uint first;
  uint count;
};

// `batch`: which of a KV head's batches of ROWS query heads.
inline Heads heads_of(uint kv_head, uint batch, constant AttendArgs& args) {
  const uint group = args.heads / args.kv_heads;
  Heads heads;
  heads.first = kv_head * group + batch * ROWS;
  heads.count = min(ROWS, group - batch * ROWS);
  return heads;
}

inline void load_queries(device const float* q, Heads heads, threadgroup float* own, uint thread_index) {
  for (uint i = thread_index; i < ROWS * HEAD_DIM; i += THREADS) {
    own[i] = i < heads.count * HEAD_DIM ? q[heads.first * HEAD_DIM + i] : 0.0f;
  }
}

// What a chunk leaves of a token's head: largest score, sum of weights, sums of values.
constant uint PARTIAL = HEAD_DIM + 2;

inline device float* partial_of(device float* partials, uint token, uint head, uint slot, constant AttendArgs& args) {
  return partials + (ulong(token * args.heads + head) * args.slots + slot) * PARTIAL;
}

// One chunk of a token, into its place among the partial results. Everything in `own.q` is there.
inline void chunk_to_partials(device const uchar* k_cache, device const uchar* v_cache, device const uint* tables, device float* partials, Seen seen, uint token, Heads heads, uint slot, Scratch own, constant AttendArgs& args, uint thread_index, ushort lane, ushort simd) {
  const uint start = (seen.first / CHUNK + slot) * CHUNK;
  scores_of_chunk(k_cache, tables, seen, start, args.scale, own, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  soften_chunk(own, lane, simd);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sums[OWN * ROWS];
  values_of_chunk(v_cache, tables, seen, start, own, sums, thread_index);
  for (uint r = 0; r < heads.count; r++) {
    device float* partial = partial_of(partials, token, heads.first + r, slot, args);
    for (uint n = 0; n < OWN; n++) {
      const uint d = thread_index + n * THREADS;
      if (d < HEAD_DIM) {
        partial[2 + d] = sums[n * ROWS + r];
      }
    }
    if (thread_index == 0) {
      partial[0] = own.most[r];
      partial[1] = own.total[r];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

inline uint slots_of(Seen seen) {
  return (seen.end - 1) / CHUNK - seen.first / CHUNK + 1;
}

// A threadgroup has some chunks of one token and KV head.
kernel void attend_chunks(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* q [[buffer(4)]], // (tokens, heads, HEAD_DIM)
    device const uchar* k_cache [[buffer(5)]],
    device const uchar* v_cache [[buffer(6)]],
    device float* partials [[buffer(7)]], // (tokens, heads, slots, PARTIAL)
    constant AttendArgs& args [[buffer(8)]],
    threadgroup float* memory [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], // slot; KV head and batch; token
    uint3 groups [[threadgroups_per_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]]) {
  const uint token = group.z;
  if (token >= counts[args.count_index]) {
    return;
  }
  const uint kv_head = group.y % args.kv_heads;
  const Seen seen = seen_by(positions, sequences, token, kv_head, args);
  const uint slots = slots_of(seen);
  if (group.x >= slots) {
    return;
  }
  const Heads heads = heads_of(kv_head, group.y / args.kv_heads, args);
  const Scratch own = scratch_in(memory);
  load_queries(q + token * args.heads * HEAD_DIM, heads, own.q, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint slot = group.x; slot < slots; slot += groups.x) {
    chunk_to_partials(k_cache, v_cache, tables, partials, seen, token, heads, slot, own, args, thread_index, lane, simd);
  }
}

// As `attend_chunks` for a step of one token, from what the projections left: q is normalized and rotated here, and who has the last
// chunk finishes K and V of the token and writes them to the cache before it reads them there.
kernel void attend_token(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* q [[buffer(4)]],      // (heads, HEAD_DIM)
    device const float* k [[buffer(5)]],      // (kv_heads, HEAD_DIM)
    device const float* v [[buffer(6)]],      // (kv_heads, HEAD_DIM)
    device const float* angles [[buffer(7)]], // (2, pairs)
    device const float* q_norm [[buffer(8)]],
    device const float* k_norm [[buffer(9)]],
    device uchar* k_cache [[buffer(10)]],
    device uchar* v_cache [[buffer(11)]],
    device float* partials [[buffer(12)]], // (heads, slots, PARTIAL)
    constant AttendArgs& args [[buffer(13)]],
    threadgroup float* memory [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], // slot; KV head
    uint3 groups [[threadgroups_per_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]]) {
  if (counts[0] == 0) {
    return;
  }
  const uint kv_head = group.y;
  const Seen seen = seen_by(positions, sequences, 0, kv_head, args);
  const uint slots = slots_of(seen);
  if (group.x >= slots) {
    return;
  }
  const Heads heads = heads_of(kv_head, 0, args);
  const Scratch own = scratch_in(memory);
  threadgroup float* head = own.total + ROWS + simd * HEAD_DIM;
  const bool halves = args.halves == 1;
  for (uint r = simd; r < ROWS; r += THREADS / 32) {
    load_head(q + (heads.first + r) * HEAD_DIM, q_norm, args.q_norm == 1, args.q_epsilon, HEAD_DIM, head, lane);
    for (uint d = lane; d < HEAD_DIM; d += 32) {
      own.q[r * HEAD_DIM + d] = rotated(head, angles, args.pairs, halves, d);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  const bool last = (slots - 1) % groups.x == group.x;
  if (last && simd < 2) {
    const bool key = simd == 0;
    const uint position = seen.end - 1;
    const Record record = record_at(tables, seen, position);
    device const float* x = (key ? k : v) + kv_head * HEAD_DIM;
    load_head(x, k_norm, key && args.k_norm == 1, args.k_epsilon, HEAD_DIM, head, lane);
    for (uint d = lane; d < HEAD_DIM; d += 32) {
      const float number = key ? rotated(head, angles, args.pairs, halves, d) : head[d];
      store_number(key ? k_cache : v_cache, KV, record, position % BLOCK_TOKENS, key, d, number);
    }
  }
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  for (uint slot = group.x; slot < slots; slot += groups.x) {
    chunk_to_partials(k_cache, v_cache, tables, partials, seen, 0, heads, slot, own, args, thread_index, lane, simd);
  }
}

// A threadgroup folds the chunks of one token's head.
kernel void attend_reduce(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device float* y [[buffer(3)]], // (tokens, heads, HEAD_DIM)
    device const float* partials [[buffer(4)]],
    constant AttendArgs& args [[buffer(5)]],
    uint2 group [[threadgroup_position_in_grid]], // head, token
    uint2 thread_position [[thread_position_in_threadgroup]]) {
  const uint token = group.y;
  if (token >= counts[args.count_index]) {
    return;
  }
  const Seen seen = seen_by(positions, sequences, token, 0, args);
  const uint slots = slots_of(seen);
  const uint head = token * args.heads + group.x;
  device const float* own = partials + ulong(head) * args.slots * PARTIAL;
  for (uint d = thread_position.x; d < HEAD_DIM; d += THREADS) {
    float most = -INFINITY, total = 0.0f, sum = 0.0f;
    for (uint slot = 0; slot < slots; slot++) {
      device const float* partial = own + slot * PARTIAL;
      const Fold fold = folded(most, total, partial[0], partial[1]);
      sum = fold_sum(fold, sum, partial[2 + d]);
      most = fold.most;
      total = fold.total;
    }
    y[head * HEAD_DIM + d] = sum / total;
  }
}

// A threadgroup has all chunks of one token and KV head, for steps whose partial results would take much memory.
kernel void attend_whole(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* q [[buffer(4)]], // (tokens, heads, HEAD_DIM)
    device const uchar* k_cache [[buffer(5)]],
    device const uchar* v_cache [[buffer(6)]],
    device float* y [[buffer(7)]], // (tokens, heads, HEAD_DIM)
    constant AttendArgs& args [[buffer(8)]],
    threadgroup float* memory [[threadgroup(0)]],
    uint2 group [[threadgroup_position_in_grid]], // KV head and batch; token
    uint thread_index [[thread_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]]) {
  const uint token = group.y;
  if (token >= counts[args.count_index]) {
    return;
  }
  const uint kv_head = group.x % args.kv_heads;
  const Seen seen = seen_by(positions, sequences, token, kv_head, args);
  const Heads heads = heads_of(kv_head, group.x / args.kv_heads, args);
  const Scratch own = scratch_in(memory);
  load_queries(q + token * args.heads * HEAD_DIM, heads, own.q, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sums[OWN * ROWS];
  float most[ROWS];
  float total[ROWS];
  for (uint r = 0; r < ROWS; r++) {
    most[r] = -INFINITY;
    total[r] = 0.0f;
  }
  for (uint i = 0; i < OWN * ROWS; i++) {
    sums[i] = 0.0f;
  }
  for (uint start = seen.first / CHUNK * CHUNK; start < seen.end; start += CHUNK) {
    scores_of_chunk(k_cache, tables, seen, start, args.scale, own, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    soften_chunk(own, lane, simd);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float chunk[OWN * ROWS];
    values_of_chunk(v_cache, tables, seen, start, own, chunk, thread_index);
    for (uint r = 0; r < ROWS; r++) {
      const Fold fold = folded(most[r], total[r], own.most[r], own.total[r]);
      for (uint n = 0; n < OWN; n++) {
        sums[n * ROWS + r] = fold_sum(fold, sums[n * ROWS + r], chunk[n * ROWS + r]);
      }
      most[r] = fold.most;
      total[r] = fold.total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  for (uint r = 0; r < heads.count; r++) {
    for (uint n = 0; n < OWN; n++) {
      const uint d = thread_index + n * THREADS;
      if (d < HEAD_DIM) {
        y[(token * args.heads + heads.first + r) * HEAD_DIM + d] = sums[n * ROWS + r] / total[r];
      }
    }
  }
}
