//! The reader that records: a forward pass becomes commands for one device, prepared once and submitted every step.
use crate::linear::pack;
use crate::simd::Family;
use crate::{
    Activation, Attention, Cache, Epilogue, Heads, Hidden, Inputs, Linear, Norm, Ops, Rope, Weight,
};
use hal::{
    Buffer, Command, Commands, Device, Error, Kind, Launch, MatrixUnits, Program, Result, Span,
};
use std::cell::RefCell;
use std::rc::Rc;

/// How many tokens and rows of logits the recorded commands can serve; a step may use fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    pub tokens: u32,
    pub rows: u32,
}

/// Where one layer's KV cache lies: see [`crate::write_kv`].
#[derive(Clone, Copy, Debug)]
pub struct CacheSpans {
    pub k: Span,
    pub v: Span,
    pub shape: Cache,
}

/// Device memory that outlives a step.
#[derive(Clone, Debug)]
pub struct Resources {
    /// One span per tensor of the model, in the order of [`Weight::tensor`], as in the file.
    pub weights: Vec<Span>,
    /// Memory for packed tiles, where kernels want those.
    pub tiles: Option<Tiles>,
    pub inputs: Inputs,
    /// One per layer.
    pub caches: Vec<CacheSpans>,
    /// Sampled tokens, u32, one per row.
    pub sampled: Span,
}

/// Memory for packed tiles of tensors: see [`crate::linear::pack`].
#[derive(Clone, Debug)]
pub struct Tiles {
    /// For each tensor, if kernels want it packed.
    pub spans: Vec<Option<Span>>,
    /// For each tensor a u32: so many of its tiles are packed. Kernels find the others in the file.
    pub ready: Span,
    /// As many words: so many tiles of each tensor are packed once [`crate::linear::pack::record`]'s commands have run.
    pub wanted: Span,
}

impl Tiles {
    /// A tensor's word of `ready` or `wanted`.
    pub(crate) fn word(words: Span, tensor: u32) -> Span {
        words.part(4 * u64::from(tensor), 4)
    }
}

/// Which count of the step a tensor's rows follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOf {
    Tokens,
    Wanted,
}

impl RowsOf {
    /// Index into the step's counts.
    pub(crate) const fn count_index(self) -> u32 {
        match self {
            Self::Tokens => 0,
            Self::Wanted => 1,
        }
    }
}

/// An activation in the arena: f32 `(rows, columns)`. Its memory is reused once it is dropped.
#[derive(Debug)]
pub struct Tensor {
    pub(crate) rows_of: RowsOf,
    pub(crate) columns: u32,
    pub(crate) room: Room,
}

/// A piece of the arena, given back on drop.
#[derive(Debug)]
pub(crate) struct Room {
    place: Place,
    arena: Rc<RefCell<Arena>>,
}

impl Room {
    pub(crate) const fn place(&self) -> Place {
        self.place
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Place::Arena { offset, bytes } = self.place {
            self.arena.borrow_mut().free.push((offset, bytes));
        }
    }
}

/// Memory as a launch names it while recording: the arena gets its buffer when everything is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Device(Span),
    Arena { offset: u64, bytes: u64 },
}

impl From<Span> for Place {
    fn from(span: Span) -> Self {
        Self::Device(span)
    }
}

/// First fit over freed pieces: a forward pass frees and takes the same few sizes over and over.
#[derive(Debug, Default)]
struct Arena {
    end: u64,
    free: Vec<(u64, u64)>,
}

/// Alignment of arena pieces: a cache line, and enough for every vector load.
const ALIGN: u64 = 256;

impl Arena {
    fn take(&mut self, bytes: u64) -> Place {
        let bytes = bytes.next_multiple_of(ALIGN);
        let fit = self.free.iter().position(|(_, free)| *free == bytes);
        let offset = match fit {
            Some(at) => self.free.swap_remove(at).0,
            None => {
                let offset = self.end;
                self.end += bytes;
                offset
            }
        };
        Place::Arena { offset, bytes }
    }
}

/// One operand of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    place: Place,
    written: bool,
}

pub(crate) fn read(place: impl Into<Place>) -> Operand {
    Operand { place: place.into(), written: false }
}

pub(crate) fn write(place: impl Into<Place>) -> Operand {
    Operand { place: place.into(), written: true }
}

/// How a launch is spread over the device, where CPU and GPU take the same operands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    /// Threadgroups of a GPU.
    pub(crate) groups: u32,
    /// Memory of each of the CPU's threads.
    pub(crate) scratch_bytes: u32,
}

impl Spread {
    /// For kernels whose threads step over `numbers` by themselves: a few for each.
    pub(crate) fn over(numbers: u32) -> Self {
        Self { groups: numbers.div_ceil(8 * GROUP_THREADS), ..Self::default() }
    }
}

/// How a launch is spread over a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) groups: [u32; 3],
    /// Threads of each threadgroup.
    pub(crate) threads: [u32; 3],
    /// Memory of each threadgroup.
    pub(crate) scratch_bytes: u32,
}

impl Grid {
    /// `groups` threadgroups of [`GROUP_THREADS`] threads in a row.
    pub(crate) const fn row(groups: u32) -> Self {
        Self { groups: [groups, 1, 1], threads: [GROUP_THREADS, 1, 1], scratch_bytes: 0 }
    }
}

/// Threads of a threadgroup, where nothing better is known.
pub(crate) const GROUP_THREADS: u32 = 128;

/// See the module.
#[derive(Debug)]
pub struct Recorder<'a> {
    device: &'a dyn Device,
    pub(crate) resources: &'a Resources,
    pub(crate) bucket: Bucket,
    pub(crate) family: Family,
    kind: Kind,
    arena: Rc<RefCell<Arena>>,
    list: Vec<Command>,
    places: Vec<Place>,
    constants: Vec<u8>,
    /// The first error; recording goes on without effect.
    failed: Option<Error>,
    /// Cosines and sines of the step's positions, by table of frequencies and amplitude.
    angles: Vec<((Weight, u32), Room)>,
    /// K and V that the next launch of `attend` finishes and stores, see [`crate::attend::gpu`].
    pub(crate) fresh: Option<Fresh>,
}

/// What the projections of a step left, and what is to be done to it.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    pub(crate) heads: Heads,
}

/// A finished recording.
#[derive(Debug)]
pub struct Recorded {
    list: Vec<Command>,
    places: Vec<Place>,
    constants: Vec<u8>,
    arena_bytes: u64,
}

impl<'a> Recorder<'a> {
    #[must_use]
    pub fn new(device: &'a dyn Device, resources: &'a Resources, bucket: Bucket) -> Self {
        Self {
            device,
            resources,
            bucket,
            family: Family::host(),
            kind: device.info().kind,
            arena: Rc::default(),
            list: Vec::new(),
            places: Vec::new(),
            constants: Vec::new(),
            failed: None,
            angles: Vec::new(),
            fresh: None,
        }
    }

    /// Records kernels of a lower family than this processor has: for tests and comparisons.
    #[must_use]
    pub fn with_family(self, family: Family) -> Self {
        Self { family: family.at_most_host(), ..self }
    }

    /// Records what a device of another kind would run: for plans, on a device that runs nothing.
    #[must_use]
    pub fn for_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Whether kernels for GPUs are recorded.
    pub(crate) const fn for_gpu(&self) -> bool {
        self.kind.is_gpu()
    }

    /// What multiplies matrices on the device.
    pub(crate) fn matrix_units(&self) -> MatrixUnits {
        self.device.info().matrix_units
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// The first error of a program's load.
    pub fn finish(self) -> Result<Recorded> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let arena_bytes = self.arena.borrow().end;
        let Self { list, places, constants, .. } = self;
        Ok(Recorded { list, places, constants, arena_bytes })
    }

    pub(crate) fn capacity(&self, rows_of: RowsOf) -> u32 {
        match rows_of {
            RowsOf::Tokens => self.bucket.tokens,
            RowsOf::Wanted => self.bucket.rows,
        }
    }

    pub(crate) fn tensor(&mut self, rows_of: RowsOf, columns: u32) -> Tensor {
        let bytes = 4 * u64::from(self.capacity(rows_of)) * u64::from(columns);
        Tensor { rows_of, columns, room: self.room(bytes) }
    }

    pub(crate) fn room(&mut self, bytes: u64) -> Room {
        Room { place: self.arena.borrow_mut().take(bytes), arena: Rc::clone(&self.arena) }
    }

    /// A weight as it lies in the file.
    pub(crate) fn weight(&self, weight: &Weight) -> Span {
        self.resources.weights[weight.tensor as usize].part(weight.offset(), weight.bytes())
    }

    /// Where the weight's tiles lie, if its tensor is packed, and the word that tells how many of the tensor are ready.
    pub(crate) fn tiles(&self, weight: &Weight) -> Option<(Span, Span)> {
        let tiles = self.resources.tiles.as_ref()?;
        let span = (*tiles.spans.get(weight.tensor as usize)?)?;
        let [first, bytes] = [weight.first_row, weight.rows].map(|n| packed_offset(weight, n));
        Some((span.part(first, bytes), Tiles::word(tiles.ready, weight.tensor)))
    }

    pub(crate) fn angles(&self, table: (Weight, u32)) -> Option<Place> {
        self.angles.iter().find(|(known, _)| *known == table).map(|(_, room)| room.place())
    }

    pub(crate) fn keep_angles(&mut self, table: (Weight, u32), room: Room) -> Place {
        let place = room.place();
        self.angles.push((table, room));
        place
    }

    pub(crate) fn counts(&self) -> Operand {
        read(self.resources.inputs.counts())
    }

    /// Records one launch of a program that every device runs over the same operands; `constants` appends the image of the
    /// kernel's arguments.
    pub(crate) fn launch(
        &mut self,
        program: &'static Program,
        operands: &[Operand],
        spread: Spread,
        constants: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut grid = Grid::row(spread.groups.max(1));
        if !self.for_gpu() {
            grid.scratch_bytes = spread.scratch_bytes;
        }
        self.launch_grid(program, operands, grid, constants);
    }

    /// As [`Recorder::launch`], spread as `grid` says.
    pub(crate) fn launch_grid(
        &mut self,
        program: &'static Program,
        operands: &[Operand],
        grid: Grid,
        constants: impl FnOnce(&mut Vec<u8>),
    ) {
        let kernel = match self.device.load(program) {
            Ok(kernel) => kernel,
            Err(error) => {
                self.failed.get_or_insert(error);
                return;
            }
        };
        let index = |length: usize| u32::try_from(length).expect("fewer than 2^32 operands");
        let (first, start) = (index(self.places.len()), index(self.constants.len()));
        self.places.extend(operands.iter().map(|operand| operand.place));
        constants(&mut self.constants);
        let writes =
            operands.iter().enumerate().map(|(i, operand)| u32::from(operand.written) << i).sum();
        self.list.push(Command::Launch(Launch {
            kernel,
            grid: grid.groups,
            block: grid.threads,
            scratch_bytes: grid.scratch_bytes,
            spans: first..index(self.places.len()),
            writes,
            constants: start..index(self.constants.len()),
        }));
    }
}

/// Bytes of the packed tiles of `rows` rows. Panics when they are no whole number of tiles: the loader packs no such tensor.
fn packed_offset(weight: &Weight, rows: u32) -> u64 {
    let bytes = pack::tiles_bytes(weight.format, u64::from(rows), weight.columns as usize);
    bytes.expect("the loader packs whole tiles only")
}

impl Recorded {
    /// Memory for activations that [`Recorded::commands`] needs.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// The commands, with activations in `arena`. Several recordings may share one arena: only one runs at a time.
    #[must_use]
    pub fn commands(&self, arena: Buffer) -> Commands {
        let span = |place: &Place| match place {
            Place::Device(span) => *span,
            Place::Arena { offset, bytes } => {
                Span { buffer: arena, offset: *offset, bytes: *bytes }
            }
        };
        Commands {
            list: self.list.clone(),
            spans: self.places.iter().map(span).collect(),
            constants: self.constants.clone(),
        }
    }

    /// Where `tensor` lies once the arena has its buffer: for reading results back.
    #[must_use]
    pub fn span(&self, tensor: &Tensor, arena: Buffer) -> Span {
        match tensor.room.place() {
            Place::Device(span) => span,
            Place::Arena { offset, bytes } => Span { buffer: arena, offset, bytes },
        }
    }
}

impl Ops for Recorder<'_> {
    type Tensor = Tensor;

    fn embed(&mut self, table: &Weight, scale: f32) -> Tensor {
        crate::embed::record(self, table, scale)
    }

    fn add_positions(&mut self, x: Tensor, table: &Weight) -> Tensor {
        crate::embed::record_positions(self, &x, table);
        x
    }

    fn norm(&mut self, x: &Tensor, norm: &Norm) -> Tensor {
        let y = self.tensor(x.rows_of, x.columns);
        crate::norm::record(self, x, norm, &y, false);
        y
    }

    fn linear(&mut self, x: &Tensor, linear: &Linear) -> Tensor {
        let [y] = crate::linear::record(self, x, None, [linear]);
        y
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Tensor {
        crate::add::record(self, &x, y);
        x
    }

    fn activate(&mut self, gate: Tensor, up: Option<&Tensor>, activation: Activation) -> Tensor {
        crate::activate::record(self, &gate, up, activation);
        gate
    }

    fn rope(&mut self, x: Tensor, rope: &Rope, head_dim: u32) -> Tensor {
        crate::rope::record(self, &x, rope, head_dim);
        x
    }

    fn write_kv(&mut self, k: &Tensor, v: &Tensor, attention: &Attention) {
        crate::write_kv::record(self, k, v, attention);
    }

    fn attend(&mut self, q: &Tensor, attention: &Attention) -> Tensor {
        crate::attend::record(self, q, attention)
    }

    fn gather(&mut self, x: &Tensor) -> Tensor {
        crate::gather::record(self, x)
    }

    fn softcap(&mut self, x: Tensor, cap: f32) -> Tensor {
        crate::activate::record_softcap(self, &x, cap);
        x
    }

    fn qkv(&mut self, x: &Tensor, norm: &Norm, linears: [&Linear; 3]) -> [Tensor; 3] {
        crate::linear::record(self, x, Some(norm), linears)
    }

    fn rope_kv(&mut self, qkv: [Tensor; 3], heads: &Heads, attention: &Attention) -> Tensor {
        if !crate::rope_kv::fuses(heads) {
            return crate::fine_rope_kv(self, qkv, heads, attention);
        }
        let [q, k, v] = qkv;
        if crate::attend::gpu::fuses(self, heads, attention) {
            self.fresh = Some(Fresh { k, v, heads: *heads });
            return q;
        }
        crate::rope_kv::record(self, [&q, &k, &v], heads, attention);
        q
    }

    fn gate_up(&mut self, x: &Tensor, norm: &Norm, hidden: &Hidden) -> Tensor {
        crate::linear::record_hidden(self, x, norm, hidden)
    }

    fn project(
        &mut self,
        x: Tensor,
        y: &Tensor,
        linear: &Linear,
        post_norm: Option<&Norm>,
    ) -> Tensor {
        match post_norm {
            None => crate::linear::record_into(self, y, linear, Epilogue::Accumulate, &x),
            Some(norm) => {
                let y = self.linear(y, linear);
                crate::norm::record(self, &y, norm, &x, true);
            }
        }
        x
    }

    fn head(&mut self, x: &Tensor, norm: &Norm, linear: &Linear) -> Tensor {
        let [logits] = crate::linear::record(self, x, Some(norm), [linear]);
        logits
    }
}
