//! BF16 weights in 12 bits, without loss: what a token reads of them is what its time is made of.
//!
//! A BF16 number has a sign, 8 bits of exponent and 7 of mantissa. Weights of a few rows lie close enough together that nearly all
//! of their exponents are among the 16 up to the largest one (Zhang et al., "70% Size, 100% Accuracy: Lossless LLM Compression via
//! Dynamic-Length Float", 2025, measure 2.6 bits of information in an exponent). So a number becomes a byte of sign and mantissa and
//! a code of 4 bits; the few that have another exponent are listed as well.
//!
//! Four rows, a quad, are coded together and interleaved, so that a thread that multiplies four rows reads one stream:
//!
//! ```text
//!   quad   first: u8, base: u8, listed: u8, 0 [13], 40 x { column: u16, row: u16, number: u16 }       256
//!          a unit for each 128 columns                                                     768 each
//!   unit   4 rows x { signs and mantissas of two blocks of 64 columns [128], codes [64] }
//! ```
//!
//! Code c stands for exponent base + c, but for code 0, which stands for exponent `first`: 0 where rows have zeros, which then need
//! no list, and base otherwise. In byte i of the codes the lower half belongs to byte i of the first block and the upper half to
//! that of the second. [`place`] says where in its block a column is. A quad with more than 40 numbers to list has [`ABSENT`] for their count,
//! and nothing else in it counts: its rows are read from the file.
use super::pack::TILE_ROWS;
use crate::quantize::words;
use crate::simd::Family;
use half::bf16;
use std::ops::Range;

/// Rows of a quad.
pub(super) const ROWS: usize = 4;
/// Columns of a unit.
pub(super) const COLUMNS: usize = 128;
/// Columns of a block.
pub(super) const BLOCK: usize = 64;
/// Bytes of a row's part of a unit.
pub(super) const ROW_BYTES: usize = COLUMNS + BLOCK;
pub(super) const UNIT_BYTES: usize = ROWS * ROW_BYTES;
/// Bytes before the units.
pub(super) const HEAD_BYTES: usize = 256;
/// Where the number of listed ones is.
const COUNT_AT: usize = 2;
/// Where the list begins.
const LIST_AT: usize = 16;
const LISTED_MAX: usize = (HEAD_BYTES - LIST_AT) / LISTED_BYTES;
const LISTED_BYTES: usize = 6;
/// Says that a quad's rows are not in it.
const ABSENT: u8 = u8::MAX;

/// Bytes of a tile of 16 rows; None for columns that are no whole number of units, or too many for the list.
pub(super) const fn tile_bytes(columns: usize) -> Option<usize> {
    if columns.is_multiple_of(COLUMNS) && columns <= 1 << 16 {
        Some(TILE_ROWS / ROWS * quad_bytes(columns))
    } else {
        None
    }
}

pub(super) const fn quad_bytes(columns: usize) -> usize {
    HEAD_BYTES + columns / COLUMNS * UNIT_BYTES
}

/// Where in its block a column lies: so that two interleavings of bytes, of which each takes 8 bytes of every 16, give pairs of
/// columns that are 16 apart, and these two vectors of 16 consecutive columns.
pub(super) const fn place(column: usize) -> usize {
    let (vector, lane) = (column / 16, column % 16);
    let word = 2 * lane + vector % 2;
    word / 8 * 16 + vector / 2 * 8 + word % 8
}

/// A number that its code does not tell.
#[derive(Clone, Copy)]
pub(super) struct Listed {
    pub(super) column: usize,
    pub(super) row: usize,
    pub(super) number: u16,
}

/// What is written before the units. Numbers are listed in the order of units.
pub(super) struct Head<'a>(&'a mut [u8; HEAD_BYTES]);

impl<'a> Head<'a> {
    /// For rows with these smallest and largest exponents; the second value are the units.
    pub(super) fn new(quad: &'a mut [u8], [smallest, largest]: [u8; 2]) -> (Self, &'a mut [u8]) {
        let (head, units) = quad.split_first_chunk_mut().expect("a whole quad");
        head.fill(0);
        let base = largest.saturating_sub(15);
        (head[0], head[1]) = (if smallest == 0 { 0 } else { base }, base);
        (Self(head), units)
    }

    /// The exponent of code 0.
    pub(super) const fn first(&self) -> u8 {
        self.0[0]
    }

    pub(super) const fn base(&self) -> u8 {
        self.0[1]
    }

    /// Lists a number; when there is no room, the quad is absent from now on.
    pub(super) fn list(&mut self, column: usize, row: usize, number: u16) {
        let count = usize::from(self.0[COUNT_AT]);
        if count >= LISTED_MAX {
            self.0[COUNT_AT] = ABSENT;
            return;
        }
        let to = &mut self.0[LIST_AT + count * LISTED_BYTES..][..LISTED_BYTES];
        let [column, row] = [column, row].map(|n| u16::try_from(n).expect("at most 65536 columns"));
        for (to, number) in to.as_chunks_mut::<2>().0.iter_mut().zip([column, row, number]) {
            *to = number.to_le_bytes();
        }
        self.0[COUNT_AT] += 1;
    }
}

/// Four rows as they lie packed.
#[derive(Clone, Copy)]
pub(super) struct Quad<'a> {
    head: &'a [u8; HEAD_BYTES],
    pub(super) units: &'a [u8],
}

impl<'a> Quad<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (head, units) = bytes.split_first_chunk().expect("a whole quad");
        (head[COUNT_AT] != ABSENT).then_some(Quad { head, units })
    }

    pub(super) fn listed(self) -> impl Iterator<Item = Listed> + use<'a> {
        let all = self.head[LIST_AT..].as_chunks::<LISTED_BYTES>().0;
        all.iter().take(usize::from(self.head[COUNT_AT])).map(|bytes| {
            let number = |at| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            Listed { column: number(0).into(), row: number(2).into(), number: number(4) }
        })
    }

    /// A number as its code tells it.
    fn coded(self, row: usize, column: usize) -> u16 {
        let unit = &self.units[column / COLUMNS * UNIT_BYTES..][..UNIT_BYTES];
        let (signs, codes) = unit[row * ROW_BYTES..][..ROW_BYTES].split_at(COLUMNS);
        let (block, place) = (column % COLUMNS / BLOCK, place(column % BLOCK));
        let exponent = self.exponent(codes[place] >> (4 * block) & 15);
        let sign = u16::from(signs[BLOCK * block + place]);
        (sign & 0x80) << 8 | u16::from(exponent) << 7 | sign & 0x7f
    }

    /// The exponent that a code stands for.
    pub(super) const fn exponent(self, code: u8) -> u8 {
        let [first, base, ..] = *self.head;
        if code == 0 { first } else { base + code }
    }
}

/// Whether a family multiplies quads.
pub(super) const fn has_kernels(family: Family) -> bool {
    matches!(family, Family::Avx512Vnni) && family.is_of_this_architecture()
}

/// Products of four rows with a row of x, summed in the order of [`super::float`].
///
/// # Panics
/// When x has another number of columns, or the family has no kernels.
pub(super) fn multiply(family: Family, quad: Quad<'_>, x: &[f32]) -> [f32; ROWS] {
    assert_eq!(x.len() / COLUMNS * UNIT_BYTES, quad.units.len(), "rows of the same length");
    match family {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => super::avx512_dense::multiply(quad, x),
        _ => unreachable!("{family} has no kernels for dense rows: the recorder asks first"),
    }
}

/// Columns that are expanded together for a prompt: those that share a scale.
pub(super) const SECTION_COLUMNS: usize = words::SECTION * words::BLOCK;

/// Bytes of scratch for [`expand`] and [`expand_tile`].
pub(super) const fn room_bytes(columns: usize) -> usize {
    let (quad, tile) = (2 * ROWS * columns, 2 * TILE_ROWS * SECTION_COLUMNS);
    if quad > tile { quad } else { tile }
}

/// Writes the columns of some units of four rows as the file has them.
///
/// # Panics
/// When `rows` has another length than four times so many columns, or there are no such units.
pub(super) fn expand(family: Family, quad: Quad<'_>, units: Range<usize>, rows: &mut [u8]) {
    assert_eq!(rows.len(), 2 * ROWS * COLUMNS * units.len(), "four rows");
    assert!(units.end * UNIT_BYTES <= quad.units.len(), "units of the quad");
    match family {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => super::avx512_dense::expand(quad, units.clone(), rows),
        _ => expand_portably(quad, units.clone(), rows),
    }
    let (columns, numbers) = (COLUMNS * units.len(), rows.as_chunks_mut::<2>().0);
    for listed in quad.listed().filter(|listed| units.contains(&(listed.column / COLUMNS))) {
        let at = listed.row * columns + listed.column - units.start * COLUMNS;
        numbers[at] = listed.number.to_le_bytes();
    }
}

fn expand_portably(quad: Quad<'_>, units: Range<usize>, rows: &mut [u8]) {
    let columns = COLUMNS * units.len();
    for (i, to) in rows.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (row, column) = (i / columns, units.start * COLUMNS + i % columns);
        *to = quad.coded(row, column).to_le_bytes();
    }
}

/// Writes the columns of some units of a tile's rows as the file has them; `in_file` are those rows, of which only what the tile lacks
/// is read.
pub(super) fn expand_tile(
    family: Family,
    (tile, in_file): (&[u8], &[u8]),
    units: &Range<usize>,
    rows: &mut [u8],
) {
    let (row_bytes, bytes) = (in_file.len() / TILE_ROWS, 2 * COLUMNS * units.len());
    for (i, rows) in rows.chunks_exact_mut(ROWS * bytes).enumerate() {
        if let Some(quad) = quad(tile, row_bytes / 2, i) {
            expand(family, quad, units.clone(), rows);
            continue;
        }
        let in_file = in_file[i * ROWS * row_bytes..].chunks_exact(row_bytes);
        for (to, from) in rows.chunks_exact_mut(bytes).zip(in_file) {
            to.copy_from_slice(&from[2 * COLUMNS * units.start..][..bytes]);
        }
    }
}

/// Quad `index` of tiles of so many columns; None where the rows are not in it.
pub(super) fn quad(tiles: &[u8], columns: usize, index: usize) -> Option<Quad<'_>> {
    let bytes = quad_bytes(columns);
    Quad::new(&tiles[index * bytes..][..bytes])
}

/// Whether a tile has its row.
pub(super) fn holds(tile: &[u8], row: usize) -> bool {
    let bytes = tile.len() / (TILE_ROWS / ROWS);
    Quad::new(&tile[row / ROWS * bytes..][..bytes]).is_some()
}

const fn exponent(number: u16) -> u8 {
    (number >> 7).to_le_bytes()[0]
}

/// Packs 16 rows as in the file; lengths are right.
pub(super) fn pack(family: Family, rows: &[u8], tile: &mut [u8]) {
    match family {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => super::avx512_dense::pack(rows, tile),
        _ => pack_portably(rows, tile),
    }
}

fn pack_portably(rows: &[u8], tile: &mut [u8]) {
    let (rows, columns) = (rows.as_chunks::<2>().0, rows.len() / (2 * TILE_ROWS));
    for (rows, quad) in
        rows.chunks_exact(ROWS * columns).zip(tile.chunks_exact_mut(quad_bytes(columns)))
    {
        let exponents = || rows.iter().map(|bytes| exponent(u16::from_le_bytes(*bytes)));
        let ends = [exponents().min(), exponents().max()].map(|end| end.expect("a unit at least"));
        let (mut head, units) = Head::new(quad, ends);
        units.fill(0);
        for u in 0..columns / COLUMNS {
            for row in 0..ROWS {
                let to = &mut units[u * UNIT_BYTES + row * ROW_BYTES..][..ROW_BYTES];
                let (signs, codes) = to.split_at_mut(COLUMNS);
                let first = u * COLUMNS;
                for (c, number) in rows[row * columns + first..][..COLUMNS].iter().enumerate() {
                    let number = u16::from_le_bytes(*number);
                    let code = exponent(number).saturating_sub(head.base());
                    let (block, place) = (c / BLOCK, place(c % BLOCK));
                    signs[BLOCK * block + place] =
                        (number >> 8 & 0x80 | number & 0x7f).to_le_bytes()[0];
                    codes[place] |= code << (4 * block);
                    if code == 0 && exponent(number) != head.first() {
                        head.list(first + c, row, number);
                    }
                }
            }
        }
    }
}

/// Reads a row of a tile back, exactly.
///
/// # Panics
/// When the tile does not hold it.
pub(super) fn unpack_row(tile: &[u8], row: usize, out: &mut [f32]) {
    let quad = quad(tile, out.len(), row / ROWS).expect("a row that the tile holds");
    let row = row % ROWS;
    for (column, out) in out.iter_mut().enumerate() {
        *out = bf16::from_bits(quad.coded(row, column)).to_f32();
    }
    for listed in quad.listed().filter(|listed| listed.row == row) {
        out[listed.column] = bf16::from_bits(listed.number).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random_row;
    use crate::format::Format;

    fn families() -> impl Iterator<Item = Family> {
        let all = Family::ALL.into_iter().filter(|family| has_kernels(*family));
        all.filter(|family| {
            let runs = family.runs_here();
            if !runs {
                eprintln!(
                    "SKIPPED: dense rows with {family}: this processor lacks its instructions"
                );
            }
            runs
        })
    }

    fn packed(family: Family, numbers: &[u16]) -> Vec<u8> {
        let columns = numbers.len() / TILE_ROWS;
        let mut tile = vec![0xaa; tile_bytes(columns).expect("whole units")];
        let rows: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        crate::linear::pack::pack(family, Format::Bf16, columns, &rows, &mut tile);
        tile
    }

    /// 16 rows of every kind of number: all exponents that codes tell, with all mantissas, and ten of other exponents in each quad. The
    /// first eight rows have zeros.
    fn numbers(columns: usize) -> Vec<u16> {
        let number = |i: usize| {
            let exponent = match i % (4 * columns) {
                at if at % 49 == 48 && at < 490 => at % 103,
                at if at % 7 == 0 && i < 8 * columns => 0,
                at if i < 8 * columns => 108 + at % 15,
                at => 107 + at % 16,
            };
            let mantissa = i * 37 % 128;
            let bits = (i % 2) << 15 | exponent << 7 | mantissa;
            u16::try_from(bits).expect("16 bits")
        };
        (0..16 * columns).map(number).collect()
    }

    #[test]
    fn every_number_reads_back_with_its_bits() {
        for columns in [128, 384, 2048] {
            let numbers = numbers(columns);
            let tile = packed(Family::Portable, &numbers);
            let mut found = vec![0.0; columns];
            for (r, row) in numbers.chunks_exact(columns).enumerate() {
                assert!(holds(&tile, r));
                unpack_row(&tile, r, &mut found);
                let found: Vec<u16> = found.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
                assert_eq!(found, row, "{columns} columns, row {r}");
            }
            let listed = quad(&tile, columns, 0).expect("there").listed().count();
            assert_eq!(listed, 10, "{columns} columns: only these are far");
        }
    }

    #[test]
    fn a_number_takes_twelve_bits() {
        // 16 rows, of which each four have 256 bytes before them.
        assert_eq!(tile_bytes(2048), Some(16 * 2048 * 12 / 8 + 4 * 256));
        assert_eq!(tile_bytes(2048 + 64), None);
        assert_eq!(tile_bytes((1 << 16) + 128), None);
    }

    #[test]
    fn rows_with_too_many_far_numbers_are_left_to_the_file() {
        let columns = 256;
        let mut numbers = numbers(columns);
        // Rows 4 to 7: one NaN, from which all else is far.
        numbers[4 * columns] = 0x7fc0;
        for family in families().chain([Family::Portable]) {
            let tile = packed(family, &numbers);
            let held: Vec<usize> = (0..16).filter(|row| holds(&tile, *row)).collect();
            assert_eq!(held, [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15], "{family}");
        }
    }

    #[test]
    fn families_pack_the_same_bytes() {
        for columns in [128, 640, 2048] {
            let numbers = numbers(columns);
            let expected = packed(Family::Portable, &numbers);
            for family in families() {
                assert!(packed(family, &numbers) == expected, "{family}, {columns} columns");
            }
        }
    }

    #[test]
    fn families_write_rows_as_the_file_has_them() {
        for (family, columns) in families().flat_map(|f| [128, 640, 2048].map(|n| (f, n))) {
            let mut numbers = numbers(columns);
            // Rows 4 to 7 are left to the file.
            numbers[4 * columns] = 0x7fc0;
            let in_file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            let tile = packed(family, &numbers);
            let units = columns / COLUMNS;
            for first in (0..units).step_by(2) {
                let some = first..(first + 2).min(units);
                let bytes = 2 * COLUMNS * some.len();
                let mut rows = vec![0xaa; TILE_ROWS * bytes];
                expand_tile(family, (&tile, &in_file), &some, &mut rows);
                let expected = in_file.chunks_exact(2 * columns);
                for (r, (row, expected)) in rows.chunks_exact(bytes).zip(expected).enumerate() {
                    let expected = &expected[2 * COLUMNS * first..][..bytes];
                    assert!(row == expected, "{family}, {columns} columns, row {r}, {some:?}");
                }
            }
            let mut rows = vec![0xaa; 2 * ROWS * columns];
            expand(family, quad(&tile, columns, 2).expect("there"), 0..units, &mut rows);
            assert!(rows == in_file[16 * columns..24 * columns], "{family}, {columns} columns");
        }
    }

    /// In f64, from the numbers of the file.
    #[test]
    fn products_are_those_of_the_numbers() {
        for (family, columns) in families().flat_map(|f| [128, 640, 2048].map(|n| (f, n))) {
            let numbers = numbers(columns);
            let tile = packed(family, &numbers);
            let mut x = vec![0.0; columns];
            Format::F32.dequantize(&random_row(Format::F32, columns, 5), &mut x);
            for (q, rows) in numbers.chunks_exact(ROWS * columns).enumerate() {
                let quad = quad(&tile, columns, q).expect("there");
                let found = multiply(family, quad, &x);
                for (row, found) in rows.chunks_exact(columns).zip(found) {
                    let products = row
                        .iter()
                        .zip(&x)
                        .map(|(w, x)| f64::from(bf16::from_bits(*w).to_f32()) * f64::from(*x));
                    let (sum, size) =
                        products.fold((0.0, 0.0), |(sum, size), p: f64| (sum + p, size + p.abs()));
                    let error = (f64::from(found) - sum).abs() / size;
                    assert!(error < 1e-6, "{family}, {columns} columns: {found} for {sum}");
                }
            }
        }
    }
}
