//! Packed tiles: quantized weights as the dot-product kernels want to read them.
//!
//! A tile is 16 rows; a tile is a run of units; a unit is 64 columns of a format with blocks of 32, or 256 columns of a format
//! with blocks of 256. Tiles follow each other in the order of rows, so a thread streams its rows as one piece of memory.
//!
//! Every vector of 64 bytes holds 4 bytes of each of the 16 rows: what one step of a dot product consumes while 4 codes of
//! an activation go to all lanes.
//!
//! ```text
//!             byte 0  1  2  3   4  5  6  7         60 61 62 63
//!   vector   [ r0 r0 r0 r0 | r1 r1 r1 r1 | ... | r15 r15 r15 r15 ]     4 consecutive bytes of each row's block
//! ```
//!
//! Since the 4 bytes are consecutive in the file's block, packing moves bytes and does not touch nibbles; what a byte means is
//! what the file's format says. BF16 has tiles of its own kind: see [`super::dense`]. Units of the others, `[n]` in bytes; `x16` is one
//! number of each row:
//!
//! ```text
//!   Q4_0, IQ4_NL  2 x { d: f16 x16 } 2 x { nibbles [256] }                                         576
//!   Q4_1          2 x { d: f16 x16 } 2 x { m: f16 x16 } 2 x { nibbles [256] }                      640
//!   Q5_0          2 x { d: f16 x16 } 2 x { nibbles [256] } 2 x { plane [64] }                      704
//!   Q5_1          2 x { d: f16 x16 } 2 x { m: f16 x16 } 2 x { nibbles [256] } 2 x { plane [64] }   768
//!   Q8_0          2 x { d: f16 x16 } 2 x { codes + 128 [512] }                                    1088
//!   MXFP4         2 x { e: u8 x16 } 2 x { nibbles [256] }                                          544
//!   Q2_K          d: f16 x16, dmin: f16 x16, 16 x { scale | min << 4: u8 x16 }, codes [1024]      1344
//!   Q3_K          d: f16 x16, 16 x { scale: i8 x16 }, codes [1024], plane [512]                   1824
//!   Q4_K          d: f16 x16, dmin: f16 x16, 8 x { scale: u8 x16 } 8 x { min: u8 x16 }, nibbles [2048]              2368
//!   Q5_K          as Q4_K, plane [512]                                                            2880
//!   Q6_K          d: f16 x16, 0 [32], 16 x { scale: i8 x16 }, nibbles [2048], high bits [1024]    3392
//!   IQ4_XS        d: f16 x16, 0 [32], 8 x { scale: i8 x16 }, nibbles [2048]                       2240
//! ```
//!
//! A plane holds one bit per code: in Q5_0 and Q5_1 bit i of a byte belongs to the code at this byte of step i; in the K formats
//! bit g belongs to this place of group g, as in the file. The 6-bit scales of Q3_K, Q4_K, Q5_K and IQ4_XS get a byte each:
//! the only growth, at most 3.6 %. Zeros keep the nibbles on cache lines.
use super::dense;
use crate::format::Format;
use crate::simd::Family;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// How many tiles so many rows are.
#[must_use]
pub const fn tiles(rows: u32) -> u32 {
    rows / 16
}

/// Size of a packed unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) columns: usize,
    pub(super) bytes: usize,
}

/// The unit of a format, or None for float formats.
pub(super) const fn unit(format: Format) -> Option<Unit> {
    let (columns, bytes) = match format {
        Format::F32 | Format::F16 | Format::Bf16 => return None,
        Format::Q4_0 | Format::Iq4Nl => (64, 576),
        Format::Q4_1 => (64, 640),
        Format::Q5_0 => (64, 704),
        Format::Q5_1 => (64, 768),
        Format::Q8_0 => (64, 1088),
        Format::Mxfp4 => (64, 544),
        Format::Q2K => (256, 1344),
        Format::Q3K => (256, 1824),
        Format::Q4K => (256, 2368),
        Format::Q5K => (256, 2880),
        Format::Q6K => (256, 3392),
        Format::Iq4Xs => (256, 2240),
    };
    Some(Unit { columns, bytes })
}

/// Bytes of a packed `(rows, columns)` matrix; None where it should stay as in the file: F32 and F16, rows that are no whole
/// number of tiles, columns that are no whole number of units, or a family without kernels for such tiles.
#[must_use]
pub fn packed_bytes(family: Family, format: Format, rows: u64, columns: usize) -> Option<u64> {
    let has_kernels = match format {
        Format::Bf16 => dense::has_kernels(family),
        _ => super::tiles::has_kernels(family),
    };
    if has_kernels { tiles_bytes(format, rows, columns) } else { None }
}

/// As [`packed_bytes`], whatever the family.
pub(crate) fn tiles_bytes(format: Format, rows: u64, columns: usize) -> Option<u64> {
    let tile = match format {
        Format::Bf16 => dense::tile_bytes(columns)?,
        _ => {
            let unit = unit(format)?;
            let whole = columns.is_multiple_of(unit.columns);
            whole.then(|| columns / unit.columns * unit.bytes)?
        }
    };
    rows.is_multiple_of(TILE_ROWS as u64).then(|| rows / TILE_ROWS as u64 * tile as u64)
}

/// Whether a packed tile has its row; what a tile of BF16 rows lacks is read from the file: see [`dense`].
///
/// # Panics
/// When `row` is not below 16.
#[must_use]
pub fn holds(format: Format, tile: &[u8], row: usize) -> bool {
    assert!(row < TILE_ROWS, "a tile has 16 rows");
    format != Format::Bf16 || dense::holds(tile, row)
}

/// Packs 16 rows, which lie as in the file, into one tile, with the instructions of `family`. Tiles are independent: they may be
/// packed in parallel.
///
/// # Panics
/// When `rows` or `tile` has another length than the shape asks for, or [`packed_bytes`] has none for it.
pub fn pack(family: Family, format: Format, columns: usize, rows: &[u8], tile: &mut [u8]) {
    let row_bytes = checked(format, columns, tile);
    assert_eq!(rows.len(), TILE_ROWS * row_bytes, "16 rows as in the file");
    if format == Format::Bf16 {
        return dense::pack(family, rows, tile);
    }
    match family.instructions() {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => super::avx512_pack::pack(format, rows, tile),
        #[cfg(target_arch = "x86_64")]
        Family::Avx2 => super::avx2_pack::pack(format, rows, tile),
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprod | Family::NeonI8mm => super::neon_pack::pack(format, rows, tile),
        _ => pack_with::<FourBytes>(format, rows, tile),
    }
}

/// Packs 16 rows; their lengths are right.
#[inline(always)]
pub(super) fn pack_with<S: Spread>(format: Format, rows: &[u8], tile: &mut [u8]) {
    let unit = unit(format).expect("a packed format");
    let bytes = unit.columns / format.block_elements() * format.block_bytes();
    let stride = rows.len() / TILE_ROWS;
    for (i, to) in tile.chunks_exact_mut(unit.bytes).enumerate() {
        S::expect(rows, i * TILE_ROWS * bytes, TILE_ROWS * bytes);
        pack_unit::<S>(format, Rows { bytes: &rows[i * bytes..], stride }, to);
    }
}

/// Reads one row of a tile back, exactly as [`Format::dequantize`] reads it from the file.
///
/// # Panics
/// When `tile` is not one tile of `out.len()` columns, or has no such row: see [`holds`].
pub fn unpack_row(format: Format, tile: &[u8], row: usize, out: &mut [f32]) {
    checked(format, out.len(), tile);
    assert!(holds(format, tile, row), "a row that the tile holds");
    if format == Format::Bf16 {
        return dense::unpack_row(tile, row, out);
    }
    let unit = unit(format).expect("checked");
    let mut file = [0; 256];
    let blocks = &mut file[..unit.columns / format.block_elements() * format.block_bytes()];
    for (from, out) in tile.chunks_exact(unit.bytes).zip(out.chunks_exact_mut(unit.columns)) {
        unpack_unit(format, from, row, blocks);
        format.dequantize(blocks, out);
    }
}

/// Bytes of a row in the file, after a check of the tile's size.
fn checked(format: Format, columns: usize, tile: &[u8]) -> usize {
    let bytes = tiles_bytes(format, TILE_ROWS as u64, columns).expect("a shape that is packed");
    assert_eq!(tile.len() as u64, bytes, "{format}: one tile of {columns} columns");
    format.row_bytes(columns).expect("units are whole blocks")
}

/// Blocks of 16 rows as in the file, from somewhere in the first row on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    /// From row to row.
    pub(super) stride: usize,
}

/// Four bytes of each row.
pub(super) type Words = [u32; TILE_ROWS];

/// How bytes of 16 rows become vectors of 4 bytes of each row.
pub(super) trait Spread {
    /// `bytes` bytes of each row, a multiple of 16.
    fn spread(from: Rows<'_>, bytes: usize, to: &mut [u8]);
    /// 16 bytes of each row.
    fn words(from: Rows<'_>) -> [Words; 4];
    /// Tells that the rows after these will be wanted, of which this is the time for `bytes` from `at` on.
    fn expect(rows: &[u8], at: usize, bytes: usize);
}

/// On every processor.
struct FourBytes;

impl Spread for FourBytes {
    fn spread(from: Rows<'_>, bytes: usize, to: &mut [u8]) {
        for (r, row) in from.bytes.chunks(from.stride).take(TILE_ROWS).enumerate() {
            let steps = row[..bytes].as_chunks::<4>().0;
            for (to, four) in to.as_chunks_mut::<64>().0.iter_mut().zip(steps) {
                to[4 * r..4 * r + 4].copy_from_slice(four);
            }
        }
    }

    fn words(from: Rows<'_>) -> [Words; 4] {
        let word = |at: usize, r: usize| {
            let bytes = &from.bytes[r * from.stride + at..][..4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        [0, 4, 8, 12].map(|at| std::array::from_fn(|r| word(at, r)))
    }

    /// Processors find the next rows themselves.
    fn expect(_: &[u8], _: usize, _: usize) {}
}

impl Rows<'_> {
    #[inline(always)]
    pub(super) fn check(self, bytes: usize) {
        let end = (TILE_ROWS - 1) * self.stride + bytes;
        assert!(self.bytes.len() >= end, "rows are whole");
    }

    #[inline(always)]
    fn from(self, at: usize) -> Self {
        Rows { bytes: &self.bytes[at..], ..self }
    }
}

/// Writes two bytes of each row, from bit `shift` of its word on.
#[inline(always)]
fn halves(words: &Words, shift: u32, to: &mut [u8]) {
    for (word, to) in words.iter().zip(to.as_chunks_mut::<2>().0) {
        let [low, high, ..] = (word >> shift).to_le_bytes();
        *to = [low, high];
    }
}

/// Words that begin two bytes into `low`.
#[inline(always)]
fn between(low: &Words, high: &Words) -> Words {
    let mut words = [0; TILE_ROWS];
    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
        *word = low >> 16 | high << 16;
    }
    words
}

/// Writes the low byte of a number of each row as group `index`.
macro_rules! group {
    ($to:expr, $index:expr, |$r:ident| $number:expr) => {
        for ($r, to) in $to[TILE_ROWS * $index..][..TILE_ROWS].iter_mut().enumerate() {
            *to = ($number).to_le_bytes()[0];
        }
    };
}

/// Writes 16 bytes of each row as 16 groups of a byte of each row.
#[inline(always)]
fn bytes_as_groups(words: &[Words; 4], to: &mut [u8]) {
    for g in 0..16 {
        let (words, shift) = (&words[g / 4], 8 * (g % 4));
        group!(to, g, |r| words[r] >> shift);
    }
}

#[inline(always)]
fn pack_unit<S: Spread>(format: Format, rows: Rows<'_>, to: &mut [u8]) {
    if format.block_elements() == 32 {
        pack_block::<S>(format, rows, 0, to);
        return pack_block::<S>(format, rows.from(format.block_bytes()), 1, to);
    }
    // A closure would not be compiled with the features of the function it stands in.
    macro_rules! spread {
        ($at:literal, $bytes:literal, $start:literal) => {
            S::spread(rows.from($at), $bytes, &mut to[$start..$start + TILE_ROWS * $bytes])
        };
    }
    match format {
        Format::Q2K => {
            spread!(16, 64, 320);
            let [_, _, _, scales] = S::words(rows.from(68));
            halves(&scales, 0, to);
            halves(&scales, 16, &mut to[32..]);
            bytes_as_groups(&S::words(rows), &mut to[64..]);
        }
        Format::Q3K => {
            spread!(32, 64, 288);
            spread!(0, 32, 1312);
            let [a, b, c, d] = S::words(rows.from(94));
            halves(&d, 16, to);
            pack_q3_scales([between(&a, &b), between(&b, &c), between(&c, &d)], &mut to[32..]);
        }
        Format::Q4K => {
            spread!(16, 128, 320);
            pack_scales_mins(&S::words(rows), to);
        }
        Format::Q5K => {
            spread!(48, 128, 320);
            spread!(16, 32, 2368);
            pack_scales_mins(&S::words(rows), to);
        }
        Format::Q6K => {
            spread!(0, 128, 320);
            spread!(128, 64, 2368);
            halves(&S::words(rows.from(194))[3], 16, to);
            bytes_as_groups(&S::words(rows.from(192)), &mut to[64..]);
        }
        Format::Iq4Xs => {
            spread!(8, 128, 192);
            let [high, low, ..] = S::words(rows);
            halves(&high, 0, to);
            for g in 0..8 {
                group!(to[64..], g, |r| {
                    let bits = (high[r] >> (16 + 2 * g) & 3) << 4 | low[r] >> (4 * g) & 15;
                    bits.wrapping_sub(32)
                });
            }
        }
        _ => unreachable!("the other formats have blocks of 32 or none"),
    }
}

/// Block `p` (0 or 1) of a unit with blocks of 32.
#[inline(always)]
fn pack_block<S: Spread>(format: Format, rows: Rows<'_>, p: usize, to: &mut [u8]) {
    let [first, second, ..] = S::words(rows);
    if format == Format::Mxfp4 {
        group!(to, p, |r| first[r]);
        return S::spread(rows.from(1), 16, &mut to[32 + 256 * p..][..256]);
    }
    halves(&first, 0, &mut to[32 * p..]);
    match format {
        Format::Q4_1 => {
            halves(&first, 16, &mut to[64 + 32 * p..]);
            S::spread(rows.from(4), 16, &mut to[128 + 256 * p..][..256]);
        }
        Format::Q5_0 => {
            S::spread(rows.from(6), 16, &mut to[64 + 256 * p..][..256]);
            pack_plane(&between(&first, &second), &mut to[576 + 64 * p..]);
        }
        Format::Q5_1 => {
            halves(&first, 16, &mut to[64 + 32 * p..]);
            S::spread(rows.from(8), 16, &mut to[128 + 256 * p..][..256]);
            pack_plane(&second, &mut to[640 + 64 * p..]);
        }
        Format::Q8_0 => {
            let to = &mut to[64 + 512 * p..][..512];
            S::spread(rows.from(2), 32, to);
            to.iter_mut().for_each(|code| *code ^= 0x80);
        }
        _ => S::spread(rows.from(2), 16, &mut to[64 + 256 * p..][..256]),
    }
}

/// [`crate::format::k::q3_scale`] of the 12 bytes of each row.
#[inline(always)]
fn pack_q3_scales(packed: [Words; 3], to: &mut [u8]) {
    for g in 0..16 {
        let (low, high, byte) = (&packed[g / 4 % 2], &packed[2], 8 * (g % 4));
        group!(to, g, |r| {
            let high = high[r] >> (byte + 2 * (g / 4)) & 3;
            (high << 4 | low[r] >> (byte + 4 * (g / 8)) & 15).wrapping_sub(32)
        });
    }
}

/// d, dmin and [`crate::format::k::scale_min`] of the 16 bytes of each row.
#[inline(always)]
fn pack_scales_mins([d, scales, mins, rest]: &[Words; 4], to: &mut [u8]) {
    halves(d, 0, to);
    halves(d, 16, &mut to[32..]);
    let (to_scales, to_mins) = to[64..].split_at_mut(128);
    for g in 0..4 {
        let byte = 8 * g;
        group!(to_scales, g, |r| scales[r] >> byte & 63);
        group!(to_mins, g, |r| mins[r] >> byte & 63);
        group!(to_scales, g + 4, |r| rest[r] >> byte & 15 | scales[r] >> byte >> 2 & 0x30);
        group!(to_mins, g + 4, |r| rest[r] >> byte >> 4 & 15 | mins[r] >> byte >> 2 & 0x30);
    }
}

/// Planes from 32 bits in the order of the codes: bit `4 i + c` goes to bit i of byte c. The five bits of a bit's number are
/// permuted by four exchanges (Knuth, The Art of Computer Programming, 7.1.3).
#[inline(always)]
fn pack_plane(bits: &Words, to: &mut [u8]) {
    for (bits, to) in bits.iter().zip(to.as_chunks_mut::<4>().0) {
        let mut plane = *bits;
        for (shift, mask) in [(14, 0xcccc), (7, 0x00aa_00aa), (2, 0x0c0c_0c0c), (1, 0x2222_2222)] {
            let differ = (plane ^ plane >> shift) & mask;
            plane ^= differ ^ differ << shift;
        }
        *to = plane.to_le_bytes();
    }
}

/// The file's blocks of one row of a unit.
fn unpack_unit(format: Format, from: &[u8], r: usize, b: &mut [u8]) {
    let half = |at: usize, to: &mut [u8]| to.copy_from_slice(&from[at + 2 * r..][..2]);
    let spread = |at: usize, to: &mut [u8]| {
        for (i, four) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            four.copy_from_slice(&from[at + 64 * i + 4 * r..][..4]);
        }
    };
    let byte = |at: usize, group: usize| from[at + 16 * group + r];
    let size = format.block_bytes();
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("float formats are not packed"),
        Format::Q2K => {
            half(0, &mut b[80..82]);
            half(32, &mut b[82..84]);
            (0..16).for_each(|g| b[g] = byte(64, g));
            spread(320, &mut b[16..80]);
        }
        Format::Q3K => {
            half(0, &mut b[108..110]);
            b[96..108].copy_from_slice(&q3_scales(|g| byte(32, g)));
            spread(288, &mut b[32..96]);
            spread(1312, &mut b[..32]);
        }
        Format::Q4K | Format::Q5K => {
            half(0, &mut b[..2]);
            half(32, &mut b[2..4]);
            b[4..16].copy_from_slice(&scales_mins(|g| byte(64, g), |g| byte(192, g)));
            spread(320, &mut b[size - 128..]);
            if format == Format::Q5K {
                spread(2368, &mut b[16..48]);
            }
        }
        Format::Q6K => {
            half(0, &mut b[208..210]);
            (0..16).for_each(|g| b[192 + g] = byte(64, g));
            spread(320, &mut b[..128]);
            spread(2368, &mut b[128..192]);
        }
        Format::Iq4Xs => {
            half(0, &mut b[..2]);
            let (mut high, mut low) = (0_u16, [0; 4]);
            for g in 0..8 {
                let bits = byte(64, g).wrapping_add(32);
                high |= u16::from(bits >> 4) << (2 * g);
                low[g / 2] |= (bits & 15) << (4 * (g % 2));
            }
            b[2..4].copy_from_slice(&high.to_le_bytes());
            b[4..8].copy_from_slice(&low);
            spread(192, &mut b[8..]);
        }
        _ => {
            for (p, b) in b.chunks_exact_mut(size).enumerate() {
                unpack_block(format, (from, r, p), b);
            }
        }
    }
}

/// Block `p` (0 or 1) of row `r` of a unit with blocks of 32.
fn unpack_block(format: Format, (from, r, p): (&[u8], usize, usize), b: &mut [u8]) {
    let half = |at: usize, to: &mut [u8]| to.copy_from_slice(&from[at + 32 * p + 2 * r..][..2]);
    let spread = |at: usize, to: &mut [u8]| {
        for (i, four) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            four.copy_from_slice(&from[at + 64 * i + 4 * r..][..4]);
        }
    };
    let plane = |at: usize, to: &mut [u8]| {
        let place = &from[at + 64 * p + 4 * r..][..4];
        let bit = |j: usize| u32::from(place[j % 4] >> (j / 4) & 1) << j;
        to.copy_from_slice(&(0..32).map(bit).sum::<u32>().to_le_bytes());
    };
    if format == Format::Mxfp4 {
        b[0] = from[16 * p + r];
        spread(32 + 256 * p, &mut b[1..]);
        return;
    }
    half(0, &mut b[..2]);
    match format {
        Format::Q4_1 => {
            half(64, &mut b[2..4]);
            spread(128 + 256 * p, &mut b[4..]);
        }
        Format::Q5_0 => {
            spread(64 + 256 * p, &mut b[6..]);
            plane(576, &mut b[2..6]);
        }
        Format::Q5_1 => {
            half(64, &mut b[2..4]);
            spread(128 + 256 * p, &mut b[8..]);
            plane(640, &mut b[4..8]);
        }
        Format::Q8_0 => {
            spread(64 + 512 * p, &mut b[2..]);
            b[2..].iter_mut().for_each(|code| *code ^= 0x80);
        }
        _ => spread(64 + 256 * p, &mut b[2..]),
    }
}

/// The inverse of [`k::q3_scale`].
fn q3_scales(scale: impl Fn(usize) -> u8) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..16 {
        let bits = scale(g).wrapping_add(32);
        packed[g % 8] |= (bits & 15) << (4 * (g / 8));
        packed[8 + g % 4] |= (bits >> 4) << (2 * (g / 4));
    }
    packed
}

/// The inverse of [`k::scale_min`].
fn scales_mins(scale: impl Fn(usize) -> u8, min: impl Fn(usize) -> u8) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..4 {
        packed[g] = scale(g) | scale(g + 4) >> 4 << 6;
        packed[g + 4] = min(g) | min(g + 4) >> 4 << 6;
        packed[g + 8] = scale(g + 4) & 15 | min(g + 4) << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random_row;

    #[test]
    fn a_packed_row_reads_back_as_the_file_has_it() {
        let families = Family::ALL.into_iter().filter(|family| family.runs_here());
        for (family, format) in families.flat_map(|f| Format::ALL.map(|format| (f, format))) {
            for columns in [64, 256, 576, 2048] {
                let Some(bytes) = tiles_bytes(format, 16, columns) else { continue };
                let mut tile = vec![0xff; usize::try_from(bytes).expect("small")];
                let rows: Vec<u8> =
                    (0..16).flat_map(|seed| random_row(format, columns, seed)).collect();
                pack(family, format, columns, &rows, &mut tile);
                let (mut expected, mut found) = (vec![0.0; columns], vec![0.0; columns]);
                for (r, row) in rows.chunks_exact(rows.len() / 16).enumerate() {
                    if !holds(format, &tile, r) {
                        continue;
                    }
                    format.dequantize(row, &mut expected);
                    unpack_row(format, &tile, r, &mut found);
                    assert_eq!(expected, found, "{family} {format}, {columns} columns, row {r}");
                }
            }
        }
    }

    #[test]
    fn packing_grows_a_matrix_by_less_than_four_percent() {
        for format in Format::ALL.into_iter().filter(|format| unit(*format).is_some()) {
            let Some(packed) = tiles_bytes(format, 32, 1024) else { continue };
            let file = 32 * format.row_bytes(1024).expect("whole blocks") as u64;
            assert!(packed >= file && packed * 100 <= file * 104, "{format}: {packed} of {file}");
        }
    }

    #[test]
    fn shapes_that_stay_as_in_the_file() {
        assert_eq!(tiles_bytes(Format::Q4_0, 16, 64), Some(576));
        for (rows, columns) in [(1000, 64), (16, 32), (48, 288), (15, 576)] {
            assert_eq!(tiles_bytes(Format::Q4_0, rows, columns), None, "{rows} {columns}");
        }
        assert_eq!(tiles_bytes(Format::F16, 16, 64), None);
        assert_eq!(packed_bytes(Family::Portable, Format::Q4_0, 16, 64), None);
    }
}
