//! What a case computes on, and how it runs on one device.
use super::{Forward, Random, Subject, random_row};
use crate::format::Format;
use crate::linear::pack;
use crate::sample::Sampler;
use crate::simd::Family;
use crate::{
    Batch, Bucket, Cache, CacheSpans, FEEDBACK, Inputs, KvFormat, Limits, Matrix, Recorder,
    Reference, Resources, Tensor, Tiles, Token, Weight,
};
use hal::{Buffer, Commands, Device, Kind, Memory, Span, Timing};
use half::f16;

/// What every word holds that no op may read or write: an f32 NaN that arithmetic changes (it is a signalling one), out of
/// range as an index and as a row of the last step.
const POISON: [u8; 4] = 0xffa5_a5a5_u32.to_le_bytes();
/// What every number of a cache holds that no op may read or write: an F16 NaN.
pub(crate) const POISON_F16: u16 = 0xffff;
/// Rows of every table of inputs.
pub(crate) const VOCABULARY: u32 = 40;

pub(crate) const fn token(id: u32, position: u32, sequence: u32, wanted: bool) -> Token {
    Token { id, position, sequence, wanted }
}

/// Weights, steps and caches of a case.
#[derive(Debug)]
pub(crate) struct Setup {
    seed: u64,
    pub(crate) random: Random,
    tensors: Vec<Vec<u8>>,
    weights: Vec<Weight>,
    /// Matrices lie in packed tiles where this family's kernels take them, all or some or none; the family is recorded.
    pub(crate) packed_for: Option<Family>,
    /// How many tiles of each matrix are packed; None: one or another number.
    pub(crate) ready: Option<u32>,
    steps: Vec<Vec<Token>>,
    /// Tokens from this one on belong to prompts, in every step.
    pub(crate) prompts_from: Option<u32>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) block_tokens: u32,
    /// The last step's samples, which tokens with [`FEEDBACK`] name.
    pub(crate) sampled: Vec<u32>,
    /// One per row of logits.
    pub(crate) samplers: Vec<Sampler>,
    /// Token `.1` was seen in sequence `.0`.
    pub(crate) seen: Vec<(u32, u32)>,
    /// Of each row of logits whose sampler is biased.
    pub(crate) biases: Vec<Vec<f32>>,
    /// The tokens of each row of logits whose sampler is masked.
    pub(crate) allowed: Vec<Vec<u32>>,
    /// Size of the sets of tokens.
    pub(crate) vocabulary: u32,
}

/// One step's results.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Of each returned tensor, the rows that the step asked for.
    pub(crate) outputs: Vec<Vec<f32>>,
    pub(crate) sampled: Vec<u32>,
    /// K and V of each cache, two bytes each: in F16, a number's bits.
    pub(crate) caches: Vec<[Vec<u16>; 2]>,
}

impl Setup {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            tensors: Vec::new(),
            weights: Vec::new(),
            packed_for: None,
            ready: None,
            steps: Vec::new(),
            prompts_from: None,
            caches: Vec::new(),
            block_tokens: 16,
            sampled: vec![0; 4],
            samplers: Vec::new(),
            seen: Vec::new(),
            biases: Vec::new(),
            allowed: Vec::new(),
            vocabulary: VOCABULARY,
        }
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    fn tensor(&mut self, format: Format, rows: u32, columns: u32, bytes: Vec<u8>) -> Weight {
        self.tensors.push(bytes);
        let tensor = u32::try_from(self.tensors.len() - 1).expect("few tensors");
        let weight = Weight { tensor, format, first_row: 0, rows, columns };
        self.weights.push(weight);
        weight
    }

    /// Bytes of a packed tensor, or None where it stays as in the file, as on every GPU.
    fn packed_bytes(&self, kind: Kind, weight: &Weight) -> Option<u64> {
        let Weight { format, rows, columns, .. } = *weight;
        if kind.is_gpu() {
            return None;
        }
        pack::packed_bytes(self.packed_for?, format, rows.into(), columns as usize)
    }

    /// A tensor's tiles, and how many of them are packed. What kernels may not read is poison: the others, and the packed ones'
    /// rows in `file`.
    fn tiles(&self, weight: &Weight, bytes: u64, file: &mut [u8]) -> (Vec<u8>, u32) {
        let mut packed = vec![0xff_u8; usize::try_from(bytes).expect("small")];
        let count = pack::tiles(weight.rows);
        let some = self.seed + u64::from(weight.tensor + count + weight.columns / 64);
        let ready = self.ready.map_or(count * (some % 3) as u32 / 2, |ready| ready.min(count));
        let rows = file.len() / count as usize;
        let tile_bytes = packed.len() / count as usize;
        let tiles = file.chunks_exact_mut(rows).zip(packed.chunks_exact_mut(tile_bytes));
        for (rows, tile) in tiles.take(ready as usize) {
            pack::pack(Family::Portable, weight.format, weight.columns as usize, rows, tile);
            let row_bytes = rows.len() / pack::TILE_ROWS;
            for (r, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                if pack::holds(weight.format, tile, r) {
                    row.fill(0xff);
                }
            }
        }
        (packed, ready)
    }

    /// Random weights, see [`random_row`].
    pub(crate) fn matrix(&mut self, format: Format, rows: u32, columns: u32) -> Weight {
        let row = |_| random_row(format, columns as usize, self.random.word());
        let bytes = (0..rows).flat_map(row).collect();
        self.tensor(format, rows, columns, bytes)
    }

    /// An F32 matrix.
    pub(crate) fn floats(&mut self, columns: u32, values: &[f32]) -> Weight {
        let rows = u32::try_from(values.len()).expect("small") / columns;
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(Format::F32, rows, columns, bytes)
    }

    /// A vector of biases.
    pub(crate) fn bias(&mut self, columns: u32) -> Weight {
        let values = self.random.normals(columns as usize);
        self.floats(columns, &values)
    }

    /// A vector of a norm's weights: around 1.
    pub(crate) fn gains(&mut self, columns: u32) -> Weight {
        let values: Vec<f32> =
            self.random.normals(columns as usize).into_iter().map(|x| 1.0 + 0.3 * x).collect();
        self.floats(columns, &values)
    }

    /// A table of inputs: token ids pick its rows, normal numbers.
    pub(crate) fn table(&mut self, columns: u32) -> Weight {
        let values = self.random.normals((VOCABULARY * columns) as usize);
        self.floats(columns, &values)
    }

    /// A table of inputs that F16 holds exactly.
    pub(crate) fn half_table(&mut self, columns: u32) -> Weight {
        let values = self.random.normals((VOCABULARY * columns) as usize);
        let halves: Vec<f32> = values.into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
        self.floats(columns, &halves)
    }

    /// A table of inputs that int8 blocks hold exactly: codes from -127 to 127, one of them the largest, times a power of two.
    pub(crate) fn exact_table(&mut self, columns: u32) -> Weight {
        let mut values = Vec::new();
        for _ in 0..VOCABULARY * columns / 32 {
            let scale = [1.0, 0.5, 0.25][self.random.below(3) as usize] / 64.0;
            let codes: [f32; 32] = std::array::from_fn(|_| self.random.below(255) as f32 - 127.0);
            let start = values.len();
            values.extend(codes.map(|code| code * scale));
            values[start + self.random.below(32) as usize] = 127.0 * scale;
        }
        self.floats(columns, &values)
    }

    pub(crate) fn step(&mut self, tokens: Vec<Token>) {
        self.steps.push(tokens);
    }

    /// A step of `count` random tokens of one sequence, all wanted.
    pub(crate) fn batch(&mut self, count: u32) {
        let tokens = (0..count).map(|p| token(self.random.below(VOCABULARY), p, 0, true)).collect();
        self.step(tokens);
    }

    /// `count` random tokens of `sequence` from position `first` on, the last one wanted.
    pub(crate) fn chunk(&mut self, sequence: u32, first: u32, count: u32) -> Vec<Token> {
        (first..first + count)
            .map(|p| token(self.random.below(VOCABULARY), p, sequence, p + 1 == first + count))
            .collect()
    }

    fn max(&self, of: impl Fn(&Token) -> u32) -> u32 {
        self.steps.iter().flatten().map(of).max().unwrap_or(0)
    }

    /// What the largest step needs, for odd seeds one token and one row more; the limits are larger still.
    pub(crate) fn bucket(&self) -> Bucket {
        let most = |count: fn(&Vec<Token>) -> usize| {
            u32::try_from(self.steps.iter().map(count).max().unwrap_or(0)).expect("small")
        };
        let rows = most(|step| step.iter().filter(|token| token.wanted).count());
        let spare = u32::from(self.seed % 2 == 1);
        Bucket { tokens: most(Vec::len) + spare, rows: (rows + spare).max(1) }
    }

    pub(crate) fn limits(&self) -> Limits {
        let bucket = self.bucket();
        let cached = if self.caches.is_empty() { 0 } else { self.max(|token| token.position) };
        Limits {
            tokens: bucket.tokens + 2,
            rows: bucket.rows + 3,
            sequences: self.max(|token| token.sequence) + 2,
            blocks: cached / self.block_tokens + 2,
            block_tokens: self.block_tokens,
            vocabulary: self.vocabulary,
        }
    }

    /// Which physical block holds each block of each sequence: all shuffled, a few never used.
    pub(crate) fn tables(&self) -> Vec<u32> {
        let limits = self.limits();
        let mut blocks: Vec<u32> = (0..limits.sequences * limits.blocks + 2).collect();
        Random::new(self.seed ^ 0xb10c).shuffle(&mut blocks);
        blocks
    }

    pub(crate) fn steps(&self) -> &[Vec<Token>] {
        &self.steps
    }

    fn fill(&self, batch: &mut Batch, step: &[Token], resolve: impl Fn(u32) -> u32) {
        batch.clear();
        for token in step {
            if Some(batch.tokens()) == self.prompts_from {
                batch.start_prompts();
            }
            batch.push(Token { id: resolve(token.id), ..*token });
        }
        for (row, sampler) in (0..batch.rows()).zip(&self.samplers) {
            batch.set_sampler(row, sampler);
        }
        let (limits, tables) = (self.limits(), self.tables());
        for (i, block) in (0..limits.sequences * limits.blocks).zip(tables) {
            batch.set_block(i / limits.blocks, i % limits.blocks, block);
        }
    }

    /// A token id that the reference knows.
    fn resolved(&self, id: u32) -> u32 {
        if id & FEEDBACK == 0 { id } else { self.sampled[(id & !FEEDBACK) as usize] }
    }

    /// The reference's results of each step.
    pub(crate) fn expected(&self, forward: &impl Forward) -> Vec<Vec<Matrix>> {
        let tensors = self.tensors.iter().map(Vec::as_slice).collect();
        let mut reference = Reference::new(tensors, Batch::new(self.limits()));
        reference.kv = self.caches.first().map_or(KvFormat::F16, |cache| cache.format);
        let mut step = |step: &Vec<Token>| {
            self.fill(&mut reference.batch, step, |id| self.resolved(id));
            forward.forward(&mut reference)
        };
        self.steps.iter().map(&mut step).collect()
    }

    /// The devices that this case is for: packing and families of the CPU mean nothing to GPUs.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let mut subjects = super::subjects();
        subjects.retain(|s| self.packed_for.is_none() || !s.device.info().kind.is_gpu());
        subjects
    }

    /// Records once, then submits every step.
    pub(crate) fn run(
        &self,
        device: &dyn Device,
        record: impl FnOnce(&mut Recorder<'_>) -> Vec<Tensor>,
    ) -> Vec<Ran> {
        self.run_recorded(device, record, |_| ())
    }

    /// As [`Setup::run`]; `look` gets to see the commands.
    pub(crate) fn run_recorded(
        &self,
        device: &dyn Device,
        record: impl FnOnce(&mut Recorder<'_>) -> Vec<Tensor>,
        look: impl FnOnce(&Commands),
    ) -> Vec<Ran> {
        let resources = self.resources(device);
        let family = self.packed_for.unwrap_or(Family::host());
        let mut recorder = Recorder::new(device, &resources, self.bucket()).with_family(family);
        let outputs = record(&mut recorder);
        let capacities: Vec<u32> =
            outputs.iter().map(|tensor| recorder.capacity(tensor.rows_of)).collect();
        let recorded = recorder.finish().expect("every program loads");
        let arena = poisoned(device, recorded.arena_bytes() + GUARD);
        let commands = recorded.commands(arena.buffer);
        look(&commands);
        #[expect(unsafe_code, reason = "runs recorded commands")]
        // SAFETY: the recorder keeps the programs' contracts; tables and tokens are within the limits.
        let prepared = unsafe { device.prepare(&commands) }.expect("valid commands");
        let mut batch = Batch::new(self.limits());
        let mut run_step = |step: &Vec<Token>| {
            fill(device, arena);
            self.fill(&mut batch, step, |id| id);
            write_inputs(device, &resources.inputs, &mut batch);
            let fence = device.submit(prepared, Timing::Off).expect("the kernels do not panic");
            device.wait(fence).expect("the work ends");
            let outputs = outputs.iter().zip(&capacities);
            let read_one = |(tensor, capacity): (&Tensor, &u32)| {
                let bytes = read(device, recorded.span(tensor, arena.buffer));
                let rows = match tensor.rows_of.count_index() {
                    0 => batch.tokens(),
                    _ => batch.rows(),
                };
                live_rows(&bytes, rows, *capacity, tensor.columns)
            };
            let ran = Ran {
                outputs: outputs.map(read_one).collect(),
                sampled: words(&read(device, resources.sampled)),
                caches: resources
                    .caches
                    .iter()
                    .map(|c| [c.k, c.v].map(|s| halves(&read(device, s))))
                    .collect(),
            };
            let guard = read(device, arena.part(recorded.arena_bytes(), GUARD));
            assert!(device.info().kind == Kind::Null || untouched(&guard), "past the arena");
            ran
        };
        self.steps.iter().map(&mut run_step).collect()
    }

    fn resources(&self, device: &dyn Device) -> Resources {
        let kind = device.info().kind;
        let on_device = |bytes: &[u8]| {
            let span = alloc(device, bytes.len() as u64);
            device.write(span, bytes).expect("it fits");
            span
        };
        let (mut weights, mut spans, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        for (bytes, weight) in self.tensors.iter().zip(&self.weights) {
            let mut file = bytes.clone();
            let packed = self.packed_bytes(kind, weight);
            let tiles = packed.map(|packed| self.tiles(weight, packed, &mut file));
            ready.push(tiles.as_ref().map_or(u32::MAX, |(_, ready)| *ready));
            spans.push(tiles.map(|(tiles, _)| on_device(&tiles)));
            weights.push(on_device(&file));
        }
        let ready: Vec<u8> = ready.into_iter().flat_map(u32::to_le_bytes).collect();
        let ready = on_device(&ready);
        let tiles = self.packed_for.map(|_| Tiles { spans, ready, wanted: ready });
        let limits = self.limits();
        let inputs = Inputs { whole: poisoned(device, limits.bytes()), limits };
        self.write_sets(device, &inputs);
        let blocks = self.tables().len() as u64;
        let cache = |shape: &Cache| {
            let bytes = blocks * u64::from(self.block_tokens) * shape.token_bytes();
            let [k, v] = [alloc(device, bytes), alloc(device, bytes)];
            let count = usize::try_from(bytes).expect("small") / 2;
            for span in [k, v] {
                device.write(span, &POISON_F16.to_le_bytes().repeat(count)).expect("it fits");
            }
            CacheSpans { k, v, shape: *shape }
        };
        let sampled = poisoned(device, 4 * u64::from(limits.rows));
        let samples: Vec<u8> = self.sampled.iter().flat_map(|id| id.to_le_bytes()).collect();
        let known = samples.len().min(usize::try_from(sampled.bytes).expect("small"));
        device.write(sampled, &samples[..known]).expect("it fits");
        let caches = self.caches.iter().map(cache).collect();
        Resources { weights, tiles, inputs, caches, sampled }
    }

    /// Sets of seen tokens, and for rows whose samplers ask for them the allowed ones and biases.
    fn write_sets(&self, device: &dyn Device, inputs: &Inputs) {
        let write = |span, words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            device.write(span, &bytes).expect("it fits");
        };
        // Of a set of allowed tokens, bits past the vocabulary are poison.
        let set = |tokens: &mut dyn Iterator<Item = u32>| {
            let mut words = vec![0; inputs.limits.seen_words() as usize];
            tokens.for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
            words
        };
        for sequence in 0..inputs.limits.sequences {
            let seen = self.seen.iter().filter(|(of, _)| *of == sequence);
            let first = inputs.seen_word(sequence, 0);
            let words = set(&mut seen.map(|(_, id)| *id));
            write(Span { bytes: 4 * words.len() as u64, ..first }, &words);
        }
        let past = self.vocabulary..32 * inputs.limits.seen_words();
        for (row, sampler) in (0..).zip(&self.samplers) {
            if sampler.masked {
                let allowed = self.allowed[row as usize].iter().copied();
                write(inputs.allowed_row(row), &set(&mut allowed.chain(past.clone())));
            }
            if sampler.biased {
                let bias: Vec<u32> =
                    self.biases[row as usize].iter().map(|x| x.to_bits()).collect();
                write(inputs.bias_row(row), &bias);
            }
        }
    }
}

/// Poison behind the arena.
const GUARD: u64 = 4096;

fn alloc(device: &dyn Device, bytes: u64) -> Span {
    let buffer: Buffer = device.alloc(Memory::Bytes(bytes)).expect("memory");
    Span { buffer, offset: 0, bytes }
}

fn fill(device: &dyn Device, span: Span) {
    let bytes = usize::try_from(span.bytes).expect("small");
    device.write(span, &POISON.repeat(bytes / 4)).expect("it fits");
}

fn poisoned(device: &dyn Device, bytes: u64) -> Span {
    let span = alloc(device, bytes);
    fill(device, span);
    span
}

fn untouched(bytes: &[u8]) -> bool {
    bytes.as_chunks().0.iter().all(|word| *word == POISON)
}

fn read(device: &dyn Device, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(span.bytes).expect("small")];
    device.read(span, &mut bytes).expect("readable");
    bytes
}

/// Writes the step's image, with poison where it holds no token, row or sampler.
fn write_inputs(device: &dyn Device, inputs: &Inputs, batch: &mut Batch) {
    device.write(inputs.whole, batch.image()).expect("it fits");
    let (tokens, rows) = (u64::from(batch.tokens()), u64::from(batch.rows()));
    let arrays =
        [inputs.tokens(), inputs.positions(), inputs.sequences()].map(|span| (span, 4 * tokens));
    for (span, live) in arrays.into_iter().chain([
        (inputs.rows(), 4 * rows),
        (inputs.samplers(), 4 * u64::from(crate::inputs::SAMPLER_WORDS) * rows),
    ]) {
        fill(device, span.part(live, span.bytes - live));
    }
}

/// The rows that the step has. Those after them must hold what was there before.
fn live_rows(bytes: &[u8], rows: u32, capacity: u32, columns: u32) -> Vec<f32> {
    let at = |rows: u32| 4 * rows as usize * columns as usize;
    let padding = &bytes[at(rows)..at(capacity)];
    // The null device reads zeros.
    assert!(untouched(padding) || bytes.iter().all(|byte| *byte == 0), "padding rows were written");
    bytes[..at(rows)].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()
}
