//! Reads what the launch of a kernel must know from its text: entry points with their arguments, function constants,
//! threadgroup arrays. Kernels are plain functions at the top of the file; templates are for what they call.
use crate::error::Complaint;
use crate::token::{Kind, Token, place, tokens};
use hal::Text;

/// The texts of a program, read.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub pieces: Vec<Piece>,
    pub entries: Vec<Entry>,
    pub constants: Vec<Constant>,
    /// Arrays in threadgroup memory.
    pub(crate) arrays: Vec<Declaration>,
    /// Constant tables at file scope: the word `constant` of each.
    pub(crate) tables: Vec<Spot>,
}

/// One text of a program.
#[derive(Clone, Debug)]
pub struct Piece {
    pub file: String,
    pub text: String,
}

/// Where something stands: bytes of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) piece: usize,
    pub(crate) bytes: std::ops::Range<usize>,
}

/// A `kernel` function.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub parameters: Vec<Parameter>,
    /// From `kernel` to the end of the signature.
    pub(crate) spot: Spot,
}

/// One parameter of a kernel, in the order of its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub argument: Argument,
    /// Its type without the name: `device const float *`.
    pub of_type: String,
    pub name: String,
}

/// What is passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// `device T*`: a span of the launch.
    Buffer { index: usize, written: bool },
    /// `constant T&` or `constant T*`: the image of the constants.
    Constant { index: usize },
    /// `threadgroup T*`: scratch memory.
    Threadgroup { index: usize },
    /// The position of the thread, by its attribute.
    Position(String),
    /// Not in the dialect: the lint says why.
    Unknown,
}

/// `constant T name [[function_constant(index)]];`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    pub index: u32,
    pub of_type: String,
    pub name: String,
    pub(crate) spot: Spot,
}

/// `threadgroup T name[N];`, dims being `[N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(crate) of_type: String,
    pub(crate) name: String,
    pub(crate) dims: String,
    /// Inside the body of a kernel and no block of it.
    pub(crate) at_kernel_top: bool,
    pub(crate) spot: Spot,
}

impl Source {
    /// Reads the texts of a program.
    #[must_use]
    pub fn new(texts: &[Text]) -> Self {
        let piece = |text: &Text| Piece { file: tidy_path(text.file), text: text.text.to_owned() };
        Self::of(texts.iter().map(piece).collect())
    }

    /// Reads texts that are no part of this program.
    #[must_use]
    pub fn of(pieces: Vec<Piece>) -> Self {
        let mut source = Self { pieces, ..Self::default() };
        for piece in 0..source.pieces.len() {
            let text = source.pieces[piece].text.clone();
            Reader { source: &mut source, piece, tokens: &tokens(&text) }.read();
        }
        source
    }

    /// The kernel called `name`.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    pub(crate) fn complaint(&self, spot: &Spot, what: impl Into<String>) -> Complaint {
        let piece = &self.pieces[spot.piece];
        let (line, column) = place(&piece.text, spot.bytes.start);
        Complaint { file: piece.file.clone(), line, column, what: what.into() }
    }
}

impl Entry {
    /// How many spans a launch of it has, and whether each is written, in order.
    #[must_use]
    pub fn buffers(&self) -> Vec<bool> {
        let mut buffers: Vec<(usize, bool)> = Vec::new();
        for parameter in &self.parameters {
            if let Argument::Buffer { index, written } = parameter.argument {
                buffers.push((index, written));
            }
        }
        buffers.sort_unstable();
        buffers.into_iter().map(|(_, written)| written).collect()
    }

    /// The index of the buffer with the image of the constants.
    #[must_use]
    pub fn constants_index(&self) -> Option<usize> {
        self.parameters.iter().find_map(|parameter| match parameter.argument {
            Argument::Constant { index } => Some(index),
            _ => None,
        })
    }
}

/// `a/b/../c` without the detour, for messages.
fn tidy_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match (part, parts.last()) {
            // The file that includes is followed by `..`, like a folder.
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

struct Reader<'a> {
    source: &'a mut Source,
    piece: usize,
    tokens: &'a [Token<'a>],
}

impl Reader<'_> {
    fn spot(&self, from: usize, to: usize) -> Spot {
        Spot { piece: self.piece, bytes: self.tokens[from].at..self.tokens[to].end() }
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(text))
    }

    /// The text from one token to another, on one line.
    fn between(&self, from: usize, to: usize) -> String {
        let mut line = String::new();
        let mut end = None;
        for token in &self.tokens[from..to] {
            if end.is_some_and(|end| end != token.at) {
                line.push(' ');
            }
            line.push_str(token.text);
            end = Some(token.end());
        }
        line
    }

    fn read(&mut self) {
        let (mut at, mut depth, mut kernel_body) = (0, 0_usize, None);
        while at < self.tokens.len() {
            match self.tokens[at].text {
                "{" | "(" => depth += 1,
                "}" | ")" => {
                    depth = depth.saturating_sub(1);
                    if kernel_body == Some(depth + 1) {
                        kernel_body = None;
                    }
                }
                "kernel" if self.is(at + 1, "void") && depth == 0 => {
                    if let Some(body) = self.entry(at) {
                        (at, depth, kernel_body) = (body, 1, Some(1));
                    }
                }
                "constant" if depth == 0 => self.constant(at),
                "threadgroup" => self.array(at, kernel_body == Some(depth)),
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads the kernel whose first word is at `at`; returns the `{` of its body.
    fn entry(&mut self, at: usize) -> Option<usize> {
        let name = self.tokens.get(at + 2).filter(|token| token.kind == Kind::Word)?;
        let close = self.is(at + 3, "(").then(|| closing(self.tokens, at + 3))??;
        let body = self.is(close + 1, "{").then_some(close + 1)?;
        let parameters = split(self.tokens, at + 4, close);
        let parameters = parameters.iter().map(|part| self.parameter(part.clone())).collect();
        let spot = self.spot(at, close);
        self.source.entries.push(Entry { name: name.text.to_owned(), parameters, spot });
        Some(body)
    }

    fn parameter(&self, part: std::ops::Range<usize>) -> Parameter {
        let tokens = &self.tokens[part.clone()];
        let bracket = tokens.windows(2).position(|pair| pair[0].is("[") && pair[1].is("["));
        let declared = bracket.unwrap_or(tokens.len());
        let of_type = self.between(part.start, part.start + declared.saturating_sub(1));
        let name = tokens[..declared].last().map_or("", |token| token.text).to_owned();
        let attribute = bracket.and_then(|at| tokens.get(at + 2)).map_or("", |token| token.text);
        let index =
            bracket.and_then(|at| tokens.get(at + 4)).and_then(|token| token.text.parse().ok());
        let has = |word: &str| tokens[..declared].iter().any(|token| token.is(word));
        let argument = match (attribute, index) {
            ("buffer", Some(index)) if has("device") => {
                Argument::Buffer { index, written: !has("const") }
            }
            ("buffer", Some(index)) if has("constant") => Argument::Constant { index },
            ("threadgroup", Some(index)) => Argument::Threadgroup { index },
            ("" | "buffer" | "threadgroup", _) => Argument::Unknown,
            (position, _) => Argument::Position(position.to_owned()),
        };
        Parameter { argument, of_type, name }
    }

    /// A function constant or a table at file scope.
    fn constant(&mut self, at: usize) {
        let end = (at..self.tokens.len()).find(|i| self.is(*i, ";")).unwrap_or(at);
        let attribute = (at..end).find(|i| self.is(*i, "function_constant"));
        let bracket = attribute.filter(|found| *found >= at + 5).map(|found| found - 2);
        match (bracket, attribute.and_then(|found| self.tokens.get(found + 2))) {
            (Some(bracket), Some(index)) => {
                let constant = Constant {
                    index: index.text.parse().unwrap_or(u32::MAX),
                    of_type: self.between(at + 1, bracket - 1),
                    name: self.tokens[bracket - 1].text.to_owned(),
                    spot: self.spot(at, end),
                };
                self.source.constants.push(constant);
            }
            _ => self.source.tables.push(self.spot(at, at)),
        }
    }

    /// `threadgroup T name[N];` rather than a pointer or an attribute.
    fn array(&mut self, at: usize, at_kernel_top: bool) {
        // A size may be a product; before it, a star makes a pointer.
        let mut sized = false;
        let end = (at..self.tokens.len()).find(|i| {
            let text = self.tokens[*i].text;
            sized |= text == "[";
            matches!(text, ";" | "{" | "=") || (!sized && matches!(text, "*" | "&" | ")"))
        });
        let Some(end) = end.filter(|end| self.is(*end, ";") && *end > at + 2) else { return };
        let dims = (at..end).find(|i| self.is(*i, "[")).unwrap_or(end);
        if dims < at + 3 {
            return;
        }
        let declaration = Declaration {
            of_type: self.between(at + 1, dims - 1),
            name: self.tokens[dims - 1].text.to_owned(),
            dims: self.between(dims, end),
            at_kernel_top,
            spot: self.spot(at, end),
        };
        self.source.arrays.push(declaration);
    }
}

/// The bracket that closes the one at `open`.
pub(crate) fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The parts between commas, brackets of any kind kept together.
pub(crate) fn split(tokens: &[Token<'_>], from: usize, to: usize) -> Vec<std::ops::Range<usize>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), from, 0_i32);
    for (at, token) in tokens.iter().enumerate().take(to).skip(from) {
        match token.text {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth -= 1,
            "," if depth == 0 => {
                parts.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < to {
        parts.push(start..to);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Text = Text {
        file: "crates/a/src/mod.rs/../kernel.metal",
        text: "constant uint MODE [[function_constant(3)]]; constant float TABLE[2] = {0.5f, 1.0f};\n\
            // kernel void not_this(device float* x [[buffer(0)]]) { }\n\
            inline float f(threadgroup float* x) { return x[0]; }\n\
            kernel void k(constant metal::Args& a [[buffer(2)]], device const half* x [[buffer(0)]],\n\
              device vec<float, 4>* y [[ buffer(1) ]], threadgroup float* t [[threadgroup(0)]],\n\
              uint2 at [[thread_position_in_grid]]) {\n\
              threadgroup vec<half, 2> tile[8][2 * N]; { threadgroup int inner; }\n\
            }\n\
            kernel void declared(device float* x [[buffer(0)]]);\n",
    };

    #[test]
    fn a_signature_is_read_in_its_order() {
        let source = Source::new(&[TEXT]);
        assert_eq!(source.pieces[0].file, "crates/a/src/kernel.metal");
        let [entry] = &source.entries[..] else { panic!("{:?}", source.entries) };
        let part = |of_type: &str, name: &str, argument| Parameter {
            argument,
            of_type: of_type.to_owned(),
            name: name.to_owned(),
        };
        let expected = [
            part("constant metal::Args&", "a", Argument::Constant { index: 2 }),
            part("device const half*", "x", Argument::Buffer { index: 0, written: false }),
            part("device vec<float, 4>*", "y", Argument::Buffer { index: 1, written: true }),
            part("threadgroup float*", "t", Argument::Threadgroup { index: 0 }),
            part("uint2", "at", Argument::Position("thread_position_in_grid".to_owned())),
        ];
        assert_eq!((entry.name.as_str(), &entry.parameters[..]), ("k", &expected[..]));
        assert_eq!((entry.buffers(), entry.constants_index()), (vec![false, true], Some(2)));
        let constants =
            source.constants.iter().map(|c| (c.index, c.of_type.as_str(), c.name.as_str()));
        assert_eq!(constants.collect::<Vec<_>>(), [(3, "uint", "MODE")]);
        assert_eq!(source.tables.len(), 1);
        let arrays = source
            .arrays
            .iter()
            .map(|a| (a.of_type.as_str(), a.name.as_str(), a.dims.as_str(), a.at_kernel_top));
        let expected = [("vec<half, 2>", "tile", "[8][2 * N]", true), ("int", "inner", "", false)];
        assert_eq!(arrays.collect::<Vec<_>>(), expected);
    }
}
