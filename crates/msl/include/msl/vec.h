// Vectors. Components are read by name or index; there are no swizzles of several components (see the dialect).
#pragma once
namespace metal {
template<class T, int N> struct vec;
template<class T, int N> struct __packed;

// A copy that names each component lets the alignment check see it; an argument struct lies in the constant space.
#if defined(MSL_SPACES)
#define MSL_COPY(N) \
  vec(const vec&) = default; vec& operator=(const vec&) = default; \
  vec(const __constant vec& o) { for (int i = 0; i < N; i++) (&x)[i] = (&o.x)[i]; } \
  T operator[](uint i) const __constant { return (&x)[i]; }
#elif defined(MSL_CHECKED)
#define MSL_COPY(N) \
  vec(const vec& o) { for (int i = 0; i < N; i++) (&x)[i] = (&o.x)[i]; } \
  vec& operator=(const vec& o) { for (int i = 0; i < N; i++) (&x)[i] = (&o.x)[i]; return *this; }
#else
#define MSL_COPY(N)
#endif
#define MSL_VEC(N) \
  typedef T element_type; \
  vec() = default; \
  MSL_COPY(N) \
  template<class U, class = enable_if_t<__scalar<U>>> vec(U s) { for (int i = 0; i < N; i++) (&x)[i] = __convert<T>(s); } \
  template<class U> explicit vec(const vec<U, N>& o) { for (int i = 0; i < N; i++) (&x)[i] = __convert<T>((&o.x)[i]); } \
  template<class U> explicit vec(const __packed<U, N>& o) { for (int i = 0; i < N; i++) (&x)[i] = __convert<T>(o.e[i]); } \
  T& operator[](uint i) { return (&x)[i]; } \
  T operator[](uint i) const { return (&x)[i]; }

template<class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  MSL_VEC(2)
  template<class A, class B, class = enable_if_t<__scalar<A> && __scalar<B>>>
  vec(A a, B b) : x(__convert<T>(a)), y(__convert<T>(b)) {}
};
template<class T> struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  MSL_VEC(3)
  template<class A, class B, class C, class = enable_if_t<__scalar<A> && __scalar<B> && __scalar<C>>>
  vec(A a, B b, C c) : x(__convert<T>(a)), y(__convert<T>(b)), z(__convert<T>(c)) {}
  template<class C, class = enable_if_t<__scalar<C>>> vec(vec<T, 2> a, C c) : x(a.x), y(a.y), z(__convert<T>(c)) {}
};
template<class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  MSL_VEC(4)
  template<class A, class B, class C, class D, class = enable_if_t<__scalar<A> && __scalar<B> && __scalar<C> && __scalar<D>>>
  vec(A a, B b, C c, D d) : x(__convert<T>(a)), y(__convert<T>(b)), z(__convert<T>(c)), w(__convert<T>(d)) {}
  vec(vec<T, 2> a, vec<T, 2> b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
  template<class D, class = enable_if_t<__scalar<D>>> vec(vec<T, 3> a, D d) : x(a.x), y(a.y), z(a.z), w(__convert<T>(d)) {}
};
// Components without padding, aligned as one of them.
template<class T, int N> struct __packed {
  T e[N];
  __packed() = default;
#ifdef MSL_SPACES
  __packed(const __packed&) = default;
  __packed& operator=(const __packed&) = default;
#endif
  __packed(const vec<T, N>& v) { for (int i = 0; i < N; i++) e[i] = (&v.x)[i]; }
  operator vec<T, N>() const { vec<T, N> v; for (int i = 0; i < N; i++) (&v.x)[i] = e[i]; return v; }
  T& operator[](uint i) { return e[i]; }
  T operator[](uint i) const { return e[i]; }
};
#define MSL_VECTORS(T) \
  typedef vec<T, 2> T##2; typedef vec<T, 3> T##3; typedef vec<T, 4> T##4; \
  typedef __packed<T, 2> packed_##T##2; typedef __packed<T, 3> packed_##T##3; typedef __packed<T, 4> packed_##T##4;
MSL_VECTORS(bool) MSL_VECTORS(char) MSL_VECTORS(uchar) MSL_VECTORS(short) MSL_VECTORS(ushort) MSL_VECTORS(int)
MSL_VECTORS(uint) MSL_VECTORS(long) MSL_VECTORS(ulong) MSL_VECTORS(half) MSL_VECTORS(float) MSL_VECTORS(bfloat)

#define MSL_OPERATOR(op, R) \
  template<class T, int N> inline vec<R, N> operator op(vec<T, N> a, vec<T, N> b) { \
    vec<R, N> r; for (int i = 0; i < N; i++) r[i] = (R)(a[i] op b[i]); return r; } \
  template<class T, int N, class S, class = enable_if_t<__scalar<S>>> inline vec<R, N> operator op(vec<T, N> a, S s) { \
    return a op vec<T, N>(s); } \
  template<class T, int N, class S, class = enable_if_t<__scalar<S>>> inline vec<R, N> operator op(S s, vec<T, N> b) { \
    return vec<T, N>(s) op b; }
#define MSL_ARITHMETIC(op) MSL_OPERATOR(op, T) \
  template<class T, int N, class U> inline vec<T, N>& operator op##=(vec<T, N>& a, U b) { a = a op b; return a; }
MSL_ARITHMETIC(+) MSL_ARITHMETIC(-) MSL_ARITHMETIC(*) MSL_ARITHMETIC(/) MSL_ARITHMETIC(%)
MSL_ARITHMETIC(&) MSL_ARITHMETIC(|) MSL_ARITHMETIC(^) MSL_ARITHMETIC(<<) MSL_ARITHMETIC(>>)
MSL_OPERATOR(==, bool) MSL_OPERATOR(!=, bool) MSL_OPERATOR(<, bool) MSL_OPERATOR(>, bool) MSL_OPERATOR(<=, bool)
MSL_OPERATOR(>=, bool) MSL_OPERATOR(&&, bool) MSL_OPERATOR(||, bool)
#define MSL_UNARY(op) template<class T, int N> inline vec<T, N> operator op(vec<T, N> a) { \
  vec<T, N> r; for (int i = 0; i < N; i++) r[i] = (T)(op a[i]); return r; }
MSL_UNARY(-) MSL_UNARY(~) MSL_UNARY(!)
inline bool any(bool x) { return x; }
inline bool all(bool x) { return x; }
template<int N> inline bool any(vec<bool, N> a) { bool r = false; for (int i = 0; i < N; i++) r |= a[i]; return r; }
template<int N> inline bool all(vec<bool, N> a) { bool r = true; for (int i = 0; i < N; i++) r &= a[i]; return r; }
}
