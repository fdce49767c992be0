//! Splits kernel text into words and symbols that know where they stand.

/// What a token is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Number,
    /// One character.
    Symbol,
    /// A string or character literal with its quotes.
    Quoted,
    /// A preprocessor line, continued lines included.
    Directive,
}

/// A piece of text that is neither space nor comment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// Byte offset in the text.
    pub(crate) at: usize,
}

impl Token<'_> {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// Line and column, both from 1, of a byte offset.
pub(crate) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, text[line_start..at].chars().count() + 1)
}

/// The tokens of `text`. Never fails: what it does not know is a symbol.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = if let Some(length) = blank(rest) {
            (None, length)
        } else if first == '#' {
            (Some(Kind::Directive), directive(rest))
        } else if first.is_alphabetic() || first == '_' {
            (Some(Kind::Word), run(rest, |c| c.is_alphanumeric() || c == '_'))
        } else if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(digit)) {
            (Some(Kind::Number), number(rest))
        } else if first == '"' || first == '\'' {
            (Some(Kind::Quoted), quoted(rest, first))
        } else {
            (Some(Kind::Symbol), first.len_utf8())
        };
        if let Some(kind) = kind {
            tokens.push(Token { kind, text: &rest[..length], at });
        }
        at += length;
    }
    tokens
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Length of the space or comment at the start.
fn blank(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        Some(rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        Some(rest.find("*/").map_or(rest.len(), |end| end + 2))
    } else {
        Some(run(rest, char::is_whitespace)).filter(|length| *length > 0)
    }
}

fn run(rest: &str, inside: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !inside(c)).unwrap_or(rest.len())
}

fn directive(rest: &str) -> usize {
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        end += line.len();
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    end
}

fn number(rest: &str) -> usize {
    let mut previous = ' ';
    let hex = rest.starts_with("0x") || rest.starts_with("0X");
    let length = rest.find(|c: char| {
        let sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E') && !hex;
        previous = c;
        !(c.is_ascii_alphanumeric() || c == '.' || sign)
    });
    length.unwrap_or(rest.len())
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = true; // the opening quote
    for (at, c) in rest.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_vanish_and_places_stay() {
        let text = "#define A \\\n 1\n/* x\n */ float y = 1.5e-3f; // z\nu+=.5f-0x1e;\"a\\\"b\"";
        let found = tokens(text);
        let texts: Vec<&str> = found.iter().map(|token| token.text.trim_end()).collect();
        let directive = "#define A \\\n 1";
        let rest = ["float", "y", "=", "1.5e-3f", ";", "u", "+", "=", ".5f", "-", "0x1e", ";"];
        assert_eq!(texts[0], directive);
        assert_eq!(texts[1..13], rest);
        assert_eq!(texts[13], "\"a\\\"b\"");
        assert_eq!(place(text, found[1].at), (4, 5));
        assert_eq!(place(text, 0), (1, 1));
    }
}
