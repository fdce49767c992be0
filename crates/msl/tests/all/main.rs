//! Kernels that are right, and what happens to those that are not.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers of tests"
)]

#[cfg(test)]
mod compilers;
#[cfg(test)]
mod device;
#[cfg(test)]
mod launch;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod soft;
