// The host: address spaces are erased, collectives and barriers call the runtime.
#pragma once
#define device
#define threadgroup
#define constant const
#define thread
#define kernel static
#define MSL_TABLE static const
#define MSL_FUNCTION_CONSTANT(T, name, index) static constexpr T name = (T)(MSL_CONSTANT_##index)
#define MSL_THREADGROUP(T, name, dims) \
  typedef T name##_array dims; \
  name##_array& name = *(name##_array*)__msl_threadgroup(__COUNTER__, sizeof(name##_array))
// The slots of an exchange are the runtime's: the race check looks at the kernel's memory only.
#define MSL_UNSEEN __attribute__((no_sanitize("thread")))
#define MSL_FLOAT(name) __builtin_##name##f
#define MSL_SPACED(declaration, definition) declaration definition
typedef _Float16 half;
typedef __bf16 bfloat;
#define MSL_NATIVE_HALF 1
#define MSL_NATIVE_BFLOAT 1

// Where a collective stands: lanes that meet at different places have diverged.
#define MSL_AT , const char* file = __builtin_FILE(), unsigned at = __builtin_LINE() << 10 | __builtin_COLUMN()
#define MSL_HERE , file, at

extern "C" {
// Position of a thread; the thunks hand its parts to kernels. Mirrored in ../../runtime/runtime.cpp.
struct __msl_position {
  unsigned in_grid[3], group[3], in_group[3], group_size[3], grid_size[3], groups[3];
  unsigned index, lane, simd, simds;
  void* const* buffers;
  void* scratch;
};
void* __msl_threadgroup(int id, unsigned long bytes);
void __msl_barrier(unsigned flags, bool simd, const char* file, unsigned at);
// Waits for the other lanes of the SIMD group; returns 33 slots of 64 bytes: their values, and what `combine` left in
// the last one.
const char* __msl_exchange(const void* value, unsigned bytes, void (*combine)(char*, unsigned), const char* file,
                           unsigned at);
unsigned __msl_lane();
unsigned __msl_lanes();
void __msl_fault(const char* what, const char* file, unsigned at);
}
