//! `linear` over packed tiles: splits the work between threads and walks it; the products are a family's.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint columns of shared spans")]
use super::pack::{TILE_ROWS, tiles_bytes, unit};
use super::{Args, PARTS};
use crate::Epilogue;
use crate::format::Format;
use crate::quantize::panel::{self, RowNorm, TILE_TOKENS, TokenTile};
use crate::simd::{self, Family};
use hal::cpu::{HostLaunch, Shared};

/// Products of one tile of weights with one tile of tokens: (tile, its units, panel, out (width, 16)).
///
/// # Safety
/// The processor has the family's instructions; the pointers lead to a whole tile, a whole panel tile of the kernel's width and
/// as many columns, and `width * 16` numbers.
pub(super) type TileKernel = unsafe fn(*const u8, usize, *const u8, *mut f32);

/// Whether a family multiplies packed tiles.
pub(super) const fn has_kernels(family: Family) -> bool {
    !matches!(family, Family::Portable) && family.is_of_this_architecture()
}

/// Kernels for 1, 2, 4, 8 and 16 tokens.
fn kernels(family: Family, format: Format) -> [TileKernel; 5] {
    match family {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => super::avx512::kernels(format),
        #[cfg(target_arch = "x86_64")]
        Family::Avx2 => super::avx2::kernels(format),
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprod => super::neon::kernels(format),
        _ => panic!("{family} has no kernels for packed {format}: the recorder asks first"),
    }
}

/// So many tokens are quantized by every thread for itself, which costs less than a launch and a barrier of its own.
pub(super) const FUSED_TOKENS: u32 = 4;

/// Scratch of one thread when it quantizes its own panel.
pub(super) fn fused_scratch_bytes(tokens: u32, columns: u32) -> u32 {
    let bytes = panel::panel_bytes(tokens as usize, columns as usize);
    u32::try_from(bytes).expect("a few tokens")
}

/// A panel of at most this size stays in a core's second level cache while all weights pass by.
const PANEL_BYTES_IN_CACHE: usize = 448 << 10;

/// One matrix of the launch.
struct Part<'a> {
    kernels: [TileKernel; 5],
    weight: &'a [u8],
    tile_bytes: usize,
    units: usize,
    /// Tiles of 16 rows.
    tiles: usize,
    bias: Option<&'a [f32]>,
    y: Shared<'a, f32>,
}

impl Part<'_> {
    /// Products of tile `index` with a tile of tokens.
    fn multiply(&self, index: usize, panel: &[u8], width: usize, out: &mut Products) {
        let tile = &self.weight[index * self.tile_bytes..][..self.tile_bytes];
        let kernel = self.kernels[width.trailing_zeros() as usize];
        // SAFETY: the kernels are the host's; the tile is whole; the caller cut the panel for this width.
        unsafe { kernel(tile.as_ptr(), self.units, panel.as_ptr(), out.0.as_mut_ptr()) };
        if let Some(bias) = self.bias {
            let bias = &bias[index * TILE_ROWS..][..TILE_ROWS];
            for row in out.0[..width * TILE_ROWS].as_chunks_mut::<TILE_ROWS>().0 {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }

    fn store(&self, index: usize, tile: TokenTile, products: &Products, accumulate: bool) {
        let rows = self.tiles * TILE_ROWS;
        let products = products.0.as_chunks::<TILE_ROWS>().0;
        for (t, products) in products.iter().take(tile.tokens).enumerate() {
            let at = (tile.first + t) * rows + index * TILE_ROWS;
            // SAFETY: each thread has its own tiles of W for each token, and so its own part of y.
            let y = unsafe { self.y.part(at..at + TILE_ROWS) };
            if accumulate {
                y.iter_mut().zip(products).for_each(|(y, product)| *y += product);
            } else {
                y.copy_from_slice(products);
            }
        }
    }
}

/// `(tokens, 16)`
#[repr(align(64))]
struct Products([f32; TILE_TOKENS * TILE_ROWS]);

/// One launch as this thread sees it.
struct Work<'a> {
    family: Family,
    parts: [Option<Part<'a>>; PARTS],
    epilogue: Epilogue,
    tokens: usize,
    columns: usize,
    panel: &'a [u8],
}

fn parts<'a>(launch: &'a HostLaunch<'_>, args: &Args, first: usize) -> [Option<Part<'a>>; PARTS] {
    let rows = [args.rows_0, args.rows_1, args.rows_2];
    let formats = [args.format_0, args.format_1, args.format_2];
    let (count, columns) = (args.parts as usize, args.columns as usize);
    let mut bias_at = first + 2 * count;
    let mut part = |i: usize| {
        let format = Format::ALL[formats[i] as usize];
        let has_bias = args.bias_mask >> i & 1 == 1;
        // SAFETY: weights and biases are only read by this launch.
        let bias = has_bias.then(|| unsafe { launch.slice::<f32>(bias_at) });
        bias_at += usize::from(has_bias);
        let bytes = tiles_bytes(format, TILE_ROWS as u64, columns).expect("recorded as packed");
        Part {
            kernels: kernels(Family::from_code(args.family), format),
            // SAFETY: as above.
            weight: unsafe { launch.slice::<u8>(first + 2 * i) },
            tile_bytes: usize::try_from(bytes).expect("a tile fits in memory"),
            units: columns / unit(format).expect("recorded as packed").columns,
            tiles: rows[i] as usize / TILE_ROWS,
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
    run(
        launch,
        &args,
        (counts[args.count_index as usize] as usize, panel),
        parts(launch, &args, 2),
    );
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
    // SAFETY: scratch belongs to this thread.
    let panel = unsafe { launch.scratch::<u8>().part(0..panel::tile_bytes(tile, columns)) };
    let family = Family::from_code(args.family);
    panel::quantize_tile(family, &x[..tokens * columns], norm, tile, panel);
    run(launch, &args, (tokens, panel), parts(launch, &args, 2 + args.norm as usize));
}

fn run<'a>(
    launch: &HostLaunch<'_>,
    args: &Args,
    (tokens, panel): (usize, &'a [u8]),
    parts: [Option<Part<'a>>; PARTS],
) {
    Work {
        family: Family::from_code(args.family),
        parts,
        epilogue: Epilogue::from_code(args.epilogue),
        tokens,
        columns: args.columns as usize,
        panel,
    }
    .run(launch);
}

impl Work<'_> {
    /// Units of work are tiles of weights, of all parts one after the other, times chunks of tokens whose panels fit in the
    /// cache. Each thread gets a contiguous run of them, and so streams contiguous memory.
    fn run(&self, launch: &HostLaunch<'_>) {
        let gated = matches!(self.epilogue, Epilogue::Gate(_));
        let counted = self.parts.iter().flatten().take(if gated { 1 } else { PARTS });
        let tiles: usize = counted.map(|part| part.tiles).sum();
        let token_tiles = self.tokens.div_ceil(TILE_TOKENS);
        let chunk = (PANEL_BYTES_IN_CACHE / panel::tile_offset(1, self.columns)).max(1);
        let mut products = [const { Products([0.0; TILE_TOKENS * TILE_ROWS]) }; 2];
        for item in launch.part(tiles * token_tiles.div_ceil(chunk), 1) {
            let first = item / tiles * chunk;
            let (part, index) = self.part_of(item % tiles);
            for t in first..(first + chunk).min(token_tiles) {
                let tile = panel::token_tile(t, self.tokens);
                if gated {
                    self.gate(index, t, tile, &mut products);
                } else {
                    self.plain(part, index, t, tile, &mut products[0]);
                }
            }
        }
    }

    /// The matrix that tile `index` of all parts belongs to, and its index there.
    fn part_of(&self, mut index: usize) -> (&Part<'_>, usize) {
        let mut parts = self.parts.iter().flatten();
        loop {
            let part = parts.next().expect("the index is below the sum of all tiles");
            if index < part.tiles {
                return (part, index);
            }
            index -= part.tiles;
        }
    }

    fn panel_of(&self, t: usize, tile: TokenTile) -> &[u8] {
        &self.panel[panel::tile_offset(t, self.columns)..][..panel::tile_bytes(tile, self.columns)]
    }

    fn plain(
        &self,
        part: &Part<'_>,
        index: usize,
        t: usize,
        tile: TokenTile,
        products: &mut Products,
    ) {
        part.multiply(index, self.panel_of(t, tile), tile.width, products);
        if let Epilogue::Activate(activation) = self.epilogue {
            let live = &mut products.0[..tile.tokens * TILE_ROWS];
            simd::activate(self.family, activation, live, None);
        }
        part.store(index, tile, products, self.epilogue == Epilogue::Accumulate);
    }

    fn gate(&self, index: usize, t: usize, tile: TokenTile, [gate, up]: &mut [Products; 2]) {
        let [Some(gate_part), Some(up_part), _] = &self.parts else {
            unreachable!("a gated launch has two matrices")
        };
        let Epilogue::Gate(activation) = self.epilogue else { return };
        let panel = self.panel_of(t, tile);
        gate_part.multiply(index, panel, tile.width, gate);
        up_part.multiply(index, panel, tile.width, up);
        let live = tile.tokens * TILE_ROWS;
        simd::activate(self.family, activation, &mut gate.0[..live], Some(&up.0[..live]));
        gate_part.store(index, tile, gate, false);
    }
}
