//! `linear` over packed tiles: splits the work between threads and walks it; the products are a family's.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint columns of shared spans")]
use super::cpu::{Weights, weights};
use super::pack::{TILE_ROWS, Unit, pack, unit};
use super::{Args, PARTS, dense, is_float};
use crate::Epilogue;
use crate::format::Format;
use crate::quantize::panel::{self, RowNorm, Rows, TILE_TOKENS, TokenTile};
use crate::quantize::words;
use crate::simd::{self, Family, cache};
use hal::cpu::{HostLaunch, Shared};
use std::ops::Range;

/// Products of one tile of weights with one tile of tokens: (tile, its units, panel, out (width, 16)).
///
/// # Safety
/// The processor has the family's instructions; the pointers lead to a whole tile, a whole panel tile of the kernel's width and
/// as many columns, and `width * 16` numbers.
pub(super) type TileKernel = unsafe fn(*const u8, usize, *const u8, *mut f32);

/// Kernels for prompts, see [`words`]: both want the family's instructions, whole tiles, and room for a pair of tiles of as many
/// columns on a boundary of 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct PromptKernels {
    /// Unpacks a tile into one half of a pair: (tile, its units, 0 or 1, where to).
    pub(super) unpack: unsafe fn(*const u8, usize, usize, *mut u8),
    /// Multiplies a pair: (pair, its blocks, (groups of words, how many), out (2, 16, 16)).
    pub(super) multiply: unsafe fn(*const u8, usize, (*const u8, usize), *mut f32),
}

/// Bytes of a block of 64 columns of an unpacked pair of tiles: words, and a scale and a start per row.
pub(super) const PAIR_BYTES: usize = 2 * TILE_ROWS * (2 * words::BLOCK + 4 + 4);

/// Whether a family multiplies packed tiles.
pub(super) const fn has_kernels(family: Family) -> bool {
    !matches!(family, Family::Portable) && family.is_of_this_architecture()
}

/// What a family has for a format.
#[derive(Default)]
struct Kernels {
    /// For 1, 2, 4, 8 and 16 tokens, if the format is packed.
    tiles: Option<[TileKernel; 5]>,
    prompts: Option<PromptKernels>,
}

fn kernels(family: Family, format: Format) -> Kernels {
    #[cfg(target_arch = "aarch64")]
    let only = |tiles| Kernels { tiles: Some(tiles), ..Kernels::default() };
    match family.instructions() {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni if is_float(format) => {
            let prompts = super::avx512_words::float_kernels(format);
            Kernels { prompts: Some(prompts), ..Kernels::default() }
        }
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => {
            let (tiles, prompts) = super::units::of_format::<super::avx512::Avx512>(format);
            Kernels { tiles: Some(tiles), prompts: Some(prompts) }
        }
        #[cfg(target_arch = "x86_64")]
        Family::Avx2 => {
            let (tiles, prompts) = super::units::of_format::<super::avx2::Avx2>(format);
            Kernels { tiles: Some(tiles), prompts: Some(prompts) }
        }
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprod => only(super::units::of_format::<super::neon::Dotprod>(format)),
        #[cfg(target_arch = "aarch64")]
        Family::NeonI8mm => only(super::units::of_format::<super::neon_i8mm::I8mm>(format)),
        _ => panic!("{family} has no kernels for tiles of {format}: the recorder asks first"),
    }
}

/// Columns and bytes of a unit: of a float format a unit is 64 columns of rows as in the file.
pub(super) fn unit_of(format: Format) -> Unit {
    let bytes = 2 * words::BLOCK * TILE_ROWS;
    unit(format).unwrap_or(Unit { columns: words::BLOCK, bytes })
}

/// Steps of at most so many tokens are quantized by every thread for itself, which costs less than a launch and a barrier of its
/// own. Such steps multiply prompts' tokens as all others.
pub const FUSED_TOKENS: u32 = 4;

/// Scratch of one thread when it quantizes its own panel.
pub(super) fn fused_scratch_bytes(tokens: u32, columns: u32) -> u32 {
    let bytes = panel::tiles_bytes(tokens as usize, columns as usize);
    u32::try_from(bytes).expect("a few tokens")
}

/// A panel of at most this size stays in a core's second level cache while all weights pass by.
const PANEL_BYTES_IN_CACHE: usize = 448 << 10;
/// Words of prompts are read once per pair of tiles, a few bytes per cycle: the third level will do for them, and weights are
/// unpacked less often.
const WORDS_BYTES_IN_CACHE: usize = 6 << 20;

/// With so many tiles of tokens for each thread, every thread begins with its own instead of its own weights: those that it quantizes
/// as well, so that little passes from core to core, which takes long where cores share no cache. All weights are unpacked by each.
const OWN_TILES: usize = 16;
/// But only if they stay in a core's second level cache. Others come from further away for every group of weights, whoever made them.
const OWN_BYTES: usize = 896 << 10;

/// Scratch of one thread for a pair of unpacked tiles.
pub(super) fn words_scratch_bytes(family: Family, columns: u32) -> u32 {
    let blocks = if words::are_for(family) { columns as usize / words::BLOCK } else { 0 };
    u32::try_from(blocks * PAIR_BYTES).expect("a few rows")
}

/// Scratch of one thread for a tile that it packs for the moment, or for rows that it expands.
pub(super) fn room_bytes(format: Format, columns: u32) -> u32 {
    let columns = columns as usize;
    let bytes = match unit(format) {
        Some(unit) => columns / unit.columns * unit.bytes,
        None => dense::room_bytes(columns),
    };
    u32::try_from(bytes.next_multiple_of(64)).expect("a few rows")
}

/// One matrix of the launch.
struct Part<'a> {
    kernels: Kernels,
    weights: Weights<'a>,
    family: Family,
    format: Format,
    columns: usize,
    units: usize,
    /// Tiles of 16 rows.
    tiles: usize,
    bias: Option<&'a [f32]>,
    y: Shared<'a, f32>,
}

/// What lies at one of so many tiles among all tiles or rows.
fn part((index, tiles): (usize, usize), all: &[u8]) -> &[u8] {
    let bytes = all.len() / tiles;
    &all[index * bytes..][..bytes]
}

/// One of so many tiles of a matrix, packed into `room` if it is not ready.
pub(super) fn tile_at<'b>(
    weights: &Weights<'b>,
    (family, format, columns): (Family, Format, usize),
    (index, tiles): (usize, usize),
    room: &'b mut [u8],
) -> &'b [u8] {
    let tile = part((index, tiles), weights.tiles);
    if index < weights.ready {
        return tile;
    }
    let room = &mut room[..tile.len()];
    pack(family, format, columns, part((index, tiles), weights.rows), room);
    room
}

impl Part<'_> {
    /// What lies at tile `index` among all tiles or rows.
    fn part<'b>(&self, index: usize, all: &'b [u8]) -> &'b [u8] {
        part((index, self.tiles), all)
    }

    /// Tile `index`, packed into `room` if it is not ready; of float formats rows as in the file.
    fn tile<'b>(&'b self, index: usize, room: &'b mut [u8]) -> &'b [u8] {
        if is_float(self.format) {
            return self.part(index, self.weights.rows);
        }
        let shape = (self.family, self.format, self.columns);
        tile_at(&self.weights, shape, (index, self.tiles), room)
    }

    /// Unpacks tile `index` as tile `which` of a pair.
    fn unpack(&self, index: usize, which: usize, room: &mut [u8], pair: &mut [u8]) {
        let PromptKernels { unpack, .. } = self.prompt_kernels();
        assert_eq!(pair.len(), self.columns / words::BLOCK * PAIR_BYTES, "a pair of tiles");
        let Weights { tiles, rows, ready } = &self.weights;
        if index >= *ready && index + 1 < self.tiles {
            cache::touch(self.part(index + 1, rows));
        }
        if !is_float(self.format) || index >= *ready {
            let tile = self.tile(index, room).as_ptr();
            // SAFETY: the kernels are the host's; the tile is whole, and there is room for its blocks.
            return unsafe { unpack(tile, self.units, which, pair.as_mut_ptr()) };
        }
        let tile = (self.part(index, tiles), self.part(index, rows));
        for (i, pair) in pair.chunks_mut(words::SECTION * PAIR_BYTES).enumerate() {
            let (first, blocks) = (i * dense::SECTION_COLUMNS, pair.len() / PAIR_BYTES);
            let columns = blocks * words::BLOCK;
            let units = first / dense::COLUMNS..(first + columns) / dense::COLUMNS;
            let rows = &mut room[..2 * TILE_ROWS * columns];
            dense::expand_tile(self.family, tile, &units, rows);
            // SAFETY: as above; so many columns are a tile as well.
            unsafe { unpack(rows.as_ptr(), blocks, which, pair.as_mut_ptr()) };
        }
    }

    fn prompt_kernels(&self) -> PromptKernels {
        self.kernels.prompts.expect("only such families have rows of words")
    }

    /// Products of tile `index` with a tile of tokens.
    fn multiply(
        &self,
        index: usize,
        (panel, width): (&[u8], usize),
        room: &mut [u8],
        out: &mut Products,
    ) {
        let tiles = self.kernels.tiles.expect("only prompts meet rows as in the file");
        let (kernel, tile) = (tiles[width.trailing_zeros() as usize], self.tile(index, room));
        // SAFETY: the kernels are the host's; the tile is whole; the caller cut the panel for this width.
        unsafe { kernel(tile.as_ptr(), self.units, panel.as_ptr(), out.0.as_mut_ptr()) };
    }

    fn add_bias(&self, index: usize, out: &mut [f32]) {
        let Some(bias) = self.bias else { return };
        let bias = &bias.as_chunks::<TILE_ROWS>().0[index];
        for row in out.as_chunks_mut::<TILE_ROWS>().0 {
            *row = std::array::from_fn(|i| row[i] + bias[i]);
        }
    }

    /// Where a token's products of tile `index` go.
    fn place(&self, index: usize, token: usize) -> Range<usize> {
        let at = (token * self.tiles + index) * TILE_ROWS;
        at..at + TILE_ROWS
    }

    /// Asks for the places of tile `index`, which other threads have read or written.
    fn expect(&self, index: usize, tokens: Range<usize>) {
        for token in tokens {
            // SAFETY: as in `store`.
            let y = unsafe { self.y.part(self.place(index, token)) };
            cache::expect(y.as_ptr().cast());
        }
    }

    fn store(&self, index: usize, tile: TokenTile, products: &Products, accumulate: bool) {
        let products = products.0.as_chunks::<TILE_ROWS>().0;
        for (t, products) in products.iter().take(tile.tokens).enumerate() {
            // SAFETY: each thread has its own tiles of W for each token, and so its own part of y.
            let y = unsafe { self.y.part(self.place(index, tile.first + t)) };
            let y: &mut [f32; TILE_ROWS] = y.try_into().expect("so many rows");
            // Sums are stored together: one after the other, as y might overlap with the products, they would not be vectors.
            *y = if accumulate { std::array::from_fn(|i| y[i] + products[i]) } else { *products };
        }
    }
}

/// `(tokens, 16)`
#[repr(align(64))]
struct Products([f32; TILE_TOKENS * TILE_ROWS]);

/// Tiles of weights that are multiplied together: a gate and its up, two neighbours, or one tile.
#[derive(Clone, Copy)]
struct Group<'a> {
    first: (&'a Part<'a>, usize),
    second: Option<(&'a Part<'a>, usize)>,
}

impl<'a> Group<'a> {
    fn members(self) -> impl Iterator<Item = (&'a Part<'a>, usize)> {
        std::iter::once(self.first).chain(self.second)
    }
}

/// One launch as this thread sees it.
struct Work<'a> {
    family: Family,
    parts: [Option<Part<'a>>; PARTS],
    epilogue: Epilogue,
    rows: Rows,
    columns: usize,
    panel: &'a [u8],
    /// Bytes of scratch for a tile that is not packed.
    room: usize,
}

fn parts<'a>(launch: &'a HostLaunch<'_>, args: &Args, first: usize) -> [Option<Part<'a>>; PARTS] {
    let heights = [args.rows_0, args.rows_1, args.rows_2];
    let formats = [args.format_0, args.format_1, args.format_2];
    let (count, columns) = (args.parts as usize, args.columns as usize);
    let mut bias_at = first + 2 * count;
    let family = Family::from_code(args.family);
    let mut part = |i: usize| {
        let format = Format::ALL[formats[i] as usize];
        let has_bias = args.bias_mask >> i & 1 == 1;
        // SAFETY: weights and biases are only read by this launch.
        let bias = has_bias.then(|| unsafe { launch.slice::<f32>(bias_at) });
        bias_at += usize::from(has_bias);
        Part {
            kernels: kernels(family, format),
            weights: weights(launch, args, first, i),
            family,
            format,
            columns,
            units: columns / unit_of(format).columns,
            tiles: heights[i] as usize / TILE_ROWS,
            bias,
            y: launch.shared::<f32>(first + 2 * i + 1),
        }
    };
    [0, 1, 2].map(|i| (i < count).then(|| part(i)))
}

/// Reads a panel that `quantize` has made. Spans: counts, panel, then W and y of each matrix, then biases.
pub(super) fn from_panel(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 and 1 are only read by this launch.
    let (counts, panel) = unsafe { (launch.slice::<u32>(0), launch.slice::<u8>(1)) };
    let rows = Rows::in_panel(Family::from_code(args.family), counts, args.count_index);
    run(launch, &args, (rows, panel), parts(launch, &args, 2));
}

/// The rows of a panel that continue an answer. Spans of matrices start at `first`.
pub(super) fn answers(
    launch: &HostLaunch<'_>,
    args: &Args,
    (rows, panel): (Rows, &[u8]),
    first: usize,
) {
    if rows.exact > 0 {
        run(launch, args, (Rows { all: rows.exact, ..rows }, panel), parts(launch, args, first));
    }
}

/// The prompts' rows of a panel, with matrices that lie as in the file. Spans of matrices start at `first`.
pub(super) fn prompts(
    launch: &HostLaunch<'_>,
    args: &Args,
    (rows, panel): (Rows, &[u8]),
    first: usize,
) {
    if rows.all > rows.exact {
        run(launch, args, (rows, panel), parts(launch, args, first));
    }
}

/// Normalizes and quantizes x on every thread. Spans: counts, x, the norm's weight and bias if there are, then as above.
pub(super) fn from_rows(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let columns = args.columns as usize;
    // SAFETY: spans 0 and 1 and the norm's are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let norm = (args.norm > 0).then(|| RowNorm {
        layer: args.layer == 1,
        epsilon: args.epsilon,
        // SAFETY: as above.
        weight: unsafe { launch.slice::<f32>(2) },
        // SAFETY: as above.
        bias: (args.norm > 1).then(|| unsafe { launch.slice::<f32>(3) }),
    });
    let tokens = counts[args.count_index as usize] as usize;
    if tokens == 0 {
        return;
    }
    let tile = panel::token_tile(0, tokens);
    let room = room(&args);
    // SAFETY: scratch belongs to this thread; its beginning is for weights.
    let panel =
        unsafe { launch.scratch::<u8>().part(room..room + panel::tile_bytes(tile, columns)) };
    let family = Family::from_code(args.family);
    panel::quantize_tile(family, &x[..tokens * columns], norm, tile, panel);
    let rows = Rows { all: tokens, exact: tokens };
    run(launch, &args, (rows, panel), parts(launch, &args, 2 + args.norm as usize));
}

fn run<'a>(
    launch: &HostLaunch<'_>,
    args: &Args,
    (rows, panel): (Rows, &'a [u8]),
    parts: [Option<Part<'a>>; PARTS],
) {
    Work {
        family: Family::from_code(args.family),
        parts,
        epilogue: Epilogue::from_code(args.epilogue),
        rows,
        columns: args.columns as usize,
        panel,
        room: room(args),
    }
    .run(launch);
}

/// Scratch for the largest tile of the launch, of matrices that have tiles.
pub(super) fn room(args: &Args) -> usize {
    let formats = [args.format_0, args.format_1, args.format_2].into_iter().enumerate();
    let room = formats
        .filter(|(i, _)| args.tiles_mask >> i & 1 == 1)
        .map(|(_, format)| room_bytes(Format::ALL[format as usize], args.columns));
    room.max().unwrap_or(0) as usize
}

impl Work<'_> {
    /// Units of work are groups of tiles of weights, of all parts one after the other, times chunks of tokens whose panels fit
    /// in the cache. Each thread begins with a contiguous run of them, and so streams contiguous memory.
    fn run(&self, launch: &HostLaunch<'_>) {
        let prompt = self.rows.all - self.rows.exact;
        let paired = prompt > 0;
        let groups: usize = self.first_tiles().map(|part| self.groups_of(part, paired)).sum();
        let exact = self.exact_tiles();
        let tiles = exact + prompt.div_ceil(TILE_TOKENS);
        let own = tiles.div_ceil(launch.threads);
        let stays = panel::tile_offset(own, self.columns) <= OWN_BYTES;
        let most = if own >= OWN_TILES && stays { own } else { usize::MAX };
        let chunk = self.chunk_tiles(groups >= 8 * launch.threads).min(most);
        let mut products = [const { Products([0.0; TILE_TOKENS * TILE_ROWS]) }; 2];
        launch.pieces(groups * tiles.div_ceil(chunk), 1, |piece| {
            for item in piece {
                let group = self.group(item % groups, paired);
                let first = item / groups * chunk;
                let last = (first + chunk).min(tiles);
                self.exact(launch, group, first..last.min(exact), &mut products);
                let prompts = first.max(exact) - exact..last.max(exact) - exact;
                self.prompt(launch, group, prompts, &mut products);
            }
        });
    }

    /// Tiles of tokens that continue an answer; of matrices as in the file those are not multiplied here.
    fn exact_tiles(&self) -> usize {
        let packed = self.parts.iter().flatten().all(|part| part.kernels.tiles.is_some());
        if packed { self.rows.tiles() } else { 0 }
    }

    /// How many tiles of tokens meet a group of tiles of weights in one piece of work. `many`: there are pieces enough without
    /// cutting the tokens.
    fn chunk_tiles(&self, many: bool) -> usize {
        let prompts_only = self.exact_tiles() == 0;
        let bytes = if prompts_only && many { WORDS_BYTES_IN_CACHE } else { PANEL_BYTES_IN_CACHE };
        (bytes / panel::tile_offset(1, self.columns)).max(1)
    }

    /// Products of a group with tiles of tokens that continue an answer.
    fn exact(
        &self,
        launch: &HostLaunch<'_>,
        group: Group<'_>,
        tiles: Range<usize>,
        products: &mut [Products; 2],
    ) {
        // SAFETY: scratch belongs to this thread, and the slice of an earlier group is no longer used.
        let room = unsafe { launch.scratch::<u8>().part(0..self.room) };
        for t in tiles {
            let tile = panel::token_tile(t, self.rows.exact);
            let panel = self.panel_of(t, tile);
            for ((part, index), out) in group.members().zip(&mut *products) {
                part.multiply(index, (panel, tile.width), room, out);
            }
            self.finish(group, tile, products);
        }
    }

    /// Products of a group with tiles of the prompts' tokens.
    fn prompt(
        &self,
        launch: &HostLaunch<'_>,
        group: Group<'_>,
        tiles: Range<usize>,
        products: &mut [Products; 2],
    ) {
        if tiles.is_empty() {
            return;
        }
        let blocks = self.columns / words::BLOCK;
        // SAFETY: scratch belongs to this thread, and the slice of an earlier group is no longer used.
        let scratch = unsafe { launch.scratch::<u8>().part(0..self.room + blocks * PAIR_BYTES) };
        let (room, weights) = scratch.split_at_mut(self.room);
        for (which, (part, index)) in group.members().enumerate() {
            part.unpack(index, which, room, weights);
        }
        let PromptKernels { multiply, .. } = group.first.0.prompt_kernels();
        for t in tiles {
            let first = self.rows.exact + t * TILE_TOKENS;
            let tokens = (self.rows.all - first).min(TILE_TOKENS);
            let groups = tokens.div_ceil(words::TOKENS);
            let start = self.rows.group_offset(t * TILE_TOKENS / words::TOKENS, self.columns);
            let x = &self.panel[start..][..groups * words::group_bytes(self.columns)];
            for (part, index) in group.members().take(if self.is_gated() { 1 } else { 2 }) {
                part.expect(index, first..first + tokens);
            }
            // SAFETY: as above; weights and groups have as many columns, and both products room for 16 tokens.
            unsafe {
                let out = products.as_mut_ptr().cast();
                multiply(weights.as_ptr(), blocks, (x.as_ptr(), groups), out);
            }
            self.finish(group, TokenTile { first, tokens, width: TILE_TOKENS }, products);
        }
    }

    /// The matrices whose tiles are counted: an up goes with its gate.
    fn first_tiles(&self) -> impl Iterator<Item = &Part<'_>> {
        self.parts.iter().flatten().take(if self.is_gated() { 1 } else { PARTS })
    }

    fn is_gated(&self) -> bool {
        matches!(self.epilogue, Epilogue::Gate(_))
    }

    fn groups_of(&self, part: &Part<'_>, paired: bool) -> usize {
        if paired && !self.is_gated() { part.tiles.div_ceil(2) } else { part.tiles }
    }

    /// Group `index` of all parts.
    fn group(&self, mut index: usize, paired: bool) -> Group<'_> {
        if let (Epilogue::Gate(_), [Some(gate), Some(up), _]) = (self.epilogue, &self.parts) {
            return Group { first: (gate, index), second: Some((up, index)) };
        }
        for part in self.first_tiles() {
            let groups = self.groups_of(part, paired);
            if index >= groups {
                index -= groups;
                continue;
            }
            if !paired {
                return Group { first: (part, index), second: None };
            }
            let second = (2 * index + 1 < part.tiles).then_some((part, 2 * index + 1));
            return Group { first: (part, 2 * index), second };
        }
        unreachable!("the index is below the sum of all groups")
    }

    fn panel_of(&self, t: usize, tile: TokenTile) -> &[u8] {
        &self.panel[panel::tile_offset(t, self.columns)..][..panel::tile_bytes(tile, self.columns)]
    }

    /// Adds biases, activates and stores the products of a group with a tile of tokens.
    fn finish(&self, group: Group<'_>, tile: TokenTile, products: &mut [Products; 2]) {
        let live = tile.tokens * TILE_ROWS;
        for ((part, index), products) in group.members().zip(&mut *products) {
            part.add_bias(index, &mut products.0[..live]);
        }
        if let Epilogue::Gate(activation) = self.epilogue {
            let [gate, up] = products;
            simd::activate(self.family, activation, &mut gate.0[..live], Some(&up.0[..live]));
            let (part, index) = group.first;
            return part.store(index, tile, gate, false);
        }
        for ((part, index), products) in group.members().zip(products) {
            if let Epilogue::Activate(activation) = self.epilogue {
                simd::activate(self.family, activation, &mut products.0[..live], None);
            }
            part.store(index, tile, products, self.epilogue == Epilogue::Accumulate);
        }
    }
}
