//! A plain product in place of the library's: it aborts on arguments that the interface forbids, and sums in f64.
use super::{NOT_TRANSPOSED, ROW_MAJOR, SINGLE, TRANSPOSED, Table, Threading};
use std::cell::Cell;
use std::ffi::c_int;

thread_local! {
    static THREADING: Cell<u32> = const { Cell::new(0) };
}

pub(super) const fn open() -> Option<Table> {
    Some(Table { sgemm, threading: Some(Threading { get, set }) })
}

extern "C" fn get() -> u32 {
    THREADING.get()
}

extern "C" fn set(threading: u32) -> c_int {
    THREADING.set(threading);
    0
}

/// A panic would not leave a function of C's: the process ends.
unsafe extern "C" fn sgemm(
    layout: c_int,
    a_transposed: c_int,
    b_transposed: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    assert_eq!(THREADING.get(), SINGLE, "threads of the pool are enough");
    assert_eq!((layout, a_transposed), (ROW_MAJOR, NOT_TRANSPOSED));
    let by_row = b_transposed == TRANSPOSED;
    assert!(by_row || b_transposed == NOT_TRANSPOSED);
    assert!(m > 0 && n > 0 && k > 0 && lda >= k && ldc >= n);
    assert!(ldb >= if by_row { k } else { n });
    let size = |size: c_int| usize::try_from(size).expect("not negative");
    let (lda, ldb, ldc) = (size(lda), size(ldb), size(ldc));
    let mut sums = vec![0.0_f64; size(n)];
    for i in 0..size(m) {
        sums.fill(0.0);
        for p in 0..size(k) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = if by_row { j * ldb + p } else { p * ldb + j };
                // SAFETY: the caller's matrices have these sizes and strides.
                let (a, b) = unsafe { (*a.add(i * lda + p), *b.add(at)) };
                *sum += f64::from(a) * f64::from(b);
            }
        }
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            let c = unsafe { &mut *c.add(i * ldc + j) };
            // What was there is not read where it does not count: it may be no number.
            let before = if beta == 0.0 { 0.0 } else { beta * *c };
            #[expect(clippy::cast_possible_truncation, reason = "the result is f32")]
            let product = (f64::from(alpha) * sum) as f32;
            *c = product + before;
        }
    }
}
