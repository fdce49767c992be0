//! What only Apple's systems know about cores: how many are fast, and who gets them. Elsewhere nothing is known or done.

/// The number of performance cores, of which Apple's processors have some and efficiency cores besides.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "a system call")]
pub(super) fn performance_cores() -> Option<usize> {
    let mut count: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>();
    // SAFETY: the name ends in a zero byte; the value and its size are writable, the size is the value's; nothing is set.
    let status = unsafe {
        libc::sysctlbyname(
            c"hw.perflevel0.logicalcpu".as_ptr(),
            (&raw mut count).cast(),
            &raw mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    // Processors without levels do not know the name.
    let known = status == 0 && bytes == size_of::<libc::c_int>();
    usize::try_from(count).ok().filter(|count| known && *count > 0)
}

/// Asks that this thread runs on performance cores, at a high clock: a user waits for it.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "a system call")]
pub(super) fn prefer_performance_cores() {
    // SAFETY: takes numbers only, and changes only how the calling thread is scheduled. A refusal leaves it as it was.
    unsafe {
        libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_USER_INTERACTIVE, 0)
    };
}

#[cfg(not(target_os = "macos"))]
pub(super) fn performance_cores() -> Option<usize> {
    None
}

#[cfg(not(target_os = "macos"))]
pub(super) fn prefer_performance_cores() {}
