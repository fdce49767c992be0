// Products of TILE_ROWS rows from `row` on with TILE_TOKENS tokens, by matrices of 8 x 8: `shared[TILE_ROWS * t + r]`.
//
// 64 x 32 products of 128 threads, 32 columns a step, is the shape of llama.cpp's kernel, whose speed is published.
//
// A step takes two pieces of each row, 32 columns. Tiles lie as blocks of 8 x 8, so that each block is one run of memory.
// x stays in float: hidden rows may pass the range of half, and the matrix units take mixed factors. T is what the
// weights are rounded to: half, but float for those that have more digits or range.
//
// SIMD group s has 16 tokens and 32 rows, 2 x 4 blocks: 6 loads for 8 products.
template <typename T>
inline void multiply_tile(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint tokens, uint thread_index,
    uint simd, uint lane, threadgroup float* shared) {
  threadgroup float* x_tile = shared;                                                  // 4 x 4 blocks
  threadgroup T* w_tile = (threadgroup T*)(shared + TILE_TOKENS * 32);                 // 4 x 8 blocks
  const uint columns = in.columns;
  const uint own = thread_index % TILE_ROWS;
  const uint which = thread_index / TILE_ROWS;
  device const uchar* weights =
      matrix.weights + min(row + own, matrix.rows - 1) * row_bytes(format, columns);
  const uint distance = run_distance(format, false);
  simdgroup_float8x8 sums[8];
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    sums[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  }
  const uint pieces = pieces_of(format, columns, false);
  for (uint p = 0; p < pieces; p += 2) {
    // A thread decodes a piece of one row, and copies a run of one token.
    Piece piece;
    decode(format, weights, p + which, columns, false, piece);
    float x[8];
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      x[i] = 0.0f;
    }
    if (lane < tokens) {
      const uint column = piece_column(format, p + simd / 2, false) + simd % 2 * distance;
      load_run(format, in, in.x + ulong(lane) * columns, column, x);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    #pragma unroll
    for (uint run = 0; run < 2; run++) {
      threadgroup T* block = w_tile + ((2 * which + run) * 8 + own / 8) * 64 + own % 8;
      #pragma unroll
      for (uint i = 0; i < 8; i++) {
        block[8 * i] = T(weight_of(piece, 8 * run + i));
      }
    }
    threadgroup float* block = x_tile + (simd * 4 + lane / 8) * 64 + lane % 8 * 8;
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      block[i] = x[i];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    #pragma unroll
    for (uint k = 0; k < 4; k++) {
      simdgroup_float8x8 left[2];
      simdgroup_matrix<T, 8, 8> right[4];
      #pragma unroll
      for (uint i = 0; i < 2; i++) {
        simdgroup_load(left[i], x_tile + (k * 4 + simd % 2 * 2 + i) * 64, 8);
      }
      #pragma unroll
      for (uint i = 0; i < 4; i++) {
        simdgroup_load(right[i], w_tile + (k * 8 + simd / 2 * 4 + i) * 64, 8);
      }
      #pragma unroll
      for (uint i = 0; i < 8; i++) {
        simdgroup_multiply_accumulate(sums[i], left[i / 4], right[i % 4], sums[i]);
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint t = (simd % 2 * 2 + i / 4) * 8;
    simdgroup_store(sums[i], shared + t * TILE_ROWS + (simd / 2 * 4 + i % 4) * 8, TILE_ROWS);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
