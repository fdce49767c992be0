//! `POST /v1/embeddings`.
use super::request;
use crate::ask::{Fields, Plain, Violations, blocking, encode};
use crate::http::{App, Body, Refused, object};
use axum::Json;
use axum::extract::State;
use engine::Pooling;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// As OpenAI's own server.
const INPUTS_MAX: usize = 2048;

struct Request {
    model: Option<String>,
    inputs: Vec<Plain>,
    base64: bool,
    /// How many numbers the client expects.
    dimensions: Option<u32>,
    /// None: as the model's file says.
    pooling: Option<Pooling>,
}

pub(super) async fn embeddings(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let Request { model, inputs, base64, dimensions, pooling } = read(&object(body)?)?;
    let served = app.models.get(model.as_deref()).await?;
    let for_thread = Arc::clone(&served);
    let texts = blocking(move || {
        let one = |input: &Plain| encode(&for_thread, "input", input);
        inputs.iter().map(one).collect::<Result<Vec<_>, Refused>>()
    });
    let texts = texts.await??;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let pooling = pooling.unwrap_or(served.facts.pooling);
    let embeddings = app.embed(&served, texts, pooling).await?;
    let length = embeddings.first().map_or(0, Vec::len);
    if dimensions.is_some_and(|wanted| wanted as usize != length) {
        let message = format!("`dimensions` must be {length}: embeddings cannot be cut");
        return Err(Refused::field("dimensions", message));
    }
    let data = embeddings.iter().enumerate().map(|(index, numbers)| {
        let embedding = if base64 { json!(base64_of(numbers)) } else { json!(numbers) };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    Ok(Json(json!({
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": served.facts.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

fn read(body: &Map<String, Value>) -> Result<Request, Refused> {
    let violations = Violations::default();
    let fields = violations.fields(body);
    let request = Request {
        model: request::model(&fields),
        inputs: inputs(&fields),
        base64: fields.one_of("encoding_format", &["float", "base64"]) == Some("base64"),
        dimensions: fields.count("dimensions", 1),
        pooling: fields.one_of("pooling", &["mean", "last", "cls"]).map(|pooling| match pooling {
            "mean" => Pooling::Mean,
            "last" => Pooling::Last,
            _ => Pooling::Cls,
        }),
    };
    violations.check()?;
    Ok(request)
}

fn inputs(fields: &Fields<'_>) -> Vec<Plain> {
    let inputs = request::plain(fields, "input", INPUTS_MAX);
    let is_empty = |input: &Plain| match input {
        Plain::Text(text) => text.is_empty(),
        Plain::Tokens(tokens) => tokens.is_empty(),
    };
    if inputs.iter().any(is_empty) {
        fields.wrong("input", "must not have empty texts");
    }
    inputs
}

/// The numbers' bytes, the lowest first, in base 64 (RFC 4648).
fn base64_of(numbers: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*three.get(i).unwrap_or(&0)));
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            let there = digit <= three.len();
            text.push(if there { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_pythons_module() {
        // base64.b64encode(struct.pack("<f", 1.0)), and of (0.5, -2.0), and of (0.1, 3.0, -1e9)
        assert_eq!(base64_of(&[1.0]), "AACAPw==");
        assert_eq!(base64_of(&[0.5, -2.0]), "AAAAPwAAAMA=");
        assert_eq!(base64_of(&[0.1, 3.0, -1e9]), "zczMPQAAQEAoa27O");
        assert_eq!(base64_of(&[]), "");
    }
}
