//! Project tasks: `cargo xtask {check,setup,models,golden,bench,dist}`.
fn main() {}
