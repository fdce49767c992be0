//! Shared libraries, by the system's own loader.
#![expect(unsafe_code, reason = "calls the system's loader")]
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

// Of the system's C library, on Linux and macOS alike.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;

/// An open library. It is never closed, so that its functions stay callable.
#[derive(Debug)]
pub(crate) struct Symbols {
    library: *mut c_void,
    path: PathBuf,
}

/// Loads the library. Its constructors run: only for libraries that have none, or harmless ones.
pub(crate) fn open(path: &Path) -> Result<Symbols> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
    // SAFETY: the callers load kernels, which have no constructors, and NVRTC, whose only prepare its own tables.
    let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
    if library.is_null() {
        Err(failed(path))
    } else {
        Ok(Symbols { library, path: path.to_owned() })
    }
}

impl Symbols {
    /// The address of a symbol; never null.
    pub(crate) fn get(&self, name: &CStr) -> Result<*mut c_void> {
        // SAFETY: the library is open.
        let symbol = unsafe { dlsym(self.library, name.as_ptr()) };
        if symbol.is_null() { Err(failed(&self.path)) } else { Ok(symbol) }
    }
}

fn failed(path: &Path) -> Error {
    // SAFETY: returns a string that lives until the next call, or null when nothing failed.
    let reason = unsafe {
        let text = dlerror();
        if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy() }
    };
    crate::clang::io(path)(std::io::Error::other(reason.into_owned()))
}
