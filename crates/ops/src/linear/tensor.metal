// NOT RUN AND NOT COMPILED BY ANYBODY YET: needs a GPU with tensor ops (M5 on) and Metal 4. Written after Apple's
// description of `matmul2d` in MPPTensorOpsMatMul2d.h; only a device that reports such units loads it, others take
// tile.metal. No compiler of this project knows these headers.
#include <metal_tensor>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>

// As in tile.metal, by the tensor ops of the threadgroup. Tiles lie row by row: x (tokens, 32), weights (rows, 32).
template <typename T>
inline void multiply_tile(
    uint format, thread const Matrix& matrix, thread const Inputs& in, uint row, uint tokens, uint thread_index,
    uint simd, uint lane, threadgroup float* shared) {
  typedef dextents<int, 2> Extents; // columns come first
  threadgroup float* x_tile = shared;
  threadgroup T* w_tile = (threadgroup T*)(shared + TILE_TOKENS * 32);
  tensor<threadgroup float, Extents, tensor_inline> left(x_tile, Extents(32, TILE_TOKENS));
  tensor<threadgroup T, Extents, tensor_inline> right(w_tile, Extents(32, TILE_ROWS));
  constexpr auto shape = mpp::tensor_ops::matmul2d_descriptor(
      TILE_TOKENS, TILE_ROWS, 32, false, true, false,
      mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<shape, execution_simdgroups<SIMDS>> product;
  auto sums = product.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  for (ushort i = 0; i < sums.get_capacity(); i++) {
    sums[i] = 0.0f;
  }
  const uint columns = in.columns;
  const uint own = thread_index % TILE_ROWS;
  const uint which = thread_index / TILE_ROWS;
  device const uchar* weights =
      matrix.weights + min(row + own, matrix.rows - 1) * row_bytes(format, columns);
  const uint distance = run_distance(format, false);
  const uint pieces = pieces_of(format, columns, false);
  for (uint p = 0; p < pieces; p += 2) {
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
    for (uint i = 0; i < 16; i++) {
      w_tile[own * 32 + which * 16 + i] = T(weight_of(piece, i));
    }
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      x_tile[lane * 32 + simd * 8 + i] = x[i];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    product.run(left, right, sums);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  tensor<threadgroup float, Extents, tensor_inline> to(shared, Extents(TILE_ROWS, TILE_TOKENS));
  sums.store(to);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
