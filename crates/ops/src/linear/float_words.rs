//! Prompts with F16 and BF16 weights as words (see [`crate::quantize::words`]): twice the products per instruction that f32
//! allows. A weight is rounded to 1/8188 of the largest of its 64 neighbours in the row.
//!
//! Each thread makes words of a chunk of tokens for itself, which is a hundredth of what it then multiplies, and of its own
//! rows of weights, two tiles of 16 at a time.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "a CPU kernel: hands pointers to kernels that have none of their own checks"
    )
)]
use super::pack::TILE_ROWS;
use super::tiles::{PAIR_BYTES, PANEL_BYTES_IN_CACHE};
use crate::format::Format;
use crate::quantize::panel::TILE_TOKENS;
use crate::quantize::words;
use crate::simd::Family;

/// Tokens of a chunk, whole tiles of them.
fn chunk_tokens(columns: usize) -> usize {
    let tile = TILE_TOKENS / words::TOKENS * words::group_bytes(columns).max(1);
    TILE_TOKENS * (PANEL_BYTES_IN_CACHE / tile).max(1)
}

/// Bytes of a chunk of up to `tokens` tokens.
pub(super) fn panel_bytes(tokens: u32, columns: u32) -> u32 {
    let (tokens, columns) = (tokens as usize, columns as usize);
    let groups = tokens.min(chunk_tokens(columns)).div_ceil(words::TOKENS);
    u32::try_from(groups * words::group_bytes(columns)).expect("fits in a cache, or a few rows")
}

/// Whether a matrix of so many rows and columns can be multiplied here.
pub(super) fn fits(family: Family, format: Format, (rows, columns): (usize, usize)) -> bool {
    words::are_for(family)
        && matches!(format, Format::F16 | Format::Bf16)
        && rows.is_multiple_of(TILE_ROWS)
        && columns.is_multiple_of(words::BLOCK)
}

/// Calls `emit((token, row), product)` for every pair of a token of x `(tokens, columns)` and a row of weights as in the file.
///
/// # Panics
/// When [`fits`] does not hold.
pub(super) fn multiply(
    family: Family,
    format: Format,
    (weight, x, columns): (&[u8], &[f32], usize),
    scratch: &mut [u8],
    emit: &mut impl FnMut((usize, usize), f32),
) {
    let rows = weight.len() / (2 * columns);
    assert!(
        fits(family, format, (rows, columns)),
        "{family}: {format} {rows} x {columns} as words"
    );
    let tile_bytes = TILE_ROWS * 2 * columns;
    let blocks = columns / words::BLOCK;
    let (pair, panel) = scratch.split_at_mut(blocks * PAIR_BYTES);
    let chunk = chunk_tokens(columns);
    for (number, x) in x.chunks(chunk * columns).enumerate() {
        let groups = panel.chunks_exact_mut(words::group_bytes(columns));
        for (x, group) in x.chunks(words::TOKENS * columns).zip(groups) {
            words::quantize_group(family, x, columns, None, group);
        }
        for (i, tiles) in weight.chunks(2 * tile_bytes).enumerate() {
            for (which, tile) in tiles.chunks_exact(tile_bytes).enumerate() {
                unpack(format, tile, (columns, which), pair);
            }
            let rows = tiles.len() / tile_bytes * TILE_ROWS;
            let mut emit =
                |(t, r), product| emit((chunk * number + t, 2 * TILE_ROWS * i + r), product);
            products((pair, blocks), (panel, x.len() / columns), rows, &mut emit);
        }
    }
}

/// Multiplies a pair of tiles with the tokens of a chunk.
fn products(
    (pair, blocks): (&[u8], usize),
    (panel, tokens): (&[u8], usize),
    rows: usize,
    emit: &mut impl FnMut((usize, usize), f32),
) {
    let tile_bytes = TILE_TOKENS / words::TOKENS * blocks * words::BLOCK_BYTES;
    for first in (0..tokens).step_by(TILE_TOKENS) {
        let live = (tokens - first).min(TILE_TOKENS);
        let panel = &panel[first / TILE_TOKENS * tile_bytes..];
        let mut out = [0.0; 2 * TILE_TOKENS * TILE_ROWS];
        multiply_pair((pair, blocks), (panel, live.div_ceil(words::TOKENS)), &mut out);
        for (t, r) in (0..live).flat_map(|t| (0..rows).map(move |r| (t, r))) {
            let (which, row) = (r / TILE_ROWS, r % TILE_ROWS);
            emit((first + t, r), out[TILE_ROWS * (which * TILE_TOKENS + t) + row]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply_pair(
    (pair, blocks): (&[u8], usize),
    (panel, groups): (&[u8], usize),
    out: &mut [f32; 2 * TILE_TOKENS * TILE_ROWS],
) {
    assert!(pair.len() >= blocks * PAIR_BYTES && pair.as_ptr().cast::<[u64; 8]>().is_aligned());
    assert!(
        panel.len() >= groups * blocks * words::BLOCK_BYTES
            && groups <= TILE_TOKENS / words::TOKENS
    );
    // SAFETY: `fits` found the family here; sizes and alignment as just asserted.
    unsafe {
        super::avx512_words::fastest()(
            pair.as_ptr(),
            blocks,
            (panel.as_ptr(), groups),
            out.as_mut_ptr(),
        );
    }
}

#[cfg(target_arch = "x86_64")]
fn unpack(format: Format, tile: &[u8], (columns, which): (usize, usize), pair: &mut [u8]) {
    assert!(
        tile.len() == TILE_ROWS * 2 * columns && pair.len() >= columns / words::BLOCK * PAIR_BYTES
    );
    // SAFETY: `fits` found the family here; sizes as just asserted.
    unsafe {
        super::avx512_words::unpack_rows(format, tile.as_ptr(), columns, which, pair.as_mut_ptr());
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_pair(_: (&[u8], usize), _: (&[u8], usize), _: &mut [f32; 2 * TILE_TOKENS * TILE_ROWS]) {
    unreachable!("no family here has words");
}

#[cfg(not(target_arch = "x86_64"))]
fn unpack(_: Format, _: &[u8], _: (usize, usize), _: &mut [u8]) {
    unreachable!("no family here has words");
}
