//! How a user names a model: a name, a file of the hub, or a path.
use super::error::StoreError;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Name(String),
    Hub { repo: String, file: Option<String> },
    Path(PathBuf),
}

/// Types from the most to the least wanted when a repository offers several: four bits with the
/// best quality first, then more bits, then what costs quality, then what costs memory.
const PREFERENCE: &[&str] = &[
    "Q4_K_M", "Q4_K_S", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4", "Q5_K_M", "Q5_K_S",
    "Q5_K", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "BF16", "F16",
    "F32",
];

/// `hf:owner/repo[:file]` is of the hub; what has a slash or ends in `.gguf` is a path; the rest
/// are names.
pub(crate) fn parse(text: &str) -> Result<Reference, StoreError> {
    let Some(rest) = text.strip_prefix("hf:") else {
        let is_path = text.contains(['/', '\\']) || text.ends_with(".gguf");
        return Ok(if is_path {
            Reference::Path(text.into())
        } else {
            Reference::Name(text.to_owned())
        });
    };
    let bad = |why| Err(StoreError::BadReference { text: text.to_owned(), why });
    let (repo, file) = match rest.split_once(':') {
        Some((repo, file)) => (repo, Some(file)),
        None => (rest, None),
    };
    let mut parts = repo.split('/');
    let (Some(owner), Some(name), None) = (parts.next(), parts.next(), parts.next()) else {
        return bad("the repository is owner/repo");
    };
    let plain = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(fits) && !part.chars().all(|c| c == '.')
    };
    if !plain(owner) || !plain(name) {
        return bad("owner and repo have letters, digits, '-', '_' and '.'");
    }
    if let Some(file) = file {
        let inside = file.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !inside || !file.ends_with(".gguf") || file.chars().any(char::is_control) {
            return bad("the file is a path inside the repository that ends in .gguf");
        }
    }
    Ok(Reference::Hub { repo: repo.to_owned(), file: file.map(str::to_owned) })
}

/// Chooses among a repository's files: the only GGUF file, or the one of the type that stands
/// first in [`PREFERENCE`]. Files in several pieces and image projectors do not count.
pub(crate) fn choose(repo: &str, files: &[String]) -> Result<String, StoreError> {
    let fits = |file: &&String| {
        let lower = file.to_ascii_lowercase();
        lower.ends_with(".gguf") && !lower.contains("mmproj") && !is_piece(&lower)
    };
    let models: Vec<&String> = files.iter().filter(fits).collect();
    let best = models.iter().filter_map(|file| rank(file)).min();
    let choices: Vec<&String> = match best {
        Some(best) => models.into_iter().filter(|file| rank(file) == Some(best)).collect(),
        None => models,
    };
    match choices.as_slice() {
        [] => Err(StoreError::NoFile { repo: repo.to_owned() }),
        [one] => Ok((*one).clone()),
        several => Err(StoreError::Ambiguous {
            repo: format!("hf:{repo}"),
            choices: several.iter().map(|file| format!("hf:{repo}:{file}")).collect(),
        }),
    }
}

/// `...-00001-of-00003.gguf`
fn is_piece(file: &str) -> bool {
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    let digits = |part: &str| part.len() == 5 && part.bytes().all(|byte| byte.is_ascii_digit());
    let Some((head, last)) = stem.rsplit_once("-of-") else { return false };
    digits(last) && head.rsplit_once('-').is_some_and(|(_, first)| digits(first))
}

/// The place in [`PREFERENCE`] of the type in a file's name; a type stands between separators, so
/// that `Q4_K` is not seen in `Q4_K_M`.
fn rank(file: &str) -> Option<usize> {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_uppercase();
    let stem = name.strip_suffix(".GGUF").unwrap_or(&name);
    let words: Vec<&str> = stem.split(['-', '.', ' ']).collect();
    PREFERENCE
        .iter()
        .position(|kind| words.iter().any(|word| word == kind))
        .or_else(|| PREFERENCE.iter().position(|kind| stem.ends_with(&format!("_{kind}"))))
}
