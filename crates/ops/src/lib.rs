//! Operations: each folder is one op: its contract, reference, CPU kernel and cases.
pub mod format;
