//! Speculative decoding: guesses at the next tokens are run together with the last one, and those that come true are kept.
//!
//! A guess is kept when it is the very token that would have been sampled: the draw at each position belongs to the position, so the
//! answer is token for token the one without guessing, whatever the sampler. (Rejection sampling, Leviathan et al. 2023, keeps the
//! distribution only.)
mod draft;
mod lookup;

pub(crate) use lookup::lookup;

/// Guesses of one step at most.
pub(crate) const GUESSES_MAX: u32 = 8;
/// Weight of the newest try.
const NEW: f64 = 0.1;
/// How likely a guess is to come true before any was tried.
const PRIOR: f64 = 0.6;
/// How fast a bad record is forgotten, so that a text that comes to repeat itself is tried again.
const FORGET: f64 = 0.02;

/// How one sequence's guesses fared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Record {
    /// How likely the next guess is to come true.
    likely: f64,
}

impl Record {
    pub(crate) const NEW: Self = Self { likely: PRIOR };

    /// How many guesses pay most when each adds `cost` to a step, as a part of the step; 0: none does.
    pub(crate) fn guesses(&self, cost: f64) -> u32 {
        let p = self.likely;
        let mut best = (0, 1.0);
        let (mut tokens, mut all, mut time) = (1.0, 1.0, 1.0);
        for guesses in 1..=GUESSES_MAX {
            all *= p;
            tokens += all;
            time += cost;
            if tokens / time > best.1 {
                best = (guesses, tokens / time);
            }
        }
        best.0
    }

    /// Takes in how many of a step's guesses came true.
    pub(crate) fn tried(&mut self, guesses: u32, accepted: u32) {
        // The first that fails ends the row: those after it tell nothing.
        for i in 0..guesses.min(accepted + 1) {
            let came_true = f64::from(u8::from(i < accepted));
            self.likely += NEW * (came_true - self.likely);
        }
    }

    /// A step without guesses.
    pub(crate) fn rested(&mut self) {
        self.likely += FORGET * (PRIOR - self.likely).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_made_as_long_as_they_pay() {
        // One guess: 1.6 tokens for 1.5 steps. A second: 1.96 for 2.
        assert_eq!(Record::NEW.guesses(0.5), 1);
        assert_eq!(Record::NEW.guesses(0.7), 0);
        // 1 + p + ... + p^k over 1 + k / 10, p = 0.6: 1.4545 at 1, 1.6333 at 2, 1.6738 at 3, 1.6473 at 4.
        assert_eq!(Record::NEW.guesses(0.1), 3);
    }

    #[test]
    fn a_bad_record_stops_guessing_and_is_forgotten_in_time() {
        let mut record = Record::NEW;
        (0..20).for_each(|_| record.tried(3, 0));
        assert_eq!(record.guesses(0.2), 0);
        (0..100).for_each(|_| record.rested());
        assert!(record.guesses(0.2) > 0);
        (0..50).for_each(|_| record.tried(3, 3));
        assert_eq!(record.guesses(0.2), GUESSES_MAX);
    }
}
