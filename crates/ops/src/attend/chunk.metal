constant uint KV [[function_constant(0)]];
constant uint HEAD_DIM [[function_constant(1)]];
// Query heads that share each load of K and V.
constant uint ROWS [[function_constant(2)]];
constant uint BLOCK_TOKENS [[function_constant(3)]];

// Positions that are summed under one largest score. Chunks begin at its multiples, so that the bits of a result depend on neither
// the batch nor the bucket.
constant uint CHUNK = 256;
constant uint THREADS = 128;
// Numbers of a head that a thread sums, and threads' shares of a chunk's positions.
constant uint OWN = (HEAD_DIM + THREADS - 1) / THREADS;
constant uint PARTS = HEAD_DIM < THREADS ? THREADS / HEAD_DIM : 1;

// The positions of one sequence that a threadgroup works on, and where its KV head lies.
struct Seen {
  uint first; // the oldest that the token sees
  uint end;
  uint table; // of the sequence, into the tables
  uint kv_head;
  uint kv_heads;
};

inline Record record_at(device const uint* tables, Seen seen, uint position) {
  const ulong block = tables[seen.table + position / BLOCK_TOKENS];
  const Record record = {(block * seen.kv_heads + seen.kv_head) * record_bytes(KV, HEAD_DIM, BLOCK_TOKENS), HEAD_DIM, BLOCK_TOKENS};
  return record;
}

// The threadgroup's memory.
struct Scratch {
  threadgroup float* q;       // (ROWS, HEAD_DIM)
  threadgroup float* weights; // (ROWS, CHUNK)
  threadgroup float* most;    // (ROWS)
  threadgroup float* total;   // (ROWS)
};

inline Scratch scratch_in(threadgroup float* memory) {
  Scratch own;
  own.q = memory;
  own.weights = memory + ROWS * HEAD_DIM;
  own.most = own.weights + ROWS * CHUNK;
  own.total = own.most + ROWS;
  return own;
}

// A thread has a position; K lies transposed, so neighbouring threads read neighbouring numbers.
inline void scores_of_chunk(device const uchar* cache, device const uint* tables, Seen seen, uint start, float scale, Scratch own, uint thread_index) {
  for (uint i = thread_index; i < CHUNK; i += THREADS) {
    const uint position = start + i;
    float sums[ROWS];
    const bool visible = position >= seen.first && position < seen.end;
    for (uint r = 0; r < ROWS; r++) {
      sums[r] = 0.0f;
    }
    if (visible) {
      const Record record = record_at(tables, seen, position);
      const uint place = position % BLOCK_TOKENS;
      if (KV == KV_F16) {
        device const half* keys = (device const half*)(cache + record.begin) + place;
        for (uint d = 0; d < HEAD_DIM; d++) {
          const float key = float(keys[d * BLOCK_TOKENS]);
          for (uint r = 0; r < ROWS; r++) {
            sums[r] = fma(own.q[r * HEAD_DIM + d], key, sums[r]);
          }
        }
      } else {
        device const char* codes = (device const char*)(cache + record.begin) + place;
        for (uint group = 0; group < HEAD_DIM / 32; group++) {
          const float step = float(*(device const half*)(cache + scale_at(record, group, place)));
          float parts[ROWS];
          for (uint r = 0; r < ROWS; r++) {
            parts[r] = 0.0f;
          }
          for (uint d = 32 * group; d < 32 * group + 32; d++) {
            const float code = float(codes[d * BLOCK_TOKENS]);
            for (uint r = 0; r < ROWS; r++) {
              parts[r] = fma(own.q[r * HEAD_DIM + d], code, parts[r]);
            }
          }
          for (uint r = 0; r < ROWS; r++) {
            sums[r] = fma(parts[r], step, sums[r]);
          }
        }
      }
    }
    for (uint r = 0; r < ROWS; r++) {
      own.weights[r * CHUNK + i] = visible ? sums[r] * scale : -INFINITY;
    }
  }
}

// Turns scores into weights under the chunk's largest; a SIMD group has a row.
inline void soften_chunk(Scratch own, ushort lane, ushort simd) {
  for (uint r = simd; r < ROWS; r += THREADS / 32) {
    threadgroup float* row = own.weights + r * CHUNK;
    float most = -INFINITY;
    for (uint i = lane; i < CHUNK; i += 32) {
      most = max(most, row[i]);
    }
    most = simd_max(most);
    float total = 0.0f;
    for (uint i = lane; i < CHUNK; i += 32) {
      const float weight = precise::exp(row[i] - most);
      row[i] = weight;
      total += weight;
    }
    total = simd_sum(total);
    if (lane == 0) {
      own.most[r] = most;
      own.total[r] = total;
    }
  }
}

// Sums the weighted values: number `d = thread_index + n * THREADS` of row r comes to be `sums[n * ROWS + r]` of the threads below HEAD_DIM.
inline void values_of_chunk(device const uchar* cache, device const uint* tables, Seen seen, uint start, Scratch own, thread float* sums, uint thread_index) {
  const uint part = PARTS > 1 ? thread_index / HEAD_DIM : 0;
  for (uint i = 0; i < OWN * ROWS; i++) {
    sums[i] = 0.0f;
  }
  const uint end = min(seen.end, start + CHUNK);
  if (part < PARTS) {
    for (uint position = max(seen.first, start) + part; position < end; position += PARTS) {
      const Record record = record_at(tables, seen, position);
      const uint place = position % BLOCK_TOKENS;
      for (uint n = 0; n < OWN; n++) {
        const uint d = thread_index - part * HEAD_DIM + n * THREADS;
        if (d < HEAD_DIM) {
          const uint index = place * HEAD_DIM + d;
          float value;
          if (KV == KV_F16) {
            value = float(((device const half*)(cache + record.begin))[index]);
          } else {
            const float step = float(*(device const half*)(cache + scale_at(record, d / 32, place)));
            value = step * float(((device const char*)(cache + record.begin))[index]);
          }
          for (uint r = 0; r < ROWS; r++) {
            sums[n * ROWS + r] = fma(own.weights[r * CHUNK + position - start], value, sums[n * ROWS + r]);
          }
        }
      }
    }
  }
  if (PARTS > 1) {
    // Weights were read by everybody: their place takes what each part has.
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (part < PARTS) {
      for (uint r = 0; r < ROWS; r++) {
        own.weights[r * PARTS * HEAD_DIM + thread_index] = sums[r];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (part == 0) {
      for (uint r = 0; r < ROWS; r++) {
        float sum = 0.0f;
        for (uint i = 0; i < PARTS; i++) {
          sum += own.weights[(r * PARTS + i) * HEAD_DIM + thread_index];
        }
        sums[r] = sum;
      }
    }
  }
}

// Takes one more chunk into what came before: the one way in which chunks come together.
struct Fold {
  float most;
  float total;
  float shrink; // of the sums so far
  float grow;   // of the chunk's
};

inline Fold folded(float most, float total, float chunk_most, float chunk_total) {
  Fold fold;
  fold.most = max(most, chunk_most);
  fold.shrink = precise::exp(most - fold.most);
  fold.grow = precise::exp(chunk_most - fold.most);
  fold.total = fma(chunk_total, fold.grow, total * fold.shrink);
  return fold;
}

inline float fold_sum(Fold fold, float sum, float chunk_sum) {
  return fma(chunk_sum, fold.grow, sum * fold.shrink);
}
