//! How much memory a model takes on a device, before any is taken.
use crate::load::family;
use crate::plan::{activation_bytes, limits};
use crate::{Error, Options, pack};
use hal::Info;
use model::{Model, Source, Tensor};
use ops::KvFormat;

/// Tokens of one KV block.
pub(crate) const BLOCK_TOKENS: u32 = 32;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights, in the layout that the device wants.
    pub weights: u64,
    /// KV cache of all sequences together.
    pub cache: u64,
    /// Activations of the largest step.
    pub activations: u64,
    /// What changes from step to step: tokens, positions, block tables, samplers.
    pub inputs: u64,
}

impl MemoryPlan {
    /// What an engine with these options would take on a device. The forward pass is recorded on the null device for it.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for options that make no sense.
    pub fn new(model: &Model, info: &Info, options: &Options) -> Result<Self, Error> {
        let limits = limits(model, options)?;
        let tokens = u64::from(options.cache_tokens).next_multiple_of(u64::from(BLOCK_TOKENS));
        Ok(Self {
            weights: weights_on(model, info),
            cache: tokens * token_bytes(model, options.kv),
            activations: activation_bytes(model, info, limits, options.kv)?,
            inputs: limits.bytes(),
        })
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.activations + self.inputs
    }
}

/// Bytes of all tensors as they lie in the file.
fn weight_bytes(model: &Model) -> u64 {
    model.tensors.iter().map(tensor_bytes).sum()
}

fn tensor_bytes(tensor: &Tensor) -> u64 {
    match &tensor.source {
        Source::File { bytes, .. } => *bytes,
        Source::Made(bytes) => bytes.len() as u64,
    }
}

/// Bytes of all tensors in the layout that the device wants. Pages of the file that were only read to make it can go again.
fn weights_on(model: &Model, info: &Info) -> u64 {
    let Some(family) = family(info) else { return weight_bytes(model) };
    let (places, packed_bytes) = pack::places(model, family);
    let unpacked = model.tensors.iter().zip(&places).filter(|(_, place)| place.is_none());
    packed_bytes + unpacked.map(|(tensor, _)| tensor_bytes(tensor)).sum::<u64>()
}

/// Bytes of K and V of one token in all layers.
#[must_use]
pub fn token_bytes(model: &Model, kv: KvFormat) -> u64 {
    model.caches(kv).iter().map(|cache| 2 * cache.token_bytes()).sum()
}

/// The model's own context, or as much of it as half of the memory left beside the weights can hold.
#[must_use]
pub fn context_that_fits(model: &Model, kv: KvFormat, memory_bytes_free: u64) -> u32 {
    cache_that_fits(model, kv, memory_bytes_free).min(model.config.context)
}

/// Tokens of KV cache that half of the memory left beside the weights can hold; whole blocks, at least one.
#[must_use]
pub fn cache_that_fits(model: &Model, kv: KvFormat, memory_bytes_free: u64) -> u32 {
    let room = memory_bytes_free.saturating_sub(weight_bytes(model)) / 2;
    let tokens = u32::try_from(room / token_bytes(model, kv).max(1)).unwrap_or(u32::MAX);
    (tokens / BLOCK_TOKENS * BLOCK_TOKENS).max(BLOCK_TOKENS)
}
