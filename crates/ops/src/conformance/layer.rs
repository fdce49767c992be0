//! One whole layer between embedding and logits: every composite op, in the order a model calls them.
use super::{Forward, Setup, Tolerance, check, token};
use crate::format::Format;
use crate::{
    Activation, Attention, Cache, Heads, Hidden, KvFormat, Linear, Norm, NormKind, Ops, Pairing,
    Rope, Weight,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Layer {
    table: Weight,
    norm: Norm,
    qkv: [Linear; 3],
    heads: Heads,
    attention: Attention,
    out: Linear,
    post_norm: Option<Norm>,
    hidden: Hidden,
    down: Linear,
    head: Linear,
}

const DIM: u32 = 256;
const HIDDEN: u32 = 512;
const HEAD_DIM: u32 = 32;

impl Layer {
    /// Weights in `format` for a layer of 8 heads over 2 KV heads.
    pub(super) fn new(setup: &mut Setup, format: Format, post_norm: bool) -> Self {
        let (heads, kv_heads) = (8, 2);
        let norm = |setup: &mut Setup, n| Norm {
            kind: NormKind::Rms,
            weight: setup.gains(n),
            bias: None,
            epsilon: 1e-5,
        };
        let linear = |setup: &mut Setup, rows, columns| Linear {
            weight: setup.matrix(format, rows, columns),
            bias: None,
        };
        let frequencies: Vec<f32> =
            (0..HEAD_DIM / 2).map(|i| 0.5_f32.powi(i.cast_signed())).collect();
        let rope = Rope {
            pairing: Pairing::Halves,
            frequencies: setup.floats(HEAD_DIM / 2, &frequencies),
            amplitude: 1.0,
        };
        setup.caches.push(Cache { kv_heads, head_dim: HEAD_DIM, format: KvFormat::F16 });
        Self {
            table: setup.table(DIM),
            norm: norm(setup, DIM),
            qkv: [heads, kv_heads, kv_heads].map(|n| linear(setup, n * HEAD_DIM, DIM)),
            heads: Heads {
                q_norm: Some(norm(setup, HEAD_DIM)),
                k_norm: Some(norm(setup, HEAD_DIM)),
                rope: Some(rope),
            },
            attention: Attention {
                layer: 0,
                heads,
                kv_heads,
                head_dim: HEAD_DIM,
                scale: 0.2,
                window: None,
            },
            out: linear(setup, DIM, heads * HEAD_DIM),
            post_norm: post_norm.then(|| norm(setup, DIM)),
            hidden: Hidden {
                gate: linear(setup, HIDDEN, DIM),
                up: Some(linear(setup, HIDDEN, DIM)),
                activation: Activation::Silu,
            },
            down: linear(setup, DIM, HIDDEN),
            head: linear(setup, 300, DIM),
        }
    }
}

impl Forward for Layer {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        let qkv = ops.qkv(&x, &self.norm, self.qkv.each_ref());
        let q = ops.rope_kv(qkv, &self.heads, &self.attention);
        let y = ops.attend(&q, &self.attention);
        let x = ops.project(x, &y, &self.out, self.post_norm.as_ref());
        let y = ops.gate_up(&x, &self.norm, &self.hidden);
        let x = ops.project(x, &y, &self.down, self.post_norm.as_ref());
        let x = ops.gather(&x);
        vec![ops.head(&x, &self.norm, &self.head)]
    }
}

/// Two sequences: a prompt, a second prompt beside the first one's next token, then both a token at a time.
pub(super) fn steps(setup: &mut Setup) {
    let first = setup.chunk(0, 0, 21);
    setup.step(first);
    let mut both = setup.chunk(1, 0, 5);
    both.push(token(3, 21, 0, true));
    setup.step(both);
    setup.step(vec![token(7, 22, 0, true), token(9, 5, 1, true)]);
    setup.step(vec![token(1, 6, 1, true), token(2, 23, 0, true)]);
}

#[test]
fn layers_conform() {
    // Seven products in a row, of which the errors add up; F16 in the cache adds its own.
    let cases = [
        (Format::F32, Tolerance::Max(2e-3)),
        (Format::Bf16, Tolerance::Max(2e-3)),
        (Format::Q8_0, Tolerance::Norm(0.03)),
        (Format::Q4K, Tolerance::Norm(0.03)),
    ];
    for (seed, (format, tolerance)) in (1..).zip(cases) {
        for post_norm in [false, true] {
            let mut setup = Setup::new(seed);
            let layer = Layer::new(&mut setup, format, post_norm);
            steps(&mut setup);
            check(&format!("{format} layer, post norm {post_norm}"), &setup, &layer, &[tolerance]);
        }
    }
}
