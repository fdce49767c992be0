#include <metal_stdlib>
using namespace metal;

// How a row is sampled: the words of a Sampler.
struct Sampling {
  float temperature;
  float penalty;
  uint top_k;
  float top_p;
  float min_p;
  uint seed_low;
  uint seed_high;
  uint draw;
};

inline float float_at(device const uint* words, uint at) { return as_type<float>(words[at]); }

inline Sampling sampling_at(device const uint* words) {
  const Sampling how = {float_at(words, 0), float_at(words, 1), words[2], float_at(words, 3), float_at(words, 4), words[5], words[6], words[7]};
  return how;
}

// The first word of Philox4x32-10 (Salmon et al. 2011) for counter (draw, 0, 0, 0).
inline uint philox(uint draw, uint key_low, uint key_high) {
  uint a = draw, b = 0, c = 0, d = 0;
  for (uint round = 0; round < 10; round++) {
    const uint high_a = mulhi(0xd2511f53u, a), low_a = 0xd2511f53u * a;
    const uint high_c = mulhi(0xcd9e8d57u, c), low_c = 0xcd9e8d57u * c;
    a = high_c ^ b ^ key_low;
    b = low_c;
    c = high_a ^ d ^ key_high;
    d = low_a;
    key_low += 0x9e3779b9u;
    key_high += 0xbb67ae85u;
  }
  return a;
}

// A row of logits under its sampler.
struct Row {
  device const float* logits;
  device const uint* seen; // a bit for each token
  uint vocabulary;
};

inline float penalized(Row row, Sampling how, uint id) {
  const float x = row.logits[id] / (how.temperature == 0.0f ? 1.0f : how.temperature);
  if (how.penalty == 1.0f || (row.seen[id / 32] >> (id % 32) & 1) == 0) {
    return x;
  }
  return x > 0.0f ? x / how.penalty : x * how.penalty;
}

// Smaller for larger numbers: the order in which tokens are kept.
inline uint rank_of(float x) {
  const uint bits = as_type<uint>(x);
  return (bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu;
}

// Weights are summed as integers, in units of 2^-39 of the largest: sums depend on no order.
constant float UNITS = 549755813888.0f;

// Tokens that may be drawn: those that come before `rank`, and of those at `rank` the ids up to `id`.
struct Kept {
  uint rank;
  uint id;
  float most; // the largest of the row
  float min_p;
};

inline bool is_kept(Kept kept, uint rank, uint id) {
  return rank < kept.rank || (rank == kept.rank && id <= kept.id);
}

inline ulong units_of(Kept kept, float x) {
  const float weight = precise::exp(x - kept.most);
  return weight >= kept.min_p ? ulong(weight * UNITS) : 0;
}

// What a search counts, and in which order.
constant uint COUNT_BY_RANK = 0;
constant uint COUNT_BY_ID = 1; // of the tokens at `kept.rank`
constant uint UNITS_BY_RANK = 2;
constant uint UNITS_BY_ID = 3;

// Bins of one digit, each a sum in three parts of 13 bits, so that 2^18 tokens fit; then where a search stands.
struct Bins {
  threadgroup atomic_uint* parts; // (3, 256)
  threadgroup ulong* sums;        // (32)
  threadgroup ulong* before;      // (1)
  threadgroup uint* digit;        // (1)
};

// The first key, in rising order, up to which tokens sum to more than `target`; `before` comes to be the sum of those below it.
// Four digits of eight bits, of which those that all keys share take no pass.
inline uint search(Row row, Sampling how, Kept kept, uint what, ulong target, Bins bins, thread ulong& before, uint thread_index, uint threads) {
  const bool by_rank = what == COUNT_BY_RANK || what == UNITS_BY_RANK;
  const uint first_shift = by_rank || row.vocabulary > (1u << 24) ? 24 : row.vocabulary > (1u << 16) ? 16 : row.vocabulary > 256 ? 8 : 0;
  uint found = 0;
  before = 0;
  for (uint shift = first_shift + 8; shift > 0;) {
    shift -= 8;
    for (uint i = thread_index; i < 3 * 256; i += threads) {
      atomic_store_explicit(bins.parts + i, 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint id = thread_index; id < row.vocabulary; id += threads) {
      const float x = penalized(row, how, id);
      const uint rank = rank_of(x);
      const uint key = by_rank ? rank : id;
      const bool prefix = shift >= first_shift || key >> (shift + 8) == found >> (shift + 8);
      if (prefix && is_kept(kept, rank, id)) {
        ulong sum = 1;
        if (what == COUNT_BY_ID) {
          sum = rank == kept.rank ? 1 : 0;
        } else if (what != COUNT_BY_RANK) {
          sum = units_of(kept, x);
        }
        const uint digit = key >> shift & 255;
        for (uint part = 0; part < 3; part++) {
          const uint bits = uint(sum >> (13 * part)) & (part == 2 ? 0x3fffu : 0x1fffu);
          if (bits != 0) {
            atomic_fetch_add_explicit(bins.parts + part * 256 + digit, bits, memory_order_relaxed);
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // A lane sums eight bins; then one thread walks the lanes, and its bins.
    if (thread_index < 32) {
      ulong sum = 0;
      for (uint digit = 8 * thread_index; digit < 8 * thread_index + 8; digit++) {
        for (uint part = 0; part < 3; part++) {
          sum += ulong(atomic_load_explicit(bins.parts + part * 256 + digit, memory_order_relaxed)) << (13 * part);
        }
      }
      bins.sums[thread_index] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0) {
      ulong sum = before;
      uint eight = 0;
      for (; eight < 31 && sum + bins.sums[eight] <= target; eight++) {
        sum += bins.sums[eight];
      }
      uint digit = 8 * eight;
      for (; digit < 8 * eight + 7; digit++) {
        ulong bin = 0;
        for (uint part = 0; part < 3; part++) {
          bin += ulong(atomic_load_explicit(bins.parts + part * 256 + digit, memory_order_relaxed)) << (13 * part);
        }
        if (sum + bin > target) {
          break;
        }
        sum += bin;
      }
      *bins.before = sum;
      *bins.digit = digit;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    before = *bins.before;
    found |= *bins.digit << shift;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  return found;
}

// `total * fraction / 2^32`, rounded down.
inline ulong part_of(ulong total, uint fraction) {
  return (total >> 32) * fraction + ((total & 0xffffffffu) * fraction >> 32);
}

// The sum over all kept tokens.
inline ulong sum_of_kept(Row row, Sampling how, Kept kept, Bins bins, uint thread_index, uint threads) {
  ulong sum = 0;
  for (uint id = thread_index; id < row.vocabulary; id += threads) {
    const float x = penalized(row, how, id);
    if (is_kept(kept, rank_of(x), id)) {
      sum += units_of(kept, x);
    }
  }
  for (uint part = thread_index; part < 3; part += threads) {
    atomic_store_explicit(bins.parts + part, 0u, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  // Sums of up to 2^57: three parts of 20 bits, of up to 1024 threads.
  for (uint part = 0; part < 3; part++) {
    atomic_fetch_add_explicit(bins.parts + part, uint(sum >> (20 * part)) & 0xfffffu, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0;
  for (uint part = 0; part < 3; part++) {
    sum += ulong(atomic_load_explicit(bins.parts + part, memory_order_relaxed)) << (20 * part);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return sum;
}

// Keeps the first `count` tokens at rank `rank`.
inline Kept keep(Row row, Sampling how, Kept kept, uint rank, ulong count, Bins bins, uint thread_index, uint threads) {
  ulong before = 0;
  Kept less = kept;
  // Of the tokens before, `kept.id` bounds those at its own rank only.
  less.id = rank == kept.rank ? kept.id : UINT_MAX;
  less.rank = rank;
  less.id = min(less.id, search(row, how, less, COUNT_BY_ID, count - 1, bins, before, thread_index, threads));
  return less;
}

// A threadgroup samples a row. The largest number and its first place come first: greedy rows are done then.
kernel void sample(
    device const uint* counts [[buffer(0)]],
    device const uint* rows [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* samplers [[buffer(3)]],
    device const uint* seen [[buffer(4)]],
    device const float* logits [[buffer(5)]], // (rows, vocabulary)
    device uint* sampled [[buffer(6)]],
    constant Args& args [[buffer(7)]],
    uint at [[threadgroup_position_in_grid]],
    uint thread_index [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  threadgroup atomic_uint parts[3 * 256];
  threadgroup ulong sums[32];
  threadgroup ulong sum_before[1];
  threadgroup uint digit[1];
  threadgroup uint best_rank[32];
  threadgroup uint best_id[32];
  if (at >= counts[1]) {
    return;
  }
  const Sampling how = sampling_at(samplers + 8 * at);
  const Row row = {logits + ulong(at) * args.vocabulary, seen + sequences[rows[at]] * args.seen_words, args.vocabulary};
  uint rank = UINT_MAX, id = UINT_MAX;
  for (uint i = thread_index; i < args.vocabulary; i += threads) {
    const uint next = rank_of(penalized(row, how, i));
    if (next < rank) {
      rank = next;
      id = i;
    }
  }
  const uint least = simd_min(rank);
  id = simd_min(rank == least ? id : UINT_MAX);
  if (lane == 0) {
    best_rank[simd] = least;
    best_id[simd] = id;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint own = lane < simds ? best_rank[lane] : UINT_MAX;
  const uint first = simd_min(own);
  id = simd_min(lane < simds && own == first ? best_id[lane] : UINT_MAX);
  if (how.temperature == 0.0f) {
    if (thread_index == 0) {
      sampled[at] = id;
    }
    return;
  }
  const Bins bins = {parts, sums, sum_before, digit};
  Kept kept = {UINT_MAX, UINT_MAX, penalized(row, how, id), 0.0f};
  ulong before = 0;
  if (how.top_k > 0 && how.top_k < args.vocabulary) {
    rank = search(row, how, kept, COUNT_BY_RANK, how.top_k - 1, bins, before, thread_index, threads);
    kept = keep(row, how, kept, rank, how.top_k - before, bins, thread_index, threads);
  }
  if (how.top_p < 1.0f) {
    const ulong total = sum_of_kept(row, how, kept, bins, thread_index, threads);
    const ulong wanted = max(part_of(total, uint(max(how.top_p, 0.0f) * 4294967296.0f)), ulong(1));
    rank = search(row, how, kept, UNITS_BY_RANK, wanted - 1, bins, before, thread_index, threads);
    // Its tokens have one weight: as many are kept as it takes.
    const uint bits = (rank >> 31) != 0 ? rank : ~rank & 0x7fffffffu;
    const ulong units = max(units_of(kept, as_type<float>(bits)), ulong(1));
    kept = keep(row, how, kept, rank, max((wanted - min(before, wanted) + units - 1) / units, ulong(1)), bins, thread_index, threads);
  }
  kept.min_p = how.min_p;
  const ulong total = sum_of_kept(row, how, kept, bins, thread_index, threads);
  const uint uniform = philox(how.draw, how.seed_low, how.seed_high) >> 8;
  // No token at all is as likely as min_p asks for when that is more than 1.
  if (total > 0) {
    id = search(row, how, kept, UNITS_BY_ID, part_of(total, uniform << 8), bins, before, thread_index, threads);
  }
  if (thread_index == 0) {
    sampled[at] = id;
  }
}
