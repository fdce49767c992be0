//! What clients do, and how long it takes them.
use super::client::{Answer, ask, ms};
use super::server::PARALLEL;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// Tokens of each answer.
const TOKENS: u32 = 64;
/// Of SmolLM2's tokens, that many characters of the text make about 300 and 2,000.
const SYSTEM_CHARS: usize = 1230;
const LONG_CHARS: usize = 8100;
/// Pieces of the running stream before the long prompt comes.
const ALONE_PIECES: usize = 96;
/// Enough that the stream outlasts the reading of the long prompt; nobody waits for its end.
const STREAM_TOKENS: u32 = 3500;
/// Runs of the same request alone, and again in a full batch.
const SAME_RUNS: usize = 10;

/// Asks one server; `text` is what prompts are made of.
#[derive(Debug)]
pub(super) struct Clients<'a> {
    pub(super) address: SocketAddr,
    pub(super) model: &'a str,
    pub(super) text: &'a str,
}

/// All answers of clients that asked at the same time.
#[derive(Debug)]
pub(super) struct Batch(pub(super) Vec<Answer>);

/// A running stream, and a long prompt that was read beside it.
#[derive(Debug)]
pub(super) struct Beside {
    /// Milliseconds between the stream's tokens while the long prompt was read, and between the same tokens of the same stream alone.
    pub(super) beside_ms: Vec<f64>,
    pub(super) alone_ms: Vec<f64>,
    /// From the long prompt's request to its first token.
    pub(super) prompt_ms: f64,
    pub(super) prompt_tokens: u32,
}

impl Batch {
    pub(super) fn tokens_per_second(&self) -> f64 {
        let begin = self.0.iter().map(|answer| answer.asked).min();
        let end = self.0.iter().filter_map(|answer| answer.pieces.last()).max();
        let tokens: u32 = self.0.iter().map(|answer| answer.answer_tokens).sum();
        begin
            .zip(end)
            .map_or(f64::NAN, |(begin, end)| f64::from(tokens) / (*end - begin).as_secs_f64())
    }
}

impl Clients<'_> {
    /// Clients with the same system prompt and a question of their own, all at once.
    pub(super) fn batch(&self, round: usize, clients: usize) -> Result<Batch> {
        let ask = |client: usize| {
            let number = 16 * round + client;
            let question = format!("Tell me a long story about {number} apples.");
            self.ask(&self.greedy(self.system(), &question, TOKENS))
        };
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..clients).map(|client| scope.spawn(move || ask(client))).collect();
            let answers =
                clients.into_iter().map(|client| client.join().expect("no client panics"));
            answers.collect::<Result<Vec<Answer>>>().map(Batch)
        })
    }

    /// One client asks a question about a system prompt that was asked about before.
    pub(super) fn warm(&self, number: usize) -> Result<Answer> {
        let question = format!("What is worth knowing about winter {number}?");
        self.ask(&self.greedy(self.system(), &question, 8))
    }

    /// One client reads a stream; then another's prompt of 2,000 tokens comes, which nobody asked before.
    pub(super) fn beside(&self, number: usize) -> Result<Beside> {
        let (told, leaves) = (AtomicBool::new(false), AtomicBool::new(false));
        let question = format!("Count from {number} to a million, one number a line.");
        let running = self.greedy("You count.", &question, STREAM_TOKENS);
        let long = format!("Draft {number}. {}", self.text.repeat(3));
        let long: String = long.chars().take(LONG_CHARS).collect();
        let other = self.greedy("You sum up.", &long, 1);
        let (ready, wait) = mpsc::channel();
        let (stream, other) = thread::scope(|scope| {
            let stream = scope.spawn(|| {
                // Dropped with the stream, which ends the wait for it.
                let ready = ready;
                ask(self.address, &running, |count| {
                    if count >= ALONE_PIECES && !told.swap(true, Ordering::Relaxed) {
                        ready.send(()).expect("it is waited for");
                    }
                    !leaves.load(Ordering::Relaxed)
                })
            });
            let other =
                wait.recv().context("the stream ended early").and_then(|()| self.ask(&other));
            leaves.store(true, Ordering::Relaxed);
            (stream.join().expect("no client panics"), other)
        });
        let (stream, other) = (stream?, other?);
        let first = *other.pieces.first().context("the long prompt had no answer")?;
        let last = stream.pieces.last();
        ensure!(
            last.is_some_and(|last| *last >= first),
            "the stream ended before the long prompt was read"
        );
        // The same tokens again, alone: a stream slows down by itself as it grows.
        let mut again = running;
        again["max_tokens"] = json!(stream.pieces.len() + 1);
        let again = self.ask(&again)?;
        let within = |pair: &[Instant]| pair[1] > other.asked && pair[0] < first;
        let gaps = stream.pieces.windows(2).zip(again.gaps_ms()).filter(|(pair, _)| within(pair));
        let (beside_ms, alone_ms) =
            gaps.map(|(pair, alone)| (ms(pair[1] - pair[0]), alone)).unzip();
        let (prompt_ms, prompt_tokens) = (other.first_ms(), other.prompt_tokens);
        Ok(Beside { alone_ms, beside_ms, prompt_ms, prompt_tokens })
    }

    /// How many of ten runs alone and ten in a full batch gave other text than the first.
    pub(super) fn differing(&self) -> Result<usize> {
        let mut same = self.greedy(self.system(), "Tell me about the harbour.", TOKENS);
        same["temperature"] = json!(0.8);
        same["seed"] = json!(7);
        let run = || self.ask(&same).map(|answer| answer.text);
        let mut texts = (0..SAME_RUNS).map(|_| run()).collect::<Result<Vec<_>>>()?;
        for round in 0..SAME_RUNS {
            let text = thread::scope(|scope| {
                let others = scope.spawn(move || self.batch(1000 + round, PARALLEL as usize - 1));
                let text = run();
                others.join().expect("no client panics").and(text)
            });
            texts.push(text?);
        }
        Ok(texts.iter().filter(|text| **text != texts[0]).count())
    }

    fn system(&self) -> &str {
        &self.text[..SYSTEM_CHARS]
    }

    fn ask(&self, body: &Value) -> Result<Answer> {
        ask(self.address, body, |_| true)
    }

    fn greedy(&self, system: &str, question: &str, tokens: u32) -> Value {
        json!({
            "model": self.model,
            "messages": [{ "role": "system", "content": system }, { "role": "user", "content": question }],
            "max_tokens": tokens,
            "temperature": 0,
            // Both know it under this name.
            "ignore_eos": true,
            "stream": true,
            "stream_options": { "include_usage": true },
        })
    }
}
