//! BF16 rows in 12 bits a number with AVX-512: see [`super::dense`].
#![expect(unsafe_code, reason = "a CPU kernel: streams rows through raw pointers")]
use super::avx512::ROOMY_BYTES;
use super::avx512_words::{Bf16, Halves};
use super::dense::{BLOCK, COLUMNS, Head, Quad, ROW_BYTES, ROWS, UNIT_BYTES, quad_bytes};
use super::pack::TILE_ROWS;
use crate::simd::{Vector, cache};
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// What is read so much later is fetched into the second level cache, where [`asks_ahead`] says so.
const AHEAD_BYTES: usize = 16 << 10;
/// The same for rows that are expanded a unit at a time, from four places in memory.
const UNITS_AHEAD: usize = 4;
/// Vectors of 16 columns of a block.
const VECTORS: usize = BLOCK / 16;

/// Columns of the file in the order of packed words: each is followed by the one that is 16 further.
const FROM_FILE: [u16; 32] = {
    let mut columns = [0; 32];
    let mut word = 0;
    while word < 32 {
        columns[word as usize] = 16 * (word % 2) + word / 2;
        word += 1;
    }
    columns
};

/// The inverse: packed words in the order of the file.
const TO_FILE: [u16; 32] = {
    let mut words = [0; 32];
    let mut word = 0;
    while word < 32 {
        words[FROM_FILE[word as usize] as usize] = word;
        word += 1;
    }
    words
};

/// Words of the two blocks of a row's part of a unit.
type Words = [[__m512i; 2]; 2];

/// The lower and the upper byte that a code gives to its number, in each 128 bits.
struct Tables {
    low: __m512i,
    high: __m512i,
}

impl Tables {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(quad: Quad<'_>) -> Self {
        let exponents: [u8; 16] = std::array::from_fn(|code| quad.exponent(code.to_le_bytes()[0]));
        let table = |bytes: [u8; 16]| {
            // SAFETY: an array has as many bytes as are read.
            _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
        };
        Self { low: table(exponents.map(|e| e << 7)), high: table(exponents.map(|e| e >> 1)) }
    }

    /// The words of a row's part of a unit, per block: pairs of columns that are 16 apart.
    ///
    /// # Safety
    /// The part can be read; called from functions with the features.
    #[inline(always)]
    unsafe fn words(&self, at: *const u8) -> Words {
        // SAFETY: the caller's.
        unsafe {
            let (first, second) =
                (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(BLOCK).cast()));
            let codes = _mm512_loadu_si512(at.add(COLUMNS).cast());
            [self.block(first, codes), self.block(second, _mm512_srli_epi16::<4>(codes))]
        }
    }

    /// # Safety
    /// Called from functions with the features.
    #[inline(always)]
    unsafe fn block(&self, signs: __m512i, codes: __m512i) -> [__m512i; 2] {
        // SAFETY: register arithmetic only.
        unsafe {
            let (sign, code) = (_mm512_set1_epi8(-0x80), _mm512_set1_epi8(15));
            let codes = _mm512_and_si512(codes, code);
            // a | b & !c, and a | b & c.
            let low = _mm512_ternarylogic_epi32::<0xf4>(
                _mm512_shuffle_epi8(self.low, codes),
                signs,
                sign,
            );
            let high = _mm512_ternarylogic_epi32::<0xf8>(
                _mm512_shuffle_epi8(self.high, codes),
                signs,
                sign,
            );
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }
}

/// The column of a block at a place: the inverse of [`super::dense::place`].
const fn column_at(place: usize) -> usize {
    let word = place / 16 * 8 + place % 8;
    (2 * (place / 8 % 2) + word % 2) * 16 + word / 2
}

/// Whether to fetch what is read later. x that takes half of the first level cache and more comes from the second, and the
/// processor's own prefetching of weights then yields three quarters of the bandwidth (Zen 4, 8192 columns; with asking nine
/// tenths). Beside a short x it yields all of it, and asking costs a twelfth of a token's time. See also [`ROOMY_BYTES`].
fn asks_ahead(columns: usize) -> bool {
    let first_level = cache::first_level_bytes();
    first_level >= ROOMY_BYTES || 2 * size_of::<f32>() * columns >= first_level
}

/// See [`super::dense::multiply`], which has checked the lengths.
pub(super) fn multiply(quad: Quad<'_>, x: &[f32]) -> [f32; ROWS] {
    // SAFETY: only families that the processor has are recorded.
    unsafe { multiply_with_features(quad, x.as_ptr()) }
}

/// Sums of the 16 columns of each vector, per row.
type Sums = [[__m512; VECTORS]; ROWS];

/// # Safety
/// The processor has the features; x has as many columns as the quad.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn multiply_with_features(quad: Quad<'_>, x: *const f32) -> [f32; ROWS] {
    let tables = Tables::new(quad);
    let mut sums: Sums = [[__m512::zero(); VECTORS]; ROWS];
    let units = quad.units.len() / UNIT_BYTES;
    let asks = asks_ahead(units * COLUMNS);
    let mut listed = quad.listed().peekable();
    let mut next = 0;
    loop {
        let stop = listed.peek().map_or(units, |listed| units.min(listed.column / COLUMNS));
        for unit in next..stop {
            // SAFETY: there are so many units, and as many columns.
            unsafe {
                let at = quad.units.as_ptr().add(unit * UNIT_BYTES);
                if asks {
                    cache::expect_all(at.wrapping_add(AHEAD_BYTES), UNIT_BYTES);
                }
                add_unit(at, x.add(unit * COLUMNS), &mut sums, |at, _| tables.words(at));
            }
        }
        if stop == units {
            break;
        }
        let mut words = |at, row| {
            // SAFETY: `add_unit` passes on the rows of a unit.
            let mut numbers = Numbers { words: unsafe { tables.words(at) } };
            while let Some(listed) = listed.next_if(|l| (l.column / COLUMNS, l.row) == (stop, row))
            {
                numbers.set(listed.column % COLUMNS, listed.number);
            }
            // SAFETY: both fields take any bits.
            unsafe { numbers.words }
        };
        // SAFETY: as above.
        unsafe {
            let at = quad.units.as_ptr().add(stop * UNIT_BYTES);
            add_unit(at, x.add(stop * COLUMNS), &mut sums, &mut words);
        }
        next = stop + 1;
    }
    sums.map(|[first, others @ ..]| others.into_iter().fold(first, Vector::add).total())
}

/// The words of a row's part of a unit, to be changed.
union Numbers {
    words: Words,
    numbers: [u16; COLUMNS],
}

impl Numbers {
    fn set(&mut self, column: usize, number: u16) {
        let place = column - column % 32 + usize::from(TO_FILE[column % 32]);
        // SAFETY: both fields take any bits.
        unsafe { self.numbers[place] = number };
    }
}

/// Adds the products of a unit; `words(at, row)` are those of a row's part.
///
/// # Safety
/// A unit and its columns of x can be read; called from functions with the features.
#[inline(always)]
unsafe fn add_unit(
    unit: *const u8,
    x: *const f32,
    [a, b, c, d]: &mut Sums,
    mut words: impl FnMut(*const u8, usize) -> Words,
) {
    // Not a loop, which LLVM would not unroll, and so would keep sums in memory. Nor does it mix the rows, whose numbers would not
    // fit the registers.
    // SAFETY: the caller's.
    unsafe {
        add_row(words(unit, 0), x, a);
        compiler_fence(SeqCst);
        add_row(words(unit.add(ROW_BYTES), 1), x, b);
        compiler_fence(SeqCst);
        add_row(words(unit.add(2 * ROW_BYTES), 2), x, c);
        compiler_fence(SeqCst);
        add_row(words(unit.add(3 * ROW_BYTES), 3), x, d);
    }
}

/// # Safety
/// A unit's columns of x can be read; called from functions with the features.
#[inline(always)]
unsafe fn add_row([first, second]: Words, x: *const f32, sums: &mut [__m512; VECTORS]) {
    // SAFETY: the caller's.
    unsafe {
        add_block(first, x, sums);
        add_block(second, x.add(BLOCK), sums);
    }
}

/// # Safety
/// A block's columns of x can be read; called from functions with the features.
#[inline(always)]
unsafe fn add_block([first, second]: [__m512i; 2], x: *const f32, sums: &mut [__m512; VECTORS]) {
    // SAFETY: the caller's.
    unsafe {
        sums[0] = Bf16::even(first).mul_add(__m512::load(x), sums[0]);
        sums[1] = Bf16::odd(first).mul_add(__m512::load(x.add(16)), sums[1]);
        sums[2] = Bf16::even(second).mul_add(__m512::load(x.add(32)), sums[2]);
        sums[3] = Bf16::odd(second).mul_add(__m512::load(x.add(48)), sums[3]);
    }
}

/// # Safety
/// A row's part of a unit can be read, and `to` has room for its columns; called from functions with the features.
#[inline(always)]
unsafe fn expand_row(at: *const u8, tables: &Tables, to: *mut u16) {
    // SAFETY: the caller's.
    unsafe {
        let order = _mm512_loadu_si512(TO_FILE.as_ptr().cast());
        let [[a, b], [c, d]] = tables.words(at);
        let to = to.cast::<__m512i>();
        to.write_unaligned(_mm512_permutexvar_epi16(order, a));
        to.add(1).write_unaligned(_mm512_permutexvar_epi16(order, b));
        to.add(2).write_unaligned(_mm512_permutexvar_epi16(order, c));
        to.add(3).write_unaligned(_mm512_permutexvar_epi16(order, d));
    }
}

/// See [`super::dense::expand`], which has checked the lengths, and writes what is listed.
pub(super) fn expand(quad: Quad<'_>, units: Range<usize>, rows: &mut [u8]) {
    // SAFETY: only families that the processor has are recorded; lengths are right.
    unsafe { expand_with_features(quad, units, rows.as_mut_ptr()) };
}

/// # Safety
/// The processor has the features; the quad has the units, and `rows` has room for four rows of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn expand_with_features(quad: Quad<'_>, units: Range<usize>, rows: *mut u8) {
    let tables = Tables::new(quad);
    let count = units.len();
    for (i, unit) in units.enumerate() {
        let ahead = quad.units.as_ptr().wrapping_add((unit + UNITS_AHEAD) * UNIT_BYTES);
        cache::expect_all(ahead, UNIT_BYTES);
        for row in 0..ROWS {
            // SAFETY: the caller's.
            unsafe {
                let at = quad.units.as_ptr().add(unit * UNIT_BYTES + row * ROW_BYTES);
                let to = rows.add(2 * COLUMNS * (row * count + i));
                expand_row(at, &tables, to.cast());
            }
        }
    }
}

/// Packs 16 rows; their lengths are right.
pub(super) fn pack(rows: &[u8], tile: &mut [u8]) {
    let columns = rows.len() / (2 * TILE_ROWS);
    let quads = tile.chunks_exact_mut(quad_bytes(columns));
    for (rows, quad) in rows.chunks_exact(2 * ROWS * columns).zip(quads) {
        // SAFETY: only families that the processor has are recorded.
        unsafe { pack_quad(rows, quad) };
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_quad(rows: &[u8], quad: &mut [u8]) {
    let row_bytes = rows.len() / ROWS;
    let (mut head, units) = Head::new(quad, ends_of_exponents(rows));
    let base = _mm512_set1_epi8(head.base().cast_signed());
    let first = _mm512_set1_epi8(head.first().cast_signed());
    for (u, unit) in units.chunks_exact_mut(UNIT_BYTES).enumerate() {
        for (row, to) in unit.as_chunks_mut::<ROW_BYTES>().0.iter_mut().enumerate() {
            let from = &rows[row * row_bytes + 2 * COLUMNS * u..][..2 * COLUMNS];
            let mut codes = [_mm512_setzero_si512(); 2];
            for (block, from) in from.as_chunks::<{ 2 * BLOCK }>().0.iter().enumerate() {
                let (signs, exponents) = split(from);
                codes[block] = _mm512_subs_epu8(exponents, base);
                // SAFETY: a row's part of a unit has room for two blocks before the codes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(BLOCK * block).cast(), signs) };
                let mut unknown = _mm512_cmpneq_epi8_mask(exponents, first)
                    & _mm512_testn_epi8_mask(codes[block], codes[block]);
                while unknown != 0 {
                    let column = column_at(unknown.trailing_zeros() as usize);
                    let number = from.as_chunks::<2>().0[column];
                    let column = u * COLUMNS + block * BLOCK + column;
                    head.list(column, row, u16::from_le_bytes(number));
                    unknown &= unknown - 1;
                }
            }
            let both = _mm512_or_si512(codes[0], _mm512_slli_epi16::<4>(codes[1]));
            // SAFETY: as above; the codes are the rest of it.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(COLUMNS).cast(), both) };
        }
    }
}

/// The smallest and the largest exponent.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn ends_of_exponents(numbers: &[u8]) -> [u8; 2] {
    let mask = _mm512_set1_epi16(0x7f80);
    let (mut smallest, mut largest) = (mask, _mm512_setzero_si512());
    for numbers in numbers.as_chunks::<64>().0 {
        // SAFETY: a chunk has 64 bytes.
        let numbers = unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) };
        let exponents = _mm512_and_si512(numbers, mask);
        smallest = _mm512_min_epu16(smallest, exponents);
        largest = _mm512_max_epu16(largest, exponents);
    }
    let mut words = [[0_u16; 32]; 2];
    for (words, ends) in words.iter_mut().zip([smallest, largest]) {
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), ends) };
    }
    let exponent = |word: Option<u16>| word.map_or(0, |word| (word >> 7).to_le_bytes()[0]);
    let [smallest, largest] = words.map(IntoIterator::into_iter);
    [exponent(smallest.min()), exponent(largest.max())]
}

/// The bytes of signs and mantissas of a block as in the file, and those of exponents, in the order of packed blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn split(block: &[u8; 2 * BLOCK]) -> (__m512i, __m512i) {
    // SAFETY: the arrays have as many bytes as are read.
    let (order, words) = unsafe {
        let order = _mm512_loadu_si512(FROM_FILE.as_ptr().cast());
        (order, [0, 64].map(|at| _mm512_loadu_si512(block.as_ptr().add(at).cast())))
    };
    let words = words.map(|words| _mm512_permutexvar_epi16(order, words));
    let signs = words.map(|words| {
        let sign = _mm512_and_si512(_mm512_srli_epi16::<8>(words), _mm512_set1_epi16(0x80));
        _mm512_or_si512(sign, _mm512_and_si512(words, _mm512_set1_epi16(0x7f)))
    });
    let exponents =
        words.map(|words| _mm512_and_si512(_mm512_srli_epi16::<7>(words), _mm512_set1_epi16(0xff)));
    (_mm512_packus_epi16(signs[0], signs[1]), _mm512_packus_epi16(exponents[0], exponents[1]))
}
