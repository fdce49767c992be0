// Normalizes a head into `own`, which only this SIMD group uses, when there is a norm.
inline void load_head(device const float* x, device const float* weight, bool normed, float epsilon, uint n, threadgroup float* own, ushort lane) {
  float factor = 1.0f;
  if (normed) {
    float squares = 0.0f;
    for (uint d = lane; d < n; d += 32) {
      squares += x[d] * x[d];
    }
    factor = 1.0f / precise::sqrt(simd_sum(squares) / float(n) + epsilon);
  }
  for (uint d = lane; d < n; d += 32) {
    own[d] = normed ? x[d] * factor * weight[d] : x[d];
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
}

// Number `d` of a head after its rotation; `table` has cosines, then sines.
inline float rotated(threadgroup const float* x, device const float* table, uint pairs, bool halves, uint d) {
  if (d >= 2 * pairs) {
    return x[d];
  }
  const uint pair = halves ? d % pairs : d / 2;
  const bool second = halves ? d >= pairs : d % 2 == 1;
  const uint i0 = halves ? pair : 2 * pair, i1 = halves ? pair + pairs : 2 * pair + 1;
  const float c = table[pair], s = table[pairs + pair];
  return second ? fma(x[i0], s, x[i1] * c) : fma(x[i0], c, -(x[i1] * s));
}
