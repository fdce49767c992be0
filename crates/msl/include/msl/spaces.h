// clang's OpenCL C++: address spaces are real and checked; nothing runs, so functions are only declared.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define device __global
#define threadgroup __local
#define constant __constant
#define thread __private
#define kernel
#define MSL_TABLE __constant
#define MSL_FUNCTION_CONSTANT(T, name, index) __constant constexpr T name = (T)(MSL_CONSTANT_##index)
#define MSL_THREADGROUP(T, name, dims) \
  typedef T name##_array dims; \
  __local name##_array& name = *(__local name##_array*)__msl_threadgroup(__COUNTER__, sizeof(name##_array))
#define MSL_SPACED(declaration, definition) declaration;
#define MSL_AT
#define MSL_HERE
#define MSL_NATIVE_HALF 1
extern "C" __local void* __msl_threadgroup(int id, unsigned long bytes);
