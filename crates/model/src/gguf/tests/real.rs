//! The real models, where they are on this machine. Expected values come from the `gguf` package.

use std::path::PathBuf;

use super::super::Gguf;

/// A test model in the user's cache, or a loud skip.
fn model(file: &str) -> Option<Gguf> {
    let models =
        std::env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(".cache/russet/models");
    let path = models.join(file);
    if path.exists() {
        return Some(Gguf::open(&path).expect("a sound file"));
    }
    eprintln!("SKIPPED: {} is not there (cargo xtask models fetches it)", path.display());
    None
}

fn offsets_and_bytes(gguf: &Gguf) -> (u64, u64) {
    let tensors = gguf.tensors();
    (tensors.iter().map(|t| t.offset).sum(), tensors.iter().map(|t| t.bytes).sum())
}

#[test]
fn smollm2_reads_as_the_gguf_package_does() {
    let Some(gguf) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let m = gguf.metadata();
    assert_eq!((gguf.version(), gguf.tensors().len(), m.len()), (3, 272, 33));
    assert_eq!(offsets_and_bytes(&gguf), (17_705_856_512, 96_576_768));
    assert_eq!(m.u32("llama.attention.head_count_kv").unwrap(), 3);
    assert_eq!(m.f32("llama.rope.freq_base").unwrap(), 100_000.0);
    assert!(!m.bool("tokenizer.ggml.add_bos_token").unwrap());
    let tokens = m.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.iter().map(str::len).sum()), (49_152, 369_170));
    assert_eq!((tokens.get(1000), tokens.get(49_151)), (Some("()"), Some("ectable")));
    let t = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((t.format.name(), t.shape.as_slice()), ("Q8_0", &[576, 49_152][..]));
    assert_eq!((t.offset, t.bytes), (1_785_664, 30_081_024));
}

#[test]
fn gemma3_reads_as_the_gguf_package_does() {
    let Some(gguf) = model("gemma-3-270m-Q4_K_M.gguf") else { return };
    let m = gguf.metadata();
    assert_eq!((gguf.version(), gguf.tensors().len(), m.len()), (3, 236, 33));
    assert_eq!(offsets_and_bytes(&gguf), (51_113_590_528, 246_587_904));
    assert_eq!(m.f32("gemma3.attention.layer_norm_rms_epsilon").unwrap(), 1e-6);
    let tokens = m.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.iter().map(str::len).sum()), (262_144, 2_315_366));
    assert_eq!((tokens.get(1000), tokens.get(262_143)), (Some("put"), Some("<unused6241>")));
    assert_eq!(m.f32s("tokenizer.ggml.scores").unwrap().len(), 262_144);
    let t = gguf.tensor("blk.0.attn_output.weight").unwrap();
    assert_eq!((t.format.name(), t.offset, t.bytes), ("Q4_K", 184_901_824, 368_640));
    gguf.check_scales(t).expect("finite scales");
    let mut weights = vec![0.0; 1024 * 640];
    t.format.dequantize(gguf.bytes(t), &mut weights);
    let first = [-0.015_705_109, 0.049_669_266, -0.037_496_567, 0.060_564_995];
    assert_eq!(weights[..4], first);
    assert_eq!(weights.iter().map(|&w| f64::from(w)).sum::<f64>(), -1.833_076_179_027_557_4);
}
