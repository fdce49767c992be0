//! Bringing a model to a device.
use crate::Error;
use crate::pack::{self, Packed};
use hal::{Buffer, Device, Handle, Info, Kind, Memory, Span};
use model::{Model, Source};
use ops::simd::Family;
use ops::{CacheSpans, Inputs, KvFormat, Limits, Resources};
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
    packed: Vec<bool>,
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
        packed: weights.packed.clone(),
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
    /// Brings the weights to the device, in the layout that suits it. Every scale is checked on the way.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; device errors.
    pub(crate) fn new(device: &Arc<dyn Device>, model: &Model) -> Result<Self, Error> {
        let info = device.info();
        let threads = info.threads.max(1) as usize;
        let packed = family(info).map(|family| pack::packed(model, family, threads)).transpose()?;
        let packed = packed.map(Arc::new);
        pack::check_unpacked(model, packed.as_deref().map(|packed| &packed.places[..]), threads)?;
        let memory = packed.clone().map(|packed: Arc<Packed>| Memory::Mapped(packed as _));
        let places = packed.map(|packed| packed.places.clone());
        Self::placed(device, model, memory.zip(places))
    }

    /// Only the places of the weights, for recording on the null device what `info` would run.
    pub(crate) fn planned(
        null: &Arc<dyn Device>,
        model: &Model,
        info: &Info,
    ) -> Result<Self, Error> {
        let packed = family(info).map(|family| {
            let (places, bytes) = pack::places(model, family);
            (Memory::Bytes(bytes), places)
        });
        Self::placed(null, model, packed)
    }

    fn placed(
        device: &Arc<dyn Device>,
        model: &Model,
        packed: Option<(Memory, Vec<Option<pack::Extent>>)>,
    ) -> Result<Self, Error> {
        let mut taken = Taken::new(device);
        let file = taken.take(Memory::Mapped(Arc::clone(model.gguf.mapping()) as _))?;
        let (tiles, places) = match packed {
            Some((memory, places)) => (Some(taken.take(memory)?), places),
            None => (None, vec![None; model.tensors.len()]),
        };
        let mut spans = Vec::new();
        for (tensor, place) in model.tensors.iter().zip(&places) {
            spans.push(match (&tensor.source, place.zip(tiles)) {
                (_, Some((extent, buffer))) => {
                    Span { buffer, offset: extent.offset, bytes: extent.bytes }
                }
                (Source::File { offset, bytes }, None) => {
                    Span { buffer: file, offset: *offset, bytes: *bytes }
                }
                (Source::Made(bytes), None) => {
                    let span = taken.span(bytes.len() as u64)?;
                    device.write(span, bytes)?;
                    span
                }
            });
        }
        Ok(Self { _taken: taken, spans, packed: places.iter().map(Option::is_some).collect() })
    }
}
