//! What this machine can do at most, measured: the limits that speeds are compared with.
use super::pool::Pool;
use memmap2::MmapMut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Larger than any cache, small enough to be read in milliseconds.
const BYTES: usize = 256 << 20;
const REPEATS: usize = 5;
/// Long against reading the clock, short against a time slice.
const PIECE: usize = 256 << 10;

/// Bytes per second that `threads` threads read from memory together, in a few passes over 256 MiB.
///
/// The sum of each thread's median over pieces, so that a thread that is interrupted now and then does not count.
///
/// # Errors
/// When threads cannot be started or the memory is not there.
pub fn read_bytes_per_second(threads: usize) -> std::io::Result<f64> {
    let pool = Pool::new(threads)?;
    let memory = touched(&pool, threads)?;
    let sink = AtomicU64::new(0);
    let times: Vec<_> = (0..threads).map(|_| Mutex::new(Vec::new())).collect();
    for _ in 0..REPEATS {
        let run = pool.run(&|thread| {
            let mut times = times[thread].lock().expect("each thread has its own times");
            for piece in part(&memory, thread, threads).chunks_exact(PIECE) {
                let since = Instant::now();
                sink.fetch_add(sum(piece), Ordering::Relaxed);
                times.push(since.elapsed());
            }
        });
        run.map_err(|_| std::io::Error::other("a thread failed"))?;
    }
    std::hint::black_box(sink.into_inner());
    Ok(rates(times, f64::from(u32::try_from(PIECE).unwrap_or(u32::MAX))))
}

/// The sum over threads of `work` in the thread's median time, per second.
fn rates(times: Vec<Mutex<Vec<Duration>>>, work: f64) -> f64 {
    let rate = |times: Mutex<Vec<Duration>>| {
        let mut times = times.into_inner().expect("no thread panicked");
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |median| work / median.as_secs_f64())
    };
    times.into_iter().map(rate).sum()
}

/// Memory in which every page has been written once: an untouched page would be read from the one zero page.
fn touched(pool: &Pool, threads: usize) -> std::io::Result<MmapMut> {
    let mut memory = MmapMut::map_anon(BYTES)?;
    #[cfg(target_os = "linux")]
    drop(memory.advise(memmap2::Advice::HugePage));
    let parts: Vec<Mutex<&mut [u8]>> =
        memory.chunks_mut(BYTES.div_ceil(threads)).map(Mutex::new).collect();
    let run = pool.run(&|thread| {
        if let Some(part) = parts.get(thread) {
            part.lock().expect("each thread has its own part").fill(1);
        }
    });
    run.map_err(|_| std::io::Error::other("a thread failed"))?;
    drop(parts);
    Ok(memory)
}

fn part(memory: &[u8], thread: usize, threads: usize) -> &[u8] {
    memory.chunks(BYTES.div_ceil(threads)).nth(thread).unwrap_or_default()
}

/// Reads every byte; wide independent sums, so that memory is the limit.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 32];
    for block in bytes.as_chunks::<256>().0 {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// int8 multiplications and additions per second that `threads` threads reach together with the widest dot products of
/// this processor. None where no such instructions are known here.
///
/// All threads run at the same time, since a core alone has a higher clock, and its sibling's execution units. The sum of
/// each thread's median over many short runs: on a busy machine few of them are interrupted, but most have some thread
/// that is.
///
/// # Errors
/// When threads cannot be started.
pub fn int8_ops_per_second(threads: usize) -> std::io::Result<Option<f64>> {
    let Some((products, ops_of_round)) = dot_products() else { return Ok(None) };
    let pool = Pool::new(threads)?;
    let times: Vec<_> = (0..threads).map(|_| Mutex::new(Vec::with_capacity(RUNS))).collect();
    for _ in 0..RUNS {
        let run = pool.run(&|thread| {
            let since = Instant::now();
            std::hint::black_box(products(ROUNDS));
            let time = since.elapsed();
            times[thread].lock().expect("each thread has its own times").push(time);
        });
        run.map_err(|_| std::io::Error::other("a thread failed"))?;
    }
    let ops = f64::from(ROUNDS) * f64::from(ops_of_round);
    Ok(Some(rates(times, ops)))
}

/// Some 0.2 ms: long against the start of a run, short enough that one of many runs is not disturbed.
const ROUNDS: u32 = 50_000;
const RUNS: usize = 100;
/// Independent accumulators: enough to hide the latency of a dot product, few enough for the registers.
const SUMS: usize = 12;

/// Runs so many rounds of [`SUMS`] dot products. The sums start behind black boxes: of equal ones, one would be computed.
type Products = fn(u32) -> i32;

/// The widest dot products, with the multiplications and additions of one round.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions for features that were detected")]
fn dot_products() -> Option<(Products, u32)> {
    let sums = u32::try_from(SUMS).ok()?;
    if std::is_x86_feature_detected!("avx512vnni") && std::is_x86_feature_detected!("avx512bw") {
        // SAFETY: the features were detected just above.
        return Some((|rounds| unsafe { avx512_vnni(rounds) }, sums * 2 * 64));
    }
    if std::is_x86_feature_detected!("avxvnni") {
        // SAFETY: as above.
        return Some((|rounds| unsafe { avx_vnni(rounds) }, sums * 2 * 32));
    }
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return Some((|rounds| unsafe { avx2(rounds) }, sums * 2 * 32));
    }
    None
}

#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "calls a function for features that were detected")]
fn dot_products() -> Option<(Products, u32)> {
    let sums = u32::try_from(SUMS).ok()?;
    // SAFETY: the feature was detected just above.
    std::arch::is_aarch64_feature_detected!("dotprod")
        .then_some((|rounds| unsafe { neon_dotprod(rounds) }, sums * 2 * 16))
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
#[expect(unsafe_code, reason = "an instruction that the standard library does not offer yet")]
fn neon_dotprod(rounds: u32) -> i32 {
    use std::arch::aarch64::{vaddq_s32, vaddvq_s32, vdupq_n_s8, vdupq_n_s32};
    use std::hint::black_box;
    let (x, y) = (vdupq_n_s8(black_box(3)), vdupq_n_s8(black_box(5)));
    let mut sums = [vdupq_n_s32(0); SUMS].map(black_box);
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: register arithmetic only; the function has the feature.
            unsafe {
                std::arch::asm!(
                    "sdot {sum:v}.4s, {x:v}.16b, {y:v}.16b",
                    sum = inlateout(vreg) *sum,
                    x = in(vreg) x,
                    y = in(vreg) y,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    }
    vaddvq_s32(sums.into_iter().fold(vdupq_n_s32(0), |total, sum| vaddq_s32(total, sum)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512_vnni(rounds: u32) -> i32 {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8,
    };
    use std::hint::black_box;
    let (x, y) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    let mut sums = [x; SUMS].map(black_box);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, y);
        }
    }
    _mm512_reduce_add_epi32(sums.into_iter().fold(x, |total, sum| _mm512_add_epi32(total, sum)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
fn avx_vnni(rounds: u32) -> i32 {
    use std::arch::x86_64::{_mm256_dpbusd_avx_epi32, _mm256_set1_epi8};
    use std::hint::black_box;
    let (x, y) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(5)));
    let mut sums = [x; SUMS].map(black_box);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, x, y);
        }
    }
    folded(sums)
}

/// Without VNNI a dot product takes three instructions: byte pairs, pairs of sums, the accumulator.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rounds: u32) -> i32 {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
        _mm256_set1_epi16,
    };
    use std::hint::black_box;
    let (y, ones) = (_mm256_set1_epi8(black_box(5)), _mm256_set1_epi16(black_box(1)));
    let mut sums = [y; SUMS].map(black_box);
    for _ in 0..rounds {
        for sum in &mut sums {
            // The accumulator is the factor, so that no product can be taken out of the loop.
            let pairs = _mm256_maddubs_epi16(*sum, y);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    folded(sums)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn folded(sums: [std::arch::x86_64::__m256i; SUMS]) -> i32 {
    use std::arch::x86_64::{_mm256_add_epi32, _mm256_cvtsi256_si32, _mm256_setzero_si256};
    let zero = _mm256_setzero_si256();
    _mm256_cvtsi256_si32(sums.into_iter().fold(zero, |total, sum| _mm256_add_epi32(total, sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_of_dot_products_is_computed() {
        let Some((products, _)) = dot_products() else {
            eprintln!("SKIPPED: no int8 dot products on this processor");
            return;
        };
        assert_ne!(products(1), products(2), "a second round adds to the first");
    }

    #[test]
    fn limits_are_positive_numbers() {
        assert!(read_bytes_per_second(1).unwrap() > 0.0);
        let peak = int8_ops_per_second(1).unwrap();
        assert!(peak.is_none_or(|ops| ops.is_finite() && ops > 0.0));
    }
}
