//! `bench`: Russet beside another engine, in one run, on the same files with the same threads.
mod machine;
mod measure;
mod peer;
mod report;
mod serve;

use crate::process::{build_russet, cache_dir, root, run as run_command};
use anyhow::{Context as _, Result, bail};
use measure::Side;
use peer::Peer;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask bench [OPTIONS]

  --peer llama-cpp     measure llama.cpp too, in turn with Russet, and give ratios
  --peer-python PATH   an interpreter that already has it [default: target/golden-venv, made when missing]
  --russet PATH        a russet to measure [default: builds one]
  --model PATH         a GGUF file; may be given several times [default: the two test models and three synthetic ones]
  --threads N          of both [default: as many as this process may use]
  --serve              the server instead: 16 clients at once, a known prefix, a long prompt beside a stream; the peer is
                       llama.cpp's own server, built from its Python package [default model: SmolLM2]
  --deep               also after 4096 tokens
  --quick              two pairs of runs instead of five, and no synthetic models; of servers one instead of three
  --json FILE          add the JSON lines to this file too; target/bench/results.jsonl always gets them
";

/// What the command line asks for.
#[derive(Debug, Default)]
struct Options {
    peer: bool,
    peer_python: Option<PathBuf>,
    russet: Option<PathBuf>,
    models: Vec<PathBuf>,
    threads: usize,
    serve: bool,
    deep: bool,
    quick: bool,
    json: Option<PathBuf>,
}

/// The test models.
const REAL: [&str; 2] = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf"];
/// Synthetic models of Llama 3.2 1B's shape in these formats.
const SYNTHETIC: [&str; 3] = ["Q4_K_M", "Q8_0", "BF16"];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = options(arguments)? else {
        print!("{USAGE}");
        return Ok(());
    };
    let dir = root().join("target/bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let russet = match &options.russet {
        Some(path) => path.clone(),
        None => {
            println!("bench: building russet");
            build_russet(&["--release"])?
        }
    };
    let peer =
        options.peer.then(|| Peer::prepare(options.peer_python.as_deref(), &dir)).transpose()?;
    if options.serve {
        return serve(&options, &russet, peer.as_ref(), &dir);
    }
    let models = match options.models.as_slice() {
        [] => default_models(&russet, &dir, options.quick)?,
        given => given.to_vec(),
    };
    let machine = machine::facts(&russet, peer.as_ref(), options.threads)?;
    println!("\n{}\n", machine.sentence());
    let sides = Side::all(&russet, peer.as_ref(), options.threads);
    let pairs = if options.quick { 2 } else { 5 };
    for model in &models {
        let results = measure::model(&sides, peer.as_ref(), model, options.deep, pairs)?;
        println!("{}", report::table(model, &results));
        keep(&options, &dir, &report::json(model, &results, &machine)?)?;
    }
    Ok(())
}

fn serve(options: &Options, russet: &Path, peer: Option<&Peer>, dir: &Path) -> Result<()> {
    let models = match options.models.as_slice() {
        [] => vec![cache_dir()?.join("models").join(REAL[0])],
        given => given.to_vec(),
    };
    let pairs = if options.quick { 1 } else { 3 };
    for model in &models {
        let programs = (russet, peer);
        let (table, line) = serve::run(programs, model, options.threads, pairs, dir)?;
        println!("{table}");
        keep(options, dir, &line)?;
    }
    Ok(())
}

/// None when help was asked for.
fn options(arguments: &[String]) -> Result<Option<Options>> {
    let mut options = Options {
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        ..Options::default()
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value =
            || rest.next().with_context(|| format!("{argument} needs a value\n\n{USAGE}"));
        match argument.as_str() {
            "--peer" => match value()?.as_str() {
                "llama-cpp" => options.peer = true,
                other => bail!("no peer is called {other:?}; there is llama-cpp"),
            },
            "--peer-python" => options.peer_python = Some(value()?.into()),
            "--russet" => options.russet = Some(value()?.into()),
            "--model" => options.models.push(value()?.into()),
            "--threads" => {
                options.threads = value()?.parse().context("--threads takes a number")?;
            }
            "--json" => options.json = Some(value()?.into()),
            "--serve" => options.serve = true,
            "--deep" => options.deep = true,
            "--quick" => options.quick = true,
            "--help" | "-h" => return Ok(None),
            other => bail!("unknown option {other:?}\n\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

fn default_models(russet: &Path, dir: &Path, quick: bool) -> Result<Vec<PathBuf>> {
    let skips = crate::models::run()?;
    skips.iter().for_each(|skip| println!("SKIPPED: {skip}"));
    let cache = cache_dir()?.join("models");
    let mut models: Vec<PathBuf> =
        REAL.map(|file| cache.join(file)).into_iter().filter(|path| path.exists()).collect();
    let formats: &[&str] = if quick { &[] } else { &SYNTHETIC };
    for format in formats {
        let path = dir.join(format!("llama-1b-{format}.gguf"));
        if !path.exists() {
            let mut synth = Command::new(russet);
            run_command(
                synth.arg("synth").arg(&path).args(["--shape", "llama-1b", "--format", format]),
            )?;
        }
        models.push(path);
    }
    Ok(models)
}

/// Adds a line of results to the log, and to the file that was named.
fn keep(options: &Options, dir: &Path, line: &str) -> Result<()> {
    let log = dir.join("results.jsonl");
    [Some(&log), options.json.as_ref()]
        .into_iter()
        .flatten()
        .try_for_each(|file| append(file, line))
}

fn append(path: &Path, line: &str) -> Result<()> {
    let open = fs::File::options().append(true).create(true).open(path);
    open.and_then(|mut file| writeln!(file, "{line}"))
        .with_context(|| format!("cannot write {}", path.display()))
}
