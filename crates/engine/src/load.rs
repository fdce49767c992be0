//! Bringing a model to a device.
use crate::Error;
use crate::pack;
use hal::{Buffer, Device, Handle, Info, Kind, Memory, Span};
use model::{Model, Source};
use ops::simd::Family;
use ops::{CacheSpans, Inputs, KvFormat, Limits, Resources, Tiles};
use std::sync::Arc;

/// Device memory; given back on drop.
#[derive(Debug)]
struct Taken {
    device: Arc<dyn Device>,
    buffers: Vec<Buffer>,
}

impl Taken {
    fn new(device: &Arc<dyn Device>) -> Self {
        Self { device: Arc::clone(device), buffers: Vec::new() }
    }

    fn take(&mut self, memory: Memory) -> Result<Buffer, Error> {
        let buffer = self.device.alloc(memory)?;
        self.buffers.push(buffer);
        Ok(buffer)
    }

    fn span(&mut self, bytes: u64) -> Result<Span, Error> {
        Ok(Span { buffer: self.take(Memory::Bytes(bytes))?, offset: 0, bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for buffer in self.buffers.drain(..) {
            self.device.free(Handle::Buffer(buffer));
        }
    }
}

/// The weights of a model on a device.
#[derive(Debug)]
pub(crate) struct Weights {
    _taken: Taken,
    spans: Vec<Span>,
    tiles: Option<Tiles>,
}

/// Step inputs, KV caches and sampled tokens.
#[derive(Debug)]
pub(crate) struct State {
    _taken: Taken,
    inputs: Inputs,
    caches: Vec<CacheSpans>,
    sampled: Span,
}

/// Everything that outlives a step.
pub(crate) fn resources(weights: &Weights, state: &State) -> Resources {
    Resources {
        weights: weights.spans.clone(),
        tiles: weights.tiles.clone(),
        inputs: state.inputs,
        caches: state.caches.clone(),
        sampled: state.sampled,
    }
}

impl State {
    /// Takes the memory that `limits` and `blocks` of KV cache ask for. On an error everything taken so far is given back.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        model: &Model,
        limits: Limits,
        blocks: u32,
        kv: KvFormat,
    ) -> Result<Self, Error> {
        let mut taken = Taken::new(device);
        let inputs = Inputs { whole: taken.span(limits.bytes())?, limits };
        let mut caches = Vec::new();
        for shape in model.caches(kv) {
            let bytes = u64::from(blocks) * u64::from(limits.block_tokens) * shape.token_bytes();
            caches.push(CacheSpans { k: taken.span(bytes)?, v: taken.span(bytes)?, shape });
        }
        let sampled = taken.span(4 * u64::from(limits.rows))?;
        Ok(Self { _taken: taken, inputs, caches, sampled })
    }
}

/// Which family's packed layout a device wants: the CPU reads packed tiles, others read weights as they lie in the file.
pub(crate) fn family(info: &Info) -> Option<Family> {
    (info.kind == Kind::Cpu).then(Family::host)
}

impl Weights {
    /// Brings the weights to the device, with room for the layout that suits it. Every scale is looked at on the way.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; device errors.
    pub(crate) fn new(device: &Arc<dyn Device>, model: &Model) -> Result<Self, Error> {
        let info = device.info();
        let weights = Self::placed(device, model, info)?;
        let tiles = weights.tiles.as_ref().map(|tiles| &tiles.spans[..]);
        pack::check(model, tiles, info.threads.max(1) as usize)?;
        Ok(weights)
    }

    /// Takes memory for the weights, and looks at none of them: all that recording needs, on the null device too. `info` tells whose
    /// layout it is for.
    pub(crate) fn placed(
        device: &Arc<dyn Device>,
        model: &Model,
        info: &Info,
    ) -> Result<Self, Error> {
        let mut taken = Taken::new(device);
        let file = taken.take(Memory::Mapped(Arc::clone(model.gguf.mapping()) as _))?;
        let tiles = family(info).map(|family| tiles(&mut taken, model, family)).transpose()?;
        let mut spans = Vec::new();
        for tensor in &model.tensors {
            spans.push(match &tensor.source {
                Source::File { offset, bytes } => {
                    Span { buffer: file, offset: *offset, bytes: *bytes }
                }
                Source::Made(bytes) => {
                    let span = taken.span(bytes.len() as u64)?;
                    device.write(span, bytes)?;
                    span
                }
            });
        }
        Ok(Self { _taken: taken, spans, tiles })
    }
}

/// Takes memory for packed tiles. None of them is ready.
fn tiles(taken: &mut Taken, model: &Model, family: Family) -> Result<Tiles, Error> {
    let (places, bytes) = pack::places(model, family);
    let buffer = taken.take(Memory::Dense(bytes))?;
    let span = |(offset, bytes)| Span { buffer, offset, bytes };
    let words = 4 * model.tensors.len() as u64;
    let (ready, wanted) = (taken.span(words)?, taken.span(words)?);
    Ok(Tiles { spans: places.into_iter().map(|place| place.map(span)).collect(), ready, wanted })
}
