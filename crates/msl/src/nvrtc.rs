//! NVIDIA's run-time compiler: a library that needs no GPU and no driver.
#![expect(unsafe_code, reason = "calls a foreign library")]
use crate::clang::{headers, keep};
use crate::error::{Error, Result};
use crate::system::{Symbols, open};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Its name, for the system to find.
const LIBRARY: &str = "libnvrtc.so.12";
/// Where `cargo xtask setup` puts it: a Python environment of its own in the workspace's target folder.
const ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/nvrtc/lib");

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;

#[derive(Clone, Copy)]
struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Get,
    ptx_size: Size,
    ptx: Get,
    destroy: Destroy,
}

fn nvrtc() -> Result<&'static Nvrtc> {
    static FOUND: OnceLock<Option<Nvrtc>> = OnceLock::new();
    let missing = Error::Missing { tool: "NVRTC 12", hint: "cargo xtask setup" };
    FOUND.get_or_init(find).as_ref().ok_or(missing)
}

fn find() -> Option<Nvrtc> {
    // lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib
    let versions = std::fs::read_dir(ENVIRONMENT).into_iter().flatten().flatten();
    let installed = versions
        .map(|version| version.path().join("site-packages/nvidia/cuda_nvrtc/lib").join(LIBRARY));
    let mut places = installed.chain([PathBuf::from(LIBRARY)]);
    places.find_map(|path| functions(&open(&path).ok()?).ok())
}

fn functions(library: &Symbols) -> Result<Nvrtc> {
    // SAFETY: nvrtc.h declares these functions with these types.
    unsafe {
        Ok(Nvrtc {
            create: std::mem::transmute::<Handle, Create>(library.get(c"nvrtcCreateProgram")?),
            compile: std::mem::transmute::<Handle, Compile>(library.get(c"nvrtcCompileProgram")?),
            log_size: std::mem::transmute::<Handle, Size>(library.get(c"nvrtcGetProgramLogSize")?),
            log: std::mem::transmute::<Handle, Get>(library.get(c"nvrtcGetProgramLog")?),
            ptx_size: std::mem::transmute::<Handle, Size>(library.get(c"nvrtcGetPTXSize")?),
            ptx: std::mem::transmute::<Handle, Get>(library.get(c"nvrtcGetPTX")?),
            destroy: std::mem::transmute::<Handle, Destroy>(library.get(c"nvrtcDestroyProgram")?),
        })
    }
}

/// PTX of a unit that [`crate::generate::gpu`] made, as a file of the cache.
pub(crate) fn compile(unit: &str, architecture: &str, defines: &[&str]) -> Result<PathBuf> {
    let nvrtc = nvrtc()?;
    let headers = headers()?;
    let include = format!("-I{}", headers.display());
    let target = format!("-arch={}", architecture.replace("sm_", "compute_"));
    let fixed = ["--std=c++17", "-default-device", "-fmad=false", "-w", &include, &target];
    let options = [&fixed, defines].concat();
    keep(&[&["nvrtc", unit], &options[..]].concat(), "ptx", |path| {
        let ptx = nvrtc.run(unit, &options, architecture)?;
        std::fs::write(path, ptx).map_err(crate::clang::io(path))
    })
}

impl Nvrtc {
    fn run(&self, unit: &str, options: &[&str], architecture: &str) -> Result<Vec<u8>> {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (unit, name) = (text(unit), c"kernel.cu");
        let options: Vec<CString> = options.iter().map(|option| text(option)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        let mut program: Handle = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the strings live until the call ends; NVRTC copies them. Each handle is destroyed once.
        let (made, result) = unsafe {
            (self.create)(&raw mut program, unit.as_ptr(), name.as_ptr(), 0, none, none);
            let made = (self.compile)(program, count, pointers.as_ptr());
            let (size, get) =
                if made == 0 { (self.ptx_size, self.ptx) } else { (self.log_size, self.log) };
            let mut bytes = 0;
            size(program, &raw mut bytes);
            let mut result = vec![0_u8; bytes];
            get(program, result.as_mut_ptr().cast());
            (self.destroy)(&raw mut program);
            (made == 0, result)
        };
        if made {
            return Ok(result);
        }
        let log = CStr::from_bytes_until_nul(&result).unwrap_or_default();
        let compiler =
            super::Compiler::Nvidia("").to_string().replace(" (", &format!("{architecture} ("));
        Err(Error::Refused { compiler, log: log.to_string_lossy().trim_end().to_owned() })
    }
}
