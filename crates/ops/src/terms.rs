//! The nouns of the op contracts.
use crate::format::Format;

/// A matrix of weights, or some of its rows. A vector is a matrix of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weight {
    /// Which tensor of the model: an index into its list.
    pub tensor: u32,
    pub format: Format,
    pub first_row: u32,
    pub rows: u32,
    /// The contiguous dimension, along which blocks lie.
    pub columns: u32,
}

impl Weight {
    /// `rows` rows from row `first` on: how a fused matrix is split. Panics if they leave the matrix.
    #[must_use]
    pub fn part(self, first: u32, rows: u32) -> Self {
        assert!(first + rows <= self.rows, "rows leave the matrix");
        Self { first_row: self.first_row + first, rows, ..self }
    }

    /// Bytes of one row. Panics when the columns are no whole number of blocks: the loader refuses such tensors.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        let bytes = self.format.row_bytes(self.columns as usize);
        bytes.expect("the loader checked that rows are whole blocks") as u64
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.rows)
    }

    /// Where the first row starts in its tensor.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.row_bytes() * u64::from(self.first_row)
    }
}

/// A matrix product's right side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `(out, in)`
    pub weight: Weight,
    /// `(out, 1)`, F32
    pub bias: Option<Weight>,
}

/// How a row is normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + epsilon) * weight` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias` (Ba, Kiros and Hinton 2016).
    Layer,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    pub kind: NormKind,
    /// `(1, n)`, F32: each group of n numbers of a row is normalized on its own.
    pub weight: Weight,
    /// `(1, n)`, F32
    pub bias: Option<Weight>,
    pub epsilon: f32,
}

/// Which two numbers of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i + 1)`: the original paper's, Llama's in GGUF files.
    Adjacent,
    /// `(i, i + dims / 2)`: GPT-NeoX's.
    Halves,
}

/// Rotary position embedding (Su et al. 2021). Every way to scale it comes down to a table of frequencies and an amplitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub pairing: Pairing,
    /// `(1, dims / 2)`, F32: radians per position. Numbers of a head past `dims` are left alone.
    pub frequencies: Weight,
    /// Factor on the rotated numbers (YaRN's attention factor), usually 1.
    pub amplitude: f32,
}

/// One layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Index of the layer's cache.
    pub layer: u32,
    pub heads: u32,
    /// Query head h reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<u32>,
}

/// How a KV cache stores numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    #[default]
    F16,
    /// As the weight format: an F16 scale and int8 codes for each 32 numbers of a head.
    Q8_0,
}

impl KvFormat {
    pub const ALL: [Self; 2] = [Self::F16, Self::Q8_0];
    /// Numbers of a head that share a scale in [`KvFormat::Q8_0`].
    pub(crate) const GROUP: usize = 32;

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Whether heads of so many numbers can be stored.
    #[must_use]
    pub const fn takes(self, head_dim: u32) -> bool {
        match self {
            Self::F16 => true,
            Self::Q8_0 => (head_dim as usize).is_multiple_of(Self::GROUP),
        }
    }

    /// Bytes of one head of K (or V) of one token.
    pub(crate) const fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => 2 * head_dim,
            Self::Q8_0 => head_dim + 2 * (head_dim / Self::GROUP),
        }
    }

    pub(crate) const fn code(self) -> u32 {
        self as u32
    }

    pub(crate) const fn from_code(code: u32) -> Self {
        Self::ALL[code as usize]
    }
}

/// The shape of one layer's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    pub kv_heads: u32,
    pub head_dim: u32,
    pub format: KvFormat,
}

impl Cache {
    /// Bytes that K (or V) of one token takes.
    #[must_use]
    pub fn token_bytes(&self) -> u64 {
        u64::from(self.kv_heads) * self.format.head_bytes(self.head_dim as usize) as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// Tanh form (Hendrycks and Gimpel 2016).
    Gelu,
    /// `max(x, 0)²` (BitNet b1.58)
    ReluSquared,
}

/// What a product does with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    Store,
    /// Adds to what the output holds: the residual.
    Accumulate,
    /// Two products, gate and up: stores `activation(gate) * up` in the first output.
    Gate(Activation),
    /// Stores `activation(result)`.
    Activate(Activation),
}
