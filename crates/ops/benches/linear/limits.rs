//! What the machine can do at most, measured with as many threads as the kernels use.
use std::time::Instant;

/// Bytes that each thread reads per pass, in its own memory: larger than any cache.
const BYTES: usize = 256 << 20;

/// Runs `work` on `threads` threads a few times; returns the least seconds that all of them took together.
fn best_of(threads: usize, passes: usize, work: impl Fn(usize) + Sync) -> f64 {
    let pass = |_| {
        let barrier = std::sync::Barrier::new(threads + 1);
        std::thread::scope(|scope| {
            let (barrier, work) = (&barrier, &work);
            let spawned: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        barrier.wait();
                        work(thread);
                    })
                })
                .collect();
            barrier.wait();
            let start = Instant::now();
            spawned.into_iter().for_each(|thread| thread.join().expect("no panic"));
            start.elapsed().as_secs_f64()
        })
    };
    (0..passes).map(pass).fold(f64::INFINITY, f64::min)
}

/// Memory to read: kept, since other guests of the host change what it yields from second to second.
pub(crate) struct Reader(Vec<memmap2::MmapMut>);

impl Reader {
    pub(crate) fn new(threads: usize) -> Self {
        let memory = |_| {
            let mut memory = memmap2::MmapMut::map_anon(BYTES).expect("memory");
            #[cfg(target_os = "linux")]
            drop(memory.advise(memmap2::Advice::HugePage));
            fill(&mut memory);
            memory
        };
        Self((0..threads).map(memory).collect())
    }

    /// Sequential reads by all threads, GB/s.
    pub(crate) fn bandwidth(&self) -> f64 {
        let seconds = best_of(self.0.len(), 5, |thread| {
            std::hint::black_box(sum(&self.0[thread]));
        });
        (BYTES * self.0.len()) as f64 / seconds / 1e9
    }
}

/// Different bytes on every page: a host that merges equal pages would serve them from a cache. All are 0x20 to 0x27, which
/// no format reads as a NaN or a subnormal number.
pub(crate) fn fill(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = (0x2020_2020_2020_2020 | state & 0x0707_0707_0707_0707).to_le_bytes();
    }
}

#[cfg(target_arch = "x86_64")]
fn sum(bytes: &[u8]) -> i64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(bytes: &[u8]) -> i64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        for four in bytes.as_chunks::<256>().0 {
            for (sum, line) in sums.iter_mut().zip(four.as_chunks::<64>().0) {
                // SAFETY: 64 bytes can be read; prefetching past the end does nothing.
                let line = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(4096).cast());
                    _mm512_loadu_si512(line.as_ptr().cast())
                };
                *sum = _mm512_add_epi64(*sum, line);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_epi64(sum)).fold(0, i64::wrapping_add)
    }
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: just detected.
        return unsafe { wide(bytes) };
    }
    plain(bytes)
}

#[cfg(not(target_arch = "x86_64"))]
fn sum(bytes: &[u8]) -> i64 {
    plain(bytes)
}

fn plain(bytes: &[u8]) -> i64 {
    let mut sums = [0_i64; 8];
    for eight in bytes.as_chunks::<8>().0.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(eight) {
            *sum = sum.wrapping_add(i64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Additions and multiplications of 4-byte dot products in registers, Gop/s; 0 where there is no such instruction.
pub(crate) fn int8_peak(threads: usize) -> f64 {
    const ROUNDS: usize = 20_000_000;
    /// Independent sums: the instruction takes 4 cycles and one starts per cycle.
    const SUMS: usize = 10;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn dots() {
            let (a, b) = (_mm512_set1_epi8(1), std::hint::black_box(_mm512_set1_epi8(1)));
            let mut sums = [_mm512_setzero_si512(); SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, a, b);
                }
            }
            std::hint::black_box(sums);
        }
        if std::is_x86_feature_detected!("avx512vnni") {
            let seconds = best_of(threads, 5, |_| {
                // SAFETY: just detected.
                unsafe { dots() };
            });
            return (ROUNDS * SUMS * 128 * threads) as f64 / seconds / 1e9;
        }
    }
    let _ = (threads, ROUNDS, SUMS);
    0.0
}
