// Function constant: the format of the table.
constant uint FORMAT [[function_constant(0)]];

// Row `id` of the table: a row past its end is a bug of the caller, which the last row keeps from being a fault.
inline device const uchar* row_of(device const uchar* table, constant TableArgs& args, uint id) {
  return table + min(id, args.rows - 1) * row_bytes(FORMAT, args.columns);
}

// y = table[token] * scale, a threadgroup a token, a thread every so many pieces of its row.
kernel void embed(
    device const uint* counts [[buffer(0)]],
    device const uint* tokens [[buffer(1)]],
    device const uint* sampled [[buffer(2)]],
    device const uchar* table [[buffer(3)]],
    device float* y [[buffer(4)]],
    constant TableArgs& args [[buffer(5)]],
    uint token [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]]) {
  if (token >= counts[0]) {
    return;
  }
  const uint word = tokens[token];
  // The highest bit names a row of the last step's samples.
  const uint id = (word & 0x80000000u) == 0 ? word : sampled[word & 0x7fffffffu];
  device const uchar* row = row_of(table, args, id);
  device float* to = y + ulong(token) * args.columns;
  const uint pieces = pieces_of(FORMAT, args.columns, true);
  for (uint p = thread_index; p < pieces; p += threads) {
    Piece piece;
    decode(FORMAT, row, p, args.columns, true, piece);
    for (uint i = 0; i < 16; i++) {
      const uint c = piece_column(FORMAT, p, true) + i / 8 * run_distance(FORMAT, true) + i % 8;
      if (c < args.columns) {
        to[c] = weight_of(piece, i) * args.scale;
      }
    }
  }
}

// y += table[position].
kernel void positions(
    device const uint* counts [[buffer(0)]],
    device const uint* positions_of_tokens [[buffer(1)]],
    device const uchar* table [[buffer(2)]],
    device float* y [[buffer(3)]],
    constant TableArgs& args [[buffer(4)]],
    uint token [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]]) {
  if (token >= counts[0]) {
    return;
  }
  device const uchar* row = row_of(table, args, positions_of_tokens[token]);
  device float* to = y + ulong(token) * args.columns;
  const uint pieces = pieces_of(FORMAT, args.columns, true);
  for (uint p = thread_index; p < pieces; p += threads) {
    Piece piece;
    decode(FORMAT, row, p, args.columns, true, piece);
    for (uint i = 0; i < 16; i++) {
      const uint c = piece_column(FORMAT, p, true) + i / 8 * run_distance(FORMAT, true) + i % 8;
      if (c < args.columns) {
        to[c] += weight_of(piece, i);
      }
    }
  }
}
