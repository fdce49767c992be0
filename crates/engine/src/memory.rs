//! How much memory a model takes on a device, before any is taken.
use model::{Model, Source};

/// Tokens of one KV block.
pub(crate) const BLOCK_TOKENS: u32 = 32;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights, as stored in the file.
    pub weights: u64,
    /// KV cache for the whole context of every sequence.
    pub cache: u64,
    /// Activations and step inputs.
    pub activations: u64,
}

impl MemoryPlan {
    /// Without activations, which are known once the forward pass has been recorded.
    #[must_use]
    pub fn new(model: &Model, context: u32, sequences: u32) -> Self {
        let tokens =
            u64::from(context.div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS) * u64::from(sequences);
        Self { weights: weight_bytes(model), cache: tokens * token_bytes(model), activations: 0 }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.activations
    }
}

/// Bytes of all tensors.
fn weight_bytes(model: &Model) -> u64 {
    let bytes = |source: &Source| match source {
        Source::File { bytes, .. } => *bytes,
        Source::Made(bytes) => bytes.len() as u64,
    };
    model.tensors.iter().map(|tensor| bytes(&tensor.source)).sum()
}

/// Bytes of K and V of one token in all layers.
fn token_bytes(model: &Model) -> u64 {
    model.caches().iter().map(|cache| 2 * cache.token_bytes()).sum()
}

/// The model's own context, or as much of it as half of the memory left beside the weights can hold.
#[must_use]
pub fn context_that_fits(model: &Model, memory_bytes_free: u64) -> u32 {
    let room = memory_bytes_free.saturating_sub(weight_bytes(model)) / 2;
    let tokens = u32::try_from(room / token_bytes(model).max(1)).unwrap_or(u32::MAX);
    let fits = (tokens / BLOCK_TOKENS * BLOCK_TOKENS).max(BLOCK_TOKENS);
    fits.min(model.config.context)
}
