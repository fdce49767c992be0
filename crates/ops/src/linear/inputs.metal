// Function constants: the formats of up to three matrices, how x is normalized, and which tokens take which arithmetic.
constant uint FORMAT_0 [[function_constant(0)]];
constant uint FORMAT_1 [[function_constant(1)]];
constant uint FORMAT_2 [[function_constant(2)]];
// 0 not at all, else 1, plus 2 for a LayerNorm, plus 4 with a bias.
constant uint NORM [[function_constant(3)]];
constant uint MODE [[function_constant(4)]];

enum Mode {
  ONE,   // one token
  MANY,  // every token as `ONE` has it
  MIXED  // tokens before the prompts' as `ONE` has them, the prompts' by tiles
};

// Threads of a threadgroup.
constant constexpr uint THREADS = 128;
constant constexpr uint SIMDS = 4;
// Tokens that read weights together where every token is exact. More would not fit the registers beside the weights.
constant constexpr uint TOGETHER = 8;
// Rows and tokens of a tile of prompts.
constant constexpr uint TILE_ROWS = 64;
constant constexpr uint TILE_TOKENS = 32;

// A matrix of the launch.
struct Matrix {
  device const uchar* weights; // (rows, columns)
  device const float* bias;    // (rows), if there is one
  device float* y;             // (tokens, rows)
  uint rows;
  bool biased;
};

// What every matrix is multiplied with.
struct Inputs {
  device const float* x; // (tokens, columns)
  device const float* gains;
  device const float* shifts;
  uint columns;
  float mean;
  float scale;
};

// The sum over a threadgroup. Every thread gets the same bits, whatever the kernel.
inline float sum_of_group(float own, threadgroup float* shared, uint simd, uint lane) {
  const float sum = simd_sum(own);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) {
    shared[simd] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return (shared[0] + shared[1]) + (shared[2] + shared[3]);
}

// What NORM needs to know of the row at `in.x`.
inline void measure(thread Inputs& in, float epsilon, threadgroup float* shared, uint thread_index, uint simd, uint lane) {
  const float share = 1.0f / float(in.columns);
  in.mean = 0.0f;
  if ((NORM & 2) != 0) {
    float sum = 0.0f;
    for (uint c = thread_index; c < in.columns; c += THREADS) {
      sum += in.x[c];
    }
    in.mean = sum_of_group(sum, shared, simd, lane) * share;
  }
  float squares = 0.0f;
  for (uint c = thread_index; c < in.columns; c += THREADS) {
    const float x = in.x[c] - in.mean;
    squares = fma(x, x, squares);
  }
  in.scale = rsqrt(fma(sum_of_group(squares, shared, simd, lane), share, epsilon));
}

// A number of the row, normalized as NORM says. Additions and products are written out as they round.
inline float normalized(thread const Inputs& in, float x, float gain, float shift) {
  if (NORM == 0) {
    return x;
  }
  const float y = ((x - in.mean) * in.scale) * gain;
  return (NORM & 4) != 0 ? y + shift : y;
}

// Numbers `c` and `c + 1` of a norm's vector. Tensors of a file are aligned to 8 at least.
inline float2 two_of(device const float* vector, uint c) { return *(device const float2*)(vector + c); }

// 8 numbers of a row of x from a multiple of 8 on. Only rows of floats may end within.
inline void load_run(uint format, thread const Inputs& in, device const float* x, uint column, thread float* to) {
  if (is_float(format) && (in.columns % 4 != 0 || column + 8 > in.columns)) {
    #pragma unroll
    for (uint i = 0; i < 8; i++) {
      const uint c = column + i;
      to[i] = 0.0f;
      if (c < in.columns) {
        const float gain = NORM == 0 ? 1.0f : in.gains[c];
        to[i] = normalized(in, x[c], gain, (NORM & 4) != 0 ? in.shifts[c] : 0.0f);
      }
    }
    return;
  }
  #pragma unroll
  for (uint i = 0; i < 8; i += 2) {
    const float2 own = ((device const float2*)(x + column))[i / 2];
    const float2 gain = NORM == 0 ? float2(1.0f) : two_of(in.gains, column + i);
    const float2 shift = (NORM & 4) == 0 ? float2(0.0f) : two_of(in.shifts, column + i);
    to[i] = normalized(in, own.x, gain.x, shift.x);
    to[i + 1] = normalized(in, own.y, gain.y, shift.y);
  }
}
