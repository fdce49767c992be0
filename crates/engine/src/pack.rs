//! Weights in the layout that the CPU's kernels read fastest, packed straight from the file.
//!
//! The file is read, not mapped, for these tensors: its pages never count as memory of this process, so that there is one copy.
use crate::Error;
use memmap2::MmapMut;
use model::{Model, Source, Tensor};
use ops::linear::pack::{TILE_ROWS, pack, packed_bytes};
use ops::simd::Family;
use std::sync::Mutex;

/// All packed tensors in one piece of memory.
pub(crate) struct Packed {
    memory: MmapMut,
    /// For each tensor of the model, where it lies, when it is packed.
    pub(crate) places: Vec<Option<Extent>>,
}

/// A packed tensor's place in the memory of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl AsRef<[u8]> for Packed {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

/// Bytes of file that one piece of work reads.
const JOB_BYTES: usize = 256 << 10;
/// Tensors start on pages.
const ALIGN: u64 = 4096;

/// Some tiles of one tensor.
struct Job<'a> {
    tensor: &'a Tensor,
    first_tile: usize,
    tile_bytes: usize,
    tiles: &'a mut [u8],
}

/// Which tensors are packed for `family`, and where they will lie; the second value is the size of it all.
pub(crate) fn places(model: &Model, family: Family) -> (Vec<Option<Extent>>, u64) {
    let mut places = vec![None; model.tensors.len()];
    let mut end = 0;
    for linear in model.linears() {
        let index = linear.weight.tensor as usize;
        let tensor = &model.tensors[index];
        let bytes =
            packed_bytes(family, tensor.format, u64::from(tensor.rows), tensor.columns as usize);
        if let (Some(bytes), None) = (bytes, places[index]) {
            places[index] = Some(Extent { offset: end, bytes });
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

/// Packs with `threads` threads. Every scale is checked on the way.
///
/// # Errors
/// A file that cannot be read or holds a NaN scale; no memory.
pub(crate) fn packed(model: &Model, family: Family, threads: usize) -> Result<Packed, Error> {
    let (places, bytes) = places(model, family);
    let mut memory = anonymous(bytes)?;
    let jobs = jobs(model, &places, &mut memory);
    in_parallel(jobs, threads, |job, rows| run(model, job, rows))?;
    Ok(Packed { memory, places })
}

/// Looks for bad scales in the quantized matrices that stay in the file. Float formats have none: a damaged number there is one
/// of millions, and looking at each would cost more than loading.
///
/// # Errors
/// As [`packed`].
pub(crate) fn check_unpacked(
    model: &Model,
    places: Option<&[Option<Extent>]>,
    threads: usize,
) -> Result<(), Error> {
    let mut jobs = Vec::new();
    for (index, tensor) in model.tensors.iter().enumerate() {
        let packed = places.is_some_and(|places| places[index].is_some());
        let quantized = tensor.format.block_elements() > 1;
        if let Source::File { offset, bytes } = tensor.source
            && quantized
            && !packed
        {
            let whole_blocks =
                JOB_BYTES / tensor.format.block_bytes() * tensor.format.block_bytes();
            let starts = (0..bytes).step_by(whole_blocks);
            jobs.extend(
                starts.map(|at| (tensor, offset, at, (bytes - at).min(whole_blocks as u64))),
            );
        }
    }
    in_parallel(jobs, threads, |(tensor, offset, at, bytes), buffer| {
        buffer.resize(usize::try_from(bytes).expect("at most a job"), 0);
        model.gguf.read_at(offset + at, buffer).map_err(model::Error::from)?;
        refuse_bad_scales(model, tensor, at, buffer)
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

fn anonymous(bytes: u64) -> Result<MmapMut, Error> {
    let out_of_memory = || {
        let free = hal::cpu::memory_bytes_free().unwrap_or(0);
        Error::Device(hal::Error::OutOfMemory { device: "cpu".to_owned(), needed: bytes, free })
    };
    let length = usize::try_from(bytes.max(1)).map_err(|_| out_of_memory())?;
    let memory = MmapMut::map_anon(length).map_err(|_| out_of_memory())?;
    // Advice only: weights are read in long streams, which huge pages spare the TLB.
    #[cfg(target_os = "linux")]
    drop(memory.advise(memmap2::Advice::HugePage));
    Ok(memory)
}

/// Pieces of about [`JOB_BYTES`], the last one first.
fn jobs<'a>(model: &'a Model, places: &[Option<Extent>], memory: &'a mut MmapMut) -> Vec<Job<'a>> {
    let placed =
        model.tensors.iter().zip(places).filter_map(|(tensor, place)| Some((tensor, (*place)?)));
    let mut order: Vec<(&Tensor, Extent)> = placed.collect();
    order.sort_unstable_by_key(|(_, extent)| extent.offset);
    let (mut jobs, mut rest, mut start) = (Vec::new(), &mut memory[..], 0);
    for (tensor, Extent { offset, bytes }) in order {
        let fits = "the memory was taken for these sizes";
        let skip = usize::try_from(offset - start).expect(fits);
        let (tiles, after) = rest[skip..].split_at_mut(usize::try_from(bytes).expect(fits));
        (rest, start) = (after, offset + bytes);
        let tile_bytes = tiles.len() / (tensor.rows as usize / TILE_ROWS);
        let tiles_per_job = (JOB_BYTES / tile_bytes).max(1);
        for (i, tiles) in tiles.chunks_mut(tiles_per_job * tile_bytes).enumerate() {
            jobs.push(Job { tensor, first_tile: i * tiles_per_job, tile_bytes, tiles });
        }
    }
    jobs.reverse();
    jobs
}

fn run(model: &Model, job: Job<'_>, rows: &mut Vec<u8>) -> Result<(), Error> {
    let Job { tensor, first_tile, tile_bytes, tiles } = job;
    let Source::File { offset, .. } = tensor.source else {
        unreachable!("tensors made at load are vectors");
    };
    let columns = tensor.columns as usize;
    let row_bytes =
        tensor.format.row_bytes(columns).expect("the reader checked that rows are whole blocks");
    let count = tiles.len() / tile_bytes;
    rows.resize(count * TILE_ROWS * row_bytes, 0);
    let first = first_tile * TILE_ROWS * row_bytes;
    model.gguf.read_at(offset + first as u64, rows).map_err(model::Error::from)?;
    refuse_bad_scales(model, tensor, first as u64, rows)?;
    for (rows, tile) in
        rows.chunks_exact(TILE_ROWS * row_bytes).zip(tiles.chunks_exact_mut(tile_bytes))
    {
        pack(tensor.format, columns, rows, tile);
    }
    Ok(())
}
