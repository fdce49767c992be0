//! GGUF files: a header of typed metadata and a tensor directory, then the tensor data, mapped.
//! Source: `docs/gguf.md` in the ggml repository. Versions 2 and 3, little endian.

mod error;
mod metadata;
mod parse;
mod types;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use ops::format::Format;

pub use error::{Error, Fault, Missing, Place, Unsupported};
pub use metadata::{Array, Metadata, Strings, Value};
pub use parse::{Header, limits, parse};
pub use write::{ALIGNMENT, HeaderWriter};

/// Where a tensor lies in the file and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub format: Format,
    /// Dimensions in ggml's `ne` order: the contiguous one first. One to four, none zero.
    pub shape: Vec<u64>,
    /// Bytes from the start of the file to the first weight.
    pub offset: u64,
    /// Bytes of the whole tensor.
    pub bytes: u64,
}

impl TensorInfo {
    /// Weights in a row: the contiguous dimension.
    #[must_use]
    pub fn columns(&self) -> u64 {
        self.shape[0]
    }

    /// Number of rows: the product of the other dimensions.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape[1..].iter().product()
    }
}

/// An open GGUF file, mapped read-only.
///
/// The mapping follows the file: whoever truncates it while it is open makes later reads fault.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    place: Place,
    header: Header,
    /// Indices into the tensors, sorted by name.
    by_name: Vec<usize>,
    mapping: Arc<Mmap>,
    file: File,
}

impl Gguf {
    /// Maps the file at `path` and checks its header: after this every tensor is known to lie
    /// inside the file. Tensor data is not read: see [`Self::check_scales`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = Place::new(path);
        let (file, mapping) =
            map(path).map_err(|source| Error::Io { place: place.clone(), source })?;
        let mut header = parse(&mapping).map_err(|e| e.at(&place))?;
        header.metadata.set_place(&place);
        let mut by_name: Vec<usize> = (0..header.tensors.len()).collect();
        by_name.sort_unstable_by_key(|&i| header.tensors[i].name.as_str());
        Ok(Self { path: path.to_owned(), place, header, by_name, mapping: Arc::new(mapping), file })
    }

    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// All tensors, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor called `name`, or an error that names file and tensor.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.find(name)
            .ok_or_else(|| Error::from(Missing::Tensor { tensor: name.to_owned() }).at(&self.place))
    }

    /// The tensor called `name`, where the file has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = self.tensors();
        let at = self.by_name.binary_search_by_key(&name, |&i| tensors[i].name.as_str()).ok()?;
        Some(&tensors[self.by_name[at]])
    }

    /// The weights of `tensor`, as stored.
    ///
    /// # Panics
    /// When `tensor` is of another file and does not lie inside this one.
    #[must_use]
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let range = usize::try_from(tensor.offset)
            .ok()
            .zip(usize::try_from(tensor.bytes).ok())
            .and_then(|(start, bytes)| self.mapping.get(start..start.checked_add(bytes)?));
        range.unwrap_or_else(|| panic!("tensor `{}` is not of this file", tensor.name))
    }

    /// Copies a part of the file out by a read, which leaves no pages of the mapping behind. `at` counts from the start of the file.
    pub fn read_at(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_exact_at(&self.file, to, at);
        #[cfg(not(unix))]
        let read = {
            use std::io::{Read as _, Seek as _, SeekFrom};
            (&self.file).seek(SeekFrom::Start(at)).and_then(|_| (&self.file).read_exact(to))
        };
        read.map_err(|source| Error::Io { place: self.place.clone(), source })
    }

    /// Lets go of the mapping's pages in a part of the file, for whoever has copied it: they no longer count as memory of this
    /// process, and come again when they are read. `at` counts from the start of the file.
    pub fn forget(&self, at: u64, bytes: u64) {
        #[cfg(unix)]
        if let (Ok(at), Ok(bytes)) = (usize::try_from(at), usize::try_from(bytes)) {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            #[expect(unsafe_code, reason = "the mapping's pages are dropped")]
            // SAFETY: the mapping is of a file and never written, so its bytes read the same again. Advice only.
            drop(unsafe { self.mapping.unchecked_advise_range(advice, at, bytes) });
        }
    }

    /// The error for a NaN or infinite scale in block `block` of the tensor called `name`.
    #[must_use]
    pub fn bad_scale(&self, name: &str, block: usize) -> Error {
        Error::from(Fault::Scale { tensor: name.to_owned(), block }).at(&self.place)
    }

    /// Reads all of `tensor` and refuses NaN or infinite scales.
    ///
    /// # Panics
    /// As [`Self::bytes`].
    pub fn check_scales(&self, tensor: &TensorInfo) -> Result<(), Error> {
        match tensor.format.first_bad_block(self.bytes(tensor)) {
            None => Ok(()),
            Some(block) => Err(self.bad_scale(&tensor.name, block)),
        }
    }

    /// The whole file.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mmap> {
        &self.mapping
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.header.version
    }
}

fn map(path: &Path) -> std::io::Result<(File, Mmap)> {
    let file = File::open(path)?;
    #[expect(unsafe_code, reason = "a file is mapped; reading gigabytes would double the memory")]
    // SAFETY: the mapping is read-only and private to us; `Gguf` documents that the file must not
    // be truncated while open, and bytes that change under us are only ever read as numbers.
    let mapping = unsafe { Mmap::map(&file)? };
    Ok((file, mapping))
}
