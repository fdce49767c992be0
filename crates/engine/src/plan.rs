//! Commands of a step: the forward pass recorded for one bucket, then sampled.
use crate::load::{State, Weights, resources};
use crate::memory::BLOCK_TOKENS;
use crate::speculate::GUESSES_MAX;
use crate::{Error, Options};
use hal::{Buffer, Device, Info, Kind, Prepared};
use model::{Model, forward};
use ops::{Bucket, Cache, KvFormat, Limits, Recorded, Recorder, Resources, Tensor, sample};
use std::sync::Arc;

/// How large steps and sequences of an engine may be.
pub(crate) fn limits(model: &Model, options: &Options) -> Result<Limits, Error> {
    let zero = [
        (options.context, "the context"),
        (options.cache_tokens, "the KV cache"),
        (options.sequences, "the number of sequences"),
        (options.prompt_chunk, "the prompt chunk"),
    ];
    if let Some((_, what)) = zero.iter().find(|(value, _)| *value == 0) {
        return Err(Error::BadRequest { what: format!("{what} must be at least 1") });
    }
    let takes = |cache: &Cache| options.kv.takes(cache.head_dim);
    if let Some(cache) = model.caches(options.kv).iter().find(|cache| !takes(cache)) {
        let (kv, n) = (options.kv.name(), cache.head_dim);
        let what = format!(
            "a KV cache in {kv} needs heads of whole groups of 32 numbers, this model's have {n}"
        );
        return Err(Error::BadRequest { what });
    }
    let rows = options.sequences + if options.speculate { GUESSES_MAX } else { 0 };
    Ok(Limits {
        tokens: options.prompt_chunk.max(rows),
        rows,
        sequences: options.sequences,
        blocks: options.context.div_ceil(BLOCK_TOKENS),
        block_tokens: BLOCK_TOKENS,
        vocabulary: model.config.vocabulary,
    })
}

/// Records the forward pass; returns the logits' tensor too. `sampling` adds the choice of the next tokens.
pub(crate) fn record(
    device: &dyn Device,
    model: &Model,
    resources: &Resources,
    bucket: Bucket,
    sampling: bool,
) -> Result<(Recorded, Tensor), Error> {
    record_for(device.info().kind, device, model, resources, (bucket, sampling))
}

/// As [`record`], what a device of `kind` would run.
pub(crate) fn record_for(
    kind: Kind,
    device: &dyn Device,
    model: &Model,
    resources: &Resources,
    (bucket, sampling): (Bucket, bool),
) -> Result<(Recorded, Tensor), Error> {
    let mut recorder = Recorder::new(device, resources, bucket).for_kind(kind);
    let logits = forward(&mut recorder, model);
    if sampling {
        sample::record(&mut recorder, &logits);
    }
    Ok((recorder.finish()?, logits))
}

/// Makes recorded commands ready on a device.
#[expect(unsafe_code, reason = "the one place where recorded commands reach a device")]
pub(crate) fn prepare(
    device: &dyn Device,
    recorded: &Recorded,
    arena: Buffer,
) -> Result<Prepared, Error> {
    // SAFETY: only ops record launches, each with the spans and constants of its own contract.
    Ok(unsafe { device.prepare(&recorded.commands(arena))? })
}

/// The shapes of steps that get commands of their own, smallest first.
pub(crate) fn buckets(limits: Limits) -> impl Iterator<Item = Bucket> {
    let small = SMALL_BUCKETS.into_iter().filter(move |tokens| *tokens < limits.tokens);
    small.chain([limits.tokens]).map(move |tokens| Bucket { tokens, rows: limits.rows.min(tokens) })
}

/// Tokens of the buckets below the prompt chunk: kernels choose their shape by bucket.
const SMALL_BUCKETS: [u32; 3] = [1, 4, 32];

/// Memory for the activations of the largest step.
pub(crate) fn activation_bytes(
    model: &Model,
    info: &Info,
    limits: Limits,
    kv: KvFormat,
) -> Result<u64, Error> {
    let mut bytes = 0;
    planned(model, info, limits, kv, |_, recorded, _| bytes = bytes.max(recorded.arena_bytes()))?;
    Ok(bytes)
}

/// Calls `look` with each step that a device like `info` would run: recorded on the null device, before anything is taken.
pub(crate) fn planned(
    model: &Model,
    info: &Info,
    limits: Limits,
    kv: KvFormat,
    mut look: impl FnMut(Bucket, &Recorded, &Resources),
) -> Result<(), Error> {
    let null = Arc::new(hal::null::Null::default()) as Arc<dyn Device>;
    let (weights, state) =
        (Weights::placed(&null, model, info)?, State::new(&null, model, limits, 1, kv)?);
    let resources = resources(&weights, &state);
    for bucket in buckets(limits) {
        let (recorded, _) = record_for(info.kind, &*null, model, &resources, (bucket, true))?;
        look(bucket, &recorded, &resources);
    }
    Ok(())
}
