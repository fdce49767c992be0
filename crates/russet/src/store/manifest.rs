//! The list of models in the store: one JSON file, replaced as a whole.
use super::error::StoreError;
use super::partial::sync_dir_of;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A registered model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Inside the store when relative (then the file is the store's); the user's own when absolute.
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    /// Where it came from, in words.
    pub(crate) source: String,
    /// UTC, like `2025-01-31T12:00:00Z`.
    pub(crate) pulled_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub(crate) models: Vec<Entry>,
}

const VERSION: u32 = 1;

impl Manifest {
    pub(crate) fn new() -> Self {
        Self { version: VERSION, models: Vec::new() }
    }

    /// `None` when there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, StoreError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(path)(error)),
        };
        let damaged = |why| StoreError::BadManifest { path: path.to_owned(), why };
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(damaged(format!("version {}, not {VERSION}", manifest.version)));
        }
        Ok(Some(manifest))
    }

    /// Written beside it, brought to disk, renamed: a reader sees the old or the new list, and so
    /// does the next run after a power cut.
    pub(crate) fn save(&self, path: &Path) -> Result<(), StoreError> {
        let beside = path.with_extension("json.new");
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|error| StoreError::io(path)(error.into()))?;
        text.push(b'\n');
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(StoreError::io(&beside))?;
        fs::rename(&beside, path).map_err(StoreError::io(path))?;
        sync_dir_of(path)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.models.iter().find(|entry| entry.name == name)
    }

    /// Replaces the entry of the same name.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.models.retain(|other| other.name != entry.name);
        self.models.push(entry);
        self.models.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// Now, as RFC 3339.
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    rfc3339(since.as_secs())
}

/// Days to a date as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
