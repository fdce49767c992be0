// What generated thunks need: positions in the type a kernel asks for.
#pragma once
namespace metal {
template<class T> struct __from {
  static T three(const unsigned* p) { return (T)p[0]; }
};
template<class T> struct __from<vec<T, 2>> {
  static vec<T, 2> three(const unsigned* p) { return vec<T, 2>(p[0], p[1]); }
};
template<class T> struct __from<vec<T, 3>> {
  static vec<T, 3> three(const unsigned* p) { return vec<T, 3>(p[0], p[1], p[2]); }
};
template<class T> struct __pointee;
template<class T> struct __pointee<T*> { typedef T type; };
#if !defined(__CUDACC_RTC__) && !defined(__HIP__) && !defined(MSL_SPACES)
// Mirrored in ../../src/soft/library.rs.
struct __msl_entry {
  const char* name;
  void (*thunk)(const __msl_position*);
  unsigned long args_bytes;
  unsigned align[32];
};
#endif
}
