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
  float typical_p;
  float xtc_probability;
  float xtc_threshold;
  bool biased;
  bool masked;
};

inline float float_at(device const uint* words, uint at) { return as_type<float>(words[at]); }

inline Sampling sampling_at(device const uint* words) {
  const Sampling how = {float_at(words, 0), float_at(words, 1), words[2], float_at(words, 3), float_at(words, 4), words[5], words[6], words[7],
      float_at(words, 8), float_at(words, 9), float_at(words, 10), words[11] != 0, words[12] != 0};
  return how;
}

// The first two words of Philox4x32-10 (Salmon et al. 2011) for counter (draw, 0, 0, 0).
inline uint2 philox(uint draw, uint key_low, uint key_high) {
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
  return uint2(a, b);
}

// A row of logits under its sampler.
struct Row {
  device const float* logits;
  device const float* bias;
  device const uint* allowed; // a bit for each token
  device const uint* seen;    // a bit for each token
  uint vocabulary;
};

inline bool in_set(device const uint* words, uint id) { return (words[id / 32] >> (id % 32) & 1) != 0; }

inline float penalized(Row row, Sampling how, uint id) {
  if (how.masked && !in_set(row.allowed, id)) {
    return -INFINITY;
  }
  const float logit = how.biased ? row.logits[id] + row.bias[id] : row.logits[id];
  const float x = logit / (how.temperature == 0.0f ? 1.0f : how.temperature);
  if (how.penalty == 1.0f || !in_set(row.seen, id)) {
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

// Tokens that may be drawn. In the order of ranks, and at one rank of ids: from the first to the last, both kept.
struct Kept {
  uint rank; // of the last
  uint id;
  uint first_rank;
  uint first_id;
  float mean;    // of the logits
  uint distance; // from the mean at most
  float most;    // the largest logit
  float min_p;
};

// How far from the mean, so that larger bits are farther.
inline uint distance_of(Kept kept, float x) { return as_type<uint>(fabs(x - kept.mean)); }

inline bool is_kept(Kept kept, float x, uint rank, uint id) {
  return (rank < kept.rank || (rank == kept.rank && id <= kept.id)) &&
      (rank > kept.first_rank || (rank == kept.first_rank && id >= kept.first_id)) && distance_of(kept, x) <= kept.distance;
}

inline ulong units_of(Kept kept, float x) {
  const float weight = precise::exp(x - kept.most);
  return weight >= kept.min_p ? ulong(weight * UNITS) : 0;
}

// What is summed, and in which order it is searched.
constant uint COUNT_BY_RANK = 0;
constant uint COUNT_BY_ID = 1; // of the tokens at `kept.rank`
constant uint UNITS_BY_RANK = 2;
constant uint UNITS_BY_ID = 3;
constant uint UNITS_BY_DISTANCE = 4;
constant uint UNITS_BELOW = 5; // weight times how far below the largest logit: less than half a weight

inline ulong amount_of(Kept kept, uint what, float x, uint rank) {
  if (what == COUNT_BY_RANK) {
    return 1;
  }
  if (what == COUNT_BY_ID) {
    return rank == kept.rank ? 1 : 0;
  }
  if (what == UNITS_BELOW) {
    const float weight = precise::exp(x - kept.most);
    return weight > 0.0f ? ulong(weight * (kept.most - x) * UNITS) : 0;
  }
  return units_of(kept, x);
}

// The threads of a row, and what they share.
struct Group {
  threadgroup atomic_uint* parts; // (3, 256): bins of one digit, each a sum in three parts of 13 bits, so that 2^18 tokens fit
  threadgroup ulong* sums;        // (32)
  threadgroup ulong* before;      // (1): where a search stands
  threadgroup uint* digit;        // (1)
  threadgroup uint* ranks;        // (32)
  threadgroup uint* ids;          // (32)
  uint thread_index;
  uint threads;
  ushort lane;
  ushort simd;
  ushort simds;
};

// The first key, in rising order, up to which tokens sum to more than `target`; `before` comes to be the sum of those below it.
// Four digits of eight bits, of which those that all keys share take no pass.
inline uint search(Row row, Sampling how, Kept kept, uint what, ulong target, Group group, thread ulong& before) {
  const bool by_id = what == COUNT_BY_ID || what == UNITS_BY_ID;
  const uint first_shift = !by_id || row.vocabulary > (1u << 24) ? 24 : row.vocabulary > (1u << 16) ? 16 : row.vocabulary > 256 ? 8 : 0;
  uint found = 0;
  before = 0;
  for (uint shift = first_shift + 8; shift > 0;) {
    shift -= 8;
    for (uint i = group.thread_index; i < 3 * 256; i += group.threads) {
      atomic_store_explicit(group.parts + i, 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint id = group.thread_index; id < row.vocabulary; id += group.threads) {
      const float x = penalized(row, how, id);
      const uint rank = rank_of(x);
      const uint key = by_id ? id : what == UNITS_BY_DISTANCE ? distance_of(kept, x) : rank;
      const bool prefix = shift >= first_shift || key >> (shift + 8) == found >> (shift + 8);
      if (prefix && is_kept(kept, x, rank, id)) {
        const ulong sum = amount_of(kept, what, x, rank);
        const uint digit = key >> shift & 255;
        for (uint part = 0; part < 3; part++) {
          const uint bits = uint(sum >> (13 * part)) & (part == 2 ? 0x3fffu : 0x1fffu);
          if (bits != 0) {
            atomic_fetch_add_explicit(group.parts + part * 256 + digit, bits, memory_order_relaxed);
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // A lane sums eight bins; then one thread walks the lanes, and its bins.
    if (group.thread_index < 32) {
      ulong sum = 0;
      for (uint digit = 8 * group.thread_index; digit < 8 * group.thread_index + 8; digit++) {
        for (uint part = 0; part < 3; part++) {
          sum += ulong(atomic_load_explicit(group.parts + part * 256 + digit, memory_order_relaxed)) << (13 * part);
        }
      }
      group.sums[group.thread_index] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (group.thread_index == 0) {
      ulong sum = before;
      uint eight = 0;
      for (; eight < 31 && sum + group.sums[eight] <= target; eight++) {
        sum += group.sums[eight];
      }
      uint digit = 8 * eight;
      for (; digit < 8 * eight + 7; digit++) {
        ulong bin = 0;
        for (uint part = 0; part < 3; part++) {
          bin += ulong(atomic_load_explicit(group.parts + part * 256 + digit, memory_order_relaxed)) << (13 * part);
        }
        if (sum + bin > target) {
          break;
        }
        sum += bin;
      }
      *group.before = sum;
      *group.digit = digit;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    before = *group.before;
    found |= *group.digit << shift;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  return found;
}

// Of a number below 1, in units of 2^-32.
inline uint fraction_of(float x) { return uint(max(x, 0.0f) * 4294967296.0f); }

// `total * fraction / 2^32`, rounded down.
inline ulong part_of(ulong total, uint fraction) {
  return (total >> 32) * fraction + ((total & 0xffffffffu) * fraction >> 32);
}

// The sum over all kept tokens.
inline ulong sum_of_kept(Row row, Sampling how, Kept kept, uint what, Group group) {
  ulong sum = 0;
  for (uint id = group.thread_index; id < row.vocabulary; id += group.threads) {
    const float x = penalized(row, how, id);
    const uint rank = rank_of(x);
    if (is_kept(kept, x, rank, id)) {
      sum += amount_of(kept, what, x, rank);
    }
  }
  for (uint part = group.thread_index; part < 3; part += group.threads) {
    atomic_store_explicit(group.parts + part, 0u, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  // Sums of up to 2^57: three parts of 20 bits, of up to 1024 threads.
  for (uint part = 0; part < 3; part++) {
    atomic_fetch_add_explicit(group.parts + part, uint(sum >> (20 * part)) & 0xfffffu, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0;
  for (uint part = 0; part < 3; part++) {
    sum += ulong(atomic_load_explicit(group.parts + part, memory_order_relaxed)) << (20 * part);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return sum;
}

// Keeps the first `count` tokens at rank `rank`.
inline Kept keep(Row row, Sampling how, Kept kept, uint rank, ulong count, Group group) {
  ulong before = 0;
  Kept less = kept;
  // Of the tokens before, `kept.id` bounds those at its own rank only.
  less.id = rank == kept.rank ? kept.id : UINT_MAX;
  less.rank = rank;
  less.id = min(less.id, search(row, how, less, COUNT_BY_ID, count - 1, group, before));
  return less;
}

// The least pair of a rank and an id that any thread has.
inline uint2 least(uint rank, uint id, Group group) {
  const uint least_rank = simd_min(rank);
  const uint least_id = simd_min(rank == least_rank ? id : UINT_MAX);
  if (group.lane == 0) {
    group.ranks[group.simd] = least_rank;
    group.ids[group.simd] = least_id;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint own = group.lane < group.simds ? group.ranks[group.lane] : UINT_MAX;
  const uint first = simd_min(own);
  const uint first_id = simd_min(group.lane < group.simds && own == first ? group.ids[group.lane] : UINT_MAX);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return uint2(first, first_id);
}

// The most probable token of those kept.
inline uint most_probable(Row row, Sampling how, Kept kept, Group group) {
  uint rank = UINT_MAX, id = UINT_MAX;
  for (uint i = group.thread_index; i < row.vocabulary; i += group.threads) {
    const float x = penalized(row, how, i);
    const uint next = rank_of(x);
    if (next < rank && is_kept(kept, x, next, i)) {
      rank = next;
      id = i;
    }
  }
  return least(rank, id, group).y;
}

inline Kept keep_top_k(Row row, Sampling how, Kept kept, Group group) {
  ulong before = 0;
  const uint rank = search(row, how, kept, COUNT_BY_RANK, how.top_k - 1, group, before);
  return keep(row, how, kept, rank, how.top_k - before, group);
}

// The tokens of the most typical surprise. With ln p = x - ln Z and the entropy H = ln Z - E[x], its distance -ln p - H is
// E[x] - x: no logarithm is needed.
inline Kept keep_typical(Row row, Sampling how, Kept kept, Group group) {
  const ulong total = sum_of_kept(row, how, kept, UNITS_BY_DISTANCE, group);
  Kept less = kept;
  less.mean = kept.most - float(sum_of_kept(row, how, kept, UNITS_BELOW, group)) / float(total);
  ulong before = 0;
  const ulong wanted = max(part_of(total, fraction_of(how.typical_p)), ulong(1));
  less.distance = search(row, how, less, UNITS_BY_DISTANCE, wanted - 1, group, before);
  less.most = penalized(row, how, most_probable(row, how, less, group));
  return less;
}

inline Kept keep_top_p(Row row, Sampling how, Kept kept, Group group) {
  ulong before = 0;
  const ulong total = sum_of_kept(row, how, kept, UNITS_BY_RANK, group);
  const ulong wanted = max(part_of(total, fraction_of(how.top_p)), ulong(1));
  const uint rank = search(row, how, kept, UNITS_BY_RANK, wanted - 1, group, before);
  // Its tokens have one weight: as many are kept as it takes.
  const uint bits = (rank >> 31) != 0 ? rank : ~rank & 0x7fffffffu;
  const ulong units = max(units_of(kept, as_type<float>(bits)), ulong(1));
  return keep(row, how, kept, rank, max((wanted - min(before, wanted) + units - 1) / units, ulong(1)), group);
}

// Without the tokens before the last one that is as probable as the threshold.
inline Kept exclude_top(Row row, Sampling how, Kept kept, ulong total, Group group) {
  const ulong wanted = max(part_of(total, fraction_of(how.xtc_threshold)), ulong(1));
  // The last one in the order of ranks and ids is the least one of the complements; none leaves all tokens.
  uint rank = UINT_MAX, id = UINT_MAX;
  for (uint i = group.thread_index; i < row.vocabulary; i += group.threads) {
    const float x = penalized(row, how, i);
    const uint next = rank_of(x);
    if (~next <= rank && is_kept(kept, x, next, i) && units_of(kept, x) >= wanted) {
      rank = ~next;
      id = ~i;
    }
  }
  const uint2 last = least(rank, id, group);
  Kept less = kept;
  less.first_rank = ~last.x;
  less.first_id = ~last.y;
  return less;
}

// A threadgroup samples a row. The largest number and its first place come first: greedy rows are done then.
kernel void sample(
    device const uint* counts [[buffer(0)]],
    device const uint* rows [[buffer(1)]],
    device const uint* sequences [[buffer(2)]],
    device const uint* samplers [[buffer(3)]],
    device const uint* seen [[buffer(4)]],
    device const uint* allowed [[buffer(5)]],
    device const float* bias [[buffer(6)]],
    device const float* logits [[buffer(7)]], // (rows, vocabulary)
    device uint* sampled [[buffer(8)]],
    constant Args& args [[buffer(9)]],
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
  threadgroup uint ranks[32];
  threadgroup uint ids[32];
  if (at >= counts[1]) {
    return;
  }
  const Group group = {parts, sums, sum_before, digit, ranks, ids, thread_index, threads, lane, simd, simds};
  const Sampling how = sampling_at(samplers + args.sampler_words * at);
  const ulong first = ulong(at) * args.vocabulary;
  const Row row = {logits + first, bias + first, allowed + at * args.seen_words, seen + sequences[rows[at]] * args.seen_words, args.vocabulary};
  Kept kept = {UINT_MAX, UINT_MAX, 0, 0, 0.0f, UINT_MAX, 0.0f, 0.0f};
  uint id = most_probable(row, how, kept, group);
  kept.most = penalized(row, how, id);
  // Where nothing is allowed, the first token stands for an answer.
  if (how.temperature == 0.0f || kept.most == -INFINITY) {
    if (thread_index == 0) {
      sampled[at] = id;
    }
    return;
  }
  if (how.top_k > 0 && how.top_k < args.vocabulary) {
    kept = keep_top_k(row, how, kept, group);
  }
  if (how.typical_p < 1.0f) {
    kept = keep_typical(row, how, kept, group);
  }
  if (how.top_p < 1.0f) {
    kept = keep_top_p(row, how, kept, group);
  }
  kept.min_p = min(how.min_p, 1.0f);
  ulong total = sum_of_kept(row, how, kept, UNITS_BY_ID, group);
  const uint2 uniforms = philox(how.draw, how.seed_low, how.seed_high);
  // No two tokens have more than half.
  if (float(uniforms.y >> 8) < how.xtc_probability * 16777216.0f && how.xtc_threshold <= 0.5f) {
    kept = exclude_top(row, how, kept, total, group);
    total = sum_of_kept(row, how, kept, UNITS_BY_ID, group);
  }
  ulong before = 0;
  id = search(row, how, kept, UNITS_BY_ID, part_of(total, uniforms.x & 0xffffff00u), group, before);
  if (thread_index == 0) {
    sampled[at] = id;
  }
}
