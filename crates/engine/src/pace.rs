//! How much of a machine's time prompts may take beside answers, learned from how long steps took. Pure: the caller has the clock.
use crate::Report;
use crate::engine::DRAFT_COST;

/// For each prompt that is being read, answers may take this much longer.
const SHARE: f64 = 0.4;
/// Fewer tokens of a prompt are not worth a step of their own kind: its fixed cost would be most of it.
const TOKENS_MIN: f64 = 8.0;
/// What may be saved up, in tokens of prompts: more would stop streams for too long at once.
const TOKENS_SAVED_MAX: f64 = 64.0;
/// Weight of the newest measurement.
const NEW: f64 = 0.2;
/// Weight of the past in a fit of many steps.
const OLD: f64 = 0.95;

/// What steps cost, and what prompts have earned.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    fit: Fit,
    /// Seconds that a token of a prompt adds to a step; 0: not known.
    prompt_token: f64,
    /// Seconds that prompts may take now.
    credit: f64,
}

impl Pace {
    /// Takes in what a step did and how many seconds it took.
    pub fn observe(&mut self, report: &Report, seconds: f64) {
        let answers = report.decode_tokens + report.drafted_tokens;
        let without_prompts = if answers == 0 { 0.0 } else { self.fit.at(f64::from(answers)) };
        if report.prompt_tokens == 0 {
            self.fit.add(f64::from(answers), seconds);
        } else {
            let extra = (seconds - without_prompts).max(0.0);
            let token = extra / f64::from(report.prompt_tokens);
            let old = if self.prompt_token == 0.0 { token } else { self.prompt_token };
            self.prompt_token = old + NEW * (token - old);
            self.credit -= if answers == 0 { self.credit } else { extra };
        }
        if answers > 0 {
            let base = if report.prompt_tokens == 0 { seconds } else { without_prompts };
            self.credit += SHARE * f64::from(report.reading) * base;
            self.credit = self.credit.min(TOKENS_SAVED_MAX * self.token());
        }
    }

    /// Tokens of prompts that the next step may take beside answers.
    #[must_use]
    pub fn prompt_tokens(&self) -> u32 {
        let tokens = self.credit / self.token();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "8 to 64")]
        if tokens >= TOKENS_MIN { tokens as u32 } else { 0 }
    }

    /// What one more token of an answer adds to a step, as a part of the step. As long as all steps were alike it is not known: then guesses
    /// are worth a try, which tells.
    #[must_use]
    pub fn draft_cost(&self) -> f64 {
        let first = self.fit.at(1.0);
        self.fit.slope().map_or(DRAFT_COST, |slope| (slope / first.max(1e-9)).clamp(0.01, 1.0))
    }

    fn token(&self) -> f64 {
        // As long as nothing is known, a token costs a step.
        let known = if self.prompt_token > 0.0 { self.prompt_token } else { self.fit.at(1.0) };
        known.max(1e-9)
    }
}

/// `seconds = a + b * tokens`, by least squares over steps that count less the older they are.
#[derive(Clone, Debug, Default)]
struct Fit {
    count: f64,
    tokens: f64,
    tokens_squared: f64,
    seconds: f64,
    product: f64,
}

impl Fit {
    fn add(&mut self, tokens: f64, seconds: f64) {
        let add = |sum: &mut f64, new: f64| *sum = OLD * *sum + new;
        add(&mut self.count, 1.0);
        add(&mut self.tokens, tokens);
        add(&mut self.tokens_squared, tokens * tokens);
        add(&mut self.seconds, seconds);
        add(&mut self.product, tokens * seconds);
    }

    /// Seconds of a step of so many tokens; 0 while nothing is known.
    fn at(&self, tokens: f64) -> f64 {
        if self.count == 0.0 {
            return 0.0;
        }
        let mean = self.seconds / self.count;
        match self.slope() {
            Some(slope) => (mean + slope * (tokens - self.tokens / self.count)).max(0.0),
            // A line through the origin is the careful guess.
            None => mean * tokens * self.count / self.tokens.max(1e-9),
        }
    }

    /// Seconds that a token adds; None when all steps were alike.
    fn slope(&self) -> Option<f64> {
        let spread = self.count * self.tokens_squared - self.tokens * self.tokens;
        let slope = (self.count * self.product - self.tokens * self.seconds) / spread;
        (spread > 1e-6 * self.tokens_squared * self.count).then(|| slope.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(decode_tokens: u32, prompt_tokens: u32, reading: u32) -> Report {
        Report { decode_tokens, prompt_tokens, reading, ..Report::default() }
    }

    /// A machine on which a step takes 2 ms, an answer's token 0.5 ms, a prompt's 0.8 ms.
    fn seconds(decode_tokens: u32, prompt_tokens: u32) -> f64 {
        let answers = if decode_tokens == 0 { 0.0 } else { 2.0 };
        1e-3 * (answers + 0.5 * f64::from(decode_tokens) + 0.8 * f64::from(prompt_tokens))
    }

    #[test]
    fn a_stream_slows_down_by_its_share_while_a_prompt_is_read() {
        for (streams, readers) in [(1, 1), (16, 1), (4, 3)] {
            let mut pace = Pace::default();
            (0..50).for_each(|_| pace.observe(&step(streams, 0, 0), seconds(streams, 0)));
            let (mut time, mut steps, mut left) = (0.0, 0.0, 2000);
            while left > 0 {
                let tokens = pace.prompt_tokens().min(left);
                time += seconds(streams, tokens);
                pace.observe(&step(streams, tokens, readers), seconds(streams, tokens));
                left -= tokens;
                steps += 1.0;
            }
            let growth = time / steps / seconds(streams, 0);
            let most = 1.0 + SHARE * f64::from(readers);
            assert!(growth < most + 0.05 && growth > most - 0.2, "{streams} {readers}: {growth}");
        }
    }

    #[test]
    fn the_cost_of_a_guess_is_learned_from_batches_of_several_sizes() {
        let mut pace = Pace::default();
        // Steps of one size tell nothing about another.
        (0..10).for_each(|_| pace.observe(&step(1, 0, 0), seconds(1, 0)));
        assert_eq!(pace.draft_cost(), DRAFT_COST);
        (0..10).for_each(|_| pace.observe(&step(4, 0, 0), seconds(4, 0)));
        assert!((pace.draft_cost() - 0.5 / 2.5).abs() < 0.01, "{}", pace.draft_cost());
    }
}
