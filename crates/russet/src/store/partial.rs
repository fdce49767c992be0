//! A file that is being fetched: hashed while it grows, kept when the transfer breaks, given its
//! name only when the hash is right.
use super::error::StoreError;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 1 << 18;
/// Of the hash, in a file's name.
const HASH_DIGITS: usize = 12;

#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Partial {
    /// Goes on with the file if it is there. What it holds is hashed again: nothing else vouches
    /// for it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io(&path))?;
        let (hash, bytes) = digest(&mut file).map_err(StoreError::io(&path))?;
        Ok(Self { path, file, hash, bytes })
    }

    /// Bytes that are there; the next one written follows them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops what is there.
    pub(crate) fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(StoreError::io(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(StoreError::io(&self.path))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    pub(crate) fn write(&mut self, block: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(block).map_err(StoreError::io(&self.path))?;
        self.hash.update(block);
        self.bytes += block.len() as u64;
        Ok(())
    }

    /// Gives the finished file its name in `dir`, safe against a power cut. With a wrong size or
    /// hash the partial file goes away, so that the next try starts clean, and nothing in `dir`
    /// is touched. Returns the path and the hash.
    pub(crate) fn finish(
        self,
        dir: &Path,
        file: &str,
        expected: &Expected,
    ) -> Result<(PathBuf, String), StoreError> {
        let found = hex(&self.hash.finalize());
        if let Err(wrong) = expected.check(file, self.bytes, &found) {
            fs::remove_file(&self.path).map_err(StoreError::io(&self.path))?;
            return Err(wrong);
        }
        self.file.sync_all().map_err(StoreError::io(&self.path))?;
        let target = dir.join(file_name(file, &found));
        fs::rename(&self.path, &target).map_err(StoreError::io(&target))?;
        sync_dir_of(&target)?;
        Ok((target, found))
    }
}

/// A file's name in the store: two files of the same name and different content live side by side.
pub(crate) fn file_name(file: &str, sha256: &str) -> String {
    let last = file.rsplit('/').next().unwrap_or(file);
    format!("{}-{last}", sha256.get(..HASH_DIGITS).unwrap_or(sha256))
}

/// The inverse of [`file_name`]: what follows the hash.
pub(crate) fn name_in(file_name: &str) -> &str {
    file_name.get(HASH_DIGITS + 1..).unwrap_or(file_name)
}

/// What a fetched file must be, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<String>,
}

impl Expected {
    fn check(&self, file: &str, bytes: u64, sha256: &str) -> Result<(), StoreError> {
        let what = file.to_owned();
        if let Some(expected) = self.bytes.filter(|expected| *expected != bytes) {
            return Err(StoreError::WrongSize { what, found: bytes, expected });
        }
        match &self.sha256 {
            Some(expected) if expected != sha256 => Err(StoreError::WrongHash {
                what,
                found: sha256.to_owned(),
                expected: expected.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// A rename is on disk only when its directory is.
pub(crate) fn sync_dir_of(path: &Path) -> Result<(), StoreError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io(dir))
}

/// Lower-case hash and size of a whole file.
pub(crate) fn sha256_of(path: &Path) -> Result<(String, u64), StoreError> {
    let mut file = File::open(path).map_err(StoreError::io(path))?;
    let (hash, bytes) = digest(&mut file).map_err(StoreError::io(path))?;
    Ok((hex(&hash.finalize()), bytes))
}

fn digest(from: &mut impl Read) -> std::io::Result<(Sha256, u64)> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            return Ok((hash, bytes));
        }
        hash.update(&block[..count]);
        bytes += count as u64;
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
