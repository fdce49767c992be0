//! Text of several lines, as it is typed.
//!
//! A line that ends with a backslash continues on the next. A text between `"""` marks is taken as
//! it is. A text that begins with `//` begins with one `/`, so that it is no command.

const MARK: &str = "\"\"\"";

/// Whether this is all, or the next line belongs to it.
pub(super) fn is_complete(typed: &str) -> bool {
    match typed.trim_start().strip_prefix(MARK) {
        Some(rest) => rest.trim_end().ends_with(MARK),
        None => !typed.ends_with('\\'),
    }
}

/// The text that was meant.
pub(super) fn text_of(typed: &str) -> String {
    let block = typed.trim().strip_prefix(MARK).and_then(|rest| rest.strip_suffix(MARK));
    if let Some(text) = block {
        let text = text.strip_prefix('\n').unwrap_or(text);
        return text.strip_suffix('\n').unwrap_or(text).to_owned();
    }
    let text = if typed.trim_start().starts_with("//") {
        typed.trim_start().strip_prefix('/').unwrap_or(typed)
    } else {
        typed
    };
    text.replace("\\\n", "\n")
}

/// How to type a text: the inverse of [`text_of`].
pub(super) fn typed_as(text: &str) -> String {
    let plain = !text.contains(MARK) && !text.contains("\\\n") && !text.ends_with('\\');
    match text {
        _ if !plain => format!("{MARK}\n{text}\n{MARK}"),
        _ if text.starts_with('/') => format!("/{text}"),
        _ if text.trim_start().starts_with('/') => format!("{MARK}\n{text}\n{MARK}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_text_ends() {
        for complete in ["", "a", "a\\\nb", "\"\"\"a\"\"\"", "\"\"\"\na\\\n\"\"\" ", "a \"\"\""] {
            assert!(is_complete(complete), "{complete:?}");
        }
        for open in ["a\\", "a\\\nb\\", "\"\"\"", "\"\"\"a", "\"\"\"a\"\"\"b", " \"\"\"\n\"\""] {
            assert!(!is_complete(open), "{open:?}");
        }
    }

    #[test]
    fn what_was_meant() {
        assert_eq!(text_of("a\\\nb"), "a\nb");
        assert_eq!(text_of("\"\"\"a\"\"\""), "a");
        assert_eq!(text_of("\"\"\"\n a\\\nb\n\"\"\""), " a\\\nb");
        assert_eq!(text_of("\"\"\"\n\"\"\""), "");
        assert_eq!(text_of("\"\"\"\"\"\""), "");
        // Not closed, as at the end of a file.
        assert_eq!(text_of("\"\"\"a"), "\"\"\"a");
        assert_eq!(text_of("//a//"), "/a//");
    }

    #[test]
    fn typing_a_text_again() {
        for text in ["a", "a\nb", "/a", " /a", "a\\\nb", "a\\", "\"\"\"", "//", "\n", "x \"\"\" y"]
        {
            let typed = typed_as(text);
            assert!(is_complete(&typed), "{typed:?}");
            assert_eq!(text_of(&typed), text);
        }
    }
}
