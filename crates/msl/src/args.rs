//! The argument structs of kernels, read from the Rust files that declare them with [`hal::args!`]: for tools that see a
//! kernel's file but not its program.
use crate::token::{Kind, Token, tokens};
use std::fmt::Write as _;

/// The kernel text of every `args! { pub struct ... }` in Rust text, as the macro would write it.
#[must_use]
pub fn args_of(rust: &str) -> String {
    let tokens = tokens(rust);
    let mut text = String::new();
    for at in 0..tokens.len() {
        let opens = tokens[at].is("args")
            && tokens.get(at + 1).is_some_and(|token| token.is("!"))
            && tokens.get(at + 2).is_some_and(|token| token.is("{"));
        if opens && let Some(one) = structure(&tokens[at + 3..]) {
            text.push_str(&one);
        }
    }
    text
}

fn structure(tokens: &[Token<'_>]) -> Option<String> {
    let start = tokens.iter().position(|token| token.is("struct"))?;
    let name = tokens.get(start + 1).filter(|token| token.kind == Kind::Word)?;
    let mut text = format!("struct {} {{", name.text);
    let fields = tokens[start + 2..].iter().take_while(|token| !token.is("}"));
    let fields: Vec<&Token<'_>> = fields.collect();
    for colon in (1..fields.len().saturating_sub(1)).filter(|at| fields[*at].is(":")) {
        let of_type = match fields[colon + 1].text {
            "u32" => "uint",
            "i32" => "int",
            "f32" => "float",
            _ => return None,
        };
        let _ = write!(text, " {of_type} {};", fields[colon - 1].text);
    }
    Some(text + " };\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    hal::args! {
        /// With a comment: like this one.
        pub struct Shape {
            /// And one here.
            pub rows: u32,
            pub epsilon: f32,
        }
    }

    #[test]
    fn it_reads_what_the_macro_writes() {
        let own = include_str!("args.rs");
        assert_eq!(args_of(own), Shape::MSL.text);
        assert_eq!(Shape { rows: 1, epsilon: 0.0 }.rows, 1);
    }
}
