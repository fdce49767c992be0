//! Packed tiles: quantized weights as the dot-product kernels want to read them, made once when a model is loaded.
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
//! what the file's format says. Units, `[n]` in bytes; `x16` is one number of each row:
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
use crate::format::{Format, iq4, k};
use crate::simd::Family;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Size of a packed unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) columns: usize,
    pub(super) bytes: usize,
}

/// The unit of a format, or None for float formats, which need no packing.
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

/// Bytes of a packed `(rows, columns)` matrix; None where it should stay as in the file: a float format, rows that are no whole
/// number of tiles, columns that are no whole number of units, or a family without kernels for tiles.
#[must_use]
pub fn packed_bytes(family: Family, format: Format, rows: u64, columns: usize) -> Option<u64> {
    if !super::tiles::has_kernels(family) {
        return None;
    }
    tiles_bytes(format, rows, columns)
}

/// As [`packed_bytes`], whatever the family.
pub(crate) fn tiles_bytes(format: Format, rows: u64, columns: usize) -> Option<u64> {
    let unit = unit(format)?;
    let whole = rows.is_multiple_of(TILE_ROWS as u64) && columns.is_multiple_of(unit.columns);
    whole.then(|| rows / TILE_ROWS as u64 * (columns / unit.columns * unit.bytes) as u64)
}

/// Packs 16 rows, which lie as in the file, into one tile. Tiles are independent: a loader may pack them in parallel.
///
/// # Panics
/// When `rows` or `tile` has another length than the shape asks for, or [`packed_bytes`] has none for it.
pub fn pack(format: Format, columns: usize, rows: &[u8], tile: &mut [u8]) {
    let row_bytes = checked(format, columns, tile);
    assert_eq!(rows.len(), TILE_ROWS * row_bytes, "16 rows as in the file");
    let unit = unit(format).expect("checked");
    let blocks = unit.columns / format.block_elements() * format.block_bytes();
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (from, to) in row.chunks_exact(blocks).zip(tile.chunks_exact_mut(unit.bytes)) {
            Moved { to, r }.pack(format, from);
        }
    }
}

/// Reads one row of a tile back, exactly as [`Format::dequantize`] reads it from the file.
///
/// # Panics
/// When `tile` is not one tile of `out.len()` columns, or `row` is not below 16.
pub fn unpack_row(format: Format, tile: &[u8], row: usize, out: &mut [f32]) {
    checked(format, out.len(), tile);
    assert!(row < TILE_ROWS, "a tile has 16 rows");
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

/// Where row `r` of a unit goes.
struct Moved<'a> {
    to: &'a mut [u8],
    r: usize,
}

impl Moved<'_> {
    fn pack(&mut self, format: Format, from: &[u8]) {
        match format {
            Format::Q4_0 | Format::Iq4Nl => self.blocks::<18>(from, |to, p, b| {
                to.half(32 * p, &b[..2]);
                to.spread(64 + 256 * p, &b[2..]);
            }),
            Format::Q4_1 => self.blocks::<20>(from, |to, p, b| {
                to.half(32 * p, &b[..2]);
                to.half(64 + 32 * p, &b[2..4]);
                to.spread(128 + 256 * p, &b[4..]);
            }),
            Format::Q5_0 => self.blocks::<22>(from, |to, p, b| {
                to.half(32 * p, &b[..2]);
                to.spread(64 + 256 * p, &b[6..]);
                to.plane(576 + 64 * p, &b[2..6]);
            }),
            Format::Q5_1 => self.blocks::<24>(from, |to, p, b| {
                to.half(32 * p, &b[..2]);
                to.half(64 + 32 * p, &b[2..4]);
                to.spread(128 + 256 * p, &b[8..]);
                to.plane(640 + 64 * p, &b[4..8]);
            }),
            Format::Q8_0 => self.blocks::<34>(from, |to, p, b| {
                to.half(32 * p, &b[..2]);
                let mut codes = [0; 32];
                codes.iter_mut().zip(&b[2..]).for_each(|(to, code)| *to = code ^ 0x80);
                to.spread(64 + 512 * p, &codes);
            }),
            Format::Mxfp4 => self.blocks::<17>(from, |to, p, b| {
                to.to[16 * p + to.r] = b[0];
                to.spread(32 + 256 * p, &b[1..]);
            }),
            _ => self.pack_k(format, from),
        }
    }

    fn pack_k(&mut self, format: Format, b: &[u8]) {
        match format {
            Format::Q2K => {
                self.half(0, &b[80..82]);
                self.half(32, &b[82..84]);
                self.bytes(64, &b[..16]);
                self.spread(320, &b[16..80]);
            }
            Format::Q3K => {
                self.half(0, &b[108..110]);
                let packed = b[96..108].first_chunk().expect("12 bytes");
                let scales: [u8; 16] =
                    std::array::from_fn(|g| k::q3_scale(packed, g).cast_unsigned());
                self.bytes(32, &scales);
                self.spread(288, &b[32..96]);
                self.spread(1312, &b[..32]);
            }
            Format::Q4K | Format::Q5K => {
                self.half(0, &b[..2]);
                self.half(32, &b[2..4]);
                let packed = b[4..16].first_chunk().expect("12 bytes");
                for group in 0..8 {
                    let (scale, min) = k::scale_min(packed, group);
                    self.to[64 + 16 * group + self.r] = scale;
                    self.to[192 + 16 * group + self.r] = min;
                }
                let nibbles = b.len() - 128;
                self.spread(320, &b[nibbles..]);
                if format == Format::Q5K {
                    self.spread(2368, &b[16..48]);
                }
            }
            Format::Q6K => {
                self.half(0, &b[208..210]);
                self.bytes(64, &b[192..208]);
                self.spread(320, &b[..128]);
                self.spread(2368, &b[128..192]);
            }
            Format::Iq4Xs => {
                self.half(0, &b[..2]);
                let (high, low) = (u16::from_le_bytes([b[2], b[3]]), [b[4], b[5], b[6], b[7]]);
                let scales: [u8; 8] =
                    std::array::from_fn(|g| iq4::xs_scale(high, low, g).cast_unsigned());
                self.bytes(64, &scales);
                self.spread(192, &b[8..]);
            }
            _ => unreachable!("the other formats have blocks of 32 or none"),
        }
    }

    fn blocks<const BYTES: usize>(
        &mut self,
        from: &[u8],
        mut block: impl FnMut(&mut Self, usize, &[u8; BYTES]),
    ) {
        for (p, b) in from.as_chunks::<BYTES>().0.iter().enumerate() {
            block(self, p, b);
        }
    }

    /// Two bytes of this row in a group of 16 x f16 at `at`.
    fn half(&mut self, at: usize, half: &[u8]) {
        self.to[at + 2 * self.r..][..2].copy_from_slice(half);
    }

    /// One byte of this row in each of some groups of 16 bytes from `at` on.
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        for (to, byte) in self.to[at + self.r..].iter_mut().step_by(TILE_ROWS).zip(bytes) {
            *to = *byte;
        }
    }

    /// Four bytes of this row in each of some vectors from `at` on.
    #[inline(always)]
    fn spread(&mut self, at: usize, bytes: &[u8]) {
        let steps = bytes.as_chunks::<4>().0;
        let to = &mut self.to[at..at + 64 * steps.len()];
        for (to, four) in to.as_chunks_mut::<64>().0.iter_mut().zip(steps) {
            to[4 * self.r..4 * self.r + 4].copy_from_slice(four);
        }
    }

    /// A plane from 32 bits in the order of the codes.
    fn plane(&mut self, at: usize, bits: &[u8]) {
        let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
        for c in 0..4 {
            let place = (0..8).fold(0, |byte, i| byte | (bits >> (4 * i + c) & 1) << i);
            self.to[at + 4 * self.r + c] = place.to_le_bytes()[0];
        }
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
        for format in Format::ALL {
            for columns in [64, 256, 576, 2048] {
                let Some(bytes) = tiles_bytes(format, 16, columns) else { continue };
                let mut tile = vec![0xff; usize::try_from(bytes).expect("small")];
                let rows: Vec<u8> =
                    (0..16).flat_map(|seed| random_row(format, columns, seed)).collect();
                pack(format, columns, &rows, &mut tile);
                let (mut expected, mut found) = (vec![0.0; columns], vec![0.0; columns]);
                for (r, row) in rows.chunks_exact(rows.len() / 16).enumerate() {
                    format.dequantize(row, &mut expected);
                    unpack_row(format, &tile, r, &mut found);
                    assert_eq!(expected, found, "{format}, {columns} columns, row {r}");
                }
            }
        }
    }

    #[test]
    fn packing_grows_a_matrix_by_less_than_four_percent() {
        for format in Format::ALL {
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
