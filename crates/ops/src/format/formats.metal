#include <metal_stdlib>
using namespace metal;

// How weights of every format lie in memory (see format/mod.rs), read 16 at a time. A format is a function constant of
// the kernel that asks, so that only its own branch is left.
//
// No load is wider than the alignment of the format's block: 18 bytes of Q4_0 are aligned to 2, 17 of MXFP4 to 1.

enum Format {
  F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4
};

constant float IQ4_VALUES[16] = {
    -127.0f, -104.0f, -83.0f, -65.0f, -49.0f, -35.0f, -22.0f, -10.0f,
    1.0f,    13.0f,   25.0f,  38.0f,  53.0f,  69.0f,  89.0f,  113.0f};
constant float MXFP4_VALUES[16] = {
    0.0f, 1.0f,  2.0f,  3.0f,  4.0f,  6.0f,  8.0f,  12.0f,
    0.0f, -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f};

// Two runs of 8 neighbours: weight = scale * code + offset, with a scale and an offset for each run. Codes of Q4_0, Q5_0,
// Q3_K and Q6_K are what the bits say: their bias (8, 16, 4, 32) is in the offset, where it costs a product once a run
// and not a subtraction a weight.
//
// Runs are what one load of 8 bytes holds: the low nibbles are one run, the high ones the other.
struct Piece {
  float codes[16];
  float scales[2];
  float offsets[2];
};

inline bool is_float(uint format) { return format <= BF16; }

inline bool has_offset(uint format) { return format >= Q4_0 && format <= Q6_K && format != Q8_0; }

inline uint block_elements(uint format) {
  return is_float(format) ? 1 : (format >= Q2_K && format <= Q6_K) || format == IQ4_XS ? 256 : 32;
}

inline uint block_bytes(uint format) {
  switch (format) {
    case F32: return 4;
    case F16: return 2;
    case BF16: return 2;
    case Q4_0: return 18;
    case Q4_1: return 20;
    case Q5_0: return 22;
    case Q5_1: return 24;
    case Q8_0: return 34;
    case Q2_K: return 84;
    case Q3_K: return 110;
    case Q4_K: return 144;
    case Q5_K: return 176;
    case Q6_K: return 210;
    case IQ4_NL: return 18;
    case IQ4_XS: return 136;
    default: return 17;
  }
}

// Bytes of a row; a matrix may pass 4 GiB.
inline ulong row_bytes(uint format, uint columns) {
  return ulong(columns / block_elements(format)) * block_bytes(format);
}

// Pieces of a row. Rows of floats may end anywhere: numbers past the end are 0.
//
// `spread` puts the runs of 32 pieces in a row 8 numbers apart, so that a SIMD group reads whole lines of floats.
inline uint pieces_of(uint format, uint columns, bool spread) {
  if (is_float(format)) {
    return spread ? (columns + 511) / 512 * 32 : (columns + 31) / 32 * 2;
  }
  return columns / 16;
}

// Column of the first number of a piece.
inline uint piece_column(uint format, uint piece, bool spread) {
  if (is_float(format)) {
    return spread ? piece / 32 * 512 + piece % 32 * 8 : piece * 16;
  }
  if (format == Q8_0) {
    return piece * 16;
  }
  if (format == Q6_K) {
    return piece / 8 * 128 + piece % 8 * 8;
  }
  if (format >= Q2_K && format <= Q5_K) {
    return piece / 4 * 64 + piece % 4 * 8;
  }
  return piece / 2 * 32 + piece % 2 * 8;
}

// Columns from the first to the second run of a piece.
inline uint run_distance(uint format, bool spread) {
  if (is_float(format)) {
    return spread ? 256 : 8;
  }
  if (format == Q8_0) {
    return 8;
  }
  if (format == Q6_K) {
    return 64;
  }
  return format >= Q2_K && format <= Q5_K ? 32 : 16;
}

inline float half_at(device const uchar* p) { return float(*(device const half*)p); }

inline uint word_at(device const uchar* p) {
  device const ushort* words = (device const ushort*)p;
  return uint(words[0]) | uint(words[1]) << 16;
}

// 8 bytes of a block.
inline uint2 bytes_at(uint format, device const uchar* p) {
  if (format == MXFP4) {
    const uint low = uint(p[0]) | uint(p[1]) << 8 | uint(p[2]) << 16 | uint(p[3]) << 24;
    return uint2(low, uint(p[4]) | uint(p[5]) << 8 | uint(p[6]) << 16 | uint(p[7]) << 24);
  }
  if (block_bytes(format) % 4 != 0) {
    return uint2(word_at(p), word_at(p + 4));
  }
  device const uint* words = (device const uint*)p;
  return uint2(words[0], words[1]);
}

inline uint byte_of(uint2 bytes, uint i) { return ((i < 4 ? bytes.x : bytes.y) >> (i % 4 * 8)) & 255; }

// The signed byte i.
inline float signed_byte(uint2 bytes, uint i) {
  return float(int((i < 4 ? bytes.x : bytes.y) << (24 - i % 4 * 8)) >> 24);
}

inline void set_scales(thread Piece& to, float first, float second) {
  to.scales[0] = first;
  to.scales[1] = second;
}

inline void set_offsets(thread Piece& to, float first, float second) {
  to.offsets[0] = first;
  to.offsets[1] = second;
}

inline void nibbles(uint2 bytes, thread Piece& to) {
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(bytes, i);
    to.codes[i] = float(b & 15);
    to.codes[i + 8] = float(b >> 4);
  }
}

// Nibbles with a fifth bit: bit i of `first` and of `second` belong to the codes i of the runs.
inline void five_bits(uint2 bytes, uint first, uint second, thread Piece& to) {
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(bytes, i);
    to.codes[i] = float((b & 15) | (first >> i & 1) << 4);
    to.codes[i + 8] = float(b >> 4 | (second >> i & 1) << 4);
  }
}

inline void looked_up(uint2 bytes, constant float* values, thread Piece& to) {
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(bytes, i);
    to.codes[i] = values[b & 15];
    to.codes[i + 8] = values[b >> 4];
  }
}

// 2^(e - 128), subnormal below 2.
inline float mxfp4_scale(uint e) { return as_type<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

// Half `which` of a block of 32.
inline void decode_small(uint format, device const uchar* block, uint which, thread Piece& to) {
  const float d = format == MXFP4 ? mxfp4_scale(block[0]) : half_at(block);
  set_scales(to, d, d);
  set_offsets(to, 0.0f, 0.0f);
  if (format == Q8_0) {
    const uint2 first = bytes_at(format, block + 2 + 16 * which);
    const uint2 second = bytes_at(format, block + 10 + 16 * which);
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      to.codes[i] = signed_byte(first, i);
      to.codes[i + 8] = signed_byte(second, i);
    }
    return;
  }
  if (format == Q4_1 || format == Q5_1) {
    const float m = half_at(block + 2);
    set_offsets(to, m, m);
  } else if (format == Q4_0 || format == Q5_0) {
    const float m = d * (format == Q4_0 ? -8.0f : -16.0f);
    set_offsets(to, m, m);
  }
  const uint2 bytes = bytes_at(format, block + block_bytes(format) - 16 + 8 * which);
  if (format == Q5_0 || format == Q5_1) {
    const uint high = word_at(block + (format == Q5_0 ? 2 : 4)) >> (8 * which);
    five_bits(bytes, high, high >> 16, to);
  } else if (format == IQ4_NL) {
    looked_up(bytes, IQ4_VALUES, to);
  } else if (format == MXFP4) {
    looked_up(bytes, MXFP4_VALUES, to);
  } else {
    nibbles(bytes, to);
  }
}

// Scales (low half) and minima of groups 2 `pair` and 2 `pair` + 1 of Q4_K and Q5_K, a byte each, from their 12 bytes.
inline uint k_scales(device const uchar* scales, uint pair) {
  device const ushort* words = (device const ushort*)scales;
  const uint own = words[pair];
  const uint next = words[pair + 2];
  const uint before = words[pair < 2 ? pair : pair - 2];
  const uint scale = pair < 2 ? own & 0x3f3f : (next & 0x0f0f) | (before & 0xc0c0) >> 2;
  const uint least = pair < 2 ? next & 0x3f3f : (next >> 4 & 0x0f0f) | (own & 0xc0c0) >> 2;
  return scale | least << 16;
}

inline void decode_q45_k(uint format, device const uchar* block, uint piece, thread Piece& to) {
  const float d = half_at(block);
  const float least = half_at(block + 2);
  const uint pair = piece / 4;
  const uint at = piece % 4 * 8;
  const uint scales = k_scales(block + 4, pair);
  set_scales(to, d * float(scales & 255), d * float(scales >> 8 & 255));
  set_offsets(to, -(least * float(scales >> 16 & 255)), -(least * float(scales >> 24)));
  if (format == Q4_K) {
    nibbles(bytes_at(format, block + 16 + 32 * pair + at), to);
    return;
  }
  const uint2 bytes = bytes_at(format, block + 48 + 32 * pair + at);
  const uint2 high = bytes_at(format, block + 16 + at);
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(bytes, i);
    const uint h = byte_of(high, i) >> (2 * pair);
    to.codes[i] = float((b & 15) | (h & 1) << 4);
    to.codes[i + 8] = float(b >> 4 | (h >> 1 & 1) << 4);
  }
}

inline void decode_q6_k(device const uchar* block, uint piece, thread Piece& to) {
  const uint part = piece / 8;
  const uint s = piece % 8;
  const uint2 low = bytes_at(Q6_K, block + 64 * part + 8 * s);
  const uint2 high = bytes_at(Q6_K, block + 128 + 32 * part + 8 * (s % 4));
  const float d = half_at(block + 208);
  device const char* scales = (device const char*)(block + 192 + 8 * part + s / 2);
  set_scales(to, d * float(scales[0]), d * float(scales[4]));
  set_offsets(to, -32.0f * to.scales[0], -32.0f * to.scales[1]);
  const uint shift = s / 4 * 2;
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(low, i);
    const uint h = byte_of(high, i) >> shift;
    to.codes[i] = float((b & 15) | (h & 3) << 4);
    to.codes[i + 8] = float(b >> 4 | (h >> 4 & 3) << 4);
  }
}

// The signed scale of group `group` of Q3_K.
inline float q3_scale(device const uchar* scales, uint group) {
  const uint low = uint(scales[group % 8]) >> (group / 8 * 4) & 15;
  const uint high = uint(scales[8 + group % 4]) >> (group / 4 * 2) & 3;
  return float(low | high << 4) - 32.0f;
}

inline void decode_q23_k(uint format, device const uchar* block, uint piece, thread Piece& to) {
  const uint part = piece / 8; // of two halves of the block
  const uint pair = piece / 4 % 2;
  const uint at = piece % 4 * 8;
  const uint group = 8 * part + 4 * pair + at / 16; // of 16 weights; the second run's is 2 groups on
  const uint2 bytes = bytes_at(format, block + (format == Q2_K ? 16 : 32) + 32 * part + at) >> uint2(4 * pair);
  if (format == Q2_K) {
    const float d = half_at(block + 80);
    const float least = half_at(block + 82);
    const uint first = block[group];
    const uint second = block[group + 2];
    set_scales(to, d * float(first & 15), d * float(second & 15));
    set_offsets(to, -(least * float(first >> 4)), -(least * float(second >> 4)));
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      const uint b = byte_of(bytes, i);
      to.codes[i] = float(b & 3);
      to.codes[i + 8] = float(b >> 2 & 3);
    }
    return;
  }
  const float d = half_at(block + 108);
  set_scales(to, d * q3_scale(block + 96, group), d * q3_scale(block + 96, group + 2));
  set_offsets(to, -4.0f * to.scales[0], -4.0f * to.scales[1]);
  const uint2 high = bytes_at(format, block + at) >> uint2(4 * part + 2 * pair);
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    const uint b = byte_of(bytes, i);
    const uint h = byte_of(high, i);
    to.codes[i] = float((b & 3) | (h & 1) << 2);
    to.codes[i + 8] = float((b >> 2 & 3) | (h >> 1 & 1) << 2);
  }
}

inline void decode_iq4_xs(device const uchar* block, uint piece, thread Piece& to) {
  const uint group = piece / 2;
  const uint high = *(device const ushort*)(block + 2);
  const uint low = uint(block[4 + group / 2]) >> (group % 2 * 4) & 15;
  const float d = half_at(block) * (float(low | (high >> (2 * group) & 3) << 4) - 32.0f);
  set_scales(to, d, d);
  set_offsets(to, 0.0f, 0.0f);
  looked_up(bytes_at(IQ4_XS, block + 8 + 8 * piece), IQ4_VALUES, to);
}

// 8 floats from column `column` on, as the format has them.
inline void decode_floats(uint format, device const uchar* row, uint column, uint columns, thread float* to) {
  // Rows of whole groups of four begin at multiples of 8 bytes.
  const bool whole = columns % 4 == 0 && column + 8 <= columns;
  if (format == F32) {
    device const float* numbers = (device const float*)row + column;
    if (whole) {
      #pragma unroll
      for (uint i = 0; i < 4; i++) {
        const float2 two = ((device const float2*)numbers)[i];
        to[2 * i] = two.x;
        to[2 * i + 1] = two.y;
      }
      return;
    }
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      to[i] = column + i < columns ? numbers[i] : 0.0f;
    }
    return;
  }
  device const ushort* numbers = (device const ushort*)row + column;
  #pragma unroll
  for (uint part = 0; part < 2; part++) {
    ushort4 four = ushort4(0);
    if (whole) {
      four = ((device const ushort4*)numbers)[part];
    } else {
      #pragma unroll
      for (uint i = 0; i < 4; i++) {
        four[i] = column + 4 * part + i < columns ? numbers[4 * part + i] : ushort(0);
      }
    }
    #pragma unroll
    for (uint i = 0; i < 4; i++) {
      to[4 * part + i] = format == F16 ? float(as_type<half>(ushort(four[i]))) : as_type<float>(uint(four[i]) << 16);
    }
  }
}

// Piece `piece` of the row of `columns` weights at `row`.
inline void decode(
    uint format, device const uchar* row, uint piece, uint columns, bool spread, thread Piece& to) {
  if (is_float(format)) {
    const uint column = piece_column(format, piece, spread);
    decode_floats(format, row, column, columns, to.codes);
    decode_floats(format, row, column + run_distance(format, spread), columns, to.codes + 8);
    set_scales(to, 1.0f, 1.0f);
    set_offsets(to, 0.0f, 0.0f);
    return;
  }
  const uint pieces = block_elements(format) / 16;
  device const uchar* block = row + ulong(piece / pieces) * block_bytes(format);
  const uint own = piece % pieces;
  if (pieces == 2) {
    decode_small(format, block, own, to);
  } else if (format == Q2_K || format == Q3_K) {
    decode_q23_k(format, block, own, to);
  } else if (format == Q6_K) {
    decode_q6_k(block, own, to);
  } else if (format == IQ4_XS) {
    decode_iq4_xs(block, own, to);
  } else {
    decode_q45_k(format, block, own, to);
  }
}

// Number i of a piece, rounded once where the format's definition rounds once: products of codes and scales are exact.
inline float weight_of(thread const Piece& piece, uint i) {
  return fma(piece.scales[i / 8], piece.codes[i], piece.offsets[i / 8]);
}
