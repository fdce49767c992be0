//! Every kernel through every compiler.
use crate::launch::*;
use hal::{Gpu, Text};
use msl::{Compiler, Error, Source};

const ALL: [(&[Text], &str); 9] = [
    (&[FUNCTIONS], "functions"),
    (&[VOCABULARY], "vocabulary"),
    (&[NEIGHBOURS], "neighbours"),
    (&[RmsNorm::MSL, RMS_NORM], "rms_norm"),
    (&[Softmax::MSL, SOFTMAX], "softmax"),
    (&[MatVec::MSL, MAT_VEC], "mat_vec"),
    (&[MatMul::MSL, MAT_MUL], "mat_mul_half"),
    (&[Histogram::MSL, HISTOGRAM], "histogram"),
    (&[LANES], "lanes"),
];

/// The result of one compiler, or a loud skip where it is missing.
fn compiled(compiler: Compiler, texts: &[Text]) -> Option<Result<Vec<u8>, String>> {
    let source = Source::new(texts);
    match compiler.compile(&source, &msl::any_constants(&source)) {
        Err(error @ Error::Missing { .. }) => {
            eprintln!("SKIPPED: kernels through {compiler}: {error}");
            None
        }
        Err(error) => Some(Err(error.to_string())),
        Ok(path) => Some(Ok(std::fs::read(path).unwrap())),
    }
}

#[test]
fn every_kernel_passes_every_compiler() {
    for compiler in Compiler::ALL {
        for (texts, entry) in ALL {
            let Some(result) = compiled(compiler, texts) else { break };
            let made = result.unwrap_or_else(|error| panic!("{error}"));
            // The entry is there under its own name.
            let named = made.windows(entry.len()).any(|bytes| bytes == entry.as_bytes());
            assert!(named || compiler == Compiler::Spaces, "{compiler}: {entry}");
        }
    }
}

#[test]
fn check_asks_everyone() {
    for (texts, entry) in ALL {
        let gpu =
            Gpu { texts, entry, constants: &msl::any_constants(&Source::new(texts)).leak()[..] };
        for missing in msl::check(&gpu).unwrap() {
            eprintln!("SKIPPED: {missing}");
        }
    }
}

#[test]
fn address_spaces_are_checked() {
    let table = [
        (
            "kernel void k(device float* a [[buffer(0)]], threadgroup float* s [[threadgroup(0)]]) { a = s; }",
            "1:93",
        ),
        (
            "void f(device const float* p) { } kernel void k(constant float& a [[buffer(0)]]) { f(&a); }",
            "1:84",
        ),
        ("kernel void k(constant float4& c [[buffer(0)]]) { c.x = 1.0f; }", "1:55"),
        (
            "void f(thread float4& r) { r = 0.0f; } kernel void k(device float4* a [[buffer(0)]]) { f(a[0]); }",
            "1:88",
        ),
        (
            "kernel void k(device float* a [[buffer(0)]]) { threadgroup float* s = (threadgroup float*)a; s[0] = 1; }",
            "1:71",
        ),
        (
            "constant float T[2] = {1.0f, 2.0f}; kernel void k(device float* a [[buffer(0)]]) { T[0] = a[0]; }",
            "1:",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, place) in table {
        let text = Text { file: "spaces.metal", text };
        let Some(result) = compiled(Compiler::Spaces, &[text]) else { return };
        let error = result.expect_err(text.text);
        if !error.contains(&format!("spaces.metal:{place}")) {
            wrong.push(format!("{}\n{error}", text.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
