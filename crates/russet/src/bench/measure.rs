//! Timed runs of prompts and answers.
use crate::speed::step_cost;
use engine::{Engine, Error, Options, Params, Report, SequenceId, StepSummary};
use ops::sample::Sampler;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Many tokens a step, up to the first token of the answer.
    Prompt,
    /// One token a step.
    Decode,
}

impl Phase {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Decode => "decode",
        }
    }
}

/// What to measure: so many tokens after the cache holds `depth` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) phase: Phase,
    pub(super) tokens: u32,
    pub(super) depth: u32,
}

impl Test {
    pub(super) fn name(&self) -> String {
        let at = if self.depth == 0 { String::new() } else { format!(" at {}", self.depth) };
        format!("{} {}{at}", self.phase.name(), self.tokens)
    }

    /// Tokens in the cache before the first step that is timed: a decode needs one token to begin with.
    pub(super) const fn first_context(&self) -> u32 {
        match (self.phase, self.depth) {
            (Phase::Decode, 0) => 1,
            (_, depth) => depth,
        }
    }

    /// Tokens of context that it needs: room for the first token of a decode and for one sampled last.
    pub(super) const fn context(&self) -> u32 {
        self.depth.saturating_add(self.tokens).saturating_add(3)
    }
}

/// The same token ids in every run and on every machine: SplitMix64 (Steele, Lea and Flood 2014) from the state 0, modulo
/// the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens {
    vocabulary: u32,
}

impl Tokens {
    pub(super) const fn below(vocabulary: u32) -> Self {
        Self { vocabulary }
    }

    /// The first `count`.
    pub(super) fn first(self, count: u32) -> Vec<u32> {
        let mut state = 0_u64;
        let next = |_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = (z ^ (z >> 31)) % u64::from(self.vocabulary);
            u32::try_from(id).unwrap_or(0)
        };
        (0..count).map(next).collect()
    }
}

/// What a run does besides taking time; the same in each repeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) steps: u64,
    pub(super) weight_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) integer_ops: u64,
    /// Of all steps.
    pub(super) launches: u64,
    pub(super) barriers: u64,
}

/// One test, run several times.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) test: Test,
    pub(super) times: Vec<Duration>,
    pub(super) work: Work,
}

impl Measured {
    /// Runs a test once to warm up and then `repeat` times.
    pub(super) fn new(
        engine: &mut Engine,
        test: Test,
        repeat: u32,
        tokens: &Tokens,
    ) -> Result<Self, Error> {
        let plans = engine.plan_summary()?;
        let ids = tokens.first(test.depth + test.tokens);
        while engine.settle()? {}
        let mut run = Run { engine, sequence: None, runs: 0, reports: Vec::new() };
        run.once(&test, &ids)?;
        let work = Work::new(run.engine, &plans, test.first_context(), &run.reports);
        let times = (0..repeat).map(|_| run.once(&test, &ids)).collect::<Result<_, Error>>();
        run.forget();
        Ok(Self { test, times: times?, work })
    }
}

/// A hash of the logits after the first prompt that was measured, or after the first 16 tokens.
///
/// An engine of its own: keeping a hash costs time in every step.
pub(super) fn logits_hash(
    engine: &Engine,
    measured: &[Measured],
    tokens: &Tokens,
) -> Result<(u32, u64), Error> {
    let prompt = measured.iter().find(|measured| measured.test.phase == Phase::Prompt);
    let count = prompt.map_or(16, |measured| measured.test.tokens);
    let context = count + 2;
    let options =
        Options { hash_logits: true, context, cache_tokens: context, ..*engine.options() };
    let mut engine = Engine::new(engine.device().clone(), engine.model().clone(), options)?;
    engine.start(&tokens.first(count), params(1))?;
    while engine.step()?.0.sampled == 0 {}
    Ok((count, engine.logits_hash()))
}

/// Greedy, and no token ends it.
fn params(tokens_max: u32) -> Params {
    Params::new(Sampler::GREEDY, tokens_max)
}

struct Run<'a> {
    engine: &'a mut Engine,
    sequence: Option<SequenceId>,
    runs: u32,
    /// What the timed steps of the last run did.
    reports: Vec<Report>,
}

impl Run<'_> {
    /// The deep part of the text is found in the cache from run to run; the measured part of a prompt is another one each time.
    fn once(&mut self, test: &Test, ids: &[u32]) -> Result<Duration, Error> {
        let before = test.first_context() as usize;
        let since = match test.phase {
            Phase::Prompt => {
                if before > 0 {
                    self.start(&ids[..before], params(1))?;
                    self.until_sampled()?;
                }
                let mut ids = ids.to_vec();
                self.runs += 1;
                ids[before] = self.runs % self.engine.model().config.vocabulary;
                let since = Instant::now();
                self.start(&ids, params(1))?;
                since
            }
            Phase::Decode => {
                self.start(&ids[..before], params(test.tokens + 1))?;
                self.until_sampled()?;
                Instant::now()
            }
        };
        self.reports.clear();
        loop {
            let (report, _) = self.engine.step()?;
            if report == Report::default() {
                return Ok(since.elapsed());
            }
            self.reports.push(report);
        }
    }

    fn until_sampled(&mut self) -> Result<(), Error> {
        while self.engine.step()?.0.sampled == 0 {}
        Ok(())
    }

    fn start(&mut self, ids: &[u32], params: Params) -> Result<(), Error> {
        self.forget();
        self.sequence = Some(self.engine.start(ids, params)?);
        Ok(())
    }

    fn forget(&mut self) {
        if let Some(id) = self.sequence.take() {
            self.engine.release(id);
        }
    }
}

impl Work {
    /// What these steps do together, after `context` tokens.
    fn new(engine: &Engine, plans: &[StepSummary], context: u32, reports: &[Report]) -> Self {
        let mut work = Self::default();
        let mut context = u64::from(context);
        for report in reports {
            let tokens = report.prompt_tokens + report.decode_tokens;
            let of = (u64::from(tokens), report.decode_tokens == 0);
            let cost = step_cost(engine, of, u64::from(report.sampled), context);
            let plan = plans.iter().find(|plan| plan.tokens >= tokens);
            context += u64::from(tokens);
            work.steps += 1;
            work.weight_bytes += cost.weight_bytes;
            work.kv_bytes += cost.kv_bytes;
            work.integer_ops += cost.integer_flops;
            work.launches += plan.map_or(0, |plan| plan.launches as u64);
            work.barriers += plan.map_or(0, |plan| plan.barriers as u64);
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_the_published_stream() {
        // The first outputs of SplitMix64 from state 0: 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f.
        let expected = [0xe220_a839_7b1d_cdaf_u64, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        let vocabulary = 49_152;
        let ids = expected.map(|word| u32::try_from(word % u64::from(vocabulary)).unwrap());
        assert_eq!(Tokens::below(vocabulary).first(3), ids);
    }
}
