//! Stop strings over streamed text: what may be shown, and when to end.

/// Finds any of a few strings in text that arrives in pieces, and holds back what could still become one.
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Text that is safe to show.
    pub text: String,
    /// The stop string that was found; it and what follows it is not shown.
    pub stopped: Option<String>,
}

impl StopStrings {
    /// Empty strings are ignored: they would stop everything.
    #[must_use]
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        Self {
            strings: strings.into_iter().filter(|s| !s.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Found {
        self.held.push_str(piece);
        let places =
            self.strings.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        if let Some((at, stop)) = places.min() {
            self.held.truncate(at);
            let stopped = Some(stop.clone());
            return Found { text: std::mem::take(&mut self.held), stopped };
        }
        let rest = self.held.split_off(self.held.len() - self.could_start());
        Found { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// The end of the text: what was held back is shown after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn could_start(&self) -> usize {
        let longest = |stop: &String| {
            let starts = stop.char_indices().map(|(at, _)| at).chain([stop.len()]);
            starts.filter(|at| self.held.ends_with(&stop[..*at])).max().unwrap_or(0)
        };
        self.strings.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(stops.iter().map(|s| (*s).to_owned()));
        let mut shown = String::new();
        for piece in pieces {
            let found = stop.push(piece);
            shown.push_str(&found.text);
            if found.stopped.is_some() {
                return (shown, true);
            }
        }
        (shown + &stop.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_cut() {
        assert_eq!(run(&["</s>", "User:"], &["Hi <", "/", "s> more"]), ("Hi ".to_owned(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".to_owned(), false));
        assert_eq!(run(&["", "\n\n"], &["a\n", "b"]), ("a\nb".to_owned(), false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab]{0,40}", stop in "[ab]{1,4}", cut in 0usize..40) {
            let cut = cut.min(text.len());
            let whole = text.split(&stop).next().unwrap().to_owned();
            let (shown, stopped) = run(&[&stop], &[&text[..cut], &text[cut..]]);
            prop_assert_eq!(stopped, text.contains(&stop));
            prop_assert_eq!(shown, whole);
        }
    }
}
