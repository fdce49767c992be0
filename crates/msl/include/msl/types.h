// Scalars and type traits.
#pragma once
typedef unsigned char uchar; typedef unsigned short ushort; typedef unsigned int uint; typedef unsigned long ulong;
#if !defined(MSL_SPACES) && !defined(__CUDACC_RTC__)
typedef __SIZE_TYPE__ size_t; typedef __PTRDIFF_TYPE__ ptrdiff_t;
#endif
#ifndef __CUDACC_RTC__
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef uchar uint8_t; typedef ushort uint16_t; typedef uint uint32_t; typedef ulong uint64_t;
#else
namespace metal {
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef uchar uint8_t; typedef ushort uint16_t; typedef uint uint32_t; typedef ulong uint64_t;
}
#endif
#undef INFINITY
#undef NAN
#if defined(__CUDACC_RTC__)
#define INFINITY (__int_as_float(0x7f800000))
#define NAN (__int_as_float(0x7fc00000))
#else
#define INFINITY (__builtin_huge_valf())
#define NAN (__builtin_nanf(""))
#endif
#ifndef FLT_MAX
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.1920929e-7f
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#endif
#define MAXFLOAT FLT_MAX
#define MAXHALF ((half)65504.0f)
#ifndef M_PI_F
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#endif

namespace metal {
template<class T, T V> struct integral_constant {
  static constexpr T value = V;
  constexpr operator T() const { return V; }
};
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;
template<class A, class B> struct is_same : false_type {};
template<class A> struct is_same<A, A> : true_type {};
template<class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template<bool B, class T = void> struct enable_if {};
template<class T> struct enable_if<true, T> { typedef T type; };
template<bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template<class T> struct __identity { typedef T type; };
template<class T> using __same = typename __identity<T>::type; // takes no part in deduction
template<bool B, class T, class F> struct conditional { typedef T type; };
template<class T, class F> struct conditional<false, T, F> { typedef F type; };
template<bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;

#ifdef MSL_SPACES
template<class T, class U> T __bits(U x) { union { U from; T to; } both; both.from = x; return both.to; }
#elif defined(MSL_CHECKED)
template<class T, class U> T __bits(U x) { T to; __builtin_memcpy((void*)&to, (const void*)&x, sizeof(T)); return to; }
#else
template<class T, class U> constexpr T __bits(U x) { return __builtin_bit_cast(T, x); }
#endif

// A 16-bit float where the compiler has none: every operation is done in float and rounded once.
template<class Code> struct __small {
  ushort bits;
  __small() = default;
#ifdef MSL_SPACES
  __small(const __small&) = default;
  __small& operator=(const __small&) = default;
  __small(const __constant __small& other) { bits = other.bits; }
  operator float() const __constant { return Code::decode(bits); }
#endif
  template<class U, class = enable_if_t<is_same<decltype((float)U()), float>::value>> __small(U x) : bits(Code::encode((float)x)) {}
  operator float() const { return Code::decode(bits); }
};
#define MSL_SMALL(op) \
  template<class C> inline __small<C> operator op(__small<C> a, __small<C> b) { return (float)a op (float)b; } \
  template<class C> inline float operator op(__small<C> a, float b) { return (float)a op b; } \
  template<class C> inline float operator op(float a, __small<C> b) { return a op (float)b; } \
  template<class C> inline __small<C> operator op(__small<C> a, int b) { return a op __small<C>((float)b); } \
  template<class C> inline __small<C> operator op(int a, __small<C> b) { return __small<C>((float)a) op b; } \
  template<class C, class U> inline __small<C>& operator op##=(__small<C>& a, U b) { a = __small<C>((float)(a op b)); return a; }
MSL_SMALL(+) MSL_SMALL(-) MSL_SMALL(*) MSL_SMALL(/)
template<class C> inline __small<C> operator-(__small<C> a) { return -(float)a; }
#ifndef MSL_NATIVE_BFLOAT
struct __bfloat_code {
  static ushort encode(float x) {
    uint u = __bits<uint>(x);
    return (u & 0x7fffffffu) > 0x7f800000u ? (ushort)(u >> 16 | 64) : (ushort)((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  static float decode(ushort bits) { return __bits<float>((uint)bits << 16); }
};
typedef __small<__bfloat_code> bfloat;
#endif
#ifndef MSL_NATIVE_HALF
struct __half_code {
  static ushort encode(float x) { ushort bits; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); return bits; }
  static float decode(ushort bits) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
};
typedef __small<__half_code> half;
#endif

template<class T> struct __is_scalar : false_type {};
#define MSL_SCALARS(X) X(bool) X(char) X(signed char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong) X(half) X(float) X(bfloat)
#define MSL_IS_SCALAR(T) template<> struct __is_scalar<T> : true_type {};
MSL_SCALARS(MSL_IS_SCALAR)
#if !defined(MSL_SPACES) // literals of other compilers, never a kernel's own type
MSL_IS_SCALAR(double) MSL_IS_SCALAR(long long) MSL_IS_SCALAR(unsigned long long)
#endif
template<class T> constexpr bool __scalar = __is_scalar<T>::value;
template<class T> constexpr bool is_floating_point_v = is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>;
template<class T> constexpr bool is_integral_v = __scalar<T> && !is_floating_point_v<T>;

// One conversion for all pairs of scalars: 16-bit floats meet in float.
template<class T, class U> constexpr T __convert(U x) {
  if constexpr ((is_same_v<T, half> && is_same_v<U, bfloat>) || (is_same_v<T, bfloat> && is_same_v<U, half>)) {
    return T((float)x);
  } else {
    return T(x);
  }
}
template<class T, class U> inline T as_type(U x) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of one size");
  return __bits<T>(x);
}
template<class T> struct numeric_limits;
#define MSL_LIMITS(T, low, high) template<> struct numeric_limits<T> { \
  static T lowest() { return (T)(low); } static T max() { return (T)(high); } \
  static T infinity() { return (T)INFINITY; } };
MSL_LIMITS(char, -128, 127) MSL_LIMITS(uchar, 0, 255) MSL_LIMITS(short, -32768, 32767) MSL_LIMITS(ushort, 0, 65535)
MSL_LIMITS(int, INT_MIN, INT_MAX) MSL_LIMITS(uint, 0, UINT_MAX) MSL_LIMITS(float, -FLT_MAX, FLT_MAX)
MSL_LIMITS(half, -65504.0f, 65504.0f) MSL_LIMITS(bfloat, -3.3895314e38f, 3.3895314e38f)
}
