//! Guesses by looking up the text itself (Saxena 2023, "Prompt lookup decoding"): answers often repeat what they are about.

/// The end of the text that is looked for: longer ones first.
const LENGTHS: [usize; 3] = [5, 3, 2];
/// How far back is looked.
const TOKENS_MAX: usize = 8192;

/// Appends up to `most` tokens that followed the newest earlier occurrence of the text's end.
pub(crate) fn lookup(tokens: &[u32], most: usize, guesses: &mut Vec<u32>) {
    let tokens = &tokens[tokens.len().saturating_sub(TOKENS_MAX)..];
    for length in LENGTHS {
        let Some(start) = tokens.len().checked_sub(length) else { continue };
        let end = &tokens[start..];
        let earlier = &tokens[..tokens.len() - 1];
        if let Some(at) = earlier.windows(length).rposition(|window| window == end) {
            let followed = &tokens[at + length..];
            guesses.extend(followed.iter().take(most));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lookup;

    fn guessed(tokens: &[u32], most: usize) -> Vec<u32> {
        let mut guesses = Vec::new();
        lookup(tokens, most, &mut guesses);
        guesses
    }

    #[test]
    fn what_followed_the_longest_and_newest_occurrence_is_guessed() {
        assert_eq!(guessed(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        // "2 3" came last before 9, "1 2 3" before 4: the longer one counts.
        assert_eq!(guessed(&[1, 2, 3, 4, 7, 2, 3, 9, 1, 2, 3], 1), [4]);
        assert_eq!(guessed(&[8, 2, 3, 4, 8, 2, 3, 5, 2, 3], 1), [5]);
        assert_eq!(guessed(&[6, 6, 6], 4), [6]);
        assert!(guessed(&[1, 2, 3], 4).is_empty());
        assert!(guessed(&[1], 4).is_empty());
    }
}
