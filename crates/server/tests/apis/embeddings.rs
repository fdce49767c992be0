//! `/v1/embeddings`. The tiny model has a token for each letter, and one for "ab".
use crate::loopback::Server;
use serde_json::{Value, json};

const EMBEDDINGS: &str = "/v1/embeddings";

fn numbers(item: &Value) -> Vec<f64> {
    item["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn each_input_gets_a_vector_of_length_1_and_tokens_are_counted() {
    let server = Server::start();
    let answer = server.post(EMBEDDINGS, &json!({ "input": ["abc", "cab", "abc"] })).json(200);
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "tiny");
    // "ab" "c", "c" "ab", "ab" "c"
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 6, "total_tokens": 6 }));
    let data = answer["data"].as_array().unwrap();
    assert!(
        data.iter()
            .enumerate()
            .all(|(i, item)| item["index"] == i && item["object"] == "embedding")
    );
    let vectors: Vec<Vec<f64>> = data.iter().map(numbers).collect();
    // The tiny model's rows have 64 numbers.
    assert!(
        vectors
            .iter()
            .all(|vector| vector.len() == 64 && (cosine(vector, vector) - 1.0).abs() < 1e-5)
    );
    assert!(cosine(&vectors[0], &vectors[2]) > 0.99999);
    assert!(cosine(&vectors[0], &vectors[1]) < 0.999);
}

#[test]
fn pooling_and_formats_are_the_clients_choice() {
    let server = Server::start();
    let embed = |input: Value, pooling: &str| {
        let answer =
            server.post(EMBEDDINGS, &json!({ "input": input, "pooling": pooling })).json(200);
        numbers(&answer["data"][0])
    };
    // The first token sees nothing else, and of one token the first is the last and the mean.
    let first = embed(json!([5]), "last");
    assert!(cosine(&embed(json!([5, 9, 7]), "cls"), &first) > 0.99999);
    assert!(cosine(&embed(json!([5]), "mean"), &first) > 0.99999);
    assert!(cosine(&embed(json!([5, 9, 7]), "last"), &first) < 0.999);
    // The model's file says nothing: the mean.
    let default =
        server.post(EMBEDDINGS, &json!({ "input": [[5, 9, 7]], "dimensions": 64 })).json(200);
    assert!(cosine(&embed(json!([5, 9, 7]), "mean"), &numbers(&default["data"][0])) > 0.99999);
    let body = json!({ "input": [[5, 9, 7]], "encoding_format": "base64" });
    let answer = server.post(EMBEDDINGS, &body).json(200);
    // 64 numbers of 4 bytes; three bytes are four digits.
    let text = answer["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), 4 * (64 * 4_usize).div_ceil(3));
}

#[test]
fn what_cannot_be_embedded_is_refused_by_name() {
    let server = Server::start();
    let cases = [
        (json!({}), "input"),
        (json!({ "input": "" }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": ["abc", ""] }), "input"),
        (json!({ "input": [64] }), "input"),
        (json!({ "input": [["abc"]] }), "input"),
        (json!({ "input": "abc", "dimensions": 32 }), "dimensions"),
        (json!({ "input": "abc", "pooling": "rank" }), "pooling"),
        (json!({ "input": "abc", "encoding_format": "int8" }), "encoding_format"),
    ];
    for (body, field) in cases {
        let error = server.post(EMBEDDINGS, &body).json(400);
        assert_eq!(error["error"]["param"], field, "{error}");
    }
    let long = server.post(EMBEDDINGS, &json!({ "input": "c ".repeat(20_000) })).json(400);
    assert_eq!(long["error"]["code"], "context_length_exceeded");
}
