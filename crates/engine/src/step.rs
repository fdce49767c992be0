//! The engine itself: prepared commands, and the loop of schedule, run, collect.
use crate::blocks::Blocks;
use crate::load::{State, Weights, resources};
use crate::memory::{BLOCK_TOKENS, MemoryPlan};
use crate::plan::{buckets, limits, prepare, record};
use crate::schedule::{Budget, Progress, Work, schedule};
use crate::sequence::{End, Params, Sequence, SequenceId};
use crate::{Error, LogitsHash, StepSummary};
use hal::{Buffer, Device, Handle, Memory, Prepared, Span, Timing};
use model::Model;
use ops::{Batch, Bucket, FEEDBACK, KvFormat, Limits, Resources, Token};
use std::sync::Arc;

/// How an engine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens that one sequence can hold.
    pub context: u32,
    /// Sequences at the same time.
    pub sequences: u32,
    /// Tokens of a prompt that one step takes.
    pub prompt_chunk: u32,
    /// How the KV cache stores numbers.
    pub kv: KvFormat,
    /// Measure each kernel.
    pub timing: Timing,
    /// Keep a hash of every row of logits.
    pub hash_logits: bool,
}

impl Options {
    /// One sequence of `context` tokens.
    #[must_use]
    pub fn single(context: u32) -> Self {
        let (kv, timing) = (KvFormat::F16, Timing::Off);
        Self { context, sequences: 1, prompt_chunk: 256, kv, timing, hash_logits: false }
    }
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Token { sequence: SequenceId, token: u32 },
    End { sequence: SequenceId, end: End },
}

/// How much a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tokens of prompts.
    pub prompt_tokens: u32,
    /// Tokens that continued an answer.
    pub decode_tokens: u32,
    /// Rows of logits that were sampled.
    pub sampled: u32,
    /// Tokens that speculation drafted, and those of them that were accepted.
    pub drafted_tokens: u32,
    pub accepted_tokens: u32,
    /// Sequences that were paused for want of KV blocks.
    pub preempted: u32,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Sequences that hold a place.
    pub running: u32,
    /// Sequences that wait for one.
    pub waiting: u32,
    /// KV blocks that sequences hold.
    pub blocks_used: u32,
    pub blocks_total: u32,
}

/// Commands for steps of up to `bucket` tokens.
#[derive(Debug)]
struct Plan {
    bucket: Bucket,
    prepared: Prepared,
    logits: Span,
}

/// Sequences through a model on a device.
pub struct Engine {
    device: Arc<dyn Device>,
    model: Arc<Model>,
    options: Options,
    /// Held for its memory, which `resources` names.
    weights: Weights,
    _state: State,
    resources: Resources,
    arena: Buffer,
    /// Smallest first.
    plans: Vec<Plan>,
    batch: Batch,
    blocks: Blocks,
    sequences: Vec<Option<Sequence>>,
    generation: u64,
    // Kept between steps so that a step allocates nothing.
    work: Vec<Work>,
    rows: Vec<(usize, u32)>,
    sampled: Vec<u8>,
    events: Vec<Event>,
    logits: Vec<u8>,
    logits_hash: LogitsHash,
}

impl Engine {
    /// Brings the model to the device and prepares its steps.
    ///
    /// # Errors
    /// [`Error::Memory`] before anything is taken when it cannot fit; device errors.
    pub fn new(
        device: Arc<dyn Device>,
        model: Arc<Model>,
        options: Options,
    ) -> Result<Self, Error> {
        let limits = limits(&model, &options)?;
        let memory = MemoryPlan::new(&model, device.info(), &options)?;
        admit(&*device, &memory, options.context)?;
        let weights = Weights::new(&device, &model)?;
        let state = State::new(&device, &model, limits, options.kv)?;
        let resources = resources(&weights, &state);
        let arena = device.alloc(Memory::Bytes(memory.activations))?;
        let mut engine = Self {
            batch: Batch::new(limits),
            blocks: Blocks::new(limits.sequences * limits.blocks),
            sequences: (0..options.sequences).map(|_| None).collect(),
            generation: 0,
            work: Vec::with_capacity(options.sequences as usize),
            rows: Vec::with_capacity(options.sequences as usize),
            sampled: vec![0; 4 * limits.rows as usize],
            events: Vec::with_capacity(2 * options.sequences as usize),
            logits: Vec::new(),
            logits_hash: LogitsHash::default(),
            plans: Vec::new(),
            device,
            model,
            options,
            weights,
            _state: state,
            resources,
            arena,
        };
        for bucket in buckets(limits) {
            let plan = engine.plan(bucket)?;
            engine.plans.push(plan);
        }
        Ok(engine)
    }

    /// What the prepared steps consist of, smallest first.
    ///
    /// # Errors
    /// Device errors.
    pub fn plan_summary(&self) -> Result<Vec<StepSummary>, Error> {
        let summary = |plan: &Plan| {
            let (recorded, _) =
                record(&*self.device, &self.model, &self.resources, plan.bucket, true)?;
            Ok(StepSummary::new(plan.bucket, &recorded.commands(self.arena), &self.resources))
        };
        self.plans.iter().map(summary).collect()
    }

    fn plan(&self, bucket: Bucket) -> Result<Plan, Error> {
        let (recorded, logits) = record(&*self.device, &self.model, &self.resources, bucket, true)?;
        let prepared = prepare(&*self.device, &recorded, self.arena)?;
        Ok(Plan { bucket, prepared, logits: recorded.span(&logits, self.arena) })
    }
}

/// Work on sequences.
impl Engine {
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Starts a sequence; its prompt is run by the next steps.
    ///
    /// # Errors
    /// [`Error::Busy`] when all places are taken, [`Error::PromptTooLong`], [`Error::BadRequest`].
    pub fn start(&mut self, prompt: &[u32], params: Params) -> Result<SequenceId, Error> {
        self.check_prompt(prompt, &params)?;
        let sequences = self.options.sequences;
        let index =
            self.sequences.iter().position(Option::is_none).ok_or(Error::Busy { sequences })?;
        self.generation += 1;
        let generation = self.generation;
        let mut tokens = Vec::with_capacity(self.options.context as usize + 1);
        tokens.extend_from_slice(prompt);
        let blocks = Vec::with_capacity(self.batch.limits().blocks as usize);
        let sequence = Sequence {
            generation,
            tokens,
            cached: 0,
            blocks,
            params,
            sampled: 0,
            running: true,
            row: None,
        };
        self.sequences[index] = Some(sequence);
        self.write_seen(index)?;
        Ok(SequenceId { index, generation })
    }

    /// Goes on with a sequence whose text is now `prompt`: what it shares with the tokens before is not read again.
    /// Returns how many tokens were kept.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn resume(
        &mut self,
        id: SequenceId,
        prompt: &[u32],
        params: Params,
    ) -> Result<usize, Error> {
        self.check_prompt(prompt, &params)?;
        let sequence = self.sequence(id)?;
        let same = sequence.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is always run again: its logits are needed.
        let kept = same.min(sequence.cached).min(prompt.len() - 1);
        sequence.tokens.truncate(kept);
        sequence.tokens.extend_from_slice(&prompt[kept..]);
        (sequence.cached, sequence.params) = (kept, params);
        (sequence.sampled, sequence.running, sequence.row) = (0, true, None);
        self.write_seen(id.index)?;
        Ok(kept)
    }

    /// Stops a sequence where it is; it keeps its cache.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a released sequence.
    pub fn stop(&mut self, id: SequenceId) -> Result<(), Error> {
        self.sequence(id)?.running = false;
        Ok(())
    }

    /// Gives a sequence's place and blocks back. A stale id is ignored.
    pub fn release(&mut self, id: SequenceId) {
        if self.sequence(id).is_ok()
            && let Some(sequence) = self.sequences[id.index].take()
        {
            sequence.blocks.into_iter().for_each(|block| self.blocks.give_back(block));
        }
    }

    /// How the token that the last step sampled for a sequence stood among the others, if its [`Params::logprobs`] asks.
    #[must_use]
    pub fn logprobs(&self, _id: SequenceId) -> Option<&crate::Logprobs> {
        None
    }

    /// Tokens of a sequence's prompt whose K and V were still there.
    #[must_use]
    pub fn cached_tokens(&self, _id: SequenceId) -> u32 {
        0
    }

    #[must_use]
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// The embedding of a text, of length 1.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn embed(&mut self, _tokens: &[u32], _pooling: crate::Pooling) -> Result<Vec<f32>, Error> {
        Err(Error::BadRequest { what: "not yet".to_owned() })
    }

    /// A sequence's tokens: prompt and answer.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a released sequence.
    pub fn tokens(&mut self, id: SequenceId) -> Result<&[u32], Error> {
        Ok(&self.sequence(id)?.tokens)
    }

    /// A hash of every row of logits that was sampled so far, in order. Constant unless [`Options::hash_logits`].
    #[must_use]
    pub fn logits_hash(&self) -> u64 {
        self.logits_hash.0
    }

    fn sequence(&mut self, id: SequenceId) -> Result<&mut Sequence, Error> {
        let place = self.sequences.get_mut(id.index).and_then(Option::as_mut);
        let live = place.filter(|sequence| sequence.generation == id.generation);
        live.ok_or_else(|| Error::BadRequest { what: "the sequence was released".to_owned() })
    }

    fn check_prompt(&self, prompt: &[u32], params: &Params) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadRequest { what });
        let (context, vocabulary) = (self.options.context, self.model.config.vocabulary);
        if prompt.is_empty() {
            return bad("the prompt is empty".to_owned());
        }
        if prompt.len() >= context as usize {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context });
        }
        if let Some(token) = prompt.iter().find(|token| **token >= vocabulary) {
            return bad(format!("token {token} is not below the vocabulary's size {vocabulary}"));
        }
        let s = &params.sampler;
        let checks = [
            (
                s.temperature.is_finite() && s.temperature >= 0.0,
                "temperature",
                "0 or more",
                s.temperature,
            ),
            ((0.0..=1.0).contains(&s.top_p), "top_p", "0 to 1", s.top_p),
            ((0.0..=1.0).contains(&s.min_p), "min_p", "0 to 1", s.min_p),
            (
                s.repetition_penalty.is_finite() && s.repetition_penalty > 0.0,
                "repetition_penalty",
                "more than 0",
                s.repetition_penalty,
            ),
        ];
        match checks.iter().find(|(good, ..)| !good) {
            Some((_, name, expected, value)) => {
                bad(format!("{name} is {value}, expected {expected}"))
            }
            None => Ok(()),
        }
    }

    /// Writes the set of tokens that the repetition penalty applies to.
    fn write_seen(&mut self, index: usize) -> Result<(), Error> {
        let Some(sequence) = &self.sequences[index] else { return Ok(()) };
        if sequence.params.sampler.repetition_penalty == 1.0 {
            return Ok(());
        }
        let inputs = self.resources.inputs;
        let mut words = vec![0_u32; inputs.limits.seen_words() as usize];
        sequence.tokens.iter().for_each(|token| words[*token as usize / 32] |= 1 << (token % 32));
        let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let first = inputs.seen_word(to_u32(index), 0);
        let span = Span { bytes: image.len() as u64, ..first };
        Ok(self.device.write(span, &image)?)
    }
}

/// One step.
impl Engine {
    /// Runs one step over all running sequences. Nothing to do gives an empty report.
    ///
    /// # Errors
    /// Device errors; the sequences stay as they were before the step.
    pub fn step(&mut self) -> Result<(Report, &[Event]), Error> {
        self.events.clear();
        let budget = Budget { tokens: self.batch.limits().tokens, rows: self.batch.limits().rows };
        let progress = self
            .sequences
            .iter()
            .map(|place| place.as_ref().map_or(Progress::IDLE, Sequence::progress));
        schedule(&progress, budget, &mut self.work);
        if self.work.is_empty() {
            return Ok((Report::default(), &self.events));
        }
        let report = self.fill_batch();
        self.run()?;
        self.collect()?;
        Ok((report, &self.events))
    }

    /// Puts the scheduled tokens into the batch.
    fn fill_batch(&mut self) -> Report {
        let mut report = Report::default();
        self.batch.clear();
        self.rows.clear();
        for work in &self.work {
            let Some(sequence) = &mut self.sequences[work.sequence] else { continue };
            let decode = sequence.progress().decodes;
            if !decode {
                self.batch.start_prompts();
            }
            let end = sequence.cached + work.tokens as usize;
            while sequence.blocks.len() * (BLOCK_TOKENS as usize) < end {
                let block =
                    self.blocks.take().expect("every sequence has blocks for the whole context");
                self.batch.set_block(to_u32(work.sequence), to_u32(sequence.blocks.len()), block);
                sequence.blocks.push(block);
            }
            for position in sequence.cached..end {
                let id = match sequence.row.take() {
                    Some(row) if position + 1 == sequence.tokens.len() => FEEDBACK | row,
                    _ => sequence.tokens[position],
                };
                let wanted = work.samples && position + 1 == end;
                let token = Token {
                    id,
                    position: to_u32(position),
                    sequence: to_u32(work.sequence),
                    wanted,
                };
                if let Some(row) = self.batch.push(token) {
                    self.batch.set_sampler(row, &sequence.params.sampler);
                    self.rows.push((work.sequence, row));
                }
            }
            *(if decode { &mut report.decode_tokens } else { &mut report.prompt_tokens }) +=
                work.tokens;
            report.sampled += u32::from(work.samples);
        }
        report
    }

    /// Submits the smallest plan that holds the batch and waits for it.
    fn run(&mut self) -> Result<(), Error> {
        let whole = self.resources.inputs.whole;
        self.device.write(whole, self.batch.image())?;
        let (tokens, rows) = (self.batch.tokens(), self.batch.rows());
        let fits = |plan: &&Plan| plan.bucket.tokens >= tokens && plan.bucket.rows >= rows;
        let mut fitting = self.plans.iter().filter(fits);
        let largest = fitting.next_back().expect("the largest plan holds every batch");
        let tokens_min = if self.batch.has_prompts() { ops::linear::FUSED_TOKENS + 1 } else { 0 };
        let plan = fitting.find(|plan| plan.bucket.tokens >= tokens_min).unwrap_or(largest);
        let fence = self.device.submit(plan.prepared, self.options.timing)?;
        self.device.wait(fence)?;
        let bytes = 4 * rows as usize;
        self.device.read(self.resources.sampled, &mut self.sampled[..bytes])?;
        if self.options.hash_logits && rows > 0 {
            let bytes = 4 * rows as usize * self.model.config.vocabulary as usize;
            self.logits.resize(bytes, 0);
            self.device.read(plan.logits, &mut self.logits)?;
            for word in self.logits.as_chunks::<4>().0 {
                self.logits_hash.add_word(u32::from_le_bytes(*word));
            }
        }
        Ok(())
    }

    /// Takes the sampled tokens into their sequences.
    fn collect(&mut self) -> Result<(), Error> {
        for work in &self.work {
            if let Some(sequence) = &mut self.sequences[work.sequence] {
                sequence.cached += work.tokens as usize;
            }
        }
        for (index, row) in &self.rows {
            let at = 4 * *row as usize;
            let word = self.sampled[at..at + 4].try_into().expect("four bytes");
            let token = u32::from_le_bytes(word);
            let Some(sequence) = &mut self.sequences[*index] else { continue };
            let id = SequenceId { index: *index, generation: sequence.generation };
            let (shown, end) = sequence.accept(token, self.options.context);
            sequence.row = Some(*row).filter(|_| end.is_none());
            if shown {
                self.events.push(Event::Token { sequence: id, token });
            }
            if let Some(end) = end {
                self.events.push(Event::End { sequence: id, end });
            }
            if sequence.params.sampler.repetition_penalty != 1.0 {
                let sequence_tokens = &sequence.tokens;
                let same_word = sequence_tokens.iter().filter(|other| **other / 32 == token / 32);
                let bits = same_word.fold(0_u32, |bits, other| bits | 1 << (other % 32));
                let span = self.resources.inputs.seen_word(to_u32(*index), token);
                self.device.write(span, &bits.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

/// Logits for tests and tools.
impl Engine {
    /// Runs `tokens` as a sequence of their own and calls `row(position, logits)` for each position in order.
    ///
    /// # Errors
    /// As [`Engine::start`]; all places for sequences must be free.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        mut row: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.check_prompt(tokens, &Params::new(ops::sample::Sampler::GREEDY, 0))?;
        if self.sequences.iter().any(Option::is_some) {
            return Err(Error::Busy { sequences: self.options.sequences });
        }
        let limits = *self.batch.limits();
        // Rows of logits are large: a few at a time.
        let chunk = 16.min(limits.tokens);
        let wide = Limits { rows: chunk, tokens: chunk, ..limits };
        let state = State::new(&self.device, &self.model, wide, self.options.kv)?;
        self.logits_with(tokens, &resources(&self.weights, &state), &mut row)
    }

    fn logits_with(
        &self,
        tokens: &[u32],
        resources: &Resources,
        row: &mut impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let limits = resources.inputs.limits;
        let bucket = Bucket { tokens: limits.tokens, rows: limits.rows };
        let (recorded, logits) = record(&*self.device, &self.model, resources, bucket, false)?;
        let arena = self.device.alloc(Memory::Bytes(recorded.arena_bytes()))?;
        let prepared = prepare(&*self.device, &recorded, arena)?;
        let span = recorded.span(&logits, arena);
        let mut batch = Batch::new(limits);
        (0..limits.blocks).for_each(|block| batch.set_block(0, block, block));
        let vocabulary = self.model.config.vocabulary as usize;
        let mut bytes = vec![0; 4 * limits.rows as usize * vocabulary];
        let mut values = vec![0.0; vocabulary];
        let mut run = || -> Result<(), Error> {
            for (number, chunk) in tokens.chunks(limits.tokens as usize).enumerate() {
                batch.clear();
                batch.start_prompts();
                let first = number * limits.tokens as usize;
                for (i, id) in chunk.iter().enumerate() {
                    batch.push(Token {
                        id: *id,
                        position: to_u32(first + i),
                        sequence: 0,
                        wanted: true,
                    });
                }
                self.device.write(resources.inputs.whole, batch.image())?;
                self.device.wait(self.device.submit(prepared, self.options.timing)?)?;
                let bytes = &mut bytes[..4 * chunk.len() * vocabulary];
                self.device.read(span, bytes)?;
                for (i, image) in bytes.chunks_exact(4 * vocabulary).enumerate() {
                    for (value, word) in values.iter_mut().zip(image.as_chunks::<4>().0) {
                        *value = f32::from_le_bytes(*word);
                    }
                    row(first + i, &values);
                }
            }
            Ok(())
        };
        let result = run();
        self.device.free(Handle::Prepared(prepared));
        self.device.free(Handle::Buffer(arena));
        result
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = self.device.info();
        f.debug_struct("Engine")
            .field("device", device)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for plan in self.plans.drain(..) {
            self.device.free(Handle::Prepared(plan.prepared));
        }
        self.device.free(Handle::Buffer(self.arena));
    }
}

fn admit(device: &dyn Device, memory: &MemoryPlan, context: u32) -> Result<(), Error> {
    let available = device.info().memory_bytes;
    if available == 0 || memory.total() <= available {
        return Ok(());
    }
    Err(Error::Memory {
        device: device.info().name.clone(),
        needed: memory.total(),
        weights: memory.weights,
        cache: memory.cache,
        activations: memory.activations + memory.inputs,
        context,
        available,
    })
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("places and positions are below 2^32")
}
