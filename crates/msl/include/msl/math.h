// Mathematical functions: in float; 16-bit floats are rounded once.
#pragma once
namespace metal {
#define MSL_MAP1(name, R) template<class T, int N> inline vec<R, N> name(vec<T, N> a) { \
  vec<R, N> r; for (int i = 0; i < N; i++) r[i] = name(a[i]); return r; }
#define MSL_MAP2(name) template<class T, int N> inline vec<T, N> name(vec<T, N> a, vec<T, N> b) { \
  vec<T, N> r; for (int i = 0; i < N; i++) r[i] = name(a[i], b[i]); return r; }
#define MSL_ONE(name, expression) \
  MSL_SPACED(inline float name(float x), { return expression; }) \
  inline half name(half x) { return (half)name((float)x); } \
  inline bfloat name(bfloat x) { return (bfloat)name((float)x); } \
  MSL_MAP1(name, T)
#define MSL_TWO(name, expression) \
  MSL_SPACED(inline float name(float x, float y), { return expression; }) \
  inline half name(half x, half y) { return (half)name((float)x, (float)y); } \
  inline bfloat name(bfloat x, bfloat y) { return (bfloat)name((float)x, (float)y); } \
  template<class A, class B, class = enable_if_t<__scalar<A> && __scalar<B> && !is_same_v<A, B>>> \
  inline float name(A x, B y) { return name((float)x, (float)y); } \
  MSL_MAP2(name)

#if defined(__HIP__) // no libm: what the instruction set lacks is made of what it has
#define MSL_POW(x, y) __builtin_exp2f((y) * __builtin_log2f(x))
#define MSL_EXP10(x) __builtin_exp2f((x) * 3.32192809488736234787f)
#define MSL_TANH(x) (1.0f - 2.0f / (__builtin_exp2f((x) * 2.88539008177792681472f) + 1.0f))
#define MSL_SINH(x) (0.5f * (__builtin_expf(x) - __builtin_expf(-(x))))
#define MSL_COSH(x) (0.5f * (__builtin_expf(x) + __builtin_expf(-(x))))
#define MSL_TAN(x) (__builtin_sinf(x) / __builtin_cosf(x))
#define MSL_FMOD(x, y) ((x) - (y) * __builtin_truncf((x) / (y)))
#else
#define MSL_POW(x, y) MSL_FLOAT(pow)(x, y)
#define MSL_EXP10(x) MSL_FLOAT(pow)(10.0f, x)
#define MSL_TANH(x) MSL_FLOAT(tanh)(x)
#define MSL_SINH(x) MSL_FLOAT(sinh)(x)
#define MSL_COSH(x) MSL_FLOAT(cosh)(x)
#define MSL_TAN(x) MSL_FLOAT(tan)(x)
#define MSL_FMOD(x, y) MSL_FLOAT(fmod)(x, y)
#endif
#define MSL_ROUNDED_MATH \
  MSL_ONE(exp, MSL_FLOAT(exp)(x)) MSL_ONE(exp2, MSL_FLOAT(exp2)(x)) MSL_ONE(exp10, MSL_EXP10(x)) \
  MSL_ONE(log, MSL_FLOAT(log)(x)) MSL_ONE(log2, MSL_FLOAT(log2)(x)) MSL_ONE(log10, MSL_FLOAT(log10)(x)) \
  MSL_ONE(sqrt, MSL_FLOAT(sqrt)(x)) MSL_ONE(rsqrt, 1.0f / MSL_FLOAT(sqrt)(x)) MSL_ONE(sin, MSL_FLOAT(sin)(x)) \
  MSL_ONE(cos, MSL_FLOAT(cos)(x)) MSL_ONE(tan, MSL_TAN(x)) MSL_ONE(tanh, MSL_TANH(x)) MSL_ONE(sinh, MSL_SINH(x)) \
  MSL_ONE(cosh, MSL_COSH(x)) MSL_TWO(pow, MSL_POW(x, y)) MSL_TWO(powr, MSL_POW(x, y)) MSL_TWO(divide, x / y) \
  MSL_TWO(fmin, MSL_FLOAT(fmin)(x, y)) MSL_TWO(fmax, MSL_FLOAT(fmax)(x, y))
MSL_ROUNDED_MATH
namespace precise { MSL_ROUNDED_MATH }
namespace fast { MSL_ROUNDED_MATH }
MSL_ONE(floor, MSL_FLOAT(floor)(x)) MSL_ONE(ceil, MSL_FLOAT(ceil)(x)) MSL_ONE(trunc, MSL_FLOAT(trunc)(x))
MSL_ONE(rint, MSL_FLOAT(rint)(x)) MSL_ONE(round, MSL_FLOAT(round)(x)) MSL_ONE(fabs, MSL_FLOAT(fabs)(x))
MSL_ONE(fract, x - MSL_FLOAT(floor)(x)) MSL_ONE(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f)
MSL_ONE(saturate, MSL_FLOAT(fmin)(MSL_FLOAT(fmax)(x, 0.0f), 1.0f))
MSL_TWO(fmod, MSL_FMOD(x, y)) MSL_TWO(copysign, MSL_FLOAT(copysign)(x, y)) MSL_TWO(step, y < x ? 0.0f : 1.0f)
#if !defined(__HIP__)
MSL_ONE(asin, MSL_FLOAT(asin)(x)) MSL_ONE(acos, MSL_FLOAT(acos)(x)) MSL_ONE(atan, MSL_FLOAT(atan)(x))
MSL_TWO(atan2, MSL_FLOAT(atan2)(x, y))
#endif
MSL_SPACED(inline float fma(float a, float b, float c), { return MSL_FLOAT(fma)(a, b, c); })
inline half fma(half a, half b, half c) { return (half)fma((float)a, (float)b, (float)c); }
template<class T, int N> inline vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  vec<T, N> r; for (int i = 0; i < N; i++) r[i] = fma(a[i], b[i], c[i]); return r;
}
inline bool isnan(float x) { return x != x; }
inline bool isinf(float x) { return x == INFINITY || x == -INFINITY; }
inline bool isfinite(float x) { return x - x == 0.0f; }

#define MSL_ORDER(T) \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
MSL_ORDER(char) MSL_ORDER(signed char) MSL_ORDER(uchar) MSL_ORDER(short) MSL_ORDER(ushort) MSL_ORDER(int) MSL_ORDER(uint)
MSL_ORDER(long) MSL_ORDER(ulong)
inline float min(float a, float b) { return fmin(a, b); }
inline float max(float a, float b) { return fmax(a, b); }
inline half min(half a, half b) { return fmin(a, b); }
inline half max(half a, half b) { return fmax(a, b); }
inline bfloat min(bfloat a, bfloat b) { return fmin(a, b); }
inline bfloat max(bfloat a, bfloat b) { return fmax(a, b); }
MSL_MAP2(min) MSL_MAP2(max)
template<class T> inline enable_if_t<__scalar<T>, T> clamp(T x, T low, T high) { return min(max(x, low), high); }
template<class T, int N> inline vec<T, N> clamp(vec<T, N> x, vec<T, N> low, vec<T, N> high) { return min(max(x, low), high); }
template<class T> inline enable_if_t<__scalar<T>, T> select(T a, T b, bool c) { return c ? b : a; }
template<class T, int N> inline vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  vec<T, N> r; for (int i = 0; i < N; i++) r[i] = c[i] ? b[i] : a[i]; return r;
}
template<class T> inline enable_if_t<__scalar<T>, T> abs(T x) { return x < T(0) ? (T)-x : x; }
MSL_MAP1(abs, T)
template<class T> inline T mix(T a, T b, T t) { return a + (b - a) * t; }
template<class T, int N> inline T dot(vec<T, N> a, vec<T, N> b) {
  T r = a[0] * b[0]; for (int i = 1; i < N; i++) r += a[i] * b[i]; return r;
}
template<class T, int N> inline T length(vec<T, N> a) { return sqrt(dot(a, a)); }
inline uint popcount(uint x) { uint n = 0; for (; x; x &= x - 1) n++; return n; }
inline uint ctz(uint x) { uint n = 0; for (; n < 32 && !(x >> n & 1); n++) {} return n; }
inline uint clz(uint x) { uint n = 0; for (; n < 32 && !(x << n >> 31); n++) {} return n; }
inline uint reverse_bits(uint x) { uint r = 0; for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i); return r; }
inline uint rotate(uint x, uint n) { n &= 31; return n ? x << n | x >> (32 - n) : x; }
inline uint mulhi(uint a, uint b) { return (uint)((ulong)a * b >> 32); }
inline uint extract_bits(uint x, uint offset, uint bits) { return x >> offset & ((1u << bits) - 1u); }
}
