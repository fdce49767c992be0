// What the device hands to the runtime for one launch. Mirrored in ../src/soft/library.rs.
#pragma once
#include <stddef.h>
#include <stdint.h>
struct MslJob {
  const char* kernel;
  void* const* buffers;
  uint32_t groups[3], group_size[3];
  uint32_t scratch_bytes;
  uint32_t order;  // 0 forward, 1 reverse, 2 random
  uint32_t synced;  // mem_flags that order memory in the eyes of the race check
  uint64_t seed;
  uint64_t* next_group;  // shared by all workers of the launch
  char* message;         // 1024 bytes, for the first fault
};
struct MslPosition;
struct MslEntry {
  const char* name;
  void (*thunk)(const MslPosition*);
  size_t args_bytes;
  uint32_t align[32];
};
extern "C" {
extern const MslEntry msl_entries[];
struct MslWorker;
MslWorker* msl_worker_new();
void msl_worker_free(MslWorker*);
// Runs groups until none is left. Not 0: a fault, described in the job's message.
int msl_run(const MslJob* job, MslWorker* worker);
}
