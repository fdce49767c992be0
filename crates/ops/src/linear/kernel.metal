// Adds the product of a piece of weights with the same piece of x. Order and roundings are written out: a token's sums
// are the same bits however many tokens and rows stand beside it.
inline float add_product(
    uint format, float sum, thread const Piece& w, thread const float* x, float first_sum, float second_sum) {
  float first = 0.0f;
  float second = 0.0f;
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    first = fma(w.codes[i], x[i], first);
    second = fma(w.codes[i + 8], x[i + 8], second);
  }
  sum = fma(w.scales[0], first, sum);
  sum = fma(w.scales[1], second, sum);
  if (has_offset(format)) {
    sum = fma(w.offsets[0], first_sum, sum);
    sum = fma(w.offsets[1], second_sum, sum);
  }
  return sum;
}

// Products of ROWS rows from `row` on with up to TOKENS tokens: `sums[TOKENS * r + t]`, the same in every lane.
//
// A lane takes every 32nd piece, so that the SIMD group reads neighbouring blocks. x is read once for ROWS rows, the
// weights once for all tokens.
template <uint ROWS, uint TOKENS>
inline void multiply_rows(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint tokens, uint lane,
    thread float* sums) {
  const uint columns = in.columns;
  const ulong stride = row_bytes(format, columns);
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) {
    sums[i] = 0.0f;
  }
  const uint pieces = pieces_of(format, columns, true);
  for (uint p = lane; p < pieces; p += 32) {
    Piece weights[ROWS];
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) {
      // The last row stands in for those past it.
      const uint own = min(row + r, matrix.rows - 1);
      decode(format, matrix.weights + own * stride, p, columns, true, weights[r]);
    }
    const uint column = piece_column(format, p, true);
    #pragma unroll
    for (uint t = 0; t < TOKENS; t++) {
      if (t < tokens) {
        float x[16];
        device const float* own = in.x + ulong(t) * columns;
        load_run(format, in, own, column, x);
        load_run(format, in, own, column + run_distance(format, true), x + 8);
        float first = 0.0f;
        float second = 0.0f;
        if (has_offset(format)) {
          #pragma unroll
          for (uint i = 0; i < 8; i++) {
            first += x[i];
            second += x[i + 8];
          }
        }
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {
          sums[TOKENS * r + t] = add_product(format, sums[TOKENS * r + t], weights[r], x, first, second);
        }
      }
    }
  }
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) {
    sums[i] = simd_sum(sums[i]);
  }
}

inline float with_bias(thread const Matrix& matrix, uint row, float product) {
  return matrix.biased ? product + matrix.bias[row] : product;
}

// Stores a finished product of one matrix. `epilogue` is 0 store, 1 accumulate, 5 + i activation i.
inline void store(thread const Matrix& matrix, uint token, uint row, float product, uint epilogue) {
  device float* y = matrix.y + ulong(token) * matrix.rows + row;
  const float value = with_bias(matrix, row, product);
  *y = epilogue == 0 ? value : epilogue == 1 ? *y + value : activation_of(value, epilogue - 5);
}

// Exact products of a SIMD group's rows with `tokens` tokens from `token` on.
template <uint ROWS, uint TOKENS>
inline void exact_rows(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint token, uint tokens, uint lane,
    uint epilogue) {
  float sums[ROWS * TOKENS];
  multiply_rows<ROWS, TOKENS>(format, matrix, in, row, tokens, lane, sums);
  if (lane != 0) {
    return;
  }
  #pragma unroll
  for (uint r = 0; r < ROWS; r++) {
    #pragma unroll
    for (uint t = 0; t < TOKENS; t++) {
      if (row + r < matrix.rows && t < tokens) {
        store(matrix, token + t, row + r, sums[TOKENS * r + t], epilogue);
      }
    }
  }
}

// As `exact_rows` for gate and up, whose product goes to the gate's output.
template <uint ROWS, uint TOKENS>
inline void exact_gated(
    thread const Matrix& gate, thread const Matrix& up, thread const Inputs& in, uint row, uint token, uint tokens,
    uint lane, uint activation) {
  float gates[ROWS * TOKENS];
  float ups[ROWS * TOKENS];
  multiply_rows<ROWS, TOKENS>(FORMAT_0, gate, in, row, tokens, lane, gates);
  multiply_rows<ROWS, TOKENS>(FORMAT_1, up, in, row, tokens, lane, ups);
  if (lane != 0) {
    return;
  }
  #pragma unroll
  for (uint r = 0; r < ROWS; r++) {
    #pragma unroll
    for (uint t = 0; t < TOKENS; t++) {
      if (row + r < gate.rows && t < tokens) {
        const float left = activation_of(with_bias(gate, row + r, gates[TOKENS * r + t]), activation);
        gate.y[ulong(token + t) * gate.rows + row + r] = left * with_bias(up, row + r, ups[TOKENS * r + t]);
      }
    }
  }
}

inline void multiply_any_tile(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint tokens, uint thread_index,
    uint simd, uint lane, threadgroup float* shared) {
  // bfloat has the range of float, and its 8 digits are too few for what other formats hold.
  if (format == F32 || format == BF16) {
    multiply_tile<float>(format, matrix, in, row, tokens, thread_index, simd, lane, shared);
  } else {
    multiply_tile<half>(format, matrix, in, row, tokens, thread_index, simd, lane, shared);
  }
}

// A thread's numbers of a tile are THREADS apart.
constant constexpr uint TILE_SHARE = TILE_ROWS * TILE_TOKENS / THREADS;

inline void tile_of_prompt(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint token, uint tokens,
    uint thread_index, uint simd, uint lane, uint epilogue, threadgroup float* shared) {
  multiply_any_tile(format, matrix, in, row, tokens, thread_index, simd, lane, shared);
  #pragma unroll
  for (uint i = 0; i < TILE_SHARE; i++) {
    const uint at = i * THREADS + thread_index;
    const uint t = at / TILE_ROWS;
    const uint r = row + at % TILE_ROWS;
    if (t < tokens && r < matrix.rows) {
      store(matrix, token + t, r, shared[at], epilogue);
    }
  }
}

inline void gated_tile_of_prompt(
    thread const Matrix& gate, thread const Matrix& up, thread const Inputs& in, uint row, uint token, uint tokens,
    uint thread_index, uint simd, uint lane, uint activation, threadgroup float* shared) {
  multiply_any_tile(FORMAT_0, gate, in, row, tokens, thread_index, simd, lane, shared);
  float gates[TILE_SHARE];
  #pragma unroll
  for (uint i = 0; i < TILE_SHARE; i++) {
    gates[i] = shared[i * THREADS + thread_index];
  }
  multiply_any_tile(FORMAT_1, up, in, row, tokens, thread_index, simd, lane, shared);
  #pragma unroll
  for (uint i = 0; i < TILE_SHARE; i++) {
    const uint at = i * THREADS + thread_index;
    const uint t = at / TILE_ROWS;
    const uint r = row + at % TILE_ROWS;
    if (t < tokens && r < gate.rows) {
      const float left = activation_of(with_bias(gate, r, gates[i]), activation);
      gate.y[ulong(token + t) * gate.rows + r] = left * with_bias(up, r, shared[at]);
    }
  }
}

// What a threadgroup does: rows `row ..` of matrix `part`, for tokens `token ..`, and then every `step`th from there.
struct Task {
  bool prompt;
  uint part;
  uint row;
  uint token;
  uint step;
  uint end;
};

inline uint units_of(uint rows, uint per) { return (rows + per - 1) / per; }

// Rows that a threadgroup has of each matrix where tokens are exact.
inline uint exact_rows_of_group(bool gated) { return MODE == ONE && !gated ? 4 * SIMDS : 2 * SIMDS; }

inline Task task_of(device const uint* counts, constant MatrixArgs& args, uint group, bool gated) {
  const uint all = counts[args.count_index];
  const uint exact = MODE == MIXED ? min(counts[3], all) : all;
  Task task;
  task.prompt = false;
  uint per = exact_rows_of_group(gated);
  uint unit = group;
  if (MODE != ONE) {
    const uint tile_groups = args.tiles * (units_of(args.rows_0, TILE_ROWS) + units_of(args.rows_1, TILE_ROWS) +
                                           units_of(args.rows_2, TILE_ROWS));
    task.prompt = MODE == MIXED && group < tile_groups;
    // Neighbours have the same rows: what one reads of the weights is near for the others.
    if (task.prompt) {
      per = TILE_ROWS;
      unit = group / args.tiles;
      task.token = exact + group % args.tiles * TILE_TOKENS;
      task.step = args.tiles * TILE_TOKENS;
      task.end = all;
    } else {
      group -= MODE == MIXED ? tile_groups : 0;
      unit = group / args.slots;
      task.token = group % args.slots * TOGETHER;
      task.step = args.slots * TOGETHER;
      task.end = exact;
    }
  } else {
    task.token = 0;
    task.step = 1;
    task.end = min(all, 1u);
  }
  const uint first = units_of(args.rows_0, per);
  const uint second = first + units_of(args.rows_1, per);
  task.part = unit < first ? 0 : unit < second ? 1 : 2;
  task.row = (unit - (task.part == 0 ? 0 : task.part == 1 ? first : second)) * per;
  return task;
}

inline void run_part(
    uint format, thread const Task& task, thread const Matrix& matrix, thread Inputs& in, uint epilogue,
    uint thread_index, uint simd, uint lane, threadgroup float* shared) {
  device const float* x = in.x;
  for (uint token = task.token; token < task.end; token += task.step) {
    in.x = x + ulong(token) * in.columns;
    if (MODE == ONE) {
      exact_rows<4, 1>(format, matrix, in, task.row + 4 * simd, token, 1, lane, epilogue);
    } else if (MODE == MIXED && task.prompt) {
      const uint tokens = min(task.end - token, TILE_TOKENS);
      tile_of_prompt(format, matrix, in, task.row, token, tokens, thread_index, simd, lane, epilogue, shared);
    } else {
      const uint tokens = min(task.end - token, TOGETHER);
      exact_rows<2, TOGETHER>(format, matrix, in, task.row + 2 * simd, token, tokens, lane, epilogue);
    }
  }
}

// Operands of up to three matrices; those that the launch lacks are never touched.
inline void run(
    device const uint* counts, thread Inputs& in, thread const Matrix& first, thread const Matrix& second,
    thread const Matrix& third, constant MatrixArgs& args, uint group, uint thread_index, uint simd, uint lane,
    threadgroup float* shared) {
  const Task task = task_of(counts, args, group, false);
  if (task.token >= task.end) {
    return;
  }
  if (NORM != 0) {
    measure(in, args.epsilon, shared, thread_index, simd, lane);
  }
  Matrix own = first;
  if (task.part == 1) {
    own = second;
  } else if (task.part == 2) {
    own = third;
  }
  // One copy of the code for each format.
  const bool as_first = task.part == 0 || (task.part == 1 ? FORMAT_1 : FORMAT_2) == FORMAT_0;
  if (as_first) {
    run_part(FORMAT_0, task, own, in, args.epilogue, thread_index, simd, lane, shared);
  } else if (FORMAT_1 != FORMAT_0 && (task.part == 1 || FORMAT_2 == FORMAT_1)) {
    run_part(FORMAT_1, task, own, in, args.epilogue, thread_index, simd, lane, shared);
  } else if (FORMAT_2 != FORMAT_0 && FORMAT_2 != FORMAT_1) {
    run_part(FORMAT_2, task, own, in, args.epilogue, thread_index, simd, lane, shared);
  }
}

inline Matrix matrix_of(
    device const uchar* weights, device const float* bias, device float* y, uint rows, uint bias_mask, uint index) {
  Matrix matrix;
  matrix.weights = weights;
  matrix.bias = bias;
  matrix.y = y;
  matrix.rows = rows;
  matrix.biased = (bias_mask >> index & 1) != 0;
  return matrix;
}

inline Inputs inputs_of(device const float* x, device const float* gains, device const float* shifts, uint columns) {
  Inputs in;
  in.x = x;
  in.gains = gains;
  in.shifts = shifts;
  in.columns = columns;
  in.mean = 0.0f;
  in.scale = 1.0f;
  return in;
}

[[max_total_threads_per_threadgroup(128)]]
kernel void linear(
    device const uint* counts [[buffer(0)]],
    device const float* x [[buffer(1)]],
    device const float* gains [[buffer(2)]],
    device const float* shifts [[buffer(3)]],
    device const uchar* w [[buffer(4)]],
    device const float* bias [[buffer(5)]],
    device float* y [[buffer(6)]],
    constant MatrixArgs& args [[buffer(7)]],
    threadgroup float* shared [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  Inputs in = inputs_of(x, gains, shifts, args.columns);
  const Matrix only = matrix_of(w, bias, y, args.rows_0, args.bias_mask, 0);
  run(counts, in, only, only, only, args, group, thread_index, simd, lane, shared);
}

[[max_total_threads_per_threadgroup(128)]]
kernel void linear_three(
    device const uint* counts [[buffer(0)]],
    device const float* x [[buffer(1)]],
    device const float* gains [[buffer(2)]],
    device const float* shifts [[buffer(3)]],
    device const uchar* w_0 [[buffer(4)]],
    device const float* bias_0 [[buffer(5)]],
    device float* y_0 [[buffer(6)]],
    device const uchar* w_1 [[buffer(7)]],
    device const float* bias_1 [[buffer(8)]],
    device float* y_1 [[buffer(9)]],
    device const uchar* w_2 [[buffer(10)]],
    device const float* bias_2 [[buffer(11)]],
    device float* y_2 [[buffer(12)]],
    constant MatrixArgs& args [[buffer(13)]],
    threadgroup float* shared [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  Inputs in = inputs_of(x, gains, shifts, args.columns);
  const Matrix first = matrix_of(w_0, bias_0, y_0, args.rows_0, args.bias_mask, 0);
  const Matrix second = matrix_of(w_1, bias_1, y_1, args.rows_1, args.bias_mask, 1);
  const Matrix third = matrix_of(w_2, bias_2, y_2, args.rows_2, args.bias_mask, 2);
  run(counts, in, first, second, third, args, group, thread_index, simd, lane, shared);
}

[[max_total_threads_per_threadgroup(128)]]
kernel void linear_gated(
    device const uint* counts [[buffer(0)]],
    device const float* x [[buffer(1)]],
    device const float* gains [[buffer(2)]],
    device const float* shifts [[buffer(3)]],
    device const uchar* w_gate [[buffer(4)]],
    device const float* bias_gate [[buffer(5)]],
    device const uchar* w_up [[buffer(6)]],
    device const float* bias_up [[buffer(7)]],
    device float* y [[buffer(8)]],
    constant MatrixArgs& args [[buffer(9)]],
    threadgroup float* shared [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  Inputs in = inputs_of(x, gains, shifts, args.columns);
  const Matrix gate = matrix_of(w_gate, bias_gate, y, args.rows_0, args.bias_mask, 0);
  const Matrix up = matrix_of(w_up, bias_up, y, args.rows_0, args.bias_mask, 1);
  const Task task = task_of(counts, args, group, true);
  if (task.token >= task.end) {
    return;
  }
  if (NORM != 0) {
    measure(in, args.epsilon, shared, thread_index, simd, lane);
  }
  const uint activation = args.epilogue - 2;
  for (uint token = task.token; token < task.end; token += task.step) {
    in.x = x + ulong(token) * in.columns;
    if (MODE == ONE) {
      exact_gated<2, 1>(gate, up, in, task.row + 2 * simd, token, 1, lane, activation);
    } else if (MODE == MIXED && task.prompt) {
      const uint tokens = min(task.end - token, TILE_TOKENS);
      gated_tile_of_prompt(
          gate, up, in, task.row, token, tokens, thread_index, simd, lane, activation, shared);
    } else {
      const uint tokens = min(task.end - token, TOGETHER);
      exact_gated<2, TOGETHER>(gate, up, in, task.row + 2 * simd, token, tokens, lane, activation);
    }
  }
}

// y = norm(x), a threadgroup a token: what `linear` does itself for one token, with the same bits.
[[max_total_threads_per_threadgroup(128)]]
kernel void linear_norm(
    device const uint* counts [[buffer(0)]],
    device const float* x [[buffer(1)]],
    device const float* gains [[buffer(2)]],
    device const float* shifts [[buffer(3)]],
    device float* y [[buffer(4)]],
    constant MatrixArgs& args [[buffer(5)]],
    threadgroup float* shared [[threadgroup(0)]],
    uint token [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]]) {
  if (token >= counts[args.count_index]) {
    return;
  }
  const ulong start = ulong(token) * args.columns;
  Inputs in = inputs_of(x + start, gains, shifts, args.columns);
  measure(in, args.epsilon, shared, thread_index, simd, lane);
  for (uint c = thread_index; c < args.columns; c += THREADS) {
    y[start + c] = normalized(in, in.x[c], gains[c], (NORM & 4) != 0 ? shifts[c] : 0.0f);
  }
}
