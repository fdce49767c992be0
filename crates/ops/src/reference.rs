//! The reader that computes at once: every fine op by its definition, sums in f64, nothing quantized but the weights.
use crate::{Activation, Attention, Batch, KvFormat, Linear, Norm, Ops, Rope, Weight};
use std::collections::HashMap;

/// Rounds a result to what flows between ops.
#[expect(clippy::cast_possible_truncation, reason = "the one rounding of an op's result")]
pub(crate) fn rounded(x: f64) -> f32 {
    x as f32
}

/// f32 `(rows, columns)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    pub columns: usize,
    pub data: Vec<f32>,
}

impl Matrix {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.columns)
    }

    fn map_rows(&self, f: impl FnMut(&[f32]) -> Vec<f32>) -> Self {
        let rows: Vec<Vec<f32>> = self.rows().map(f).collect();
        Self { columns: rows.first().map_or(self.columns, Vec::len), data: rows.concat() }
    }
}

/// A place in the cache: layer, sequence, position.
type Place = (u32, u32, u32);

/// See the module. Keeps K and V between calls.
#[derive(Debug)]
pub struct Reference<'a> {
    /// Bytes of each tensor, in the order of [`Weight::tensor`].
    pub tensors: Vec<&'a [u8]>,
    /// The tokens of the next forward pass. [`crate::FEEDBACK`] is not known here.
    pub batch: Batch,
    /// K and V are kept as given for F16, else as a device's cache keeps them.
    pub kv: KvFormat,
    cache: HashMap<Place, (Vec<f32>, Vec<f32>)>,
}

impl<'a> Reference<'a> {
    #[must_use]
    pub fn new(tensors: Vec<&'a [u8]>, batch: Batch) -> Self {
        Self { tensors, batch, kv: KvFormat::F16, cache: HashMap::new() }
    }

    fn row(&self, weight: &Weight, row: u32) -> Vec<f32> {
        let fits = "tensors fit in memory";
        let bytes = usize::try_from(weight.row_bytes()).expect(fits);
        let start = usize::try_from(weight.offset()).expect(fits) + row as usize * bytes;
        let mut values = vec![0.0; weight.columns as usize];
        weight
            .format
            .dequantize(&self.tensors[weight.tensor as usize][start..start + bytes], &mut values);
        values
    }

    /// All numbers of a vector, lying or standing.
    fn vector(&self, weight: Option<&Weight>) -> Option<Vec<f32>> {
        weight.map(|weight| (0..weight.rows).flat_map(|row| self.row(weight, row)).collect())
    }

    fn tokens(&self) -> impl Iterator<Item = crate::Token> + '_ {
        (0..self.batch.tokens()).map(|t| self.batch.token(t))
    }
}

impl Ops for Reference<'_> {
    type Tensor = Matrix;

    fn embed(&mut self, table: &Weight, scale: f32) -> Matrix {
        let row =
            |token: crate::Token| crate::embed::reference::embed(&self.row(table, token.id), scale);
        Matrix { columns: table.columns as usize, data: self.tokens().flat_map(row).collect() }
    }

    fn add_positions(&mut self, mut x: Matrix, table: &Weight) -> Matrix {
        let rows: Vec<f32> =
            self.tokens().flat_map(|token| self.row(table, token.position)).collect();
        x.data.iter_mut().zip(rows).for_each(|(x, p)| *x += p);
        x
    }

    fn norm(&mut self, x: &Matrix, norm: &Norm) -> Matrix {
        let weight = self.row(&norm.weight, 0);
        let bias = self.vector(norm.bias.as_ref());
        let group = |x: &[f32]| {
            crate::norm::reference::norm(x, norm.kind, &weight, bias.as_deref(), norm.epsilon)
        };
        x.map_rows(|row| row.chunks_exact(weight.len()).flat_map(group).collect())
    }

    fn linear(&mut self, x: &Matrix, linear: &Linear) -> Matrix {
        let columns = linear.weight.rows as usize;
        let bias = self.vector(linear.bias.as_ref());
        let mut y = Matrix { columns, data: vec![0.0; x.rows().len() * columns] };
        for out in 0..linear.weight.rows {
            let w = self.row(&linear.weight, out);
            let out = out as usize;
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[out]));
            for (x, y) in x.rows().zip(y.data.chunks_exact_mut(columns)) {
                y[out] = rounded(crate::linear::reference::dot(x, &w) + bias);
            }
        }
        y
    }

    fn add(&mut self, mut x: Matrix, y: &Matrix) -> Matrix {
        assert_eq!(x.data.len(), y.data.len(), "only equal shapes are added");
        x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
        x
    }

    fn activate(
        &mut self,
        mut gate: Matrix,
        up: Option<&Matrix>,
        activation: Activation,
    ) -> Matrix {
        for (i, x) in gate.data.iter_mut().enumerate() {
            let up = up.map_or(1.0, |up| f64::from(up.data[i]));
            *x = rounded(crate::activate::reference::activate(f64::from(*x), activation) * up);
        }
        gate
    }

    fn rope(&mut self, mut x: Matrix, rope: &Rope, head_dim: u32) -> Matrix {
        let frequencies = self.row(&rope.frequencies, 0);
        let columns = x.columns;
        for (token, row) in self.tokens().zip(x.data.chunks_exact_mut(columns)) {
            for head in row.chunks_exact_mut(head_dim as usize) {
                crate::rope::reference::rope(
                    head,
                    token.position,
                    &frequencies,
                    rope.pairing,
                    rope.amplitude,
                );
            }
        }
        x
    }

    fn write_kv(&mut self, k: &Matrix, v: &Matrix, attention: &Attention) {
        let tokens: Vec<crate::Token> = self.tokens().collect();
        for (token, (k, v)) in tokens.into_iter().zip(k.rows().zip(v.rows())) {
            let place = (attention.layer, token.sequence, token.position);
            let kept = |row: &[f32]| match self.kv {
                KvFormat::F16 => row.to_vec(),
                KvFormat::Q8_0 => crate::write_kv::reference::rounded(row),
            };
            self.cache.insert(place, (kept(k), kept(v)));
        }
    }

    fn attend(&mut self, q: &Matrix, attention: &Attention) -> Matrix {
        let n = attention.head_dim as usize;
        let group = (attention.heads / attention.kv_heads) as usize;
        let mut data = Vec::with_capacity(q.data.len());
        for (token, q) in self.tokens().zip(q.rows()) {
            let first =
                attention.window.map_or(0, |window| (token.position + 1).saturating_sub(window));
            let place = |position| &self.cache[&(attention.layer, token.sequence, position)];
            for (head, q) in q.chunks_exact(n).enumerate() {
                let at = head / group * n..(head / group + 1) * n;
                let keys: Vec<&[f32]> =
                    (first..=token.position).map(|p| &place(p).0[at.clone()]).collect();
                let values: Vec<&[f32]> =
                    (first..=token.position).map(|p| &place(p).1[at.clone()]).collect();
                data.extend(crate::attend::reference::attend(q, &keys, &values, attention.scale));
            }
        }
        Matrix { columns: q.columns, data }
    }

    fn gather(&mut self, x: &Matrix) -> Matrix {
        let row = |t: &u32| x.data[*t as usize * x.columns..(*t as usize + 1) * x.columns].to_vec();
        Matrix { columns: x.columns, data: self.batch.row_tokens().iter().flat_map(row).collect() }
    }

    fn softcap(&mut self, mut x: Matrix, cap: f32) -> Matrix {
        let cap = f64::from(cap);
        x.data.iter_mut().for_each(|x| *x = rounded(cap * (f64::from(*x) / cap).tanh()));
        x
    }
}
