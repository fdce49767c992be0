// One launch in a process of its own, for the sanitizers: reads a job file, runs it, writes the buffers back.
#include "runtime/job.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef MSL_ASAN
extern "C" void __asan_poison_memory_region(void const volatile*, size_t);
#endif

static FILE* file;

static void get(void* target, size_t bytes) {
  if (bytes && fread(target, bytes, 1, file) != 1) { fprintf(stderr, "msl: the job file is cut short\n"); exit(2); }
}

static uint64_t number() { uint64_t value; get(&value, 8); return value; }

// Reports of races name this function where device memory is meant. Memory that begins `shift` bytes after a multiple of 64, as on the device, and ends where it ends.
__attribute__((noinline)) static char* memory_new(size_t bytes, size_t shift) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, bytes + shift)) abort();
#ifdef MSL_ASAN
  __asan_poison_memory_region(memory, shift);
#endif
  return (char*)memory + shift;
}

int main(int, char** arguments) {
  file = fopen(arguments[1], "rb");
  if (!file) { perror(arguments[1]); return 2; }
  MslJob job = {};
  static char kernel[256], message[1024];
  get(kernel, number() % sizeof kernel);
  job.kernel = kernel, job.message = message;
  for (int i = 0; i < 3; i++) job.groups[i] = number();
  for (int i = 0; i < 3; i++) job.group_size[i] = number();
  job.scratch_bytes = number(), job.order = number(), job.synced = number(), job.seed = number();
  uint32_t regions = number();
  char** region = (char**)calloc(regions, sizeof(char*));
  size_t* bytes = (size_t*)calloc(regions, sizeof(size_t));
  for (uint32_t i = 0; i < regions; i++) {
    bytes[i] = number();
    region[i] = memory_new(bytes[i], number());
    get(region[i], bytes[i]);
  }
  uint32_t buffers = number();
  void** buffer = (void**)calloc(buffers, sizeof(void*));
  for (uint32_t i = 0; i < buffers; i++) { uint64_t in = number(); buffer[i] = region[in] + number(); }
  fclose(file);
  uint64_t next = 0;
  job.buffers = buffer, job.next_group = &next;
  if (msl_run(&job, msl_worker_new())) { fprintf(stderr, "%s\n", message); return 3; }
  file = fopen(arguments[1], "wb");
  for (uint32_t i = 0; i < regions; i++)
    if (bytes[i] && (!file || fwrite(region[i], bytes[i], 1, file) != 1)) { perror(arguments[1]); return 2; }
  return fclose(file) != 0;
}
