//! The engine itself: a model on a device, prepared steps, sequences.
use crate::blocks::Blocks;
use crate::embed::Embedder;
use crate::load::{State, Weights, resources};
use crate::memory::{BLOCK_TOKENS, MemoryPlan};
use crate::pack::Packing;
use crate::plan::{buckets, limits, prepare, record};
use crate::schedule::{Item, Plan};
use crate::sequence::{End, Params, Sequence, SequenceId};
use crate::{Error, LogitsHash, Logprobs, StepSummary};
use hal::{Buffer, Device, Handle, Memory, Prepared, Span, Timing};
use model::Model;
use ops::{Batch, Bucket, KvFormat, Resources};
use std::sync::Arc;

/// What a guessed token costs until it is known: on most devices a step of a few tokens takes little longer than one of a single token.
pub(crate) const DRAFT_COST: f64 = 0.25;

/// Bytes of weights that one call of [`Engine::settle`] packs.
const SETTLED_BYTES: u64 = 16 << 20;

/// How an engine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens that one sequence can hold.
    pub context: u32,
    /// Tokens that all sequences together can hold.
    pub cache_tokens: u32,
    /// Sequences that run at the same time.
    pub sequences: u32,
    /// Sequences that may wait for a place.
    pub waiting: u32,
    /// Tokens of prompts that one step takes: more unpack weights less often, and let others wait longer.
    pub prompt_chunk: u32,
    /// Guess at tokens: see [`Engine::set_draft_cost`].
    pub speculate: bool,
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
        Self {
            context,
            cache_tokens: context,
            sequences: 1,
            waiting: 0,
            prompt_chunk: 512,
            speculate: false,
            kv: KvFormat::F16,
            timing: Timing::Off,
            hash_logits: false,
        }
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
    pub paused: u32,
    /// Sequences whose prompts are not read to the end yet.
    pub reading: u32,
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
pub(crate) struct Prepare {
    pub(crate) bucket: Bucket,
    pub(crate) prepared: Prepared,
    pub(crate) logits: Span,
}

/// Sequences through a model on a device.
pub struct Engine {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) model: Arc<Model>,
    pub(crate) options: Options,
    /// Held for its memory, which `resources` names.
    pub(crate) weights: Weights,
    _state: State,
    pub(crate) resources: Resources,
    packing: Option<Packing>,
    arena: Buffer,
    /// Smallest first.
    pub(crate) steps: Vec<Prepare>,
    pub(crate) batch: Batch,
    pub(crate) blocks: Blocks,
    /// Live sequences, in the order of their arrival.
    pub(crate) sequences: Vec<Sequence>,
    /// Rows of the block tables that nobody uses.
    pub(crate) places: Vec<u32>,
    pub(crate) arrivals: u64,
    pub(crate) step_number: u64,
    /// Tokens of prompts that a step may take beside answers.
    pub(crate) prompt_tokens: u32,
    /// What a guessed token adds to a step, as a part of the step.
    pub(crate) draft_cost: f64,
    // Kept between steps so that a step allocates nothing.
    pub(crate) items: Vec<Item>,
    pub(crate) plan: Plan,
    /// Which sequence samples each row.
    pub(crate) rows: Vec<(SequenceId, u32)>,
    pub(crate) sampled: Vec<u8>,
    pub(crate) events: Vec<Event>,
    pub(crate) bias: Vec<f32>,
    pub(crate) mask: Vec<u32>,
    pub(crate) image: Vec<u8>,
    pub(crate) logits: Vec<u8>,
    pub(crate) logits_hash: LogitsHash,
    /// A smaller model that guesses.
    pub(crate) draft: Option<Box<Self>>,
    /// Made when the first text is embedded.
    pub(crate) embedder: Option<Embedder>,
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
        admit(&*device, &memory, options.cache_tokens)?;
        let weights = Weights::new(&device, &model)?;
        let blocks = options.cache_tokens.div_ceil(BLOCK_TOKENS);
        let state = State::new(&device, &model, limits, blocks, options.kv)?;
        let resources = resources(&weights, &state);
        let arena = device.alloc(Memory::Bytes(memory.activations))?;
        let packing = Packing::new(&device, &model, &resources, arena)?;
        let places = options.sequences as usize;
        let mut engine = Self {
            batch: Batch::new(limits),
            blocks: Blocks::new(blocks),
            sequences: Vec::with_capacity(places),
            places: (0..options.sequences).rev().collect(),
            arrivals: 0,
            step_number: 0,
            prompt_tokens: options.prompt_chunk,
            draft_cost: DRAFT_COST,
            items: Vec::with_capacity(places),
            plan: Plan::default(),
            rows: Vec::with_capacity(places),
            sampled: vec![0; 4 * limits.rows as usize],
            events: Vec::with_capacity(2 * places),
            bias: Vec::new(),
            mask: Vec::new(),
            image: Vec::new(),
            logits: Vec::new(),
            logits_hash: LogitsHash::default(),
            draft: None,
            embedder: None,
            steps: Vec::new(),
            device,
            model,
            options,
            weights,
            _state: state,
            resources,
            packing,
            arena,
        };
        for bucket in buckets(limits) {
            let step = engine.prepare(bucket)?;
            engine.steps.push(step);
        }
        Ok(engine)
    }

    /// What the prepared steps consist of, smallest first.
    ///
    /// # Errors
    /// Device errors.
    pub fn plan_summary(&self) -> Result<Vec<StepSummary>, Error> {
        let summary = |step: &Prepare| {
            let (recorded, _) =
                record(&*self.device, &self.model, &self.resources, step.bucket, true)?;
            Ok(StepSummary::new(step.bucket, &recorded.commands(self.arena), &self.resources))
        };
        self.steps.iter().map(summary).collect()
    }

    fn prepare(&self, bucket: Bucket) -> Result<Prepare, Error> {
        let (recorded, logits) = record(&*self.device, &self.model, &self.resources, bucket, true)?;
        let prepared = prepare(&*self.device, &recorded, self.arena)?;
        Ok(Prepare { bucket, prepared, logits: recorded.span(&logits, self.arena) })
    }
}

/// What is there.
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

    /// Bytes of the weights that lie where the device computes from, and all of them.
    ///
    /// # Errors
    /// Device errors.
    pub fn weights_resident(&self) -> Result<(u64, u64), Error> {
        let tiles = self.resources.tiles.as_ref().zip(self.packing.as_ref());
        let packed = |tensor| tiles.filter(|(_, packing)| packing.has(tensor))?.0.spans[tensor];
        let files = self.resources.weights.iter().enumerate();
        let spans = files.map(|(tensor, file)| packed(tensor).unwrap_or(*file));
        let resident: hal::Result<u64> = spans.clone().map(|span| self.device.resident(span)).sum();
        Ok((resident?, spans.map(|span| span.bytes).sum()))
    }

    /// Brings some more of the weights into the layout that steps read fastest; false when all are. Steps do so too while answers
    /// are written: this is for a caller that has nothing else to do. It takes a few milliseconds, where memory is at hand.
    ///
    /// # Errors
    /// Device errors.
    pub fn settle(&mut self) -> Result<bool, Error> {
        match &mut self.packing {
            Some(packing) if !packing.is_done() => packing.pack(SETTLED_BYTES).map(|()| true),
            _ => Ok(false),
        }
    }

    /// As [`Self::settle`], beside a step that continued an answer.
    pub(crate) fn settle_beside(&mut self) -> Result<(), Error> {
        self.packing.as_mut().map_or(Ok(()), Packing::pack_beside)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let (total, places) = (self.blocks.total(), to_u32(self.places.len()));
        let running = self.options.sequences - places;
        let open = self.sequences.iter().filter(|sequence| !sequence.ended).count();
        Status {
            running,
            waiting: to_u32(open) - running,
            blocks_used: total - self.blocks.available(),
            blocks_total: total,
        }
    }

    /// A sequence's tokens: prompt and answer.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a released sequence.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32], Error> {
        let sequence = self.sequence(id);
        let gone = || Error::BadRequest { what: "the sequence was released".to_owned() };
        sequence.map(|sequence| &sequence.tokens[..]).ok_or_else(gone)
    }

    /// How the token that the last step sampled for a sequence stood among the others, if its [`Params::logprobs`] asks.
    #[must_use]
    pub fn logprobs(&self, id: SequenceId) -> Option<&Logprobs> {
        self.sequence(id)?.logprobs.as_ref()
    }

    /// Tokens of a sequence's prompt whose K and V were still there.
    #[must_use]
    pub fn cached_tokens(&self, id: SequenceId) -> u32 {
        self.sequence(id).map_or(0, |sequence| sequence.found)
    }

    /// A hash of every row of logits that was sampled so far, in order. Constant unless [`Options::hash_logits`].
    #[must_use]
    pub fn logits_hash(&self) -> u64 {
        self.logits_hash.0
    }

    fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.iter().find(|sequence| sequence.id == id)
    }
}

/// Work on sequences.
impl Engine {
    /// Starts a sequence. The next steps give it a place, read its prompt and sample its answer.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait, [`Error::PromptTooLong`], [`Error::BadRequest`].
    pub fn start(&mut self, prompt: &[u32], params: Params) -> Result<SequenceId, Error> {
        self.check(prompt, &params)?;
        let open = self.sequences.iter().filter(|sequence| !sequence.ended).count();
        let (sequences, waiting) = (self.options.sequences, self.options.waiting);
        if open >= sequences as usize + waiting as usize {
            return Err(Error::Busy { sequences, waiting });
        }
        self.arrivals += 1;
        let id = SequenceId(self.arrivals);
        self.sequences.push(Sequence::new(id, prompt, params));
        Ok(id)
    }

    /// What one more token of an answer adds to a step, as a part of the step ([`crate::Pace`] learns it): guesses are made while they pay.
    pub fn set_draft_cost(&mut self, cost: f64) {
        self.draft_cost = cost;
    }

    /// Ends a sequence where it is; its tokens can still be asked for. A released id is ignored.
    pub fn stop(&mut self, id: SequenceId) {
        if let Some(index) = self.sequences.iter().position(|sequence| sequence.id == id) {
            self.sequences[index].ended = true;
            self.leave(index);
        }
    }

    /// Forgets a sequence, whatever it was doing; its place and blocks are free again. A released id is ignored.
    pub fn release(&mut self, id: SequenceId) {
        if let Some(index) = self.sequences.iter().position(|sequence| sequence.id == id) {
            self.leave(index);
            self.sequences.remove(index);
        }
    }

    /// How many tokens of prompts a step may take while answers are written: fewer make their streams smoother and prompts slower.
    pub fn set_prompt_tokens(&mut self, tokens: u32) {
        self.prompt_tokens = tokens;
    }

    /// Takes a sequence's place and blocks away.
    pub(crate) fn leave(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        if let Some(place) = sequence.place.take() {
            self.places.push(place);
        }
        self.blocks.give_back(&sequence.blocks);
        sequence.blocks.clear();
        (sequence.cached, sequence.kept, sequence.row) = (0, 0, None);
        sequence.guesses.clear();
        let draft = sequence.draft.take();
        self.leave_draft(draft);
    }

    /// Tokens that one sequence can hold.
    pub(crate) fn room(&self) -> u32 {
        self.options.context.min(self.options.cache_tokens)
    }

    pub(crate) fn check(&self, prompt: &[u32], params: &Params) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadRequest { what });
        let (room, vocabulary) = (self.room(), self.model.config.vocabulary);
        if prompt.is_empty() {
            return bad("the prompt is empty".to_owned());
        }
        if prompt.len() >= room as usize {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context: room });
        }
        let biased = params.logit_bias.iter().map(|(token, _)| token);
        if let Some(token) = prompt.iter().chain(biased).find(|token| **token >= vocabulary) {
            return bad(format!("token {token} is not below the vocabulary's size {vocabulary}"));
        }
        params.check()
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
        for step in self.steps.drain(..) {
            self.device.free(Handle::Prepared(step.prepared));
        }
        self.device.free(Handle::Buffer(self.arena));
    }
}

fn admit(device: &dyn Device, memory: &MemoryPlan, tokens: u32) -> Result<(), Error> {
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
        context: tokens,
        available,
    })
}

pub(crate) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("places and positions are below 2^32")
}
