//! Bringing a model to a device.
use crate::Error;
use hal::{Buffer, Device, Handle, Memory, Span};
use model::{Model, Source};
use ops::{CacheSpans, Inputs, Limits, Resources};
use std::sync::Arc;

/// The device memory of one engine; given back on drop.
#[derive(Debug)]
pub(crate) struct Loaded {
    device: Arc<dyn Device>,
    pub(crate) resources: Resources,
    owned: Vec<Buffer>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        for buffer in self.owned.drain(..) {
            self.device.free(Handle::Buffer(buffer));
        }
    }
}

struct Taking<'a> {
    device: &'a dyn Device,
    owned: Vec<Buffer>,
}

impl Taking<'_> {
    fn take(&mut self, memory: Memory) -> Result<Buffer, Error> {
        let buffer = self.device.alloc(memory)?;
        self.owned.push(buffer);
        Ok(buffer)
    }

    fn span(&mut self, bytes: u64) -> Result<Span, Error> {
        Ok(Span { buffer: self.take(Memory::Bytes(bytes))?, offset: 0, bytes })
    }
}

/// Takes all memory that outlives a step. On an error everything taken so far is given back.
pub(crate) fn load(
    device: &Arc<dyn Device>,
    model: &Model,
    limits: Limits,
) -> Result<Loaded, Error> {
    let mut taking = Taking { device: &**device, owned: Vec::new() };
    let resources = resources(&mut taking, model, limits);
    let owned = taking.owned;
    match resources {
        Ok(resources) => Ok(Loaded { device: Arc::clone(device), resources, owned }),
        Err(error) => {
            owned.into_iter().for_each(|buffer| device.free(Handle::Buffer(buffer)));
            Err(error)
        }
    }
}

fn resources(taking: &mut Taking<'_>, model: &Model, limits: Limits) -> Result<Resources, Error> {
    let weights = weights(taking, model)?;
    let whole = taking.span(limits.bytes())?;
    let blocks = u64::from(limits.sequences) * u64::from(limits.blocks);
    let mut caches = Vec::new();
    for shape in model.caches() {
        let bytes = blocks * u64::from(limits.block_tokens) * shape.token_bytes();
        caches.push(CacheSpans { k: taking.span(bytes)?, v: taking.span(bytes)?, shape });
    }
    let sampled = taking.span(4 * u64::from(limits.rows))?;
    Ok(Resources { weights, packed: Vec::new(), inputs: Inputs { whole, limits }, caches, sampled })
}

/// Weights stay in the mapped file; tensors made at load are copied.
fn weights(taking: &mut Taking<'_>, model: &Model) -> Result<Vec<Span>, Error> {
    let file = taking.take(Memory::Mapped(Arc::clone(model.gguf.mapping()) as _))?;
    let mut spans = Vec::new();
    for tensor in &model.tensors {
        spans.push(match &tensor.source {
            Source::File { offset, bytes } => Span { buffer: file, offset: *offset, bytes: *bytes },
            Source::Made(bytes) => {
                let span = taking.span(bytes.len() as u64)?;
                taking.device.write(span, bytes)?;
                span
            }
        });
    }
    Ok(spans)
}
