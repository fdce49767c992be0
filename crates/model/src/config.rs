//! What distinguishes one architecture from another: one row of numbers and switches each.
use crate::Error;
use crate::gguf::{Gguf, Metadata, Value};
use ops::{Activation, NormKind, Pairing};

/// One architecture: what its name in a file means. Sizes come from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// `general.architecture`, and the prefix of the other keys.
    pub name: &'static str,
    pub norm: NormKind,
    pub activation: Activation,
    /// None: learned positions.
    pub pairing: Option<Pairing>,
    /// Embeddings are multiplied by `sqrt(dim)`.
    pub scaled_embedding: bool,
    /// Layers without a full view when the file names a window: of this many, all but the last.
    pub window_pattern: Option<u32>,
    /// Honours `rope_factors_{long,short}` tensors.
    pub long_rope: bool,
}

const LLAMA: Row = Row {
    name: "llama",
    norm: NormKind::Rms,
    activation: Activation::Silu,
    pairing: Some(Pairing::Adjacent),
    scaled_embedding: false,
    window_pattern: None,
    long_rope: true,
};

/// Every architecture that Russet runs.
pub const ROWS: [Row; 6] = [
    LLAMA,
    Row { name: "qwen2", pairing: Some(Pairing::Halves), long_rope: false, ..LLAMA },
    Row { name: "qwen3", pairing: Some(Pairing::Halves), long_rope: false, ..LLAMA },
    Row {
        name: "gemma3",
        activation: Activation::Gelu,
        pairing: Some(Pairing::Halves),
        scaled_embedding: true,
        window_pattern: Some(6),
        long_rope: false,
        ..LLAMA
    },
    // Phi-3's sliding window is left out, as in llama.cpp: the models are used within it.
    Row { name: "phi3", pairing: Some(Pairing::Halves), ..LLAMA },
    Row {
        name: "gpt2",
        norm: NormKind::Layer,
        activation: Activation::Gelu,
        pairing: None,
        long_rope: false,
        ..LLAMA
    },
];

/// How rotary frequencies are stretched beyond the training context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by the factor (Chen et al. 2023).
    Linear {
        factor: f32,
    },
    /// YaRN (Peng et al. 2023): high frequencies kept, low ones interpolated.
    Yarn {
        factor: f32,
        context_before: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Rotated numbers of a head.
    pub dims: u32,
    pub base: f32,
    /// Base of the layers with a window.
    pub base_local: f32,
    pub scaling: RopeScaling,
    /// The context before scaling: selects long or short factors.
    pub context_before: u32,
    /// Factor on the rotated numbers.
    pub amplitude: f32,
}

/// A model's sizes and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub row: Row,
    pub vocabulary: u32,
    pub dim: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Width of the feed-forward block.
    pub hidden: u32,
    /// Tokens the model was made for.
    pub context: u32,
    pub epsilon: f32,
    pub rope: Option<RopeConfig>,
    pub window: Option<u32>,
    /// For each layer, whether it sees only the window.
    pub local_layers: Vec<bool>,
    pub attention_scale: f32,
    /// Logits become `cap * tanh(logits / cap)`.
    pub final_softcap: Option<f32>,
}

/// Limits that keep a damaged file from asking for absurd work.
const LAYERS_MAX: u32 = 1024;
const DIM_MAX: u32 = 1 << 20;

/// Reads keys under the architecture's prefix and says which file and field is wrong.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    file: String,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn bad(
        &self,
        name: &str,
        found: &dyn std::fmt::Display,
        expected: &dyn std::fmt::Display,
    ) -> Error {
        let (found, expected) = (found.to_string(), expected.to_string());
        Error::BadField { file: self.file.clone(), field: self.key(name), found, expected }
    }

    /// A number of at least 1 and at most `max`.
    fn size(&self, name: &str, max: u32) -> Result<u32, Error> {
        match self.uniform(name)? {
            Some(value) if (1..=max).contains(&value) => Ok(value),
            Some(value) => Err(self.bad(name, &value, &format!("1 to {max}"))),
            None => Ok(self.metadata.u32(&self.key(name))?),
        }
    }

    fn opt_size(&self, name: &str, max: u32) -> Result<Option<u32>, Error> {
        if self.metadata.get(&self.key(name)).is_none() {
            return Ok(None);
        }
        self.size(name, max).map(Some)
    }

    /// A number, or an array with one number per layer when all are equal.
    fn uniform(&self, name: &str) -> Result<Option<u32>, Error> {
        let key = self.key(name);
        let Some(Value::Array(_)) = self.metadata.get(&key) else {
            return Ok(self.metadata.opt_u32(&key)?);
        };
        let values: Vec<i64> = match self.metadata.u32s(&key) {
            Ok(values) => values.iter().map(|v| i64::from(*v)).collect(),
            Err(_) => self.metadata.i32s(&key)?.iter().map(|v| i64::from(*v)).collect(),
        };
        match values.first() {
            Some(first) if values.iter().all(|value| value == first) => {
                Ok(Some(u32::try_from(*first).map_err(|_| self.bad(name, first, &"a size"))?))
            }
            _ => Err(Error::Unsupported {
                file: self.file.clone(),
                field: key,
                found: format!("{values:?}"),
                supported: "the same value in every layer".to_owned(),
            }),
        }
    }

    /// A positive, finite number.
    fn positive(&self, name: &str) -> Result<Option<f32>, Error> {
        match self.metadata.opt_f32(&self.key(name))? {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.bad(name, &value, &"a positive number"))
            }
            value => Ok(value),
        }
    }
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown architecture, [`Error::BadField`] for values that contradict each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let metadata = gguf.metadata();
        let file = gguf.path().display().to_string();
        let name = metadata.str("general.architecture")?;
        let Some(row) = ROWS.iter().find(|row| row.name == name) else {
            let supported: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
            return Err(Error::Unsupported {
                file,
                field: "general.architecture".to_owned(),
                found: format!("`{name}`"),
                supported: supported.join(", "),
            });
        };
        let keys = Keys { metadata, file, prefix: row.name };
        let embedding = gguf.tensor("token_embd.weight")?;
        let vocabulary = u32::try_from(embedding.rows()).unwrap_or(0);
        if vocabulary == 0 || vocabulary >= ops::FEEDBACK {
            return Err(keys.bad(
                "token_embd.weight rows",
                &embedding.rows(),
                &"a vocabulary below 2^31",
            ));
        }
        Self::read(&keys, *row, vocabulary)
    }

    fn read(keys: &Keys<'_>, row: Row, vocabulary: u32) -> Result<Self, Error> {
        let dim = keys.size("embedding_length", DIM_MAX)?;
        let layers = keys.size("block_count", LAYERS_MAX)?;
        let heads = keys.size("attention.head_count", dim)?;
        let kv_heads = keys.opt_size("attention.head_count_kv", heads)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.bad(
                "attention.head_count_kv",
                &kv_heads,
                &format!("a divisor of {heads} heads"),
            ));
        }
        let head_dim = keys.opt_size("attention.key_length", DIM_MAX)?.unwrap_or(dim / heads);
        let value_length = keys.opt_size("attention.value_length", DIM_MAX)?.unwrap_or(head_dim);
        if value_length != head_dim {
            return Err(keys.bad(
                "attention.value_length",
                &value_length,
                &format!("{head_dim}, the key length"),
            ));
        }
        let context = keys.size("context_length", 1 << 30)?;
        let epsilon = match row.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let epsilon =
            keys.positive(epsilon)?.map_or_else(|| keys.metadata.f32(&keys.key(epsilon)), Ok)?;
        let window = row.window_pattern.map(|_| keys.window()).transpose()?.flatten();
        // Gemma 3 27B alone scales scores by the width per head instead of the head's own.
        let scored = if row.name == "gemma3" && layers == 62 { dim / heads } else { head_dim };
        #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2^24 numbers")]
        let attention_scale = 1.0 / (scored as f32).sqrt();
        Ok(Self {
            row,
            vocabulary,
            dim,
            layers,
            heads,
            kv_heads,
            head_dim,
            hidden: keys.size("feed_forward_length", DIM_MAX * 4)?,
            context,
            epsilon,
            rope: row.pairing.map(|_| keys.rope(head_dim, context)).transpose()?,
            window,
            local_layers: keys.local_layers(row, layers, window)?,
            attention_scale,
            final_softcap: if row.name == "gemma3" {
                keys.positive("final_logit_softcapping")?
            } else {
                None
            },
        })
    }
}

impl Keys<'_> {
    fn window(&self) -> Result<Option<u32>, Error> {
        let window = self.metadata.opt_u32(&self.key("attention.sliding_window"))?;
        Ok(window.filter(|window| *window > 0))
    }

    /// Which layers see only the window: by an array in the file, or all but every n-th.
    fn local_layers(&self, row: Row, layers: u32, window: Option<u32>) -> Result<Vec<bool>, Error> {
        let name = "attention.sliding_window_pattern";
        let key = self.key(name);
        let (Some(_), Some(period)) = (window, row.window_pattern) else {
            return Ok(vec![false; layers as usize]);
        };
        let period = match self.metadata.get(&key) {
            Some(Value::Array(crate::gguf::Array::Bool(local))) => {
                let local: Vec<bool> = local.clone();
                if local.len() != layers as usize {
                    return Err(self.bad(name, &format!("{} entries", local.len()), &layers));
                }
                return Ok(local);
            }
            Some(_) => self.size(name, LAYERS_MAX)?,
            None => period,
        };
        Ok((0..layers).map(|layer| layer % period < period - 1).collect())
    }

    fn rope(&self, head_dim: u32, context: u32) -> Result<RopeConfig, Error> {
        let dims = self.opt_size("rope.dimension_count", head_dim)?.unwrap_or(head_dim);
        if !dims.is_multiple_of(2) {
            return Err(self.bad("rope.dimension_count", &dims, &"an even number"));
        }
        let context_before =
            self.opt_size("rope.scaling.original_context_length", 1 << 30)?.unwrap_or(context);
        let attention_factor = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let scaling = self.rope_scaling(context_before)?;
        let amplitude = match scaling {
            RopeScaling::Yarn { factor, .. } if factor > 1.0 => {
                attention_factor * (1.0 + 0.1 * factor.ln())
            }
            _ => attention_factor,
        };
        Ok(RopeConfig {
            dims,
            base: self.positive("rope.freq_base")?.unwrap_or(10_000.0),
            base_local: self.positive("rope.freq_base_swa")?.unwrap_or(10_000.0),
            scaling,
            context_before,
            amplitude,
        })
    }

    fn rope_scaling(&self, context_before: u32) -> Result<RopeScaling, Error> {
        let factor = match self.metadata.opt_f32(&self.key("rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.metadata.opt_f32(&self.key("rope.scale_linear"))?,
        };
        let factor = match factor {
            None | Some(0.0) => 1.0,
            Some(factor) if factor.is_finite() && factor > 0.0 => factor,
            Some(factor) => {
                return Err(self.bad("rope.scaling.factor", &factor, &"a positive number"));
            }
        };
        match self.metadata.opt_str(&self.key("rope.scaling.type"))?.unwrap_or("linear") {
            "none" | "longrope" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => Ok(RopeScaling::Yarn { factor, context_before }),
            other => Err(Error::Unsupported {
                file: self.file.clone(),
                field: self.key("rope.scaling.type"),
                found: format!("`{other}`"),
                supported: "none, linear, yarn, longrope".to_owned(),
            }),
        }
    }
}
