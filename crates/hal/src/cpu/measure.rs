//! What this machine can do at most, measured: the limits that speeds are compared with.
use super::pool::Pool;
use memmap2::MmapMut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Larger than any cache, small enough to be read in milliseconds.
const BYTES: usize = 256 << 20;
const REPEATS: usize = 5;

/// Bytes per second that `threads` threads read from memory together: the best of a few passes over 256 MiB.
///
/// # Errors
/// When threads cannot be started or the memory is not there.
pub fn read_bytes_per_second(threads: usize) -> std::io::Result<f64> {
    let pool = Pool::new(threads)?;
    let memory = touched(&pool, threads)?;
    let sink = AtomicU64::new(0);
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let since = Instant::now();
        let run = pool.run(&|thread| {
            sink.fetch_add(sum(part(&memory, thread, threads)), Ordering::Relaxed);
        });
        run.map_err(|_| std::io::Error::other("a thread failed"))?;
        best = best.min(since.elapsed());
    }
    std::hint::black_box(sink.into_inner());
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let bytes = BYTES as f64;
    Ok(bytes / best.as_secs_f64())
}

/// Memory in which every page has been written once: an untouched page would be read from the one zero page.
fn touched(pool: &Pool, threads: usize) -> std::io::Result<MmapMut> {
    let mut memory = MmapMut::map_anon(BYTES)?;
    #[cfg(target_os = "linux")]
    drop(memory.advise(memmap2::Advice::HugePage));
    let parts: Vec<std::sync::Mutex<&mut [u8]>> =
        memory.chunks_mut(BYTES.div_ceil(threads)).map(std::sync::Mutex::new).collect();
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

/// int8 multiplications and additions per second of one core's widest dot-product instruction: the best of a few runs.
/// None where the processor has no such instruction that is known here.
#[must_use]
pub fn int8_ops_per_second() -> Option<f64> {
    dot_products_per_second(Duration::from_millis(20))
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls a function for a feature that was detected")]
fn dot_products_per_second(at_least: Duration) -> Option<f64> {
    if !std::is_x86_feature_detected!("avx512vnni") || !std::is_x86_feature_detected!("avx512bw") {
        return None;
    }
    const ROUNDS: u32 = 100_000;
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < at_least {
        let since = Instant::now();
        // SAFETY: the features were detected just above.
        std::hint::black_box(unsafe { vpdpbusd(ROUNDS) });
        best = best.min(since.elapsed());
    }
    // 16 independent accumulators; 64 products and 64 sums each.
    Some(f64::from(ROUNDS) * 16.0 * 128.0 / best.as_secs_f64())
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_products_per_second(_: Duration) -> Option<f64> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vpdpbusd(rounds: u32) -> i32 {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8,
    };
    let (x, y) =
        (_mm512_set1_epi8(std::hint::black_box(3)), _mm512_set1_epi8(std::hint::black_box(5)));
    let mut sums = [x; 16];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, y);
        }
    }
    _mm512_reduce_add_epi32(sums.into_iter().fold(x, |total, sum| _mm512_add_epi32(total, sum)))
}
