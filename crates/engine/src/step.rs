//! One step: schedule, fill the batch, run it, collect what was sampled.
use crate::Error;
use crate::blocks::Path;
use crate::engine::{Engine, Event, Report, to_u32};
use crate::logprobs::logprobs;
use crate::memory::BLOCK_TOKENS;
use crate::schedule::{Budget, Item, Work, schedule};
use crate::sequence::{Reuse, Sequence, WhenFull};
use hal::Span;
use ops::sample::Sampler;
use ops::{FEEDBACK, Token};
use std::ops::Range;

const BLOCK: usize = BLOCK_TOKENS as usize;

impl Engine {
    /// Runs one step over all sequences. Nothing to do gives an empty report.
    ///
    /// # Errors
    /// Device errors; the sequences stay as they were before the step.
    pub fn step(&mut self) -> Result<(Report, &[Event]), Error> {
        self.events.clear();
        self.guess()?;
        self.schedule();
        let mut report = Report { paused: to_u32(self.plan.pause.len()), ..Report::default() };
        for at in 0..self.plan.pause.len() {
            self.leave(self.plan.pause[at]);
        }
        // All take what they found before any takes an empty block, which could be one that another found.
        for at in 0..self.plan.admit.len() {
            self.enter(self.plan.admit[at]);
        }
        for at in 0..self.plan.admit.len() {
            self.grow(self.plan.admit[at]);
            self.write_seen(self.plan.admit[at])?;
        }
        if self.plan.work.is_empty() {
            return Ok((report, &self.events));
        }
        self.fill_batch(&mut report);
        self.write_choices()?;
        self.run()?;
        self.collect(&mut report)?;
        if report.decode_tokens > 0 && report.prompt_tokens == 0 {
            self.settle_beside()?;
        }
        Ok((report, &self.events))
    }

    fn schedule(&mut self) {
        self.items.clear();
        for index in 0..self.sequences.len() {
            let item = self.item(index);
            self.items.push(item);
        }
        let limits = self.batch.limits();
        let budget = Budget {
            tokens: limits.tokens,
            prompt_tokens: self.prompt_tokens,
            rows: limits.rows,
            places: to_u32(self.places.len()),
            blocks: self.blocks.available(),
        };
        schedule(&self.items, budget, &mut self.plan);
    }

    /// How far a sequence is, for the scheduler; a waiting one as it will be once it has its place.
    fn item(&self, index: usize) -> Item {
        let sequence = &self.sequences[index];
        let tokens = sequence.tokens.len() + sequence.guesses.len();
        let (runs, blocks) = (sequence.place.is_some(), tokens.div_ceil(BLOCK));
        let (mut held, mut needed, mut cached, mut deferred) = (0, 0, sequence.cached, false);
        if runs {
            let own = sequence.blocks.iter().filter(|block| self.blocks.has_one_user(**block));
            (held, needed) = (own.count(), blocks.saturating_sub(sequence.blocks.len()));
        } else if sequence.ended || self.places.is_empty() {
            deferred = true;
        } else {
            needed = blocks;
            self.blocks.find(sequence.reusable(), sequence.params.reuse, |block, _| {
                cached += BLOCK;
                needed -= usize::from(!self.blocks.is_idle(block));
            });
            deferred = self.is_being_read(index, cached);
        }
        let pending = sequence.pending(cached);
        Item {
            runs,
            pending: if sequence.rests() { 0 } else { to_u32(pending.len()) },
            answers: cached >= sequence.prompt,
            more: cached + pending.len() < sequence.tokens.len(),
            drafts: to_u32(sequence.guesses.len()),
            blocks_needed: to_u32(needed),
            blocks_held: to_u32(held),
            deferred,
        }
    }

    /// Whether a sequence that runs, or comes before, will soon have read more of a prompt's beginning than the `found` tokens that
    /// are there.
    fn is_being_read(&self, index: usize, found: usize) -> bool {
        let sequence = &self.sequences[index];
        let reads = |(at, other): &(usize, &Sequence)| {
            let comes = other.place.is_some() || *at < index && !other.ended;
            let suits = other.path.prompts || sequence.params.reuse == Reuse::All;
            comes && suits && other.cached < other.prompt
        };
        let mut readers = self.sequences.iter().enumerate().filter(reads);
        let more = |(_, reader): (usize, &Sequence)| {
            let text = sequence.reusable().iter().zip(&reader.tokens[..reader.prompt]);
            text.take_while(|(a, b)| a == b).count() / BLOCK * BLOCK > found
        };
        sequence.params.reuse != Reuse::Nothing && readers.any(more)
    }

    /// Gives a sequence a place, and the blocks that already hold its beginning.
    fn enter(&mut self, index: usize) {
        let room = self.room() as usize;
        let Self { blocks, sequences, places, batch, .. } = self;
        let sequence = &mut sequences[index];
        let place = places.pop().expect("the scheduler counts places");
        sequence.place = Some(place);
        sequence.reserve(room);
        let (mut own, mut path) = (std::mem::take(&mut sequence.blocks), Path::ROOT);
        blocks.find(sequence.reusable(), sequence.params.reuse, |block, to| {
            batch.set_block(place, to_u32(own.len()), block);
            own.push(block);
            path = to;
        });
        own.iter().for_each(|block| blocks.share(*block));
        (sequence.cached, sequence.kept) = (own.len() * BLOCK, own.len());
        (sequence.blocks, sequence.path) = (own, path);
        if sequence.sampled == 0 {
            sequence.found = to_u32(sequence.cached);
        }
    }

    /// Takes blocks for all of a sequence's tokens.
    fn grow(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        let Some(place) = sequence.place else { return };
        let tokens = sequence.tokens.len() + sequence.guesses.len();
        while sequence.blocks.len() * BLOCK < tokens {
            let block = self.blocks.take().expect("the scheduler counts blocks");
            self.batch.set_block(place, to_u32(sequence.blocks.len()), block);
            sequence.blocks.push(block);
        }
    }

    /// Puts the scheduled tokens into the batch.
    fn fill_batch(&mut self, report: &mut Report) {
        self.batch.clear();
        self.rows.clear();
        for at in 0..self.plan.work.len() {
            let work = self.plan.work[at];
            self.grow(work.item);
            let sequence = &self.sequences[work.item];
            let Some(place) = sequence.place else { continue };
            let answers = sequence.cached >= sequence.prompt;
            if !answers {
                self.batch.start_prompts();
            }
            let end = sequence.cached + work.tokens as usize;
            let last_step = self.step_number;
            for position in sequence.cached..end {
                let id = match sequence.row {
                    Some((step, row)) if step == last_step && position + 1 == end => FEEDBACK | row,
                    _ => sequence.tokens[position],
                };
                let wanted = work.samples && position + 1 == end;
                let position = to_u32(position);
                let row = self.batch.push(Token { id, position, sequence: place, wanted });
                if let Some(row) = row {
                    self.rows.push((sequence.id, row));
                }
            }
            self.push_guesses(work, place, end);
            report.drafted_tokens += work.drafts;
            *(if answers { &mut report.decode_tokens } else { &mut report.prompt_tokens }) +=
                work.tokens;
            report.sampled += u32::from(work.samples);
        }
    }

    /// Adds a sequence's guesses after its tokens: each is run, and what follows it is sampled as its position will be.
    fn push_guesses(&mut self, work: Work, place: u32, end: usize) {
        let Self { batch, rows, sequences, .. } = self;
        let sequence = &mut sequences[work.item];
        sequence.guesses.truncate(work.drafts as usize);
        for (at, id) in (0..).zip(&sequence.guesses) {
            let position = to_u32(end) + at;
            let row = batch.push(Token { id: *id, position, sequence: place, wanted: true });
            rows.extend(row.map(|row| (sequence.id, row)));
        }
        if work.samples {
            let first = rows.len() - 1 - sequence.guesses.len();
            for (at, (_, row)) in (0..).zip(&rows[first..]) {
                let sampler = sequence.params.sampler;
                let (draw, biased) = (sampler.draw + at, sequence.adjust.is_some());
                let masked = sequence.params.constraint.is_some();
                batch.set_sampler(*row, &Sampler { draw, biased, masked, ..sampler });
            }
        }
    }

    /// Writes what is added to the logits of the step's rows, and which tokens their grammars allow.
    fn write_choices(&mut self) -> Result<(), Error> {
        let Self { sequences, rows, resources, bias, mask, image, .. } = self;
        for (id, row) in rows.iter() {
            let sequence = sequences.iter_mut().find(|sequence| sequence.id == *id);
            let sequence = sequence.expect("no sequence is released within a step");
            if let Some(adjust) = &sequence.adjust {
                bias.clear();
                bias.resize(self.model.config.vocabulary as usize, 0.0);
                adjust.write(bias);
                image.clear();
                image.extend(bias.iter().flat_map(|bias| bias.to_le_bytes()));
                self.device.write(resources.inputs.bias_row(*row), image)?;
            }
            if let Some(constraint) = &mut sequence.params.constraint {
                mask.resize(resources.inputs.limits.seen_words() as usize, 0);
                // A grammar that cannot go on leaves a token that it then refuses: the answer ends with that.
                if constraint.mask(mask).is_err() {
                    mask.fill(1);
                }
                image.clear();
                image.extend(mask.iter().flat_map(|word| word.to_le_bytes()));
                self.device.write(resources.inputs.allowed_row(*row), image)?;
            }
        }
        Ok(())
    }

    /// Submits the smallest plan that holds the batch and waits for it.
    fn run(&mut self) -> Result<(), Error> {
        let whole = self.resources.inputs.whole;
        self.device.write(whole, self.batch.image())?;
        let (tokens, rows) = (self.batch.tokens(), self.batch.rows());
        let tokens_min = if self.batch.has_prompts() { ops::linear::FUSED_TOKENS + 1 } else { 0 };
        let fits = |step: &&crate::engine::Prepare| {
            step.bucket.tokens >= tokens.max(tokens_min) && step.bucket.rows >= rows
        };
        let largest = self.steps.last().expect("there is a largest step");
        let step = self.steps.iter().find(fits).unwrap_or(largest);
        let fence = self.device.submit(step.prepared, self.options.timing)?;
        self.device.wait(fence)?;
        let bytes = 4 * rows as usize;
        self.device.read(self.resources.sampled, &mut self.sampled[..bytes])?;
        let asked = |sequence: &Sequence| sequence.params.logprobs.is_some();
        if rows > 0 && (self.options.hash_logits || self.sequences.iter().any(asked)) {
            let bytes = 4 * rows as usize * self.model.config.vocabulary as usize;
            self.logits.resize(bytes, 0);
            self.device.read(Span { bytes: bytes as u64, ..step.logits }, &mut self.logits)?;
        }
        if self.options.hash_logits {
            for word in self.logits.as_chunks::<4>().0 {
                self.logits_hash.add_word(u32::from_le_bytes(*word));
            }
        }
        Ok(())
    }

    /// Takes the sampled tokens into their sequences.
    fn collect(&mut self, report: &mut Report) -> Result<(), Error> {
        self.step_number += 1;
        let mut rows = 0..0;
        for at in 0..self.plan.work.len() {
            let work = self.plan.work[at];
            self.sequences[work.item].cached += work.tokens as usize;
            if work.samples {
                rows = rows.end..rows.end + 1 + work.drafts as usize;
                let accepted = self.accept(work.item, rows.clone())?;
                report.accepted_tokens += accepted;
                report.sampled += accepted;
                self.sequences[work.item].record.tried(work.drafts, accepted);
            }
            self.keep_read(work.item);
        }
        let reads =
            |sequence: &&Sequence| sequence.place.is_some() && sequence.cached < sequence.prompt;
        report.reading = to_u32(self.sequences.iter().filter(reads).count());
        Ok(())
    }

    /// Takes the token of a sequence's first row, and those of the next rows as long as the guesses come true; returns how many did.
    fn accept(&mut self, index: usize, rows: Range<usize>) -> Result<u32, Error> {
        for (at, row) in rows.enumerate() {
            let token = self.take(index, self.rows[row].1)?;
            let sequence = &mut self.sequences[index];
            if sequence.place.is_none() || sequence.guesses.get(at) != Some(&token) {
                return Ok(to_u32(at));
            }
            // The guess was run already: its K and V are there.
            sequence.cached += 1;
        }
        unreachable!("there is a guess less than rows")
    }

    /// Lets others find the blocks that are full now.
    fn keep_read(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        while sequence.shares && (sequence.kept + 1) * BLOCK <= sequence.cached {
            let (start, end) = (sequence.kept * BLOCK, (sequence.kept + 1) * BLOCK);
            let block = sequence.blocks[sequence.kept];
            let prompts = end <= sequence.prompt;
            let tokens = &sequence.tokens[start..end];
            sequence.path = self.blocks.keep(block, sequence.path, tokens, prompts);
            sequence.kept += 1;
        }
    }

    /// Takes the token that `row` sampled.
    fn take(&mut self, index: usize, row: u32) -> Result<u32, Error> {
        let room = self.room() as usize;
        let sequence = &mut self.sequences[index];
        let at = 4 * row as usize;
        let word = self.sampled[at..at + 4].try_into().expect("four bytes");
        let token = u32::from_le_bytes(word);
        if let Some(top) = sequence.params.logprobs {
            let bytes = 4 * self.model.config.vocabulary as usize;
            let logits = &self.logits[row as usize * bytes..(row as usize + 1) * bytes];
            sequence.logprobs = Some(logprobs(logits, token, top));
        }
        let (shown, end) = sequence.accept(token, room);
        sequence.row = Some((self.step_number, row)).filter(|_| end.is_none());
        let id = sequence.id;
        if shown {
            self.events.push(Event::Token { sequence: id, token });
        }
        if let Some(end) = end {
            self.events.push(Event::End { sequence: id, end });
            self.keep_read(index);
            self.leave(index);
            return Ok(token);
        }
        if let (true, WhenFull::Shift { keep }) =
            (self.sequences[index].tokens.len() >= room, self.sequences[index].params.when_full)
        {
            self.sequences[index].shift(keep);
            self.leave(index);
            return Ok(token);
        }
        self.see(index, token)?;
        Ok(token)
    }

    /// Adds a token to the set that the repetition penalty applies to.
    fn see(&mut self, index: usize, token: u32) -> Result<(), Error> {
        let sequence = &self.sequences[index];
        let Some(place) = sequence.place else { return Ok(()) };
        if sequence.params.sampler.repetition_penalty == 1.0 {
            return Ok(());
        }
        let same_word = sequence.tokens.iter().filter(|other| **other / 32 == token / 32);
        let bits = same_word.fold(0_u32, |bits, other| bits | 1 << (other % 32));
        let span = self.resources.inputs.seen_word(place, token);
        Ok(self.device.write(span, &bits.to_le_bytes())?)
    }

    /// Writes the whole set of tokens that the repetition penalty applies to.
    fn write_seen(&mut self, index: usize) -> Result<(), Error> {
        let sequence = &self.sequences[index];
        let Some(place) = sequence.place else { return Ok(()) };
        if sequence.params.sampler.repetition_penalty == 1.0 {
            return Ok(());
        }
        let inputs = self.resources.inputs;
        let mut words = vec![0_u32; inputs.limits.seen_words() as usize];
        sequence.tokens.iter().for_each(|token| words[*token as usize / 32] |= 1 << (token % 32));
        let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let first = inputs.seen_word(place, 0);
        let span = Span { bytes: image.len() as u64, ..first };
        Ok(self.device.write(span, &image)?)
    }
}
