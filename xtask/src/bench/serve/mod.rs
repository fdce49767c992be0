//! `bench --serve`: `russet serve` beside llama.cpp's own server, asked the same by the same clients, one server at a time.
mod build;
mod client;
mod report;
mod scenario;
mod server;

use super::machine;
use super::peer::Peer;
use crate::process::root;
use anyhow::{Context as _, Result};
use report::Measure;
use scenario::Clients;
use server::{PARALLEL, Side};
use std::path::Path;

/// Later rounds of the batch, questions about a known prefix, and long prompts beside a stream, each per run of a server.
const ROUNDS: usize = 2;
const QUESTIONS: usize = 10;
const LONG_PROMPTS: usize = 1;

/// Measures both servers with `model` and returns the table and the line of JSON.
pub(super) fn run(
    programs: (&Path, Option<&Peer>),
    model: &Path,
    threads: usize,
    pairs: usize,
    dir: &Path,
) -> Result<(String, String)> {
    let (russet, peer) = programs;
    let server = peer.map(build::build).transpose()?;
    let machine = machine::facts(russet, peer, threads)?;
    println!("\n{}\n", machine.sentence());
    let text = std::fs::read_to_string(root().join("fixtures/models/perplexity.txt"))
        .context("the prompts are made of a text")?;
    let sides: Vec<Side<'_>> =
        [Side::Russet(russet)].into_iter().chain(server.as_deref().map(Side::Peer)).collect();
    let mut results = Vec::new();
    for pair in 0..pairs {
        let mut measured = Vec::new();
        for turn in 0..sides.len() {
            // Who goes first changes from pair to pair.
            let side = sides[(turn + pair) % sides.len()];
            println!("bench: {side:?}, {} of {pairs}", pair + 1);
            let server = side.start(model, threads, dir)?;
            let name = &model.display().to_string();
            let clients = Clients { address: server.address, model: name, text: &text };
            let twenty = pair == 0 && matches!(side, Side::Russet(_));
            measured.push(measure(&clients, twenty).with_context(|| format!("{side:?}"))?);
        }
        measured.rotate_right(pair % sides.len());
        results.push(measured);
    }
    Ok((report::table(&results), report::json(&super::measure::name(model), &results, &machine)))
}

/// Everything that one fresh server is asked; at the end `twenty` times the same.
fn measure(clients: &Clients<'_>, twenty: bool) -> Result<Vec<Measure>> {
    let batch = |round| clients.batch(round, PARALLEL as usize);
    let cold = batch(0)?;
    let warm = (1..=ROUNDS).map(batch).collect::<Result<Vec<_>>>()?;
    let first = (0..QUESTIONS).map(|n| Ok(clients.warm(n)?.first_ms()));
    let first = first.collect::<Result<Vec<f64>>>()?;
    let beside = (0..LONG_PROMPTS).map(|n| clients.beside(n)).collect::<Result<Vec<_>>>()?;
    let mut measures = report::of_batches(&cold, &warm);
    measures.push(report::of_warm(&first));
    measures.extend(report::of_beside(&beside));
    if twenty {
        measures.push(report::of_differing(clients.differing()?));
    }
    Ok(measures)
}
