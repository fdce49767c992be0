//! `russet pull`, `russet list`, `russet rm`.
use crate::environment::Environment;
use crate::session::say;
use crate::store::Terminal;
use std::io::Write as _;
use std::process::ExitCode;

pub(crate) fn pull(model: &str, environment: &Environment) -> anyhow::Result<ExitCode> {
    let store = environment.store()?;
    let entry = store.pull(model, &environment.sources, &mut Terminal::default())?;
    writeln!(std::io::stdout(), "{}\t{}", entry.name, store.path_of(&entry).display())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(json: bool, environment: &Environment) -> anyhow::Result<ExitCode> {
    let store = environment.store()?;
    let entries = store.list()?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        say("the store is empty; `russet pull smollm2` fetches the default model");
    }
    for entry in &entries {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let megabytes = entry.bytes as f64 / 1e6;
        let path = store.path_of(entry);
        writeln!(out, "{}\t{megabytes:.1} MB\t{}\t{}", entry.name, entry.source, path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn remove(model: &str, environment: &Environment) -> anyhow::Result<ExitCode> {
    let removed = environment.store()?.remove(model)?;
    let file =
        if removed.file_deleted { "its file was deleted" } else { "its file stays where it is" };
    say(&format!("{} was removed; {file}", removed.entry.name));
    Ok(ExitCode::SUCCESS)
}
