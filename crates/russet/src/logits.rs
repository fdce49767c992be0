//! `russet logits`: what a model thinks of each position of a prompt.
use crate::args::LogitsArguments;
use crate::environment::Environment;
use crate::run::prompt;
use crate::session::{Session, Watch};
use anyhow::Context as _;
use engine::LogitsHash;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

pub(crate) fn logits(
    arguments: &LogitsArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let given = match &arguments.tokens {
        Some(tokens) => Ok(tokens.clone()),
        None => Err(prompt(arguments.prompt.as_deref())?),
    };
    let mut session = Session::open(&arguments.model, Watch::default(), environment)?;
    let tokens = given.or_else(|text| session.tokenizer.encode_prompt(&text))?;
    let mut file = match &arguments.output {
        None => None,
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Some(BufWriter::new(file))
        }
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut hash = LogitsHash::default();
    let mut result = Ok(());
    let Session { engine, tokenizer, .. } = &mut session;
    engine.logits(&tokens, |position, row| {
        let text = |id: usize| tokenizer.token_text(u32::try_from(id).unwrap_or(u32::MAX));
        let mut each = || -> std::io::Result<()> {
            hash.add(row);
            if let Some(file) = &mut file {
                row.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
            }
            if !arguments.hash {
                write!(
                    out,
                    "{position}\t{}\t{:?}",
                    tokens[position],
                    text(tokens[position] as usize)
                )?;
                for (id, value) in top(row, arguments.top) {
                    write!(out, "\t{id} {:?} {value:.4}", text(id))?;
                }
                writeln!(out)?;
            }
            Ok(())
        };
        if result.is_ok() {
            result = each();
        }
    })?;
    result?;
    if let Some(mut file) = file {
        file.flush()?;
    }
    writeln!(out, "{:016x}", hash.0)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The `count` largest, largest first.
fn top(row: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}
