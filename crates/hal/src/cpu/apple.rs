//! What only Apple's systems know: the processor's name, how many of its cores are fast and who gets them, how much memory there
//! is, and what is in a library. Elsewhere nothing is known or done.
use std::ffi::{CStr, c_void};

/// The number of performance cores, of which Apple's processors have some and efficiency cores besides.
#[cfg(target_os = "macos")]
pub(super) fn performance_cores() -> Option<usize> {
    // Processors without levels do not know the name.
    let mut count = [0; size_of::<libc::c_int>()];
    let bytes = asked(c"hw.perflevel0.logicalcpu", &mut count)?;
    let count = usize::try_from(libc::c_int::from_le_bytes(count)).ok()?;
    (bytes == size_of::<libc::c_int>() && count > 0).then_some(count)
}

/// Memory of the machine.
#[cfg(target_os = "macos")]
pub(super) fn memory_bytes() -> Option<u64> {
    let mut memory = [0; 8];
    let bytes = asked(c"hw.memsize", &mut memory)?;
    (bytes == memory.len()).then(|| u64::from_le_bytes(memory))
}

/// The processor's name.
#[cfg(target_os = "macos")]
pub(super) fn processor() -> Option<String> {
    let mut name = [0; 128];
    let bytes = asked(c"machdep.cpu.brand_string", &mut name)?;
    let name = CStr::from_bytes_until_nul(name.get(..bytes)?).ok()?;
    Some(name.to_str().ok()?.to_owned())
}

/// Reads a value that the system knows under this name, and how many bytes it has.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "a system call")]
fn asked(name: &CStr, value: &mut [u8]) -> Option<usize> {
    let mut bytes = value.len();
    // SAFETY: the name ends in a zero byte; the value and its size are writable, the size is the value's; nothing is set.
    let status = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            &raw mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    (status == 0).then_some(bytes)
}

/// A function of a library of the system, which is opened and never closed.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "a foreign library")]
pub(super) fn symbol(library: &CStr, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: both names end in a zero byte; what the system's own libraries do when they are opened is safe.
    let symbol = unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL);
        if library.is_null() {
            return None;
        }
        libc::dlsym(library, name.as_ptr())
    };
    (!symbol.is_null()).then_some(symbol)
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
pub(super) fn memory_bytes() -> Option<u64> {
    None
}

#[cfg(not(target_os = "macos"))]
pub(super) fn processor() -> Option<String> {
    None
}

#[cfg(not(target_os = "macos"))]
#[cfg_attr(fake_accelerate, expect(dead_code, reason = "another library takes the place"))]
pub(super) fn symbol(_: &CStr, _: &CStr) -> Option<*mut c_void> {
    None
}

#[cfg(not(target_os = "macos"))]
pub(super) fn prefer_performance_cores() {}
