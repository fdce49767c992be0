//! Which tensors a model of each shape has, and how a mix stores them.
use clap::ValueEnum;
use ops::format::Format;

/// Sizes of a published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// Llama 3.2 1B
    #[value(name = "llama-1b")]
    Llama1b,
    /// Llama 3.2 3B
    #[value(name = "llama-3b")]
    Llama3b,
    /// Llama 3.1 8B
    #[value(name = "llama-8b")]
    Llama8b,
    /// SmolLM2 135M
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// Qwen3 0.6B
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    /// Gemma 3 270M
    #[value(name = "gemma3-270m")]
    Gemma3,
}

/// The numbers behind a [`Shape`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) architecture: &'static str,
    pub(super) layers: u32,
    pub(super) dim: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) hidden: u32,
    pub(super) vocabulary: u32,
    pub(super) context: u32,
    pub(super) rope_base: f32,
    pub(super) epsilon: f32,
    /// The output matrix is the embedding.
    pub(super) tied: bool,
    /// Norms of q and k, per head.
    pub(super) head_norms: bool,
    /// Norms after attention and after the feed-forward block.
    pub(super) post_norms: bool,
    /// Tokens that most layers see.
    pub(super) window: Option<u32>,
}

const LLAMA_1B: Sizes = Sizes {
    architecture: "llama",
    layers: 16,
    dim: 2048,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    hidden: 8192,
    vocabulary: 128_256,
    context: 131_072,
    rope_base: 500_000.0,
    epsilon: 1e-5,
    tied: true,
    head_norms: false,
    post_norms: false,
    window: None,
};

impl Shape {
    /// As on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) const fn sizes(self) -> Sizes {
        match self {
            Self::Llama1b => LLAMA_1B,
            Self::Llama3b => Sizes { layers: 28, dim: 3072, heads: 24, head_dim: 128, ..LLAMA_1B },
            Self::Llama8b => Sizes {
                layers: 32,
                dim: 4096,
                head_dim: 128,
                hidden: 14_336,
                tied: false,
                ..LLAMA_1B
            },
            Self::Smollm2 => Sizes {
                layers: 30,
                dim: 576,
                heads: 9,
                kv_heads: 3,
                hidden: 1536,
                vocabulary: 49_152,
                context: 8192,
                rope_base: 100_000.0,
                ..LLAMA_1B
            },
            Self::Qwen3 => Sizes {
                architecture: "qwen3",
                layers: 28,
                dim: 1024,
                heads: 16,
                head_dim: 128,
                hidden: 3072,
                vocabulary: 151_936,
                context: 40_960,
                rope_base: 1e6,
                epsilon: 1e-6,
                head_norms: true,
                ..LLAMA_1B
            },
            Self::Gemma3 => Sizes {
                architecture: "gemma3",
                layers: 18,
                dim: 640,
                heads: 4,
                kv_heads: 1,
                head_dim: 256,
                hidden: 2048,
                vocabulary: 262_144,
                context: 32_768,
                rope_base: 1e6,
                epsilon: 1e-6,
                head_norms: true,
                post_norms: true,
                window: Some(512),
                ..LLAMA_1B
            },
        }
    }
}

/// How the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// llama.cpp's `Q4_K_M`: `Q4_K`, with `Q6_K` where errors hurt most.
    Q4KM,
    All(Format),
}

impl Mix {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q4KM => "Q4_K_M",
            Self::All(format) => format.name(),
        }
    }
}

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        if is(Self::Q4KM.name()) {
            return Ok(Self::Q4KM);
        }
        let format = Format::ALL.into_iter().find(|format| is(format.name()));
        format.map(Self::All).ok_or_else(|| {
            format!("known are Q4_K_M, {}", Format::ALL.map(Format::name).join(", "))
        })
    }
}

/// One tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) format: Format,
    /// Columns, then rows; norms have no rows.
    pub(super) shape: Vec<u64>,
}

impl Planned {
    pub(super) fn is_norm(&self) -> bool {
        self.shape.len() == 1
    }
}

/// All tensors of a model, in the order in which converters write them.
pub(super) fn tensors(sizes: &Sizes, mix: Mix) -> Vec<Planned> {
    let Sizes { dim, hidden, .. } = *sizes;
    let (q, kv) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let mut all = vec![matrix(sizes, mix, None, "token_embd", [dim, sizes.vocabulary])];
    for layer in 0..sizes.layers {
        let add = |part, shape| matrix(sizes, mix, Some(layer), part, shape);
        let norm = |part: &str, width| norm(&format!("blk.{layer}.{part}"), width);
        all.push(norm("attn_norm", dim));
        all.push(add("attn_q", [dim, q]));
        all.push(add("attn_k", [dim, kv]));
        all.push(add("attn_v", [dim, kv]));
        if sizes.head_norms {
            all.push(norm("attn_q_norm", sizes.head_dim));
            all.push(norm("attn_k_norm", sizes.head_dim));
        }
        all.push(add("attn_output", [q, dim]));
        if sizes.post_norms {
            all.push(norm("post_attention_norm", dim));
        }
        all.push(norm("ffn_norm", dim));
        all.push(add("ffn_gate", [dim, hidden]));
        all.push(add("ffn_up", [dim, hidden]));
        all.push(add("ffn_down", [hidden, dim]));
        if sizes.post_norms {
            all.push(norm("post_ffw_norm", dim));
        }
    }
    all.push(norm("output_norm", dim));
    if !sizes.tied {
        all.push(matrix(sizes, mix, None, "output", [dim, sizes.vocabulary]));
    }
    all
}

fn norm(name: &str, width: u32) -> Planned {
    let name = format!("{name}.weight");
    Planned { name, format: Format::F32, shape: vec![u64::from(width)] }
}

fn matrix(sizes: &Sizes, mix: Mix, layer: Option<u32>, part: &str, shape: [u32; 2]) -> Planned {
    let name = match layer {
        Some(layer) => format!("blk.{layer}.{part}.weight"),
        None => format!("{part}.weight"),
    };
    let wanted = match mix {
        Mix::All(format) => format,
        Mix::Q4KM => q4_k_m(sizes, layer, part),
    };
    let [columns, _] = shape;
    Planned { name, format: that_fits(wanted, columns), shape: shape.map(u64::from).to_vec() }
}

/// Source: `llama_tensor_get_type` in llama.cpp's `llama-quant.cpp`.
fn q4_k_m(sizes: &Sizes, layer: Option<u32>, part: &str) -> Format {
    let more_bits = |layer| {
        let (eighth, last) = (sizes.layers / 8, 7 * sizes.layers / 8);
        layer < eighth || layer >= last || (layer - eighth) % 3 == 2
    };
    match (part, layer) {
        ("attn_v" | "ffn_down", Some(layer)) if more_bits(layer) => Format::Q6K,
        ("output", _) => Format::Q6K,
        ("token_embd", _) if sizes.tied => Format::Q6K,
        _ => Format::Q4K,
    }
}

/// What llama.cpp takes instead where a row is no whole number of blocks.
const fn that_fits(format: Format, columns: u32) -> Format {
    if (columns as usize).is_multiple_of(format.block_elements()) {
        return format;
    }
    match format {
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        Format::Q2K | Format::Q3K | Format::Iq4Xs => Format::Iq4Nl,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters as the model cards state them, in millions, norms included.
    #[test]
    fn as_many_parameters_as_published() {
        let published = [
            (Shape::Llama1b, 1236),
            (Shape::Llama3b, 3213),
            (Shape::Llama8b, 8030),
            (Shape::Smollm2, 135),
            (Shape::Qwen3, 596),
            (Shape::Gemma3, 268),
        ];
        for (shape, millions) in published {
            let tensors = tensors(&shape.sizes(), Mix::All(Format::F16));
            let weights: u64 = tensors.iter().map(|t| t.shape.iter().product::<u64>()).sum();
            assert_eq!((weights + 500_000) / 1_000_000, millions, "{shape:?}");
        }
    }

    /// Counted in a published Llama 3.2 1B `Q4_K_M` file: 96 matrices `Q4_K`, 17 `Q6_K`, 34 norms and the rope factors.
    #[test]
    fn the_mix_of_a_published_file() {
        let tensors = tensors(&Shape::Llama1b.sizes(), Mix::Q4KM);
        let count = |format| tensors.iter().filter(|t| t.format == format).count();
        assert_eq!([Format::Q4K, Format::Q6K, Format::F32].map(count), [96, 17, 33]);
    }

    #[test]
    fn names_of_formats_in_any_case() {
        assert_eq!("q4_k_m".parse(), Ok(Mix::Q4KM));
        assert_eq!("bf16".parse(), Ok(Mix::All(Format::Bf16)));
        assert!("Q9".parse::<Mix>().unwrap_err().contains("MXFP4"));
    }
}
