//! Which pages of host memory lie in RAM: what was never touched, was swapped out, or is a file's and was let go does not.
#![expect(unsafe_code, reason = "asks the system about pages")]

/// Pages asked about at once: a byte of answer each.
const PAGES: usize = 1 << 16;

/// How many of the bytes from `pointer` lie in RAM. All of them must be mapped.
pub(super) fn resident(pointer: *mut u8, bytes: usize) -> std::io::Result<u64> {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).map_err(std::io::Error::other)?.max(1);
    let (mut flags, mut found, mut at) = (Vec::new(), 0, 0);
    while at < bytes {
        // The system takes whole pages; only the first can begin before the span.
        let before = (pointer.addr() + at) % page;
        let length = (PAGES * page - before).min(bytes - at);
        flags.resize((before + length).div_ceil(page), 0_u8);
        let start = pointer.wrapping_add(at).wrapping_sub(before);
        // SAFETY: the pages are mapped, as the caller says; there is a flag for each.
        let status =
            unsafe { libc::mincore(start.cast(), before + length, flags.as_mut_ptr().cast()) };
        if status != 0 {
            return Err(std::io::Error::last_os_error());
        }
        for (i, _) in flags.iter().enumerate().filter(|(_, flag)| *flag & 1 == 1) {
            let (first, last) = ((i * page).max(before), ((i + 1) * page).min(before + length));
            found += (last - first) as u64;
        }
        at += length;
    }
    Ok(found)
}
