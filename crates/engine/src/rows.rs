//! Rows of logits of a text that stands alone, for tests and tools.
use crate::engine::{Engine, to_u32};
use crate::load::{State, resources};
use crate::plan::{prepare, record};
use crate::{Error, Params};
use hal::{Handle, Memory};
use ops::{Batch, Bucket, Limits, Resources, Token};

impl Engine {
    /// Runs `tokens` as a sequence of their own and calls `row(position, logits)` for each position in order.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn logits(
        &mut self,
        tokens: &[u32],
        mut row: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.check(tokens, &Params::new(ops::sample::Sampler::GREEDY, 0))?;
        let limits = *self.batch.limits();
        // Rows of logits are large: a few at a time.
        let chunk = 16.min(limits.tokens);
        let wide = Limits { rows: chunk, tokens: chunk, sequences: 1, ..limits };
        let state = State::new(&self.device, &self.model, wide, wide.blocks, self.options.kv)?;
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
