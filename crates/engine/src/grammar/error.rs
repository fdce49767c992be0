//! Why an answer cannot be constrained, split by what the caller does about it.

/// `grammar` is what it is called in a request: `JSON schema`, `regex`, `Lark grammar`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a grammar, or nothing can match it: correct it as the text says.
    #[error("{grammar}: {what}")]
    Invalid { grammar: &'static str, what: String },
    /// Too much work, or memory: make it smaller.
    #[error("{grammar} is too complex: {what}; make it smaller or flatter")]
    TooComplex { grammar: &'static str, what: String },
    /// No token can follow what was said, and it may not end here: the grammar asks for text that the vocabulary lacks.
    #[error("{grammar}: no token of the model can follow here; allow other text in it")]
    DeadEnd { grammar: &'static str },
    /// The token is not in the mask; the constraint is as it was before.
    #[error("{grammar}: token {token} is not allowed here")]
    NotAllowed { grammar: &'static str, token: u32 },
    /// A fault in the grammar's engine, not in the request.
    #[error("{grammar}: internal error: {what}")]
    Internal { grammar: &'static str, what: String },
}

impl Error {
    /// What llguidance says when it compiles. Its errors have no types, so this goes by the words.
    pub(super) fn compile(grammar: &'static str, error: &impl std::fmt::Display) -> Self {
        const TOO_COMPLEX: [&str; 5] = ["too big", "too large", "too many", "exhausted", "limits."];
        let what = format!("{error:#}");
        if what.starts_with("panic: ") {
            Self::Internal { grammar, what }
        } else if TOO_COMPLEX.iter().any(|words| what.contains(words)) {
            Self::TooComplex { grammar, what }
        } else {
            Self::Invalid { grammar, what }
        }
    }
}
