//! Embeddings: one vector for a text, from the rows that would become logits.
use crate::Error;
use crate::engine::{Engine, to_u32};
use crate::load::{State, resources};
use crate::memory::BLOCK_TOKENS;
use crate::plan::prepare;
use crate::sequence::{Params, Pooling};
use hal::{Buffer, Device, Handle, Memory, Prepared, Span};
use ops::sample::Sampler;
use ops::{Batch, Bucket, Limits, Recorder, Token};
use std::sync::Arc;

/// Tokens of one step: answers that are being written wait for it.
const CHUNK: u32 = 64;

/// A text on its way to becoming a vector; see [`Engine::embedding`].
#[derive(Debug)]
pub struct Embedding {
    number: u64,
    tokens: Vec<u32>,
    pooling: Pooling,
    /// Tokens that were read.
    read: usize,
    /// Of the rows that count, `(dim)`.
    sum: Vec<f64>,
}

/// Prepared steps that end in rows of the last layer, with a KV cache of their own for one text.
pub(crate) struct Embedder {
    device: Arc<dyn Device>,
    _state: State,
    inputs: Span,
    batch: Batch,
    arena: Buffer,
    prepared: Prepared,
    rows: Span,
    /// The text that the cache is about.
    number: u64,
}

impl Engine {
    /// Takes a text to be embedded. [`Engine::advance`] reads it piece by piece, so that answers go on beside it.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::BadRequest`].
    pub fn embedding(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Embedding, Error> {
        self.check(tokens, &Params::new(Sampler::GREEDY, 0))?;
        self.arrivals += 1;
        let sum = vec![0.0; self.model.config.dim as usize];
        let (number, tokens) = (self.arrivals, tokens.to_vec());
        Ok(Embedding { number, tokens, pooling, read: 0, sum })
    }

    /// Reads the next piece; returns the vector, of length 1, after the last. One text must be finished before the next begins.
    ///
    /// # Errors
    /// Device errors.
    pub fn advance(&mut self, text: &mut Embedding) -> Result<Option<Vec<f32>>, Error> {
        if self.embedder.is_none() {
            self.embedder = Some(Embedder::new(self)?);
        }
        let embedder = self.embedder.as_mut().expect("it was just made");
        embedder.advance(text)?;
        Ok((text.read == text.tokens.len()).then(|| text.vector()))
    }
}

impl Embedding {
    fn counts(&self, position: usize) -> bool {
        match self.pooling {
            Pooling::Mean => true,
            Pooling::Last => position + 1 == self.tokens.len(),
            Pooling::Cls => position == 0,
        }
    }

    /// The sum scaled to length 1: the mean's length does not matter.
    fn vector(&self) -> Vec<f32> {
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what is asked for")]
        self.sum.iter().map(|x| (x / length.max(f64::MIN_POSITIVE)) as f32).collect()
    }
}

impl Embedder {
    fn new(engine: &Engine) -> Result<Self, Error> {
        let (device, model) = (&engine.device, &engine.model);
        let blocks = engine.room().div_ceil(BLOCK_TOKENS);
        let limits =
            Limits { tokens: CHUNK, rows: CHUNK, sequences: 1, blocks, ..*engine.batch.limits() };
        let state = State::new(device, model, limits, blocks, engine.options.kv)?;
        let resources = resources(&engine.weights, &state);
        let bucket = Bucket { tokens: CHUNK, rows: CHUNK };
        let mut recorder =
            Recorder::new(&**device, &resources, bucket).for_kind(device.info().kind);
        let rows = model::hidden(&mut recorder, model);
        let recorded = recorder.finish()?;
        let arena = device.alloc(Memory::Bytes(recorded.arena_bytes()))?;
        let prepared = prepare(&**device, &recorded, arena)?;
        let mut batch = Batch::new(limits);
        (0..blocks).for_each(|block| batch.set_block(0, block, block));
        let (device, inputs) = (Arc::clone(device), resources.inputs.whole);
        let rows = recorded.span(&rows, arena);
        Ok(Self { device, _state: state, inputs, batch, arena, prepared, rows, number: 0 })
    }

    fn advance(&mut self, text: &mut Embedding) -> Result<(), Error> {
        if text.read == 0 {
            self.number = text.number;
        } else if self.number != text.number {
            let what = "another embedding was begun before this one was finished".to_owned();
            return Err(Error::BadRequest { what });
        }
        self.batch.clear();
        self.batch.start_prompts();
        let end = text.tokens.len().min(text.read + CHUNK as usize);
        for position in text.read..end {
            let (id, wanted) = (text.tokens[position], text.counts(position));
            self.batch.push(Token { id, position: to_u32(position), sequence: 0, wanted });
        }
        self.device.write(self.inputs, self.batch.image())?;
        self.device.wait(self.device.submit(self.prepared, hal::Timing::Off)?)?;
        text.read = end;
        let dim = text.sum.len();
        let mut bytes = vec![0; 4 * dim * self.batch.rows() as usize];
        if !bytes.is_empty() {
            self.device.read(Span { bytes: bytes.len() as u64, ..self.rows }, &mut bytes)?;
        }
        for row in bytes.chunks_exact(4 * dim) {
            for (sum, word) in text.sum.iter_mut().zip(row.as_chunks::<4>().0) {
                *sum += f64::from(f32::from_le_bytes(*word));
            }
        }
        Ok(())
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        self.device.free(Handle::Prepared(self.prepared));
        self.device.free(Handle::Buffer(self.arena));
    }
}
