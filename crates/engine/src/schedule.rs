//! Which tokens the next step takes: a pure function of how far each sequence is.

/// How far one sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens known but not yet run through the model. 0: idle.
    pub pending: u32,
    /// The pending token was sampled: it continues an answer.
    pub decodes: bool,
}

impl Progress {
    pub const IDLE: Self = Self { pending: 0, decodes: false };
}

/// What one step may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub tokens: u32,
    pub rows: u32,
}

/// A sequence's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Index of the sequence.
    pub sequence: usize,
    pub tokens: u32,
    /// Whether these are its last pending tokens, so that the next one can be sampled.
    pub samples: bool,
}

/// Fills `work`: first every sequence that continues an answer, so that running streams never stall behind a prompt, then
/// prompts in order with what is left of the budget.
pub fn schedule(
    sequences: &(impl Iterator<Item = Progress> + Clone),
    budget: Budget,
    work: &mut Vec<Work>,
) {
    work.clear();
    let (mut tokens, mut rows) = (budget.tokens, budget.rows);
    for decode in [true, false] {
        for (sequence, progress) in sequences.clone().enumerate() {
            if progress.pending == 0 || progress.decodes != decode {
                continue;
            }
            let take = progress.pending.min(tokens);
            let samples = take == progress.pending;
            if take == 0 || (samples && rows == 0) {
                continue;
            }
            tokens -= take;
            rows -= u32::from(samples);
            work.push(Work { sequence, tokens: take, samples });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sequences with one pending token continue an answer.
    fn planned(pending: &[u32], tokens: u32, rows: u32) -> Vec<Work> {
        let mut work = Vec::new();
        schedule(
            &pending.iter().map(|pending| Progress { pending: *pending, decodes: *pending == 1 }),
            Budget { tokens, rows },
            &mut work,
        );
        work
    }

    #[test]
    fn decodes_go_before_prompts_and_prompts_in_order() {
        let work = planned(&[100, 1, 0, 1, 50], 64, 8);
        let taken: Vec<(usize, u32, bool)> =
            work.iter().map(|w| (w.sequence, w.tokens, w.samples)).collect();
        assert_eq!(taken, [(1, 1, true), (3, 1, true), (0, 62, false)]);
    }

    #[test]
    fn the_last_token_of_a_prompt_waits_with_the_prompts() {
        let prompts = [4, 1].map(|pending| Progress { pending, decodes: false });
        let mut work = Vec::new();
        schedule(&prompts.into_iter(), Budget { tokens: 4, rows: 2 }, &mut work);
        assert_eq!(work, [Work { sequence: 0, tokens: 4, samples: true }]);
    }

    proptest! {
        #[test]
        fn budgets_hold_and_no_token_is_invented(
            pending in prop::collection::vec(0u32..200, 0..12), tokens in 1u32..128, rows in 1u32..8
        ) {
            let work = planned(&pending, tokens, rows);
            prop_assert!(work.iter().map(|w| w.tokens).sum::<u32>() <= tokens);
            prop_assert!(work.iter().filter(|w| w.samples).count() <= rows as usize);
            for w in &work {
                prop_assert!(w.tokens > 0 && w.tokens <= pending[w.sequence]);
                prop_assert_eq!(w.samples, w.tokens == pending[w.sequence]);
            }
            prop_assert_eq!(work.is_empty(), pending.iter().all(|p| *p == 0));
        }

        /// Run to the end, every pending token is taken exactly once: nothing starves.
        #[test]
        fn every_prompt_is_finished(mut pending in prop::collection::vec(0u32..300, 1..8), tokens in 1u32..64) {
            let total: u32 = pending.iter().sum();
            let mut taken = 0;
            for _ in 0..=total {
                for w in planned(&pending, tokens, 4) {
                    pending[w.sequence] -= w.tokens;
                    taken += w.tokens;
                }
            }
            prop_assert_eq!(taken, total);
        }
    }
}
