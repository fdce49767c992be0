//! Packing as work of the device: each of its threads packs some of the tiles that are wanted and not ready.
//!
//! Filling fresh memory takes as long as reading a model several times over where a host must first find that memory, so steps
//! begin with weights as they lie in the file, and tiles are packed between them.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint tiles of a shared span")]
use super::pack;
use crate::Weight;
use crate::format::Format;
use crate::record::{Recorder, Spread, Tiles, read, write};
use crate::simd::Family;
use hal::cpu::HostLaunch;

/// Spans: W as in the file, its tiles (written), words of tiles that are ready and that are wanted.
pub static PACK: hal::Program = hal::Program { name: "pack", host: Some(run), gpu: None };

hal::args! {
    /// Arguments of [`PACK`].
    pub struct Args {
        pub columns: u32,
        pub rows: u32,
        pub format: u32,
        pub family: u32,
    }
}

/// Records the packing of whole tensors: of each the tiles from [`Tiles::ready`] to [`Tiles::wanted`]. Tensors without tiles are
/// passed over. Who submits it sets `ready` to `wanted` afterwards.
pub fn record(to: &mut Recorder<'_>, tensors: impl IntoIterator<Item = Weight>) {
    let Some(wanted) = to.resources.tiles.as_ref().map(|tiles| tiles.wanted) else { return };
    for weight in tensors {
        let Some((tiles, ready)) = to.tiles(&weight) else { continue };
        let wanted = Tiles::word(wanted, weight.tensor);
        let operands = [read(to.weight(&weight)), write(tiles), read(ready), read(wanted)];
        let Weight { format, rows, columns, .. } = weight;
        let args = Args { columns, rows, format: format as u32, family: to.family.code() };
        let spread = Spread { groups: pack::tiles(rows), scratch_bytes: 0 };
        to.launch(&PACK, &operands, spread, |image| args.write_to(image));
    }
}

fn run(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0, 2 and 3 are only read by this launch.
    let (rows, ready, wanted) =
        unsafe { (launch.slice::<u8>(0), launch.slice::<u32>(2)[0], launch.slice::<u32>(3)[0]) };
    let tiles = launch.shared::<u8>(1);
    let count = pack::tiles(args.rows) as usize;
    let (ready, wanted) = (ready as usize, (wanted as usize).min(count));
    let (tile_bytes, row_bytes) = (tiles.len() / count, rows.len() / count);
    let format = Format::ALL[args.format as usize];
    for i in launch.part(wanted.saturating_sub(ready), 1) {
        let tile = ready + i;
        // SAFETY: each thread has its own tiles.
        let to = unsafe { tiles.part(tile * tile_bytes..(tile + 1) * tile_bytes) };
        let rows = &rows[tile * row_bytes..][..row_bytes];
        pack::pack(Family::from_code(args.family), format, args.columns as usize, rows, to);
    }
}
