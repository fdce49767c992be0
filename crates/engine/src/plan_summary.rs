//! What a prepared step consists of, counted from its commands.
use hal::{Command, Commands};
use ops::Bucket;

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
}

impl StepSummary {
    pub(crate) fn new(bucket: Bucket, commands: &Commands) -> Self {
        let is_launch = |command: &&Command| matches!(command, Command::Launch(_));
        let launches = commands.list.iter().filter(is_launch).count();
        Self {
            tokens: bucket.tokens,
            rows: bucket.rows,
            launches,
            transfers: commands.list.len() - launches,
            barriers: hal::barriers(commands).into_iter().filter(|barrier| *barrier).count(),
        }
    }
}
