// Atomics, relaxed: Metal has no other order.
#pragma once
namespace metal {
enum memory_order { memory_order_relaxed };
template<class T> struct atomic { T value; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
#if defined(MSL_SPACES)
#define MSL_FETCH(name, space) template<class T> T atomic_fetch_##name##_explicit(volatile space atomic<T>* p, __same<T> x, memory_order);
#define MSL_ATOMICS(space) \
  MSL_FETCH(add, space) MSL_FETCH(sub, space) MSL_FETCH(min, space) MSL_FETCH(max, space) MSL_FETCH(and, space) \
  MSL_FETCH(or, space) MSL_FETCH(xor, space) \
  template<class T> T atomic_exchange_explicit(volatile space atomic<T>* p, __same<T> x, memory_order); \
  template<class T> T atomic_load_explicit(const volatile space atomic<T>* p, memory_order); \
  template<class T> void atomic_store_explicit(volatile space atomic<T>* p, __same<T> x, memory_order); \
  template<class T> bool atomic_compare_exchange_weak_explicit(volatile space atomic<T>* p, thread T* expected, __same<T> x, memory_order, memory_order);
MSL_ATOMICS(device) MSL_ATOMICS(threadgroup)
#else
// Through the bits, so that floats need no instruction of their own.
template<class T> inline bool __swap(volatile atomic<T>* p, uint& expected, uint x) {
#if defined(__CUDACC_RTC__)
  uint found = atomicCAS((uint*)&p->value, expected, x);
  bool same = found == expected;
  expected = found;
  return same;
#else
  return __atomic_compare_exchange_n((volatile uint*)&p->value, &expected, x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#endif
}
template<class T> inline T atomic_load_explicit(const volatile atomic<T>* p, memory_order) {
#if defined(__CUDACC_RTC__)
  return p->value;
#else
  return __bits<T>(__atomic_load_n((const volatile uint*)&p->value, __ATOMIC_RELAXED));
#endif
}
#define MSL_FETCH(name, expression) template<class T> inline T atomic_##name##_explicit(volatile atomic<T>* p, __same<T> b, memory_order order) { \
  uint seen = __bits<uint>(atomic_load_explicit(p, order)); T a; \
  do { a = __bits<T>(seen); } while (!__swap(p, seen, __bits<uint>((T)(expression)))); \
  return a; }
MSL_FETCH(fetch_add, a + b) MSL_FETCH(fetch_sub, a - b) MSL_FETCH(fetch_min, min(a, b)) MSL_FETCH(fetch_max, max(a, b))
MSL_FETCH(fetch_and, a & b) MSL_FETCH(fetch_or, a | b) MSL_FETCH(fetch_xor, a ^ b) MSL_FETCH(exchange, b)
template<class T> inline void atomic_store_explicit(volatile atomic<T>* p, __same<T> x, memory_order order) { (void)atomic_exchange_explicit(p, x, order); }
template<class T> inline bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* p, T* expected, __same<T> x, memory_order, memory_order) {
  uint seen = __bits<uint>(*expected);
  bool done = __swap(p, seen, __bits<uint>(x));
  *expected = __bits<T>(seen);
  return done;
}
#endif
}
