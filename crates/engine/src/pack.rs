//! Weights in the layout that the CPU's kernels read fastest.
//!
//! Filling fresh memory with a packed model can take several times as long as reading the model, most of all in a virtual machine
//! whose host must find that memory first. So the first tokens come from the file's pages, and tiles are packed a few at a time beside
//! later steps, or while nothing else is to do. Kernels give the same bits either way. The file's pages are let go as their tiles
//! become ready, so that there is one copy in memory.
use crate::Error;
use crate::plan::prepare;
use hal::{Buffer, Device, Handle, Prepared, Span, Timing};
use model::{Model, Source, Tensor};
use ops::linear::pack::{self, TILE_ROWS, packed_bytes};
use ops::linear::packing;
use ops::simd::Family;
use ops::{Bucket, Recorder, Resources, Tiles, Weight};
use std::sync::{Arc, Mutex};

/// Bytes of file that one piece of work reads.
const JOB_BYTES: usize = 256 << 10;
/// Tensors start on pages.
const ALIGN: u64 = 4096;
/// Steps of an answer that read the file before packing begins: for so few, it would not pay.
const STEPS_BEFORE: u64 = 4;
/// Steps of an answer beside which all weights are packed: so many that the answer does not stop, so few that it soon has the speed of
/// packed weights.
const STEPS_BESIDE: u64 = 16;

/// A tensor's tiles: offset in the memory of all, and bytes.
type Place = (u64, u64);

/// Which tensors are packed for `family`, and where they will lie; the second value is the size of it all.
pub(crate) fn places(model: &Model, family: Family) -> (Vec<Option<Place>>, u64) {
    let mut places = vec![None; model.tensors.len()];
    let mut end = 0;
    for linear in model.linears() {
        let index = linear.weight.tensor as usize;
        let tensor = &model.tensors[index];
        let bytes =
            packed_bytes(family, tensor.format, u64::from(tensor.rows), tensor.columns as usize);
        if let (Some(bytes), None) = (bytes, places[index]) {
            places[index] = Some((end, bytes));
            end = (end + bytes).next_multiple_of(ALIGN);
        }
    }
    // A fused matrix whose parts do not start at tiles stays as it is in the file.
    let whole = |rows: u32| (rows as usize).is_multiple_of(TILE_ROWS);
    for linear in model.linears().filter(|l| !whole(l.weight.first_row) || !whole(l.weight.rows)) {
        places[linear.weight.tensor as usize] = None;
    }
    (places, end)
}

/// A tensor that is packed.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// In the model's list.
    index: usize,
    tiles: u32,
    tile_bytes: u64,
    /// Where its rows lie in the file, and the bytes of those of a tile.
    file_at: u64,
    file_tile_bytes: u64,
}

/// The packing of a model's weights.
pub(crate) struct Packing {
    device: Arc<dyn Device>,
    model: Arc<Model>,
    tiles: Tiles,
    prepared: Prepared,
    /// What is left, the next one last.
    left: Vec<Packed>,
    /// Of each tensor of the model, how many tiles are ready, and how many are wanted next.
    ready: Vec<u32>,
    wanted: Vec<u32>,
    image: Vec<u8>,
    /// Bytes of all tiles.
    bytes: u64,
    /// Steps that continued an answer.
    steps: u64,
}

impl Packing {
    /// None when nothing is to be packed.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        model: &Arc<Model>,
        resources: &Resources,
        arena: Buffer,
    ) -> Result<Option<Self>, Error> {
        let Some(tiles) = &resources.tiles else { return Ok(None) };
        let mut left: Vec<Packed> = tiles
            .spans
            .iter()
            .enumerate()
            .filter_map(|(index, span)| {
                let (tensor, span) = (&model.tensors[index], (*span)?);
                let Source::File { offset, bytes } = tensor.source else { return None };
                let tiles = pack::tiles(tensor.rows);
                let of_a_tile = |bytes: u64| bytes / u64::from(tiles);
                let (tile_bytes, file_tile_bytes) = (of_a_tile(span.bytes), of_a_tile(bytes));
                Some(Packed { index, tiles, tile_bytes, file_at: offset, file_tile_bytes })
            })
            .collect();
        if left.is_empty() {
            return Ok(None);
        }
        left.reverse();
        let weights = left.iter().map(|packed| whole(model, packed.index));
        let mut recorder = Recorder::new(&**device, resources, Bucket { tokens: 1, rows: 1 });
        packing::record(&mut recorder, weights);
        let prepared = prepare(&**device, &recorder.finish()?, arena)?;
        let bytes = left.iter().map(|packed| packed.tile_bytes * u64::from(packed.tiles)).sum();
        Ok(Some(Self {
            device: Arc::clone(device),
            model: Arc::clone(model),
            tiles: tiles.clone(),
            prepared,
            left,
            ready: vec![0; model.tensors.len()],
            wanted: vec![0; model.tensors.len()],
            // Kept so that a step allocates nothing.
            image: Vec::with_capacity(4 * model.tensors.len()),
            bytes,
            steps: 0,
        }))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether all tiles of a tensor are ready.
    pub(crate) fn has(&self, tensor: usize) -> bool {
        self.tiles.spans[tensor].is_some() && self.left.iter().all(|left| left.index != tensor)
    }

    /// Packs some tiles beside a step that continued an answer.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn pack_beside(&mut self) -> Result<(), Error> {
        self.steps += 1;
        if self.is_done() || self.steps <= STEPS_BEFORE {
            return Ok(());
        }
        self.pack(self.bytes.div_ceil(STEPS_BESIDE))
    }

    /// Packs about `bytes` bytes of tiles, at least one.
    ///
    /// # Errors
    /// Device errors; what was ready before is ready still.
    pub(crate) fn pack(&mut self, bytes: u64) -> Result<(), Error> {
        let whole = self.want(bytes);
        self.write(self.tiles.wanted)?;
        let fence = self.device.submit(self.prepared, Timing::Off)?;
        self.device.wait(fence)?;
        self.write(self.tiles.ready)?;
        self.ready.copy_from_slice(&self.wanted);
        // Of a tensor that was packed in part all pages up to there.
        let left = self.left.len() - whole;
        for packed in &self.left[left.saturating_sub(1)..] {
            let bytes = packed.file_tile_bytes * u64::from(self.ready[packed.index]);
            self.model.gguf.forget(packed.file_at, bytes);
        }
        self.left.truncate(left);
        Ok(())
    }

    /// Chooses the tiles to be packed next; returns how many tensors will be packed wholly.
    fn want(&mut self, bytes: u64) -> usize {
        self.wanted.copy_from_slice(&self.ready);
        let mut room = bytes.max(1);
        for (before, packed) in self.left.iter().rev().enumerate() {
            let wanted = &mut self.wanted[packed.index];
            let count = room.div_ceil(packed.tile_bytes).min(u64::from(packed.tiles - *wanted));
            *wanted += u32::try_from(count).expect("at most the tensor's tiles");
            room = room.saturating_sub(count * packed.tile_bytes);
            if *wanted < packed.tiles {
                return before;
            }
        }
        self.left.len()
    }

    fn write(&mut self, words: Span) -> Result<(), Error> {
        self.image.clear();
        self.image.extend(self.wanted.iter().flat_map(|count| count.to_le_bytes()));
        Ok(self.device.write(words, &self.image)?)
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        self.device.free(Handle::Prepared(self.prepared));
    }
}

fn whole(model: &Model, index: usize) -> Weight {
    let Tensor { format, rows, columns, .. } = model.tensors[index];
    let tensor = u32::try_from(index).expect("the reader limits the number of tensors");
    Weight { tensor, format, first_row: 0, rows, columns }
}

/// Looks for bad scales in the quantized matrices: through the mapping where kernels will read all of it, by reading otherwise, so that
/// pages of which a few rows are wanted do not stay. Float formats have no scales: a damaged number there is one of millions, and
/// looking at each would cost more than loading. `tiles` are those of packed tensors.
///
/// # Errors
/// A file that cannot be read or holds a NaN scale.
pub(crate) fn check(
    model: &Model,
    tiles: Option<&[Option<Span>]>,
    threads: usize,
) -> Result<(), Error> {
    let mut jobs = Vec::new();
    for (index, tensor) in model.tensors.iter().enumerate() {
        let quantized = tensor.format.block_elements() > 1;
        if let Source::File { bytes, .. } = tensor.source
            && quantized
        {
            let mapped = tiles.is_some_and(|tiles| tiles[index].is_some());
            let block = tensor.format.block_bytes() as u64;
            let size = JOB_BYTES as u64 / block * block;
            let starts = (0..bytes).step_by(usize::try_from(size).expect("a piece"));
            jobs.extend(starts.map(|at| (tensor, mapped, at..(at + size).min(bytes))));
        }
    }
    // In the order of the file.
    jobs.reverse();
    in_parallel(jobs, threads, |(tensor, mapped, part), buffer| {
        let Source::File { offset, .. } = tensor.source else { return Ok(()) };
        let fits = "the reader checked that tensors lie inside the file";
        let bytes = usize::try_from(part.end - part.start).expect(fits);
        if mapped {
            let at = usize::try_from(part.start).expect(fits);
            return refuse_bad_scales(
                model,
                tensor,
                part.start,
                &model.slice(tensor)[at..at + bytes],
            );
        }
        buffer.resize(bytes, 0);
        model.gguf.read_at(offset + part.start, buffer).map_err(model::Error::from)?;
        refuse_bad_scales(model, tensor, part.start, buffer)
    })
}

/// Runs every job on one of `threads` threads; after an error no new one is begun. Each thread has a buffer of its own.
fn in_parallel<J: Send>(
    jobs: Vec<J>,
    threads: usize,
    run: impl Fn(J, &mut Vec<u8>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let jobs = Mutex::new(jobs);
    let failed = Mutex::new(None);
    let work = || {
        let mut buffer = Vec::new();
        loop {
            let job = jobs.lock().expect("no panic holds this lock").pop();
            let Some(job) = job else { break };
            if let Err(error) = run(job, &mut buffer) {
                jobs.lock().expect("no panic holds this lock").clear();
                failed.lock().expect("no panic holds this lock").get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().expect("no panic holds this lock").map_or(Ok(()), Err)
}

fn refuse_bad_scales(model: &Model, tensor: &Tensor, at: u64, bytes: &[u8]) -> Result<(), Error> {
    let Some(block) = tensor.format.first_bad_block(bytes) else { return Ok(()) };
    let before = usize::try_from(at).unwrap_or(usize::MAX) / tensor.format.block_bytes();
    Err(model::Error::from(model.gguf.bad_scale(&tensor.name, before + block)).into())
}
