// Rows and positions of a product of matrices, and positions that one softmax step takes.
constant uint TILE = 8;
constant uint STEP = 32;

// Of one SIMD group: queries (TILE, HEAD_DIM) in half; scores, then weights (TILE, STEP); what is not read as it lies, TILE * STEP.
constant uint PROMPT_BYTES = 2 * TILE * HEAD_DIM + 2 * 4 * TILE * STEP;

// Over the four lanes that share a row.
inline float most_of_row(float x) {
  x = max(x, simd_shuffle_xor(x, 1));
  return max(x, simd_shuffle_xor(x, 2));
}

inline float sum_of_row(float x) {
  x += simd_shuffle_xor(x, 1);
  return x + simd_shuffle_xor(x, 2);
}

// One number of K or V as f32, wherever it is below `end`.
inline float number_at(device const uchar* cache, device const uint* tables, Seen seen, uint position, bool key, uint d) {
  if (position >= seen.end) {
    return 0.0f;
  }
  const Record record = record_at(tables, seen, position);
  const uint place = position % BLOCK_TOKENS;
  const uint index = key ? d * BLOCK_TOKENS + place : place * HEAD_DIM + d;
  if (KV == KV_F16) {
    return float(((device const half*)(cache + record.begin))[index]);
  }
  const float step = float(*(device const half*)(cache + scale_at(record, d / 32, place)));
  return step * float(((device const char*)(cache + record.begin))[index]);
}

// Scores of eight rows with the STEP positions from `start` on, unscaled, to `scores`. Past the end they may be anything.
inline void prompt_scores(device const uchar* cache, device const uint* tables, Seen seen, uint start, threadgroup const half* q, threadgroup float* scores, threadgroup float* stage, ushort lane) {
  simdgroup_float8x8 sums[STEP / TILE];
  ulong keys[STEP / TILE];
  for (uint j = 0; j < STEP / TILE; j++) {
    sums[j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    const uint position = start + TILE * j;
    keys[j] = position < seen.end ? record_at(tables, seen, position).begin + 2 * (position % BLOCK_TOKENS) : 0;
  }
  for (uint d = 0; d < HEAD_DIM; d += TILE) {
    simdgroup_half8x8 rows;
    simdgroup_load(rows, q + d, HEAD_DIM);
    if (KV == KV_F16) {
      for (uint j = 0; j < STEP / TILE; j++) {
        if (start + TILE * j < seen.end) {
          simdgroup_half8x8 columns;
          simdgroup_load(columns, (device const half*)(cache + keys[j]) + d * BLOCK_TOKENS, BLOCK_TOKENS);
          simdgroup_multiply_accumulate(sums[j], rows, columns, sums[j]);
        }
      }
    } else {
      for (uint i = 0; i < TILE; i++) {
        stage[i * STEP + lane] = number_at(cache, tables, seen, start + lane, true, d + i);
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
      for (uint j = 0; j < STEP / TILE; j++) {
        simdgroup_float8x8 columns;
        simdgroup_load(columns, stage + TILE * j, STEP);
        simdgroup_multiply_accumulate(sums[j], rows, columns, sums[j]);
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
  }
  for (uint j = 0; j < STEP / TILE; j++) {
    simdgroup_store(sums[j], scores + TILE * j, STEP);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}

// Adds the values of the STEP positions from `start` on under `weights`.
inline void prompt_values(device const uchar* cache, device const uint* tables, Seen seen, uint start, threadgroup const float* weights, threadgroup float* stage, thread simdgroup_float8x8* sums, ushort lane) {
  simdgroup_float8x8 rows[STEP / TILE];
  for (uint j = 0; j < STEP / TILE; j++) {
    simdgroup_load(rows[j], weights + TILE * j, STEP);
  }
  if (KV == KV_F16 && start + STEP <= seen.end) {
    for (uint j = 0; j < STEP / TILE; j++) {
      const uint position = start + TILE * j;
      device const half* values = (device const half*)(cache + record_at(tables, seen, position).begin) + position % BLOCK_TOKENS * HEAD_DIM;
      for (uint d = 0; d < HEAD_DIM / TILE; d++) {
        simdgroup_half8x8 columns;
        simdgroup_load(columns, values + TILE * d, HEAD_DIM);
        simdgroup_multiply_accumulate(sums[d], rows[j], columns, sums[d]);
      }
    }
    return;
  }
  // Where nothing was written yet there may be NaN, which no weight of 0 takes away.
  for (uint d = 0; d < HEAD_DIM / TILE; d++) {
    for (uint i = 0; i < TILE; i++) {
      stage[lane * TILE + i] = number_at(cache, tables, seen, start + lane, false, TILE * d + i);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint j = 0; j < STEP / TILE; j++) {
      simdgroup_float8x8 columns;
      simdgroup_load(columns, stage + TILE * TILE * j, TILE);
      simdgroup_multiply_accumulate(sums[d], rows[j], columns, sums[d]);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// Multiplies each row of sums with its number, which its four lanes have.
inline void prompt_shrink(float shrink, threadgroup float* stage, thread simdgroup_float8x8* sums, ushort lane) {
  if (simd_all(shrink == 1.0f)) {
    return;
  }
  const uint row = lane / 4, column = lane % 4 * 2;
  stage[row * TILE + column] = row == column ? shrink : 0.0f;
  stage[row * TILE + column + 1] = row == column + 1 ? shrink : 0.0f;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 diagonal;
  simdgroup_load(diagonal, stage, TILE);
  for (uint d = 0; d < HEAD_DIM / TILE; d++) {
    simdgroup_multiply(sums[d], diagonal, sums[d]);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}

// Tokens of prompts: a SIMD group has eight of them, of any sequences, and one head. Four lanes share a row of scores. Steps begin at
// multiples of STEP, and one in which a row sees nothing changes none of its bits.
kernel void attend_prompt(
    device const uint* counts [[buffer(0)]],
    device const uint* positions [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* tables [[buffer(3)]],
    device const float* q [[buffer(4)]], // (tokens, heads, HEAD_DIM)
    device const uchar* k_cache [[buffer(5)]],
    device const uchar* v_cache [[buffer(6)]],
    device float* y [[buffer(7)]], // (tokens, heads, HEAD_DIM)
    constant AttendArgs& args [[buffer(8)]],
    threadgroup uchar* memory [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  const uint job = group * simds + simd, head = job % args.heads;
  const uint first_token = counts[3] + job / args.heads * TILE, tokens = counts[0];
  if (first_token >= tokens) {
    return;
  }
  threadgroup half* queries = (threadgroup half*)(memory + simd * PROMPT_BYTES);
  threadgroup float* scores = (threadgroup float*)(queries + TILE * HEAD_DIM);
  threadgroup float* stage = scores + TILE * STEP;
  const uint rows = min(TILE, tokens - first_token);
  for (uint i = lane; i < TILE * HEAD_DIM; i += 32) {
    const uint r = i / HEAD_DIM;
    queries[i] = r < rows ? half(q[((first_token + r) * args.heads + head) * HEAD_DIM + i % HEAD_DIM]) : half(0.0f);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  const uint row = lane / 4;
  const bool live = row < rows;
  const uint end = live ? positions[first_token + row] + 1 : 0;
  const uint first = end > args.window ? end - args.window : 0;
  const uint sequence = live ? sequences[first_token + row] : UINT_MAX;
  bool done = !live;
  float most = -INFINITY, total = 0.0f;
  simdgroup_float8x8 sums[HEAD_DIM / TILE];
  for (uint d = 0; d < HEAD_DIM / TILE; d++) {
    sums[d] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  }
  // One sequence after the other.
  while (!simd_all(done)) {
    const uint current = simd_min(done ? UINT_MAX : sequence);
    const bool mine = sequence == current;
    done = done || mine;
    Seen seen;
    seen.first = simd_min(mine ? first : UINT_MAX);
    seen.end = simd_max(mine ? end : 0u);
    seen.table = current * args.blocks;
    seen.kv_head = head / (args.heads / args.kv_heads);
    seen.kv_heads = args.kv_heads;
    for (uint start = seen.first / STEP * STEP; start < seen.end; start += STEP) {
      prompt_scores(k_cache, tables, seen, start, queries, scores, stage, lane);
      threadgroup float* own = scores + row * STEP + lane % 4 * 8;
      const uint position = start + lane % 4 * 8;
      float x[8];
      float now = most;
      for (uint i = 0; i < 8; i++) {
        const bool visible = mine && position + i >= first && position + i < end;
        x[i] = visible ? own[i] * args.scale : -INFINITY;
        now = max(now, x[i]);
      }
      now = most_of_row(now);
      // A row that has seen nothing yet has no largest score: all its weights are to be 0.
      const float under = now == -INFINITY ? 0.0f : now;
      const float shrink = most == -INFINITY ? 1.0f : precise::exp(most - under);
      float more = 0.0f;
      for (uint i = 0; i < 8; i++) {
        const float weight = precise::exp(x[i] - under);
        own[i] = weight;
        more += weight;
      }
      total = fma(total, shrink, sum_of_row(more));
      most = now;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      prompt_shrink(shrink, stage, sums, lane);
      prompt_values(v_cache, tables, seen, start, scores, stage, sums, lane);
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
  }
  for (uint d = 0; d < HEAD_DIM / TILE; d++) {
    simdgroup_store(sums[d], stage, TILE);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (live) {
      const uint column = lane % 4 * 2;
      device float* own = y + ((first_token + row) * args.heads + head) * HEAD_DIM + TILE * d + column;
      own[0] = stage[row * TILE + column] / total;
      own[1] = stage[row * TILE + column + 1] / total;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
