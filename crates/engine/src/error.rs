//! Why the engine cannot do what it was asked, split by what the caller does about it.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device failed, or refused: see [`hal::Error`].
    #[error(transparent)]
    Device(#[from] hal::Error),
    /// The model's file: see [`model::Error`].
    #[error(transparent)]
    Model(#[from] model::Error),
    /// Ask for a smaller context, or use a smaller model.
    #[error(
        "not enough memory on {device}: {needed} bytes needed ({weights} weights, {cache} KV cache for {context} tokens, \
         {activations} activations), {available} bytes available; use a smaller --ctx or a smaller model"
    )]
    Memory {
        device: String,
        needed: u64,
        weights: u64,
        cache: u64,
        activations: u64,
        context: u32,
        available: u64,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens, the context holds {context}; use a shorter prompt or a larger --ctx"
    )]
    PromptTooLong { tokens: usize, context: u32 },
    /// A request that can never be run.
    #[error("{what}")]
    BadRequest { what: String },
    /// All places for sequences are taken and as many wait as may: release one, or try again later.
    #[error("{sequences} sequences run and {waiting} wait already")]
    Busy { sequences: u32, waiting: u32 },
}
