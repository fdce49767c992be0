//! The forward pass: written once, for every architecture and every reader of [`Ops`].
use crate::loaded::Model;
use ops::Ops;

/// Logits of the wanted tokens `(S, vocabulary)` from the batch's tokens.
pub fn forward<O: Ops>(ops: &mut O, model: &Model) -> O::Tensor {
    let x = layers(ops, model); // (S, dim)
    let logits = ops.head(&x, &model.output_norm, &model.output); // (S, vocabulary)
    match model.config.final_softcap {
        Some(cap) => ops.softcap(logits, cap),
        None => logits,
    }
}

/// Rows of the wanted tokens `(S, dim)` before they become logits: what embeddings are made from.
pub fn hidden<O: Ops>(ops: &mut O, model: &Model) -> O::Tensor {
    let x = layers(ops, model); // (S, dim)
    ops.norm(&x, &model.output_norm)
}

/// The wanted tokens' rows of the last layer `(S, dim)`.
fn layers<O: Ops>(ops: &mut O, model: &Model) -> O::Tensor {
    let mut x = ops.embed(&model.embedding, model.embedding_scale()); // (T, dim)
    if let Some(table) = &model.positions {
        x = ops.add_positions(x, table);
    }
    let last = model.layers.len() - 1;
    for (index, layer) in model.layers.iter().enumerate() {
        let [q, k, v] = &layer.qkv;
        let qkv = ops.qkv(&x, &layer.attention_norm, [q, k, v]); // (T, heads * head_dim), 2 x (T, kv_heads * head_dim)
        let q = ops.rope_kv(qkv, &layer.heads, &layer.attention);
        let mut y = ops.attend(&q, &layer.attention); // (T, heads * head_dim)
        if index == last {
            // No later layer attends to these rows: from here on T is S, the tokens whose logits are wanted.
            (x, y) = (ops.gather(&x), ops.gather(&y));
        }
        x = ops.project(x, &y, &layer.output, layer.post_attention_norm.as_ref()); // (T, dim)
        let h = ops.gate_up(&x, &layer.feed_forward_norm, &layer.hidden); // (T, hidden)
        x = ops.project(x, &h, &layer.down, layer.post_feed_forward_norm.as_ref()); // (T, dim)
    }
    x
}
