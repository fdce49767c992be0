// Matrices of 8 x 8 spread over a SIMD group: each lane holds two neighbours of one row, in Apple's order.
#pragma once
namespace metal {
template<class T, int Columns = 8, int Rows = 8> struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "Metal has 8 x 8 only");
  vec<T, 2> own;
  simdgroup_matrix() = default;
#if !defined(MSL_SPACES)
  thread vec<T, 2>& thread_elements() { return own; }
#else
  thread vec<T, 2>& thread_elements() thread { return own; }
#endif
};
typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;

inline uint __row_of(uint lane) { return (lane / 4 & 4) + (lane / 2) % 4; }
inline uint __column_of(uint lane) { return (lane / 4 & 2) * 2 + (lane % 2) * 2; }
inline uint __lane_of(uint row, uint column) { return (row & 4) << 2 | (column & 4) << 1 | (row & 3) << 1 | (column >> 1 & 1); }

#if defined(MSL_SPACES)
template<class T> simdgroup_matrix<T> __filled(T x);
#define MSL_MATRIX_MEMORY(space) \
  template<class T> void simdgroup_load(thread simdgroup_matrix<T>& m, const space T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false); \
  template<class T> void simdgroup_store(simdgroup_matrix<T> m, space T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false);
MSL_MATRIX_MEMORY(device) MSL_MATRIX_MEMORY(threadgroup)
template<class D, class A, class B, class C> void simdgroup_multiply_accumulate(thread simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b, simdgroup_matrix<C> c);
template<class D, class A, class B> void simdgroup_multiply(thread simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b);
#else
#if defined(__CUDACC_RTC__) || defined(__HIP__)
#define MSL_MEET
// Both factors of a product come from the lanes that hold them.
template<class D, class A, class B> inline void __multiply(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b, float x, float y) {
  uint row = __row_of(__msl_lane()), column = __column_of(__msl_lane());
  for (uint k = 0; k < 8; k++) {
    float even = simd_shuffle((float)a.own.x, __lane_of(row, k)), odd = simd_shuffle((float)a.own.y, __lane_of(row, k));
    float factor = k & 1 ? odd : even;
    x += factor * simd_shuffle((float)b.own.x, __lane_of(k, column));
    y += factor * simd_shuffle((float)b.own.y, __lane_of(k, column));
  }
  d.own = vec<D, 2>(x, y);
}
#else
// Under the sanitizers each load and store is a meeting, so that a divergent one is seen; otherwise products meet.
#ifdef MSL_CHECKED
#define MSL_MEET __exchange(0, nullptr MSL_HERE);
#else
#define MSL_MEET (void)file; (void)at;
#endif
// One pass for the SIMD group: each lane's slot holds its parts of A, B and C, and then its part of D.
template<class A, class B> struct alignas(8) __factors { alignas(8) vec<A, 2> a; alignas(8) vec<B, 2> b; vec<float, 2> c; };
template<class A, class B> MSL_UNSEEN void __product(char* slots, unsigned lanes) {
  float a[8][8], b[8][8], c[8][8];
  for (unsigned lane = 0; lane < lanes; lane++) {
    __factors<A, B> own = __slot<__factors<A, B>>(slots, lane);
    uint row = __row_of(lane), column = __column_of(lane);
    a[row][column] = (float)own.a.x, a[row][column + 1] = (float)own.a.y;
    b[row][column] = (float)own.b.x, b[row][column + 1] = (float)own.b.y;
    c[row][column] = own.c.x, c[row][column + 1] = own.c.y;
  }
  for (int row = 0; row < 8; row++)
    for (int k = 0; k < 8; k++)
      for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
  for (unsigned lane = 0; lane < lanes; lane++)
    __builtin_memcpy(slots + 64 * lane, &c[__row_of(lane)][__column_of(lane)], 8);
}
template<class D, class A, class B> inline void __multiply(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b, float x, float y MSL_AT) {
  if (__msl_lanes() != 32) __msl_fault("a matrix product in a SIMD group of fewer than 32 lanes", file, at);
  __factors<A, B> own{a.own, b.own, vec<float, 2>(x, y)};
  const char* slots = __exchange(own, __product<A, B> MSL_HERE);
  d.own = vec<D, 2>(__slot<vec<float, 2>>(slots, __msl_lane()));
}
#endif
template<class T> inline simdgroup_matrix<T> __filled(T x) { simdgroup_matrix<T> m; m.own = vec<T, 2>(x); return m; }
template<class T> inline void simdgroup_load(simdgroup_matrix<T>& m, const T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false MSL_AT) {
  MSL_MEET
  ulong row = __row_of(__msl_lane()), column = __column_of(__msl_lane());
  for (uint k = 0; k < 2; k++)
    m.own[k] = transpose ? p[(origin.y + column + k) * stride + origin.x + row] : p[(origin.y + row) * stride + origin.x + column + k];
}
template<class T> inline void simdgroup_store(simdgroup_matrix<T> m, T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false MSL_AT) {
  MSL_MEET
  ulong row = __row_of(__msl_lane()), column = __column_of(__msl_lane());
  for (uint k = 0; k < 2; k++)
    (transpose ? p[(origin.y + column + k) * stride + origin.x + row] : p[(origin.y + row) * stride + origin.x + column + k]) = m.own[k];
}
template<class D, class A, class B, class C> inline void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b, simdgroup_matrix<C> c MSL_AT) {
  __multiply(d, a, b, (float)c.own.x, (float)c.own.y MSL_HERE);
}
template<class D, class A, class B> inline void simdgroup_multiply(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b MSL_AT) {
  __multiply(d, a, b, 0.0f, 0.0f MSL_HERE);
}
#endif
template<class T, int Columns = 8, int Rows = 8> inline simdgroup_matrix<T> make_filled_simdgroup_matrix(T x) { return __filled<T>(x); }
}
