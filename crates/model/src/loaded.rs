//! A model: its configuration and its tensors, arranged as the forward pass names them.
use crate::config::Config;
use crate::gguf::{Gguf, TensorInfo};
use crate::{Error, rope};
use ops::format::Format;
use ops::{Attention, Cache, Heads, Hidden, KvFormat, Linear, Norm, Rope, Weight};
use std::collections::HashMap;

/// Where a tensor's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the mapped file.
    File { offset: u64, bytes: u64 },
    /// Made at load: a table, or a small tensor in another format.
    Made(Vec<u8>),
}

/// One tensor, in the order of [`Weight::tensor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub format: Format,
    pub rows: u32,
    pub columns: u32,
    pub source: Source,
}

/// One block of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub attention_norm: Norm,
    pub qkv: [Linear; 3],
    pub heads: Heads,
    pub attention: Attention,
    pub output: Linear,
    pub post_attention_norm: Option<Norm>,
    pub feed_forward_norm: Norm,
    pub hidden: Hidden,
    pub down: Linear,
    pub post_feed_forward_norm: Option<Norm>,
}

/// A loaded model. No device knows it yet.
#[derive(Debug)]
pub struct Model {
    pub config: Config,
    pub gguf: Gguf,
    pub tensors: Vec<Tensor>,
    /// `(vocabulary, dim)`
    pub embedding: Weight,
    /// `(context, dim)`
    pub positions: Option<Weight>,
    pub layers: Vec<Layer>,
    pub output_norm: Norm,
    /// `(vocabulary, dim)`, the embedding itself where the file has no other.
    pub output: Linear,
}

impl Model {
    /// Finds every tensor the configuration asks for and checks its shape. Matrices are not read: whoever loads them looks for
    /// bad scales on the way (see [`Format::first_bad_block`]). `context` is the number of tokens that will be
    /// used: it decides between LongRoPE's short and long factors.
    ///
    /// # Errors
    /// [`Error`] names the file and the tensor or key.
    pub fn from_gguf(gguf: Gguf, context: u32) -> Result<Self, Error> {
        let config = Config::from_gguf(&gguf)?;
        let mut load =
            Load { gguf: &gguf, config: &config, tensors: Vec::new(), by_name: HashMap::new() };
        let embedding = load.matrix("token_embd.weight", config.vocabulary, config.dim)?;
        let positions = match config.row.pairing {
            Some(_) => None,
            None => Some(load.matrix("position_embd.weight", config.context, config.dim)?),
        };
        let ropes = load.ropes(context)?;
        let layers = (0..config.layers).map(|i| load.layer(i, &ropes)).collect::<Result<_, _>>()?;
        let output_norm = load.norm("output_norm", config.dim)?;
        let output = match gguf.find("output.weight") {
            Some(_) => load.linear("output", config.vocabulary, config.dim)?,
            None => Linear { weight: embedding, bias: None },
        };
        let tensors = load.tensors;
        Ok(Self { config, gguf, tensors, embedding, positions, layers, output_norm, output })
    }

    /// Opens the file at `path`, see [`Model::from_gguf`].
    ///
    /// # Errors
    /// As there, and when the file cannot be read.
    pub fn open(path: &std::path::Path, context: u32) -> Result<Self, Error> {
        Self::from_gguf(Gguf::open(path)?, context)
    }

    /// Factor on the embedding's rows.
    #[must_use]
    pub fn embedding_scale(&self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 numbers")]
        let dim = self.config.dim as f32;
        if self.config.row.scaled_embedding { dim.sqrt() } else { 1.0 }
    }

    /// A tensor's bytes on the host, where they lie.
    #[must_use]
    pub fn slice<'a>(&'a self, tensor: &'a Tensor) -> &'a [u8] {
        match &tensor.source {
            Source::Made(bytes) => bytes,
            Source::File { offset, bytes } => {
                let fits = "the reader checked that tensors lie inside the file";
                let start = usize::try_from(*offset).expect(fits);
                &self.gguf.mapping()[start..start + usize::try_from(*bytes).expect(fits)]
            }
        }
    }

    /// Every right side of a product.
    pub fn linears(&self) -> impl Iterator<Item = Linear> + '_ {
        let of_layer = |layer: &Layer| {
            let [q, k, v] = layer.qkv;
            [
                Some(q),
                Some(k),
                Some(v),
                Some(layer.output),
                Some(layer.hidden.gate),
                layer.hidden.up,
                Some(layer.down),
            ]
        };
        self.layers.iter().flat_map(of_layer).flatten().chain([self.output])
    }

    /// The shape of each layer's KV cache, with numbers stored as `format`.
    #[must_use]
    pub fn caches(&self, format: KvFormat) -> Vec<Cache> {
        let shape = |layer: &Layer| Cache {
            kv_heads: layer.attention.kv_heads,
            head_dim: layer.attention.head_dim,
            format,
        };
        self.layers.iter().map(shape).collect()
    }
}

/// Rotation of full and of windowed layers.
struct Ropes {
    global: Option<Rope>,
    local: Option<Rope>,
}

struct Load<'a> {
    gguf: &'a Gguf,
    config: &'a Config,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, Weight>,
}

impl Load<'_> {
    fn bad(
        &self,
        field: &str,
        found: &dyn std::fmt::Display,
        expected: &dyn std::fmt::Display,
    ) -> Error {
        let file = self.gguf.path().display().to_string();
        let (found, expected) = (found.to_string(), expected.to_string());
        Error::BadField { file, field: field.to_owned(), found, expected }
    }

    fn shaped(&self, name: &str, rows: u32, columns: u32) -> Result<&TensorInfo, Error> {
        let info = self.gguf.tensor(name)?;
        if (info.rows(), info.columns()) != (u64::from(rows), u64::from(columns)) {
            let found = format!("of shape {:?}", info.shape);
            return Err(self.bad(
                &format!("tensor {name}"),
                &found,
                &format!("[{columns}, {rows}]"),
            ));
        }
        Ok(info)
    }

    fn add(
        &mut self,
        name: &str,
        rows: u32,
        columns: u32,
        format: Format,
        source: Source,
    ) -> Weight {
        let tensor =
            u32::try_from(self.tensors.len()).expect("the reader limits the number of tensors");
        self.tensors.push(Tensor { name: name.to_owned(), format, rows, columns, source });
        let weight = Weight { tensor, format, first_row: 0, rows, columns };
        self.by_name.insert(name.to_owned(), weight);
        weight
    }

    /// A matrix in its storage format.
    fn matrix(&mut self, name: &str, rows: u32, columns: u32) -> Result<Weight, Error> {
        if let Some(weight) = self.by_name.get(name) {
            return Ok(*weight);
        }
        let info = self.shaped(name, rows, columns)?;
        let source = Source::File { offset: info.offset, bytes: info.bytes };
        let format = info.format;
        Ok(self.add(name, rows, columns, format, source))
    }

    /// A vector as F32, whatever its storage format: kernels read it as numbers.
    fn vector(&mut self, name: &str, columns: u32) -> Result<Weight, Error> {
        if let Some(weight) = self.by_name.get(name) {
            return Ok(*weight);
        }
        let info = self.shaped(name, 1, columns)?;
        self.gguf.check_scales(info)?;
        let aligned = info.format == Format::F32 && info.offset.is_multiple_of(4);
        let source = if aligned {
            Source::File { offset: info.offset, bytes: info.bytes }
        } else {
            let mut values = vec![0.0; columns as usize];
            info.format.dequantize(self.gguf.bytes(info), &mut values);
            made(&values)
        };
        Ok(self.add(name, 1, columns, Format::F32, source))
    }

    fn opt_vector(&mut self, name: &str, columns: u32) -> Result<Option<Weight>, Error> {
        self.gguf.find(name).is_some().then(|| self.vector(name, columns)).transpose()
    }

    fn linear(&mut self, name: &str, rows: u32, columns: u32) -> Result<Linear, Error> {
        let weight = self.matrix(&format!("{name}.weight"), rows, columns)?;
        let bias = self.opt_vector(&format!("{name}.bias"), rows)?;
        // One number per row of the matrix, so that rows of both can be taken together.
        let bias = bias.map(|bias| Weight { rows, columns: 1, ..bias });
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, name: &str, columns: u32) -> Result<Norm, Error> {
        let weight = self.vector(&format!("{name}.weight"), columns)?;
        let bias = self.opt_vector(&format!("{name}.bias"), columns)?;
        Ok(Norm { kind: self.config.row.norm, weight, bias, epsilon: self.config.epsilon })
    }

    fn opt_norm(&mut self, name: &str, columns: u32) -> Result<Option<Norm>, Error> {
        let present = self.gguf.find(&format!("{name}.weight")).is_some();
        present.then(|| self.norm(name, columns)).transpose()
    }

    fn ropes(&mut self, context: u32) -> Result<Ropes, Error> {
        let (Some(config), Some(pairing)) = (self.config.rope, self.config.row.pairing) else {
            return Ok(Ropes { global: None, local: None });
        };
        let divisors = self.rope_divisors(context, config.context_before, config.dims / 2)?;
        let mut rope = |name: &str, table: Vec<f32>, amplitude: f32| {
            let frequencies = self.add(name, 1, config.dims / 2, Format::F32, made(&table));
            Rope { pairing, frequencies, amplitude }
        };
        let table = rope::frequencies(&config, divisors.as_deref());
        let global = rope("rope frequencies", table, config.amplitude);
        let local =
            rope("rope frequencies of windowed layers", rope::frequencies_local(&config), 1.0);
        Ok(Ropes { global: Some(global), local: Some(local) })
    }

    /// Llama 3's factors, or LongRoPE's for the context in use.
    fn rope_divisors(
        &self,
        context: u32,
        context_before: u32,
        pairs: u32,
    ) -> Result<Option<Vec<f32>>, Error> {
        let long = if context > context_before {
            "rope_factors_long.weight"
        } else {
            "rope_factors_short.weight"
        };
        let names = ["rope_freqs.weight", long];
        let name = names.into_iter().find(|name| self.gguf.find(name).is_some());
        let Some(name) = name.filter(|_| self.config.row.long_rope) else { return Ok(None) };
        let info = self.shaped(name, 1, pairs)?;
        let mut values = vec![0.0; pairs as usize];
        info.format.dequantize(self.gguf.bytes(info), &mut values);
        match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
            Some(value) => Err(self.bad(
                &format!("tensor {name}"),
                &format!("{value} somewhere"),
                &"positive numbers",
            )),
            None => Ok(Some(values)),
        }
    }

    fn layer(&mut self, i: u32, ropes: &Ropes) -> Result<Layer, Error> {
        let c = self.config;
        let name = |part: &str| format!("blk.{i}.{part}");
        let local = c.local_layers[i as usize];
        let heads = Heads {
            q_norm: self.opt_norm(&name("attn_q_norm"), c.head_dim)?,
            k_norm: self.opt_norm(&name("attn_k_norm"), c.head_dim)?,
            rope: if local { ropes.local } else { ropes.global },
        };
        let attention = Attention {
            layer: i,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale,
            window: c.window.filter(|_| local),
        };
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm"), c.dim)?,
            qkv: self.qkv(&name("attn"))?,
            heads,
            attention,
            output: self.linear(&name("attn_output"), c.dim, c.heads * c.head_dim)?,
            post_attention_norm: self.opt_norm(&name("post_attention_norm"), c.dim)?,
            feed_forward_norm: self.norm(&name("ffn_norm"), c.dim)?,
            hidden: self.hidden(&name("ffn"))?,
            down: self.linear(&name("ffn_down"), c.dim, c.hidden)?,
            post_feed_forward_norm: self.opt_norm(&name("post_ffw_norm"), c.dim)?,
        })
    }

    /// Three matrices, or one whose rows are q, then k, then v.
    fn qkv(&mut self, name: &str) -> Result<[Linear; 3], Error> {
        let c = self.config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        if self.gguf.find(&format!("{name}_qkv.weight")).is_none() {
            let q = self.linear(&format!("{name}_q"), q, c.dim)?;
            let k = self.linear(&format!("{name}_k"), kv, c.dim)?;
            return Ok([q, k, self.linear(&format!("{name}_v"), kv, c.dim)?]);
        }
        let fused = self.linear(&format!("{name}_qkv"), q + 2 * kv, c.dim)?;
        Ok([(0, q), (q, kv), (q + kv, kv)].map(|(first, rows)| part(fused, first, rows)))
    }

    /// Gate and up, one matrix whose rows are gate, then up, or no gate at all.
    fn hidden(&mut self, name: &str) -> Result<Hidden, Error> {
        let c = self.config;
        let (up, activation) = (format!("{name}_up"), c.row.activation);
        if self.gguf.find(&format!("{name}_gate.weight")).is_some() {
            let gate = self.linear(&format!("{name}_gate"), c.hidden, c.dim)?;
            let up = Some(self.linear(&up, c.hidden, c.dim)?);
            return Ok(Hidden { gate, up, activation });
        }
        let rows = self.gguf.tensor(&format!("{up}.weight"))?.rows();
        if rows == 2 * u64::from(c.hidden) {
            let fused = self.linear(&up, 2 * c.hidden, c.dim)?;
            let (gate, up) = (part(fused, 0, c.hidden), part(fused, c.hidden, c.hidden));
            return Ok(Hidden { gate, up: Some(up), activation });
        }
        Ok(Hidden { gate: self.linear(&up, c.hidden, c.dim)?, up: None, activation })
    }
}

fn made(values: &[f32]) -> Source {
    Source::Made(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Rows of a fused product.
fn part(fused: Linear, first: u32, rows: u32) -> Linear {
    Linear {
        weight: fused.weight.part(first, rows),
        bias: fused.bias.map(|bias| bias.part(first, rows)),
    }
}
