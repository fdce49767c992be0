//! The processor's caches: what it says about them, and what it is told.
#![expect(unsafe_code, reason = "an instruction that tells the processor what will be wanted")]
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__cpuid, __cpuid_count};
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// Tells that the line of memory at `at`, which need not exist, will be wanted: it goes to the second level cache.
#[inline(always)]
pub(crate) fn expect(at: *const u8) {
    // SAFETY: prefetching reads nothing that the program sees, and does nothing where there is no memory.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "prfm pldl2strm, [{at}]",
            at = in(reg) at,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// As [`expect`], `bytes` of memory.
#[inline(always)]
pub(crate) fn expect_all(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        expect(at.wrapping_add(line));
    }
}

/// Brings the pages of a mapped file to this process, without which [`expect`] does nothing. Linux maps so many bytes around one
/// that is read.
pub(crate) fn touch(bytes: &[u8]) {
    const AROUND: usize = 64 << 10;
    for byte in bytes.iter().step_by(AROUND).chain(bytes.last()) {
        std::hint::black_box(*byte);
    }
}

/// Bytes of the data cache next to a core; 0 where the processor does not say.
#[cfg(target_arch = "x86_64")]
pub(crate) fn first_level_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // AMD's and Intel's leaves have the same fields: AMD64 Architecture Programmer's Manual volume 3, appendix E.4.15; Intel 64
        // Software Developer's Manual volume 2, CPUID, leaf 4.
        let leaves = [0x8000_001d_u32, 4];
        let known = leaves.into_iter().filter(|leaf| *leaf <= __cpuid(leaf & 0x8000_0000).eax);
        known
            .flat_map(|leaf| (0..4).filter_map(move |cache| data_bytes(leaf, cache)))
            .max()
            .unwrap_or(0)
    })
}

/// Bytes of cache number `cache`, if it is a data cache of the first level.
#[cfg(target_arch = "x86_64")]
fn data_bytes(leaf: u32, cache: u32) -> Option<usize> {
    let about = __cpuid_count(leaf, cache);
    let (kind, level) = (about.eax & 31, about.eax >> 5 & 7);
    let [ways, partitions, line] = [about.ebx >> 22, about.ebx >> 12 & 0x3ff, about.ebx & 0xfff];
    let count = |less_one: u32| less_one as usize + 1;
    (kind == 1 && level == 1)
        .then(|| count(ways) * count(partitions) * count(line) * count(about.ecx))
}

#[cfg(target_arch = "x86_64")]
#[cfg(test)]
mod tests {
    use super::*;

    /// Linux reads the same leaves, with code of its own.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_first_level_has_the_size_that_the_kernel_tells() {
        let caches = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
        let told = |index: u32, what: &str| {
            std::fs::read_to_string(caches.join(format!("index{index}/{what}"))).unwrap_or_default()
        };
        let data = |index: &u32| {
            told(*index, "type").trim() == "Data" && told(*index, "level").trim() == "1"
        };
        let Some(index) = (0..4).find(data) else {
            eprintln!(
                "SKIPPED: the size of the first level cache: {} does not tell",
                caches.display()
            );
            return;
        };
        assert_eq!(told(index, "size").trim(), format!("{}K", first_level_bytes() >> 10));
    }
}
