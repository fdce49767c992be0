//! Log probabilities of a row of logits, before sampling changes anything.
use crate::sequence::Logprobs;

/// How `token` stands in a row of little-endian f32 logits, beside the `top` most probable ones.
pub(crate) fn logprobs(row: &[u8], token: u32, top: u32) -> Logprobs {
    let logits: Vec<f32> =
        row.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "f32 is what is reported")]
    let of = |id: u32| (f64::from(logits[id as usize] - max) - sum.ln()) as f32;
    let mut ids: Vec<u32> = (0..).zip(&logits).map(|(id, _)| id).collect();
    let larger_first =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let top = (top as usize).min(ids.len());
    if top > 0 && top < ids.len() {
        ids.select_nth_unstable_by(top - 1, larger_first);
    }
    ids.truncate(top);
    ids.sort_unstable_by(larger_first);
    Logprobs { logprob: of(token), top: ids.into_iter().map(|id| (id, of(id))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_softmax() {
        // Weights 1, 2, 4, 1 of 8.
        let logits = [0.0_f32, 2.0_f32.ln(), 4.0_f32.ln(), 0.0];
        let row: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        let found = logprobs(&row, 3, 3);
        let close = |a: f32, b: f64| assert!((f64::from(a) - b.ln()).abs() < 1e-6, "{a}");
        close(found.logprob, 0.125);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1, 0]);
        found.top.iter().zip([0.5, 0.25, 0.125]).for_each(|((_, a), b)| close(*a, b));
        assert!(logprobs(&row, 0, 0).top.is_empty());
    }
}
