//! Guesses by a smaller model (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding").
//!
//! The smaller model samples with the same draws as the larger one will, so that the two agree as often as their distributions overlap.
use crate::engine::{Engine, Event, to_u32};
use crate::sequence::{Params, Reuse, Sequence, SequenceId};
use crate::{Error, Report};
use ops::sample::Sampler;

impl Engine {
    /// Lets a smaller model guess where the text itself offers no guess. It needs a place for each sequence of this engine.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the two do not read the same tokens, or this engine does not speculate.
    pub fn set_draft(&mut self, draft: Self) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadRequest { what });
        let [own, other] = [&self.model, &draft.model].map(|model| model.config.vocabulary);
        if own != other {
            return bad(format!(
                "the draft model has {other} tokens, this one has {own}: they must be of one family"
            ));
        }
        if !self.options.speculate || draft.options.sequences < self.options.sequences {
            return bad("a draft needs an engine that speculates, and as many sequences".to_owned());
        }
        self.draft = Some(Box::new(draft));
        Ok(())
    }

    /// Fills the guesses of all sequences that go on, as many as can pay.
    pub(crate) fn guess(&mut self) -> Result<(), Error> {
        let room = self.room() as usize;
        for index in 0..self.sequences.len() {
            let sequence = &mut self.sequences[index];
            sequence.guesses.clear();
            let left = room.saturating_sub(sequence.tokens.len() + 1);
            let most = sequence.guesses_wanted(self.draft_cost, left);
            if most == 0 || !self.options.speculate {
                sequence.record.rested();
                continue;
            }
            sequence.look_up(most);
            if let Some(draft) = self.draft.as_mut().filter(|_| sequence.guesses.is_empty()) {
                draft.follow(sequence, most);
            } else if sequence.guesses.is_empty() {
                sequence.record.rested();
            }
        }
        self.run_draft()
    }

    /// Brings the sequence that follows `leader` to its text, and lets it go on by `most` tokens.
    fn follow(&mut self, leader: &mut Sequence, most: usize) {
        let sampler = Sampler { biased: false, masked: false, ..leader.params.sampler };
        let at = leader.draft.and_then(|id| self.sequences.iter().position(|own| own.id == id));
        let Some(at) = at else {
            let params = Params { reuse: Reuse::Nothing, ..Params::new(sampler, u32::MAX) };
            // A text that is too long for it is not guessed at.
            leader.draft = self.start(&leader.tokens, params).ok();
            if let Some(own) = self.sequences.last_mut().filter(|own| Some(own.id) == leader.draft)
            {
                (own.shares, own.rests_at) = (false, Some(leader.tokens.len() + most));
            }
            return;
        };
        let own = &mut self.sequences[at];
        let same = own.tokens.iter().zip(&leader.tokens).take_while(|(a, b)| a == b).count();
        own.tokens.truncate(same);
        own.tokens.extend_from_slice(&leader.tokens[same..]);
        // The last token is always run: what follows it is wanted.
        own.cached = own.cached.min(same).min(own.tokens.len() - 1);
        (own.params.sampler, own.row) = (sampler, None);
        own.rests_at = Some(leader.tokens.len() + most);
    }

    /// Runs the draft until each of its sequences rests, and hands out its tokens.
    fn run_draft(&mut self) -> Result<(), Error> {
        let Some(draft) = &mut self.draft else { return Ok(()) };
        loop {
            let (report, events) = draft.step()?;
            if report == Report::default() {
                return Ok(());
            }
            for event in events {
                if let Event::Token { sequence: id, token } = event {
                    let follows = |own: &&mut Sequence| own.draft == Some(*id);
                    if let Some(leader) = self.sequences.iter_mut().find(follows) {
                        leader.guesses.push(*token);
                    }
                }
            }
        }
    }

    /// Lets go of the sequence that follows one that leaves.
    pub(crate) fn leave_draft(&mut self, id: Option<SequenceId>) {
        if let (Some(draft), Some(id)) = (&mut self.draft, id) {
            draft.release(id);
        }
    }

    /// What the draft holds for sequences of this engine: its own sequences, and their KV blocks. Nothing when none is left here.
    #[must_use]
    pub fn draft_status(&self) -> Option<(u32, u32)> {
        let draft = self.draft.as_ref()?;
        Some((to_u32(draft.sequences.len()), draft.status().blocks_used))
    }
}
