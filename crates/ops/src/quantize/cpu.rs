//! `quantize` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::panel::{self, RowNorm};
use super::words;
use super::{Args, BLOCK, CODE_MAX, GROUP};
use crate::norm::normalize;
use crate::simd::Family;
use hal::cpu::HostLaunch;

pub(super) fn quantize(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let n = args.columns as usize;
    // SAFETY: all spans but the three outputs are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let operand = |index: usize| {
        // SAFETY: as above.
        (launch.span_count() > index).then(|| unsafe { launch.slice::<f32>(index) })
    };
    let norm = operand(5).map(|weight| (weight, operand(6)));
    for row in launch.part(counts[args.count_index as usize] as usize, 1) {
        let mut x = &x[row * n..(row + 1) * n];
        if let Some(norm) = norm {
            // SAFETY: scratch belongs to this thread.
            let normalized = unsafe { launch.scratch::<f32>().part(0..n) };
            normalize(x, args.layer == 1, norm, args.epsilon, normalized);
            x = normalized;
        }
        // SAFETY: each thread has its own rows.
        let codes = unsafe { launch.shared::<i16>(2).part(row * n..(row + 1) * n) };
        let part = |unit: usize| row * n / unit..(row + 1) * n / unit;
        // SAFETY: as above.
        let scales = unsafe { launch.shared::<f32>(3).part(part(BLOCK)) };
        // SAFETY: as above.
        let sums = unsafe { launch.shared::<f32>(4).part(part(GROUP)) };
        quantize_row(x, codes, scales, sums);
    }
}

/// Each thread makes whole tiles and groups of the panel.
pub(super) fn quantize_panel(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let n = args.columns as usize;
    // SAFETY: all spans but the panel are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let operand = |index: usize| {
        // SAFETY: as above.
        (launch.span_count() > index).then(|| unsafe { launch.slice::<f32>(index) })
    };
    let (layer, epsilon) = (args.layer == 1, args.epsilon);
    let norm = operand(3).map(|weight| RowNorm { layer, epsilon, weight, bias: operand(4) });
    let family = Family::from_code(args.family);
    let rows = panel::Rows::in_panel(family, counts, args.count_index);
    let tiles = rows.tiles();
    for index in launch.part(tiles + rows.groups(), 1) {
        if let Some(group) = index.checked_sub(tiles) {
            let start = rows.group_offset(group, n);
            // SAFETY: each thread has its own groups.
            let to = unsafe { launch.shared::<u8>(2).part(start..start + words::group_bytes(n)) };
            let x = &x[n * rows.group_rows(group).start..n * rows.group_rows(group).end];
            words::quantize_group(family, x, n, norm, to);
            continue;
        }
        let tile = panel::token_tile(index, rows.exact);
        let start = panel::tile_offset(index, n);
        // SAFETY: each thread has its own tiles.
        let to = unsafe { launch.shared::<u8>(2).part(start..start + panel::tile_bytes(tile, n)) };
        let x = &x[tile.first * n..(tile.first + tile.tokens) * n];
        panel::quantize_tile(family, x, norm, tile, to);
    }
}

/// A number's code from `x / scale`, see [`super`].
#[expect(clippy::cast_possible_truncation, reason = "at most 32512 by construction")]
#[inline(always)]
pub(super) fn code(scaled: f32) -> i16 {
    let code = scaled.round_ties_even() as i16;
    code + i16::from(code & 0xff == 0x80)
}

fn quantize_row(x: &[f32], codes: &mut [i16], scales: &mut [f32], sums: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(codes.as_chunks_mut::<BLOCK>().0);
    for (((x, codes), scale), sums) in blocks.zip(scales).zip(sums.as_chunks_mut::<2>().0) {
        let max = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        *scale = max / CODE_MAX;
        let inverse = if max > 0.0 { CODE_MAX / max } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = self::code(x * inverse);
        }
        for (sum, group) in sums.iter_mut().zip(codes.as_chunks::<GROUP>().0) {
            let total: i32 = group.iter().map(|code| i32::from(*code)).sum();
            #[expect(clippy::cast_precision_loss, reason = "at most 16 * 32512, below 2^24")]
            let total = total as f32;
            *sum = *scale * total;
        }
    }
}
