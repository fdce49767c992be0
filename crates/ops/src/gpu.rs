//! Kernels for GPUs in variants: one text, with function constants for what the compiler should know.
use hal::{FunctionConstant, Gpu, Program, Text, Value};
use std::sync::{Mutex, PoisonError};

/// A kernel function whose variants become programs when a model first needs them.
#[derive(Debug)]
pub(crate) struct Variants {
    /// Name of the `kernel` function.
    pub(crate) entry: &'static str,
    /// Put together in this order they are one source file.
    pub(crate) texts: &'static [Text],
    made: Mutex<Vec<(Vec<Value>, &'static Program)>>,
}

impl Variants {
    pub(crate) const fn new(entry: &'static str, texts: &'static [Text]) -> Self {
        Self { entry, texts, made: Mutex::new(Vec::new()) }
    }

    /// The program in which function constant i is `values[i]`, called `name()` in receipts. A program lives as long as the
    /// process: there is one for each combination that models use.
    pub(crate) fn program(
        &self,
        values: &[Value],
        name: impl FnOnce() -> String,
    ) -> &'static Program {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, program)) = made.iter().find(|(known, _)| known == values) {
            return program;
        }
        let constants: Vec<FunctionConstant> = (0..)
            .zip(values)
            .map(|(index, value)| FunctionConstant { index, value: *value })
            .collect();
        let gpu = Gpu { texts: self.texts, entry: self.entry, constants: constants.leak() };
        let program = Program { name: name().leak(), host: None, gpu: Some(gpu) };
        let program: &'static Program = Box::leak(Box::new(program));
        made.push((values.to_vec(), program));
        program
    }
}
