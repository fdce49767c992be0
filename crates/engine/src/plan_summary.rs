//! What a prepared step consists of, counted from its commands.
use crate::plan::{limits, planned};
use crate::{Error, Options};
use hal::{Buffer, Command, Commands, Info};
use model::Model;
use ops::{Bucket, Resources};

/// The commands of a step of up to `tokens` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSummary {
    pub tokens: u32,
    /// Rows of logits.
    pub rows: u32,
    pub launches: usize,
    /// Copies and fills.
    pub transfers: usize,
    /// Where commands wait for all earlier ones.
    pub barriers: usize,
    /// What launches read and write beside weights and KV cache, each span once a launch.
    pub activation_bytes: u64,
}

impl StepSummary {
    pub(crate) fn new(bucket: Bucket, commands: &Commands, resources: &Resources) -> Self {
        let launches = || {
            commands.list.iter().filter_map(|command| match command {
                Command::Launch(launch) => Some(launch),
                _ => None,
            })
        };
        let spans = launches().flat_map(|launch| commands.spans_of(launch));
        let passing = spans.filter(|span| !outlasts(resources, span.buffer));
        Self {
            tokens: bucket.tokens,
            rows: bucket.rows,
            launches: launches().count(),
            transfers: commands.list.len() - launches().count(),
            barriers: hal::barriers(commands).into_iter().filter(|barrier| *barrier).count(),
            activation_bytes: passing.map(|span| span.bytes).sum(),
        }
    }

    /// What the steps of an engine with these options would consist of on a device like `info`, smallest first. They are
    /// recorded on the null device: nothing runs, and `info` may be of a device that is not here.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for options that make no sense.
    pub fn planned(model: &Model, info: &Info, options: &Options) -> Result<Vec<Self>, Error> {
        let mut summaries = Vec::new();
        planned(
            model,
            info,
            limits(model, options)?,
            options.kv,
            |bucket, recorded, resources| {
                // Any buffer that is none of the resources' stands for the arena.
                let arena = Buffer(hal::Slots::new("arena", hal::next_owner()).insert(()));
                summaries.push(Self::new(bucket, &recorded.commands(arena), resources));
            },
        )?;
        Ok(summaries)
    }
}

/// Whether a buffer holds weights or KV cache.
fn outlasts(resources: &Resources, buffer: Buffer) -> bool {
    let mut caches = resources.caches.iter().flat_map(|cache| [cache.k, cache.v]);
    caches.any(|span| span.buffer == buffer)
        || resources.weights.iter().any(|span| span.buffer == buffer)
        || resources
            .tiles
            .iter()
            .flat_map(|tiles| &tiles.spans)
            .flatten()
            .any(|span| span.buffer == buffer)
}
