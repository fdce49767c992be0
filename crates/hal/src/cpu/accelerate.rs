//! Products of matrices by Accelerate, Apple's library: the one documented way to the matrix units of Apple's processors
//! (AMX, from the M4 on SME).
//!
//! The library is opened when it is first asked for, where there is one. Under `--cfg fake_accelerate` a plain product that
//! checks its arguments takes its place, so that tests run what calls it where Apple's systems are not at hand.
#![expect(unsafe_code, reason = "a foreign library")]
use std::ffi::c_int;
use std::sync::OnceLock;

/// `cblas_sgemm` of the C interface to BLAS: layout; whether a and b are transposed; m, n, k; alpha, a, lda, b, ldb, beta, c, ldc.
type Sgemm = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    f32,
    *const f32,
    c_int,
    *const f32,
    c_int,
    f32,
    *mut f32,
    c_int,
);
const ROW_MAJOR: c_int = 101;
const NOT_TRANSPOSED: c_int = 111;
const TRANSPOSED: c_int = 112;

/// What is used of the library.
#[derive(Clone, Copy, Debug)]
struct Table {
    sgemm: Sgemm,
    /// From macOS 15 on.
    threading: Option<Threading>,
}

/// `BLASGetThreading` and `BLASSetThreading`: whether the library takes threads of its own for calls of this thread.
#[derive(Clone, Copy, Debug)]
struct Threading {
    get: unsafe extern "C" fn() -> u32,
    set: unsafe extern "C" fn(u32) -> c_int,
}
/// `BLAS_THREADING_SINGLE_THREADED`
const SINGLE: u32 = 1;

fn table() -> Option<&'static Table> {
    static TABLE: OnceLock<Option<Table>> = OnceLock::new();
    TABLE.get_or_init(open).as_ref()
}

/// Whether the library is here.
#[must_use]
pub fn is_here() -> bool {
    table().is_some()
}

/// The right factor of a product.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// `(columns, rows)`: all rows' numbers of a column together.
    ByColumn(&'a [f32]),
    /// `(rows, columns)`, as weights lie in files.
    ByRow(&'a [f32]),
}

/// `y = x · wᵀ` on the calling thread: x is `(tokens, columns)`, w has `rows` rows of as many columns, y is `(tokens, rows)`.
///
/// # Panics
/// When the library is not here, or the shapes do not fit each other.
pub fn multiply(x: &[f32], w: Factor<'_>, columns: usize, y: &mut [f32]) {
    let table = table().expect("only asked where the library was found");
    let (Factor::ByColumn(numbers) | Factor::ByRow(numbers)) = w;
    let (tokens, rows) = (x.len() / columns, numbers.len() / columns);
    assert!(x.len() == tokens * columns && numbers.len() == rows * columns, "whole rows");
    assert_eq!(y.len(), tokens * rows, "a number for each token and row");
    let [m, n, k] =
        [tokens, rows, columns].map(|size| c_int::try_from(size).expect("sizes of matrices"));
    let (transposed, stride) = match w {
        Factor::ByColumn(_) => (NOT_TRANSPOSED, n),
        Factor::ByRow(_) => (TRANSPOSED, k),
    };
    let alone = table.threading.map(Alone::new);
    // SAFETY: the function is the library's; the three matrices have the sizes and strides that are given, as asserted.
    unsafe {
        (table.sgemm)(
            ROW_MAJOR,
            NOT_TRANSPOSED,
            transposed,
            m,
            n,
            k,
            1.0,
            x.as_ptr(),
            k,
            numbers.as_ptr(),
            stride,
            0.0,
            y.as_mut_ptr(),
            n,
        );
    }
    drop(alone);
}

/// Keeps the library on this thread, as long as it lives: all threads of the pool call it at the same time.
struct Alone {
    threading: Threading,
    before: u32,
}

impl Alone {
    fn new(threading: Threading) -> Self {
        // SAFETY: the functions are the library's and take numbers only. A refusal leaves things as they are.
        let before = unsafe {
            let before = (threading.get)();
            (threading.set)(SINGLE);
            before
        };
        Self { threading, before }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // SAFETY: as above. The thread may be one whose owner calls the library too.
        unsafe { (self.threading.set)(self.before) };
    }
}

#[cfg(not(fake_accelerate))]
fn open() -> Option<Table> {
    use std::ffi::c_void;
    // Intel's processors have no such units.
    if cfg!(not(target_arch = "aarch64")) {
        return None;
    }
    let library = c"/System/Library/Frameworks/Accelerate.framework/Accelerate";
    let symbol = |name| super::apple::symbol(library, name);
    let sgemm = symbol(c"cblas_sgemm")?;
    let threading = symbol(c"BLASGetThreading").zip(symbol(c"BLASSetThreading"));
    // SAFETY: the types are those of the library's headers.
    unsafe {
        Some(Table {
            sgemm: std::mem::transmute::<*mut c_void, Sgemm>(sgemm),
            threading: threading.map(|(get, set)| Threading {
                get: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u32>(get),
                set: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> c_int>(set),
            }),
        })
    }
}

#[cfg(fake_accelerate)]
mod fake;
#[cfg(fake_accelerate)]
use fake::open;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_of_a_factor_give_the_product() {
        if !is_here() {
            eprintln!("SKIPPED: products by Accelerate: it is not on this system");
            return;
        }
        // Two tokens of three columns, two rows.
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let by_row = [1.0, 0.0, -1.0, 2.0, 1.0, 0.5];
        let by_column = [1.0, 2.0, 0.0, 1.0, -1.0, 0.5];
        // 1 - 3, 2 + 2 + 1.5; 4 - 6, 8 + 5 + 3.
        let product = [-2.0, 5.5, -2.0, 16.0];
        for factor in [Factor::ByRow(&by_row), Factor::ByColumn(&by_column)] {
            let mut y = [f32::NAN; 4];
            multiply(&x, factor, 3, &mut y);
            assert!(y.iter().zip(product).all(|(y, p)| (y - p).abs() < 1e-6), "{factor:?}: {y:?}");
        }
    }
}
