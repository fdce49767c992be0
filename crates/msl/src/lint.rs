//! The dialect: what Apple's compiler, clang, NVRTC and amdgcn all read the same way, and what the readers of this crate
//! rely on. Overloads that differ in an address space only need no rule: on the host they are a redefinition.
use crate::clang::PARTS;
use crate::error::{Complaint, Error, Result};
use crate::generate::components;
use crate::read::{Argument, Entry, Source, Spot};
use crate::token::{Kind, Token, tokens};

const SPACES: &[&str] = &["device", "threadgroup", "constant", "thread"];

/// Words that are not in the dialect, and why.
const BANNED: &[(&str, &str)] = &[
    ("double", "Metal has no double: use float"),
    ("asm", "assembly runs on one processor only"),
    ("goto", "Metal has no goto"),
    ("new", "Metal has no allocation"),
    ("delete", "Metal has no allocation"),
    ("try", "Metal has no exceptions"),
    ("catch", "Metal has no exceptions"),
    ("throw", "Metal has no exceptions"),
    ("virtual", "Metal has no virtual functions"),
    ("dynamic_cast", "Metal has no dynamic_cast"),
    ("typeid", "Metal has no typeid"),
    ("thread_local", "Metal has no thread_local: a kernel's variables are a thread's own"),
    ("std", "Metal's library is metal"),
    ("printf", "kernels do not print"),
    ("vertex", "a keyword of Metal's graphics functions"),
    ("fragment", "a keyword of Metal's graphics functions"),
];

/// Complains about everything in `source` that is not in the dialect.
///
/// # Errors
/// [`Error::Dialect`] with every complaint, in the order of the text.
pub fn lint(source: &Source) -> Result<()> {
    let mut complaints = Vec::new();
    for (index, piece) in source.pieces.iter().enumerate() {
        let tokens = tokens(&piece.text);
        let mut text = Lint { source, index, tokens: &tokens, complaints: &mut complaints };
        for at in 0..tokens.len() {
            text.word(at);
            text.literal(at);
            text.member(at);
            text.pointer(at);
            text.attribute(at);
            text.bracket(at);
            text.directive(at);
            text.kernel(at);
        }
    }
    for array in source.arrays.iter().filter(|array| !array.at_kernel_top) {
        let what =
            "threadgroup arrays stand at the top of a kernel's body: pass pointers on from there";
        complaints.push(source.complaint(&array.spot, what));
    }
    for entry in &source.entries {
        signature(source, entry, &mut complaints);
    }
    complaints.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    if complaints.is_empty() { Ok(()) } else { Err(Error::Dialect(complaints)) }
}

struct Lint<'a> {
    source: &'a Source,
    index: usize,
    tokens: &'a [Token<'a>],
    complaints: &'a mut Vec<Complaint>,
}

impl<'a> Lint<'a> {
    fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn is_word(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Word)
    }

    /// Whether two symbols stand side by side, as in `[[` or `&&`.
    fn joined(&self, at: usize) -> bool {
        match (self.tokens.get(at), self.tokens.get(at + 1)) {
            (Some(a), Some(b)) => a.end() == b.at,
            _ => false,
        }
    }

    fn complain(&mut self, at: usize, what: impl Into<String>) {
        let spot = Spot { piece: self.index, bytes: self.tokens[at].at..self.tokens[at].end() };
        self.complaints.push(self.source.complaint(&spot, what));
    }

    fn word(&mut self, at: usize) {
        if let Some((_, why)) = BANNED.iter().find(|(word, _)| self.text(at) == *word) {
            self.complain(at, *why);
        }
        if self.text(at) == "threadgroup" && self.is_word(at + 1) {
            let end = (at..self.tokens.len())
                .find(|i| matches!(self.text(*i), ";" | "*" | "&" | ")" | "{" | "="));
            if end.is_some_and(|end| self.text(end) == "=") {
                self.complain(
                    at,
                    "threadgroup memory has no first value: store it, then wait at a barrier",
                );
            }
        }
    }

    fn literal(&mut self, at: usize) {
        let token = self.tokens[at];
        if token.kind != Kind::Number || token.text.starts_with("0x") {
            return;
        }
        let lower = token.text.to_ascii_lowercase();
        if lower.ends_with('h') {
            self.complain(at, "NVIDIA's compiler has no suffix h: write half(1.0f)");
        } else if (lower.contains('.') || lower.contains('e')) && !lower.ends_with('f') {
            self.complain(at, "without the suffix f this is a double for NVIDIA's compiler");
        }
    }

    /// `v.xy`: NVIDIA's compiler has no such members.
    fn member(&mut self, at: usize) {
        let name = self.text(at + 1);
        let of = |set: &str| name.chars().all(|c| set.contains(c));
        let call = self.text(at + 2) == "(";
        if self.text(at) == "."
            && (2..=4).contains(&name.len())
            && (of("xyzw") || of("rgba"))
            && !call
        {
            self.complain(
                at + 1,
                format!("swizzle {name}: name one component, x, y, z or w, at a time"),
            );
        }
    }

    /// A `*` or `&` that makes a type needs an address space in front.
    fn pointer(&mut self, at: usize) {
        if !matches!(self.text(at), "*" | "&") || at == 0 || self.text(at - 1) == "operator" {
            return;
        }
        let first = |text: &str| matches!(text, "*" | "&");
        if first(self.text(at - 1)) && self.joined(at - 1) {
            return; // part of `&&`, or of a pointer to a pointer, whose first star was looked at
        }
        let next = self.text(at + 1);
        if next == "=" || (next == "&" && self.joined(at)) {
            return;
        }
        let start = self.type_start(at);
        let words = &self.tokens[start..at];
        if words.is_empty() || words.iter().any(|token| SPACES.contains(&token.text)) {
            return;
        }
        // `T*)`, `T*,`, `T*>`, `T* const`: no expression ends in a star.
        let ends = matches!(next, ")" | "," | ">" | "const");
        // `T* name =` at the begin of a statement, or of the first part of a loop.
        let before = if start == 0 { ";" } else { self.text(start - 1) };
        let begins = matches!(before, ";" | "{" | "}")
            || (before == "(" && start >= 2 && self.text(start - 2) == "for");
        let declares = begins
            && self.is_word(at + 1)
            && matches!(self.text(at + 2), "=" | ";" | "," | "[" | ":" | "(");
        let parameter = self.is_word(at + 1) && self.in_parameters(start);
        if ends || declares || parameter {
            let words: Vec<&str> = words.iter().map(|token| token.text).collect();
            let what = format!(
                "{}{}: say device, threadgroup, constant or thread",
                words.join(" "),
                self.text(at)
            );
            self.complain(start, what);
        }
    }

    /// The first token of the type that ends before `at`; `at` itself if what stands there is no type.
    fn type_start(&self, at: usize) -> usize {
        let mut start = at;
        while start > 0 {
            let text = self.text(start - 1);
            if text == ">" {
                let Some(open) = self.angle(start - 1) else { break };
                start = open;
            } else if (self.is_word(start - 1)
                && !matches!(text, "return" | "else" | "case" | "typename"))
                || text == ":"
            {
                start -= 1;
            } else {
                break;
            }
        }
        start
    }

    /// The `<` of the template arguments that end at `close`.
    fn angle(&self, close: usize) -> Option<usize> {
        let mut depth = 0;
        for at in (0..=close).rev() {
            match self.text(at) {
                ">" => depth += 1,
                "<" => depth -= 1,
                ";" | "{" | "}" | ")" => return None,
                _ => {}
            }
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    /// Whether `at` begins a parameter of a function at file scope: `type name(..., HERE`.
    fn in_parameters(&self, at: usize) -> bool {
        let before = &self.tokens[..at];
        if !matches!(before.last().map_or("", |token| token.text), "(" | ",") {
            return false;
        }
        let mut depth = 0;
        let braces = |token: &&Token<'_>| match token.text {
            "{" => 1,
            "}" => -1,
            _ => 0,
        };
        if before.iter().map(|token| braces(&token)).sum::<i32>() != 0 {
            return false;
        }
        for open in (0..at).rev() {
            match self.text(open) {
                ")" => depth += 1,
                "(" if depth == 0 => {
                    // A function begins a statement; `constant uint N = max(A, B * C);` calls one.
                    let start = (0..open).rev().find(|i| matches!(self.text(*i), ";" | "}" | "="));
                    let called = start.is_some_and(|start| self.text(start) == "=");
                    return open >= 2 && self.is_word(open - 1) && !called;
                }
                "(" => depth -= 1,
                ";" => return false,
                _ => {}
            }
        }
        false
    }

    fn attribute(&mut self, at: usize) {
        if !(self.text(at) == "[" && self.text(at + 1) == "[" && self.joined(at)) {
            return;
        }
        let name = self.text(at + 2).to_owned();
        let byte = self.tokens[at].at;
        let inside = self
            .source
            .entries
            .iter()
            .any(|entry| entry.spot.piece == self.index && entry.spot.bytes.contains(&byte));
        let of_parameter =
            matches!(name.as_str(), "buffer" | "threadgroup") || components(&name).is_some();
        let known =
            matches!(name.as_str(), "function_constant" | "max_total_threads_per_threadgroup");
        if of_parameter && !inside {
            self.complain(at, format!("[[{name}]] belongs into the signature of a kernel"));
        } else if !of_parameter && !known {
            self.complain(at, format!("attribute [[{name}]] is not in the dialect"));
        }
    }

    /// Function pointers and lambdas.
    fn bracket(&mut self, at: usize) {
        let texts: Vec<&str> = (at..at + 5).map(|i| self.text(i)).collect();
        if texts[..2] == ["(", "*"]
            && self.is_word(at + 2)
            && texts[3..] == [")", "("]
            && !self.is_word(at.wrapping_sub(2))
        {
            self.complain(at, "Metal kernels take no function pointers: use a template");
        }
        let capture = texts[0] == "["
            && (texts[1..3] == ["]", "("]
                || (matches!(texts[1], "&" | "=") && texts[2..4] == ["]", "("]));
        if capture {
            self.complain(at, "Metal has no lambdas: use a function");
        }
    }

    fn directive(&mut self, at: usize) {
        if self.tokens[at].kind != Kind::Directive {
            return;
        }
        let words: Vec<&str> = self.text(at).trim_start_matches('#').split_whitespace().collect();
        let file = words.get(1).map_or("", |name| name.trim_matches(['<', '>']));
        if words.first() == Some(&"include") && file != "metal_stdlib" && !PARTS.contains(&file) {
            self.complain(
                at,
                format!(
                    "{file}: a Mac compiles the text alone, only Metal's own headers are there"
                ),
            );
        }
        if words.first() == Some(&"define") && words.contains(&"kernel") {
            self.complain(
                at,
                "kernels are written out: drivers read their signatures from the text",
            );
        }
    }

    fn kernel(&mut self, at: usize) {
        if self.text(at) != "kernel" || self.text(at.wrapping_sub(1)) == "[" {
            return;
        }
        let byte = self.tokens[at].at;
        let read = self
            .source
            .entries
            .iter()
            .any(|entry| entry.spot.piece == self.index && entry.spot.bytes.start == byte);
        let template = at > 0 && self.text(at - 1) == ">";
        if !read || template {
            self.complain(
                at,
                "a kernel is a plain function, kernel void name(...) { }: let it call the template",
            );
        }
    }
}

/// What a launch can pass: see [`hal::Gpu`].
fn signature(source: &Source, entry: &Entry, complaints: &mut Vec<Complaint>) {
    let mut wrong = |what: String| {
        complaints.push(source.complaint(&entry.spot, format!("kernel {}: {what}", entry.name)));
    };
    let (mut buffers, mut constants, mut widths) = (Vec::new(), Vec::new(), Vec::new());
    for parameter in &entry.parameters {
        let (name, of_type) = (&parameter.name, &parameter.of_type);
        match &parameter.argument {
            Argument::Buffer { index, .. } if of_type.ends_with('*') => buffers.push(*index),
            Argument::Buffer { .. } => {
                wrong(format!("{name} is a span of the launch: make it a pointer"));
            }
            Argument::Constant { index } if of_type.ends_with('&') => constants.push(*index),
            Argument::Constant { .. } => wrong(format!(
                "{name} is the constants of the launch: make it a reference to their struct"
            )),
            Argument::Threadgroup { index: 0 } if of_type.ends_with('*') => {}
            Argument::Threadgroup { .. } => {
                wrong(format!("{name}: scratch memory is a pointer, [[threadgroup(0)]]"));
            }
            Argument::Position(attribute) => {
                let scalar = of_type.trim_end_matches(['2', '3']);
                let width = of_type[scalar.len()..].parse().unwrap_or(1);
                match components(attribute) {
                    Some(1) if width == 1 && matches!(scalar, "uint" | "ushort") => {}
                    Some(3) if matches!(scalar, "uint" | "ushort") => widths.push(width),
                    Some(_) => wrong(format!("{name} is {of_type}: a position is uint or ushort")),
                    None => {} // an unknown attribute: complained of where it stands
                }
            }
            Argument::Unknown => {
                wrong(format!("{name} needs [[buffer(n)]], [[threadgroup(0)]] or a position"));
            }
        }
    }
    buffers.sort_unstable();
    if buffers.iter().enumerate().any(|(i, index)| i != *index) {
        wrong(format!("its device pointers are buffers {buffers:?}: number them from 0"));
    }
    if constants.len() > 1 || constants.first().is_some_and(|index| *index != buffers.len()) {
        wrong(format!("its constants are buffers {constants:?}: one, after the device pointers"));
    }
    if widths.iter().any(|width| *width != widths[0]) {
        wrong(
            "its positions have different numbers of components: Metal wants them alike".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::Text;

    /// `line:column what` of each complaint.
    fn complaints(text: &'static str) -> Vec<String> {
        match lint(&Source::new(&[Text { file: "k.metal", text }])) {
            Err(Error::Dialect(found)) => {
                found.iter().map(|c| format!("{}:{} {}", c.line, c.column, c.what)).collect()
            }
            other => other.map(|()| Vec::new()).unwrap(),
        }
    }

    #[test]
    fn each_rule_names_its_place() {
        let table: &[(&str, &str)] = &[
            ("float f(float* p) { return *p; }", "1:9 float*: say device"),
            ("void f(int a, const float4 & p) { }", "1:15 const float4&: say device"),
            ("void f() {\n  float* p = 0;\n}", "2:3 float*: say"),
            ("void f() { x = (half4*)y; }", "1:17 half4*: say"),
            ("void f() { for (auto& x : y) { } }", "1:17 auto&: say"),
            ("void f() { y = static_cast<vec<float, 2>*>(x); }", "1:28 vec < float , 2 >*: say"),
            ("double x;", "1:1 Metal has no double"),
            ("constant float x = 1.5;", "1:20 without the suffix f"),
            ("constant float x = 1e3;", "1:20 without the suffix f"),
            ("constant half x = 1.5h;", "1:19 NVIDIA's compiler has no suffix h"),
            ("void f() { y = v.xy; }", "1:18 swizzle xy"),
            ("void f() { threadgroup float x[3]; }", "1:12 threadgroup arrays stand at"),
            ("kernel void f() { { threadgroup float x[3]; } }", "1:21 threadgroup arrays stand at"),
            (
                "kernel void f() { threadgroup float x = 1; }",
                "1:19 threadgroup memory has no first value",
            ),
            (
                "void f(uint i [[thread_position_in_grid]]) { }",
                "1:15 [[thread_position_in_grid]] belongs",
            ),
            (
                "kernel void f(uint i [[thread_position_in_gird]]) { }",
                "1:22 attribute [[thread_position_in_gird]]",
            ),
            ("void f(void (*g)(int)) { }", "1:13 Metal kernels take no function pointers"),
            ("void f() { auto g = [&](int x) { return x; }; }", "1:21 Metal has no lambdas"),
            ("#include <cmath>", "1:1 cmath: a Mac compiles the text alone"),
            ("template <typename T> kernel void f() { }", "1:23 a kernel is a plain function"),
            ("#define K(n) kernel void n() { }", "1:1 kernels are written out"),
            (
                "kernel void f(device float& x [[buffer(0)]]) { }",
                "1:1 kernel f: x is a span of the launch: make",
            ),
            (
                "kernel void f(device float* x [[buffer(1)]]) { }",
                "1:1 kernel f: its device pointers are buffers [1]",
            ),
            (
                "kernel void f(constant A& x [[buffer(1)]]) { }",
                "1:1 kernel f: its constants are buffers [1]",
            ),
            ("kernel void f(device float* x) { }", "1:1 kernel f: x needs [[buffer(n)]]"),
            (
                "kernel void f(threadgroup float* x [[threadgroup(1)]]) { }",
                "1:1 kernel f: x: scratch memory",
            ),
            ("kernel void f(int i [[thread_position_in_grid]]) { }", "1:1 kernel f: i is int"),
            (
                "kernel void f(uint i [[thread_position_in_grid]], uint2 g [[threads_per_grid]]) { }",
                "1:1 kernel f: its positions have different",
            ),
        ];
        let mut wrong = Vec::new();
        for (text, expected) in table {
            let found = complaints(text);
            if found.len() != 1 || !found[0].starts_with(expected) {
                wrong.push(format!("{text}: {found:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_metal_code_is_made_of_passes() {
        let text = "#include <metal_stdlib>\nusing namespace metal;\n\
            constant uint FORMAT [[function_constant(0)]];\nconstant float TABLE[2] = {1.0f, -2.5e-3f};\n\
            constant uint N = max(A, B * C); struct B { half d; uchar q[16]; };\n\
            template <typename T> inline float f(device const T* p, thread float4& r, constant A& a) {\n\
              device const T* q = p + 1; float s = a.x * r.y; s *= r.x & 3; s = b * *q + (x && y);\n\
              device const float4* v = (device const float4*)(p); return a.rows * s * TABLE[a.n * 2] * (x) * y;\n}\n\
            [[max_total_threads_per_threadgroup(64)]] kernel void k(device float* y [[buffer(0)]],\n\
              constant A& a [[buffer(1)]], threadgroup float* t [[threadgroup(0)]],\n\
              uint2 at [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]) {\n\
              threadgroup half x[2][FORMAT]; thread float4* own = &r; y[i] = m.x[i * j] & 0xffu; for (;;) { a = b * c; }\n}";
        assert_eq!(complaints(text), Vec::<String>::new());
    }
}
