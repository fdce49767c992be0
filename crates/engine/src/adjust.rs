//! What is added to the logits of single tokens: a bias of the request's, and penalties for what the text already has.
use crate::sequence::{Dry, Params, Penalties};
use std::collections::HashMap;

/// DRY looks back so far: the search for repetitions is linear in it.
const DRY_TOKENS_MAX: usize = 4096;
/// Repetitions longer than this are penalized as this one: the exponential is far beyond any logit by then.
const DRY_LENGTH_MAX: u32 = 50;

const FORBIDDEN: f32 = -1e9;

/// Sums to add to logits, kept up to date token by token.
#[derive(Clone, Debug)]
pub(crate) struct Adjust {
    penalties: Penalties,
    bias: HashMap<u32, f32>,
    counts: HashMap<u32, u32>,
    /// DRY's penalties after the newest token.
    repeats: Vec<(u32, f32)>,
}

impl Adjust {
    /// None when a request asks for nothing of this.
    pub(crate) fn new(params: &Params, prompt: &[u32]) -> Option<Self> {
        let asks = params.penalties != Penalties::default() || !params.logit_bias.is_empty();
        let bias = params.logit_bias.iter().copied().collect();
        let (penalties, counts) = (params.penalties, HashMap::new());
        let mut adjust = Self { penalties, bias, counts, repeats: Vec::new() };
        adjust.find_repeats(prompt);
        asks.then_some(adjust)
    }

    /// Takes the newest of `tokens` into account; the first `prompt` are none of the answer's.
    pub(crate) fn accept(&mut self, tokens: &[u32], prompt: usize) {
        if let Some(token) = tokens.get(prompt..).and_then(<[u32]>::last) {
            *self.counts.entry(*token).or_default() += 1;
        }
        self.find_repeats(tokens);
    }

    /// Looks for what would repeat an earlier stretch.
    fn find_repeats(&mut self, tokens: &[u32]) {
        self.repeats.clear();
        if self.penalties.dry.multiplier > 0.0 {
            repeats(tokens, self.penalties.dry, &mut self.repeats);
        }
    }

    /// Writes the sums into a row of zeros.
    pub(crate) fn write(&self, row: &mut [f32]) {
        let mut add = |token: u32, sum: f32| {
            if let Some(place) = row.get_mut(token as usize) {
                // What is forbidden stays a finite number: no logit comes near it.
                *place = (*place + sum).max(FORBIDDEN);
            }
        };
        self.bias.iter().for_each(|(token, bias)| add(*token, *bias));
        self.repeats.iter().for_each(|(token, penalty)| add(*token, -penalty));
        let Penalties { frequency, presence, .. } = self.penalties;
        if frequency != 0.0 || presence != 0.0 {
            for (token, count) in &self.counts {
                #[expect(clippy::cast_precision_loss, reason = "an answer is shorter than 2^24")]
                add(*token, -(frequency * *count as f32 + presence));
            }
        }
    }
}

/// For each token that followed an earlier occurrence of the text's end: its penalty by the longest such end.
fn repeats(tokens: &[u32], dry: Dry, found: &mut Vec<(u32, f32)>) {
    let tokens = &tokens[tokens.len().saturating_sub(DRY_TOKENS_MAX)..];
    let mut longest: HashMap<u32, u32> = HashMap::new();
    for end in 1..tokens.len() {
        let same = tokens[..end].iter().rev().zip(tokens.iter().rev()).take_while(|(a, b)| a == b);
        let length = u32::try_from(same.take(DRY_LENGTH_MAX as usize).count()).expect("at most 50");
        if length >= dry.length_allowed.max(1) {
            let place = longest.entry(tokens[end]).or_default();
            *place = length.max(*place);
        }
    }
    let penalty =
        |length: u32| dry.multiplier * dry.base.powi((length - dry.length_allowed) as i32);
    found.extend(longest.into_iter().map(|(token, length)| (token, penalty(length))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use ops::sample::Sampler;

    fn adjusted(params: &Params, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let mut adjust = Adjust::new(params, &tokens[..prompt]).unwrap();
        (prompt + 1..=tokens.len()).for_each(|end| adjust.accept(&tokens[..end], prompt));
        let mut row = vec![0.0; 10];
        adjust.write(&mut row);
        row
    }

    fn params() -> Params {
        Params::new(Sampler::GREEDY, 1)
    }

    #[test]
    fn nothing_asked_nothing_kept() {
        assert!(Adjust::new(&params(), &[]).is_none());
    }

    #[test]
    fn frequency_and_presence_count_the_answer_only() {
        let penalties = Penalties { frequency: 0.5, presence: 0.25, ..Penalties::default() };
        let params = Params { penalties, logit_bias: vec![(3, -2.0), (4, 1.0)], ..params() };
        // 3 twice and 5 once after a prompt that has 7.
        let row = adjusted(&params, &[7, 7, 3, 5, 3], 2);
        assert_eq!(row, [0.0, 0.0, 0.0, -3.25, 1.0, -0.75, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn dry_penalizes_what_would_go_on_with_a_repetition() {
        let dry = Dry { multiplier: 0.8, base: 2.0, length_allowed: 2 };
        let params = Params { penalties: Penalties { dry, ..Penalties::default() }, ..params() };
        // "1 2 3" came before 4: 0.8 * 2^(3 - 2). "3" alone before 9 is shorter than allowed.
        let row = adjusted(&params, &[1, 2, 3, 4, 3, 9, 1, 2, 3], 9);
        assert_eq!(row, [0.0, 0.0, 0.0, 0.0, -1.6, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
