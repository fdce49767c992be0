//! `--receipt FILE`: what really ran.
use crate::answer::Answer;
use crate::session::Session;
use crate::store::sha256_of;
use anyhow::Context as _;
use engine::SequenceId;
use serde_json::{Value, json};
use std::path::Path;

/// Writes the receipt of one answer.
pub(crate) fn write(
    path: &Path,
    session: &Session,
    id: SequenceId,
    answer: &Answer,
) -> anyhow::Result<()> {
    let receipt = receipt(session, id, answer)?;
    let text = serde_json::to_string_pretty(&receipt)? + "\n";
    std::fs::write(path, text)
        .with_context(|| format!("cannot write the receipt {}", path.display()))
}

fn receipt(session: &Session, id: SequenceId, answer: &Answer) -> anyhow::Result<Value> {
    let (sha256, _) = sha256_of(&session.path)?;
    let device = session.engine.device();
    let (info, executed) = (device.info(), device.executed());
    let kind = info.kind.name();
    let kernels: Vec<Value> = executed
        .iter()
        .map(|k| {
            let time_ns = (k.timed_launches > 0).then_some(k.time_ns);
            json!({ "kernel": k.kernel, "device": kind, "launches": k.launches, "time_ns": time_ns })
        })
        .collect();
    let receipt = json!({
        "model": {
            "name": session.name,
            "path": session.path.display().to_string(),
            "sha256": sha256,
        },
        "device": {
            "kind": kind,
            "name": info.name,
            "threads": info.threads,
            "features": info.features,
        },
        "kernels": kernels,
        "prompt": {
            "tokens": answer.prompt_tokens,
            "time_ms": answer.prompt_time.as_secs_f64() * 1e3,
        },
        "answer": {
            "tokens": answer.tokens,
            "decode_steps": answer.decode_steps,
            "decode_time_ms": answer.decode_time.as_secs_f64() * 1e3,
            "decode_bytes": answer.decode_bytes,
            "stop_reason": answer.ended.name(),
            "text": answer.text,
        },
        "kv": session.engine.options().kv.name(),
        "context": session.engine.options().context,
        "seed": answer.seed,
        "logits_hash": session.engine.options().hash_logits.then(|| format!("{:016x}", session.engine.logits_hash())),
        "tokens": session.engine.tokens(id)?,
        "build": build(),
    });
    Ok(receipt)
}

/// What was built, and how.
pub(crate) fn build() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "optimized": !cfg!(debug_assertions),
    })
}
