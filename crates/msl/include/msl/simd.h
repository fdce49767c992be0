// Barriers and collectives of a SIMD group of 32 lanes.
#pragma once
namespace metal {
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((int)a | (int)b); }

#if defined(MSL_SPACES)
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);
#define MSL_COLLECTIVE(name) template<class T> T name(T x);
MSL_COLLECTIVE(simd_sum) MSL_COLLECTIVE(simd_product) MSL_COLLECTIVE(simd_max) MSL_COLLECTIVE(simd_min)
MSL_COLLECTIVE(simd_and) MSL_COLLECTIVE(simd_or) MSL_COLLECTIVE(simd_xor) MSL_COLLECTIVE(simd_broadcast_first)
MSL_COLLECTIVE(simd_prefix_inclusive_sum) MSL_COLLECTIVE(simd_prefix_exclusive_sum)
#define MSL_SHUFFLE(name) template<class T> T name(T x, ushort lane);
MSL_SHUFFLE(simd_shuffle) MSL_SHUFFLE(simd_broadcast) MSL_SHUFFLE(simd_shuffle_xor) MSL_SHUFFLE(simd_shuffle_down)
MSL_SHUFFLE(simd_shuffle_up) MSL_SHUFFLE(quad_shuffle_xor)
ulong __ballot(bool x);
#elif defined(__CUDACC_RTC__) || defined(__HIP__)
inline void threadgroup_barrier(mem_flags) { __msl_group_barrier(); }
inline void simdgroup_barrier(mem_flags) { __msl_simd_barrier(); }
template<class T> inline T simd_shuffle(T x, ushort lane) {
  static_assert(sizeof(T) <= 2 || sizeof(T) % 4 == 0, "a shuffle moves whole words");
  if constexpr (sizeof(T) <= 2) {
    uint low = 0;
    MSL_COPY_BYTES(&low, &x, sizeof(T));
    low = __msl_shuffle(low, lane);
    MSL_COPY_BYTES(&x, &low, sizeof(T));
  } else {
    uint words[sizeof(T) / 4];
    MSL_COPY_BYTES(words, &x, sizeof(T));
    for (unsigned i = 0; i < sizeof(T) / 4; i++) words[i] = __msl_shuffle(words[i], lane);
    MSL_COPY_BYTES(&x, words, sizeof(T));
  }
  return x;
}
template<class T> inline T simd_broadcast(T x, ushort lane) { return simd_shuffle(x, lane); }
template<class T> inline T simd_broadcast_first(T x) { return simd_shuffle(x, 0); }
template<class T> inline T simd_shuffle_xor(T x, ushort mask) { return simd_shuffle(x, __msl_lane() ^ mask); }
template<class T> inline T simd_shuffle_down(T x, ushort by) { return simd_shuffle(x, __msl_lane() + by); }
template<class T> inline T simd_shuffle_up(T x, ushort by) { return simd_shuffle(x, __msl_lane() - by); }
template<class T> inline T quad_shuffle_xor(T x, ushort mask) { return simd_shuffle_xor(x, mask & 3); }
#define MSL_REDUCE(name, expression) template<class T> inline T name(T a) { \
  for (ushort mask = 16; mask > 0; mask >>= 1) { T b = simd_shuffle_xor(a, mask); a = (T)(expression); } return a; }
MSL_REDUCE(simd_sum, a + b) MSL_REDUCE(simd_product, a * b) MSL_REDUCE(simd_max, max(a, b)) MSL_REDUCE(simd_min, min(a, b))
MSL_REDUCE(simd_and, a & b) MSL_REDUCE(simd_or, a | b) MSL_REDUCE(simd_xor, a ^ b)
template<class T> inline T simd_prefix_inclusive_sum(T x) {
  for (ushort by = 1; by < 32; by <<= 1) { T lower = simd_shuffle_up(x, by); if (__msl_lane() >= by) x += lower; }
  return x;
}
template<class T> inline T simd_prefix_exclusive_sum(T x) { return simd_prefix_inclusive_sum(x) - x; }
inline ulong __ballot(bool x) { return __msl_ballot(x); }
#else
inline void threadgroup_barrier(mem_flags flags MSL_AT) { __msl_barrier((unsigned)flags, false, file, at); }
inline void simdgroup_barrier(mem_flags flags MSL_AT) { __msl_barrier((unsigned)flags, true, file, at); }
// The value that a lane put into its slot. By memcpy: slots are bytes.
template<class T> MSL_UNSEEN inline T __slot(const char* slots, unsigned lane) {
  T x; __builtin_memcpy((void*)&x, slots + 64 * lane, sizeof(T)); return x;
}
template<class T> inline const char* __exchange(T x, void (*combine)(char*, unsigned) MSL_AT) {
  static_assert(sizeof(T) <= 64, "too large for a collective");
  return __msl_exchange(&x, sizeof(T), combine, file, at);
}
// Reductions run once a SIMD group, as a tree of neighbours at half the distance each time.
#define MSL_REDUCE(name, expression) \
  template<class T> MSL_UNSEEN void __##name(char* slots, unsigned lanes) { \
    T v[32]; \
    for (unsigned i = 0; i < lanes; i++) v[i] = __slot<T>(slots, i); \
    for (unsigned step = 16; step > 0; step >>= 1) \
      for (unsigned i = 0; i < step; i++) if (i + step < lanes) { T a = v[i], b = v[i + step]; v[i] = (T)(expression); } \
    __builtin_memcpy(slots + 64 * 32, (const void*)v, sizeof(T)); \
  } \
  template<class T> inline T name(T x MSL_AT) { return __slot<T>(__exchange(x, __##name<T> MSL_HERE), 32); }
MSL_REDUCE(simd_sum, a + b) MSL_REDUCE(simd_product, a * b) MSL_REDUCE(simd_max, max(a, b)) MSL_REDUCE(simd_min, min(a, b))
MSL_REDUCE(simd_and, a & b) MSL_REDUCE(simd_or, a | b) MSL_REDUCE(simd_xor, a ^ b)
template<class T> inline T __shuffle(T x, unsigned lane, bool own MSL_AT) {
  const char* slots = __exchange(x, nullptr MSL_HERE);
  if (own) return x;
  if (lane >= __msl_lanes()) __msl_fault("a shuffle reads a lane that does not exist", file, at);
  return __slot<T>(slots, lane);
}
template<class T> inline T simd_shuffle(T x, ushort lane MSL_AT) { return __shuffle(x, lane, false MSL_HERE); }
template<class T> inline T simd_broadcast(T x, ushort lane MSL_AT) { return __shuffle(x, lane, false MSL_HERE); }
template<class T> inline T simd_broadcast_first(T x MSL_AT) { return __shuffle(x, 0, false MSL_HERE); }
template<class T> inline T simd_shuffle_xor(T x, ushort mask MSL_AT) { return __shuffle(x, __msl_lane() ^ mask, false MSL_HERE); }
// Lanes past the end keep their own value here; Metal leaves it undefined.
template<class T> inline T simd_shuffle_down(T x, ushort by MSL_AT) { return __shuffle(x, __msl_lane() + by, __msl_lane() + by >= __msl_lanes() MSL_HERE); }
template<class T> inline T simd_shuffle_up(T x, ushort by MSL_AT) { return __shuffle(x, __msl_lane() - by, __msl_lane() < by MSL_HERE); }
template<class T> inline T quad_shuffle_xor(T x, ushort mask MSL_AT) { return __shuffle(x, __msl_lane() ^ (mask & 3), false MSL_HERE); }
template<class T> inline T simd_prefix_inclusive_sum(T x MSL_AT) {
  const char* slots = __exchange(x, nullptr MSL_HERE);
  T sum = T(0); for (unsigned i = 0; i <= __msl_lane(); i++) sum += __slot<T>(slots, i); return sum;
}
template<class T> inline T simd_prefix_exclusive_sum(T x MSL_AT) {
  const char* slots = __exchange(x, nullptr MSL_HERE);
  T sum = T(0); for (unsigned i = 0; i < __msl_lane(); i++) sum += __slot<T>(slots, i); return sum;
}
MSL_UNSEEN inline void __collect(char* slots, unsigned lanes) {
  ulong votes = 0;
  for (unsigned i = 0; i < lanes; i++) votes |= (ulong)__slot<bool>(slots, i) << i;
  __builtin_memcpy(slots + 64 * 32, &votes, 8);
}
inline ulong __ballot(bool x MSL_AT) { return __slot<ulong>(__exchange(x, __collect MSL_HERE), 32); }
#endif

struct simd_vote {
  ulong votes;
  explicit simd_vote(ulong votes) : votes(votes) {}
  explicit operator ulong() const { return votes; }
  bool any() const { return votes != 0; }
};
#if defined(MSL_SPACES) || defined(__CUDACC_RTC__) || defined(__HIP__)
inline simd_vote simd_ballot(bool x) { return simd_vote(__ballot(x)); }
inline bool simd_any(bool x) { return __ballot(x) != 0; }
inline bool simd_all(bool x) { return __ballot(!x) == 0; }
#else
inline simd_vote simd_ballot(bool x MSL_AT) { return simd_vote(__ballot(x MSL_HERE)); }
inline bool simd_any(bool x MSL_AT) { return __ballot(x MSL_HERE) != 0; }
inline bool simd_all(bool x MSL_AT) { return __ballot(!x MSL_HERE) == 0; }
#endif
}
