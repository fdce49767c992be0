// Runs a grid of threads: every thread of a threadgroup is a fiber that runs until it waits for others or ends.
//
// A lane that never waits costs no switch: a fiber whose lane ends takes the next lane that has not begun. A lane that
// waits switches straight to the next one. Which lane that is, is the schedule. When the last lane of a SIMD group (or
// threadgroup) arrives, it releases the others. Lanes that meet at different places, or that a lane has left for good,
// are a fault: it names the kernel, the group and the thread.
#include "runtime/job.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// The runtime itself is never instrumented: its own hand-overs would hide the races of the kernel.
#ifdef MSL_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#endif
#ifdef MSL_RACES
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_set_fiber_name(void*, const char*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

#if defined(__APPLE__)
#define SYMBOL(name) "_" #name
#else
#define SYMBOL(name) #name
#endif
// msl_switch(save, to): keeps the callee-saved registers on the stack, stores the stack pointer, continues at `to`.
#if defined(__x86_64__)
asm(".text\n.globl " SYMBOL(msl_switch) "\n" SYMBOL(msl_switch) ":\n"
    "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
    "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
static const int SAVED_WORDS = 6;
#elif defined(__aarch64__)
asm(".text\n.globl " SYMBOL(msl_switch) "\n" SYMBOL(msl_switch) ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"
    "stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n"
    "ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n ret\n");
#else
#error "no context switch for this processor"
#endif
extern "C" void msl_switch(void** save, void* to);

// Mirrors __msl_position of ../include/msl/host.h.
struct MslPosition {
  uint32_t in_grid[3], group[3], in_group[3], group_size[3], grid_size[3], groups[3];
  uint32_t index, lane, simd, simds;
  void* const* buffers;
  void* scratch;
};

enum { THREADS_MAX = 1024, LANES = 32, SIMDS_MAX = THREADS_MAX / LANES, SLOT_BYTES = 64, ARRAYS_MAX = 64 };
enum { THREADGROUP_BYTES_MAX = 32768 };
// Aligned to its size, so that a fiber finds itself from its stack pointer. The lowest page is a guard.
#if defined(MSL_ASAN) || defined(MSL_RACES)
static const size_t STACK_BYTES = 512 * 1024, GUARD_BYTES = 16 * 1024;
#else
static const size_t STACK_BYTES = 128 * 1024, GUARD_BYTES = 16 * 1024;
#endif

enum Wait { NONE, SIMD_EXCHANGE, SIMD_BARRIER, GROUP_BARRIER, ENDED };
typedef void (*Combine)(char*, unsigned);

struct Fiber;
struct Lane {
  MslPosition at;
  Fiber* fiber;
  Wait wait;
  uint32_t bytes;
  const char* file;
  uint32_t place;
};
// At the high end of its stack.
struct Fiber {
  void* sp;
  Lane* lane;
  MslWorker* worker;
  Fiber* next_free;
  void* fake_stack;
  void* race_fiber;
};
struct Simd {
  uint32_t all, ready, ended;
  uint32_t exchange;  // which half of the slots is in use: a lane may still read the one before
  Combine combine;
  char sync[2];  // addresses for the race check
  uint32_t barrier;
  alignas(64) char slots[2][(LANES + 1) * SLOT_BYTES];
};
struct Array { int id; size_t bytes; char* memory; };
struct MslWorker {
  const MslJob* job;
  void (*thunk)(const MslPosition*);
  void* sp;
  void* race_fiber;
  const void* stack;
  size_t stack_bytes;
  Fiber* free_fibers;
  uint32_t threads, simds, current, ended, barrier;
  uint64_t random;
  bool fault;
  char sync[2];
  Array arrays[ARRAYS_MAX];
  uint32_t array_count;
  size_t threadgroup_bytes;
  char* scratch;
  Simd simd[SIMDS_MAX];
  Lane lanes[THREADS_MAX];
};

static Fiber* fiber_now() {
  uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
  return (Fiber*)((frame & ~(STACK_BYTES - 1)) + STACK_BYTES - sizeof(Fiber));
}

static char* stack_of(Fiber* fiber) { return (char*)(fiber + 1) - STACK_BYTES; }

static Fiber* fiber_new(MslWorker* worker) {
  char* memory = (char*)mmap(0, 2 * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) { perror("msl: no memory for a stack"); abort(); }
  char* low = (char*)(((uintptr_t)memory + STACK_BYTES - 1) & ~(STACK_BYTES - 1));
  if (low > memory) munmap(memory, low - memory);
  munmap(low + STACK_BYTES, memory + STACK_BYTES - low);
  mprotect(low, GUARD_BYTES, PROT_NONE);
  Fiber* fiber = (Fiber*)(low + STACK_BYTES - sizeof(Fiber));
  fiber->worker = worker;
  return fiber;
}

// ---- switching

static void switch_to(Fiber* from, Fiber* to, bool for_good) {
#ifdef MSL_RACES
  __tsan_switch_to_fiber(to->race_fiber, 1);
#endif
#ifdef MSL_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from->fake_stack, stack_of(to), STACK_BYTES - sizeof(Fiber));
#endif
  (void)for_good;
  msl_switch(&from->sp, to->sp);
#ifdef MSL_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

static void switch_to_worker(Fiber* from, bool for_good) {
  MslWorker* worker = from->worker;
#ifdef MSL_RACES
  __tsan_switch_to_fiber(worker->race_fiber, 1);
#endif
#ifdef MSL_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from->fake_stack, worker->stack, worker->stack_bytes);
#endif
  (void)for_good;
  msl_switch(&from->sp, worker->sp);
}

static void fiber_main();

static Fiber* fiber_for(MslWorker* worker, Lane* lane) {
  Fiber* fiber = worker->free_fibers;
  if (fiber) worker->free_fibers = fiber->next_free;
  else fiber = fiber_new(worker);
  uintptr_t top = (uintptr_t)fiber & ~(uintptr_t)15;
#if defined(__x86_64__)
  void** sp = (void**)top;
  *--sp = nullptr;  // where fiber_main would return to: keeps the stack aligned as after a call
  *--sp = (void*)fiber_main;
  for (int i = 0; i < SAVED_WORDS; i++) *--sp = nullptr;
#else
  void** sp = (void**)top - 20;
  memset(sp, 0, 160);
  sp[11] = (void*)fiber_main;
#endif
  fiber->sp = sp;
  fiber->lane = lane;
  fiber->fake_stack = nullptr;
#ifdef MSL_RACES
  fiber->race_fiber = __tsan_create_fiber(0);
  char name[32];
  snprintf(name, sizeof name, "thread %u", lane->at.index);
  __tsan_set_fiber_name(fiber->race_fiber, name);
#endif
  lane->fiber = fiber;
  return fiber;
}

// ---- faults

static void fault(MslWorker* worker, const Lane* lane, const char* what, const char* file, uint32_t place) {
  if (worker->fault) return;
  worker->fault = true;
  const MslPosition* at = &lane->at;
  int used = snprintf(worker->job->message, 1024, "kernel %s, threadgroup (%u, %u, %u), thread %u (lane %u of SIMD group %u): %s",
                      worker->job->kernel, at->group[0], at->group[1], at->group[2], at->index, at->lane, at->simd, what);
  if (file && used < 1024) snprintf(worker->job->message + used, 1024 - used, " at %s:%u:%u", file, place >> 10, place & 1023);
}

static void differ(MslWorker* worker, const Lane* a, const Lane* b) {
  char what[512];
  static const char* const WAITS[] = {"runs", "waits in a SIMD-group operation", "waits at a SIMD-group barrier",
                                      "waits at a threadgroup barrier", "has ended"};
  char there[300] = "";
  if (b->wait != ENDED) snprintf(there, sizeof there, " at %s:%u:%u", b->file, b->place >> 10, b->place & 1023);
  snprintf(what, sizeof what, "divergence: thread %u %s%s, and this one %s", b->at.index, WAITS[b->wait], there, WAITS[a->wait]);
  fault(worker, a, what, a->file, a->place);
}

// ---- scheduling

static uint64_t random_next(MslWorker* worker) {
  uint64_t x = worker->random;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return worker->random = x;
}

static uint32_t pick_bit(MslWorker* worker, uint32_t mask) {
  if (worker->job->order == 0) return __builtin_ctz(mask);
  if (worker->job->order == 1) return 31 - __builtin_clz(mask);
  for (uint32_t n = random_next(worker) % __builtin_popcount(mask); n > 0; n--) mask &= mask - 1;
  return __builtin_ctz(mask);
}

// The next lane to run, or none: the group has ended, or there is a fault.
static Lane* pick(MslWorker* worker) {
  if (worker->fault) return nullptr;
  if (worker->job->order == 2 || !worker->simd[worker->current].ready) {
    uint32_t ready = 0;
    for (uint32_t i = 0; i < worker->simds; i++) ready |= (uint32_t)(worker->simd[i].ready != 0) << i;
    if (!ready) {
      if (worker->ended == worker->threads) return nullptr;
      // Some wait for a threadgroup barrier, which others never reach.
      const Lane *waits = nullptr, *other = nullptr;
      for (uint32_t i = 0; i < worker->threads; i++)
        (worker->lanes[i].wait == GROUP_BARRIER ? waits : other) = &worker->lanes[i];
      differ(worker, waits, other);
      return nullptr;
    }
    worker->current = pick_bit(worker, ready);
  }
  return &worker->lanes[worker->current * LANES + pick_bit(worker, worker->simd[worker->current].ready)];
}

// Whether all of `count` lanes wait at one place; a fault if they cannot meet any more.
static bool meet(MslWorker* worker, uint32_t first, uint32_t count) {
  const Lane* lanes = &worker->lanes[first];
  for (uint32_t i = 1; i < count; i++) {
    const Lane *a = &lanes[0], *b = &lanes[i];
    if (a->wait == b->wait && (a->wait == ENDED || (a->place == b->place && a->file == b->file && a->bytes == b->bytes))) continue;
    if (a->wait == ENDED) { const Lane* swap = a; a = b; b = swap; }
    differ(worker, a, b);
    return false;
  }
  return true;
}

// Called when no lane of the SIMD group can run.
static void release(MslWorker* worker, uint32_t index) {
  Simd* simd = &worker->simd[index];
  uint32_t first = index * LANES, count = __builtin_popcount(simd->all);
  if (!meet(worker, first, count)) return;
  switch (worker->lanes[first].wait) {
    case SIMD_EXCHANGE:
      if (simd->combine) simd->combine(simd->slots[simd->exchange], count);
      simd->exchange ^= 1;
      simd->ready = simd->all;
      break;
    case SIMD_BARRIER:
      simd->barrier++;
      simd->ready = simd->all;
      break;
    case GROUP_BARRIER:
      for (uint32_t i = 0; i < worker->simds; i++)
        if (worker->simd[i].ready || worker->lanes[i * LANES].wait != GROUP_BARRIER) return;
      worker->barrier++;
      if (!meet(worker, 0, worker->threads)) return;
      for (uint32_t i = 0; i < worker->simds; i++) worker->simd[i].ready = worker->simd[i].all;
      break;
    default:
      break;
  }
}

// The lane stops being ready for the given reason.
static void stop(MslWorker* worker, Lane* lane, Wait wait, const char* file, uint32_t place) {
  lane->wait = wait, lane->file = file, lane->place = place;
  Simd* simd = &worker->simd[lane->at.simd];
  simd->ready &= ~(1u << lane->at.lane);
  if (!simd->ready) release(worker, lane->at.simd);
}

static void wait_for_others(Fiber* fiber) {
  MslWorker* worker = fiber->worker;
  Lane *lane = fiber->lane, *next = pick(worker);
  if (next != lane) {
    if (!next) switch_to_worker(fiber, true);
    else switch_to(fiber, next->fiber ? next->fiber : fiber_for(worker, next), false);
  }
  lane->wait = NONE;
}

static void fiber_main() {
  Fiber* fiber = fiber_now();
  MslWorker* worker = fiber->worker;
#ifdef MSL_ASAN
  const void* stack;
  size_t stack_bytes;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &stack_bytes);
  if (!worker->stack) worker->stack = stack, worker->stack_bytes = stack_bytes;
#endif
  for (;;) {
    Lane* lane = fiber->lane;
    worker->thunk(&lane->at);
    worker->ended++;
    worker->simd[lane->at.simd].ended |= 1u << lane->at.lane;
#ifdef MSL_RACES
    __tsan_release(&worker->sp);
#endif
    stop(worker, lane, ENDED, nullptr, 0);
    Lane* next = pick(worker);
#ifndef MSL_RACES
    if (!next || next->fiber) {
      fiber->next_free = worker->free_fibers;
      worker->free_fibers = fiber;
    } else {
      fiber->lane = next, next->fiber = fiber;
      continue;
    }
#endif
    if (!next) switch_to_worker(fiber, true);
    switch_to(fiber, next->fiber ? next->fiber : fiber_for(worker, next), true);
  }
}

// ---- what kernels call

extern "C" unsigned __msl_lane() { return fiber_now()->lane->at.lane; }

extern "C" unsigned __msl_lanes() {
  Fiber* fiber = fiber_now();
  return __builtin_popcount(fiber->worker->simd[fiber->lane->at.simd].all);
}

extern "C" void __msl_fault(const char* what, const char* file, unsigned place) {
  Fiber* fiber = fiber_now();
  fault(fiber->worker, fiber->lane, what, file, place);
  switch_to_worker(fiber, true);
}

extern "C" const char* __msl_exchange(const void* value, unsigned bytes, Combine combine, const char* file, unsigned place) {
  Fiber* fiber = fiber_now();
  Lane* lane = fiber->lane;
  Simd* simd = &fiber->worker->simd[lane->at.simd];
  char* slots = simd->slots[simd->exchange];
  // No call of memcpy: the race check would see it.
  char* slot = slots + SLOT_BYTES * lane->at.lane;
  unsigned done = 0;
  for (; done + 4 <= bytes; done += 4) __builtin_memcpy(slot + done, (const char*)value + done, 4);
  for (; done < bytes; done++) slot[done] = ((const volatile char*)value)[done];
  simd->combine = combine;
  lane->bytes = bytes;
  stop(fiber->worker, lane, SIMD_EXCHANGE, file, place);
  wait_for_others(fiber);
  return slots;
}

extern "C" void __msl_barrier(unsigned flags, bool of_simd, const char* file, unsigned place) {
  Fiber* fiber = fiber_now();
  Lane* lane = fiber->lane;
  lane->bytes = flags;
#ifdef MSL_RACES
  // One object per generation: a lane that is early at the next barrier must not be ordered after those late at this one.
  char* sync = of_simd ? fiber->worker->simd[lane->at.simd].sync : fiber->worker->sync;
  uint32_t generation = (of_simd ? fiber->worker->simd[lane->at.simd].barrier : fiber->worker->barrier) & 1;
  flags &= fiber->worker->job->synced;
  if (flags) __tsan_release(&sync[generation]);
#endif
  stop(fiber->worker, lane, of_simd ? SIMD_BARRIER : GROUP_BARRIER, file, place);
  wait_for_others(fiber);
#ifdef MSL_RACES
  if (flags) __tsan_acquire(&sync[generation]);
#endif
}

// Memory that ends where an access past it is seen, filled with NaN. Reports of races name this function.
__attribute__((noinline)) static char* threadgroup_new(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, bytes)) abort();
  memset(memory, 0xff, bytes);
  return (char*)memory;
}

extern "C" void* __msl_threadgroup(int id, unsigned long bytes) {
  Fiber* fiber = fiber_now();
  MslWorker* worker = fiber->worker;
  for (uint32_t i = 0; i < worker->array_count; i++)
    if (worker->arrays[i].id == id) {
#ifdef MSL_RACES
      __tsan_acquire(&worker->arrays);  // the first lane has filled it
#endif
      return worker->arrays[i].memory;
    }
  worker->threadgroup_bytes += (bytes + 15) / 16 * 16;
  if (worker->array_count == ARRAYS_MAX || worker->threadgroup_bytes > THREADGROUP_BYTES_MAX) {
    fault(worker, fiber->lane, "more than 32768 bytes of threadgroup memory", nullptr, 0);
    switch_to_worker(fiber, true);
  }
  Array* array = &worker->arrays[worker->array_count++];
  *array = Array{id, bytes, threadgroup_new(bytes)};
#ifdef MSL_RACES
  __tsan_release(&worker->arrays);
#endif
  return array->memory;
}

// ---- groups

static void group_begin(MslWorker* worker, const uint32_t group[3]) {
  const MslJob* job = worker->job;
  const uint32_t *size = job->group_size, *groups = job->groups;
  worker->ended = worker->barrier = worker->current = 0;
  worker->fault = false;
  worker->threadgroup_bytes = (job->scratch_bytes + 15) / 16 * 16;
  worker->scratch = job->scratch_bytes ? threadgroup_new(job->scratch_bytes) : nullptr;
  for (uint32_t i = 0; i < worker->threads; i++) {
    Lane* lane = &worker->lanes[i];
    uint32_t x = i % size[0], y = i / size[0] % size[1], z = i / (size[0] * size[1]);
    lane->at = MslPosition{
        {group[0] * size[0] + x, group[1] * size[1] + y, group[2] * size[2] + z},
        {group[0], group[1], group[2]},
        {x, y, z},
        {size[0], size[1], size[2]},
        {groups[0] * size[0], groups[1] * size[1], groups[2] * size[2]},
        {groups[0], groups[1], groups[2]},
        i, i % LANES, i / LANES, worker->simds, job->buffers, worker->scratch};
    lane->fiber = nullptr;
    lane->wait = NONE, lane->bytes = 0, lane->file = nullptr, lane->place = 0;
  }
  for (uint32_t i = 0; i < worker->simds; i++) {
    uint32_t lanes = worker->threads - i * LANES;
    Simd* simd = &worker->simd[i];
    simd->all = simd->ready = lanes >= LANES ? ~0u : (1u << lanes) - 1;
    simd->ended = simd->exchange = simd->barrier = 0;
  }
  if (job->order == 1) worker->current = worker->simds - 1;
#ifdef MSL_RACES
  // All at once and by the worker: what a fiber did before it made another is ordered before that one's doings.
  for (uint32_t i = 0; i < worker->threads; i++) fiber_for(worker, &worker->lanes[i]);
#endif
}

static void group_end(MslWorker* worker) {
#ifdef MSL_RACES
  // Memory that another group had would bring that group's accesses along: none is used twice.
  __tsan_acquire(&worker->sp);
  for (uint32_t i = 0; i < worker->threads; i++)
    if (worker->lanes[i].fiber) {
      __tsan_destroy_fiber(worker->lanes[i].fiber->race_fiber);
      munmap(stack_of(worker->lanes[i].fiber), STACK_BYTES);
    }
#else
  // After a fault, fibers that stand in the middle of the kernel stay there: the device is lost.
  free(worker->scratch);
  for (uint32_t i = 0; i < worker->array_count; i++) free(worker->arrays[i].memory);
#endif
  worker->array_count = 0;
}

static void group_run(MslWorker* worker, const uint32_t group[3]) {
  group_begin(worker, group);
  Lane* first = pick(worker);
  Fiber* fiber = first->fiber ? first->fiber : fiber_for(worker, first);
#ifdef MSL_RACES
  worker->race_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber->race_fiber, 1);
#endif
#ifdef MSL_ASAN
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, stack_of(fiber), STACK_BYTES - sizeof(Fiber));
#endif
  msl_switch(&worker->sp, fiber->sp);
#ifdef MSL_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  group_end(worker);
}

extern "C" MslWorker* msl_worker_new() {
  void* worker = nullptr;
  if (posix_memalign(&worker, 64, sizeof(MslWorker))) abort();
  memset(worker, 0, sizeof(MslWorker));
  return (MslWorker*)worker;
}

extern "C" void msl_worker_free(MslWorker* worker) {
  for (Fiber* fiber = worker->free_fibers; fiber;) {
    Fiber* next = fiber->next_free;
    munmap(stack_of(fiber), STACK_BYTES);
    fiber = next;
  }
  free(worker);
}

static uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }

extern "C" int msl_run(const MslJob* job, MslWorker* worker) {
  worker->job = job;
  worker->thunk = nullptr;
  for (const MslEntry* entry = msl_entries; entry->name; entry++)
    if (!strcmp(entry->name, job->kernel)) worker->thunk = entry->thunk;
  if (!worker->thunk) { snprintf(job->message, 1024, "there is no kernel %s", job->kernel); return 1; }
  worker->threads = job->group_size[0] * job->group_size[1] * job->group_size[2];
  worker->simds = (worker->threads + LANES - 1) / LANES;
  uint64_t groups = (uint64_t)job->groups[0] * job->groups[1] * job->groups[2];
  // A random order of groups: a step that shares no factor with their number visits each of them once.
  uint64_t step = job->seed * 0x9e3779b97f4a7c15u % groups | 1, offset = job->seed % groups;
  while (gcd(step, groups) != 1) step += 2;
  for (;;) {
    uint64_t n = __atomic_fetch_add(job->next_group, 1, __ATOMIC_RELAXED);
    if (n >= groups) return 0;
    worker->random = (job->seed + n) * 0x9e3779b97f4a7c15u | 1;
    if (job->order == 1) n = groups - 1 - n;
    if (job->order == 2) n = (n * step + offset) % groups;
    uint32_t group[3] = {(uint32_t)(n % job->groups[0]), (uint32_t)(n / job->groups[0] % job->groups[1]),
                         (uint32_t)(n / job->groups[0] / job->groups[1])};
    group_run(worker, group);
    if (worker->fault) return 1;
  }
}
