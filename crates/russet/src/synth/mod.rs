//! `russet synth`: a model of a published shape with random weights, to measure speed without a download.
mod blocks;
mod shapes;
mod vocabulary;

use crate::args::SynthArguments;
use crate::session::say;
use anyhow::{Context as _, bail};
use blocks::Random;
use model::gguf::{ALIGNMENT, Array, Gguf, HeaderWriter, Value};
pub(crate) use shapes::{Mix, Shape};
use shapes::{Planned, Sizes, tensors};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
pub(crate) use vocabulary::SIZE_MIN;
use vocabulary::Vocabulary;

/// Bytes made and written at a time, rounded down to whole blocks.
const CHUNK_BYTES: usize = 1 << 20;

pub(crate) fn synth(arguments: &SynthArguments) -> anyhow::Result<ExitCode> {
    let output = &arguments.output;
    refuse_to_replace(arguments)?;
    let since = Instant::now();
    let mut sizes = arguments.shape.sizes();
    sizes.layers = arguments.layers.unwrap_or(sizes.layers);
    sizes.vocabulary = arguments.vocabulary.unwrap_or(sizes.vocabulary);
    let name = name(arguments.shape, arguments.format);
    let tensors = tensors(&sizes, arguments.format);
    let header = header(&sizes, &name, &tensors, arguments.seed)?;
    let data_bytes = header.data_bytes();
    let header = header.finish();
    let bytes = header.len() as u64 + data_bytes;
    let partial = Partial::new(output)?;
    // Not synced: what a crash of the machine spoils can be made again.
    partial
        .write(&header, &tensors, arguments.seed)
        .map_err(|error| explain(error, output, bytes))?;
    refuse_to_replace(arguments)?;
    partial.publish(output)?;
    say(&format!(
        "{}: {name}, {:.2} GB, {} tensors, {:.1} s",
        output.display(),
        gigabytes(bytes),
        tensors.len(),
        since.elapsed().as_secs_f64()
    ));
    Ok(ExitCode::SUCCESS)
}

fn name(shape: Shape, mix: Mix) -> String {
    format!("synthetic {} {}", shape.name(), mix.name())
}

fn header(
    sizes: &Sizes,
    name: &str,
    tensors: &[Planned],
    seed: u64,
) -> anyhow::Result<HeaderWriter> {
    let mut header = HeaderWriter::default();
    describe(&mut header, sizes, name, seed);
    for tensor in tensors {
        header.tensor(&tensor.name, tensor.format, &tensor.shape).with_context(|| {
            let (format, columns) = (tensor.format, tensor.shape[0]);
            format!("{}: rows of {columns} are no whole blocks of {format}", tensor.name)
        })?;
    }
    Ok(header)
}

/// A model of this shape whose weights are all zeros: a file with a hole, for plans that look at sizes only.
pub(crate) fn hollow(shape: Shape, mix: Mix) -> anyhow::Result<Gguf> {
    let sizes = shape.sizes();
    let header = header(&sizes, &name(shape, mix), &tensors(&sizes, mix), 0)?;
    let data_bytes = header.data_bytes();
    let header = header.finish();
    let unique = format!("russet-hollow-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(unique);
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(&header)?;
        file.set_len(header.len() as u64 + data_bytes)
    };
    let opened = write()
        .with_context(|| format!("cannot write {}", path.display()))
        .and_then(|()| Ok(Gguf::open(&path)?));
    // What is mapped stays readable.
    drop(fs::remove_file(&path));
    opened
}

fn refuse_to_replace(arguments: &SynthArguments) -> anyhow::Result<()> {
    if !arguments.force && fs::symlink_metadata(&arguments.output).is_ok() {
        bail!("{} exists; --force replaces it", arguments.output.display());
    }
    Ok(())
}

fn explain(error: std::io::Error, output: &Path, bytes: u64) -> anyhow::Error {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let needs =
        if full { format!(" (the file takes {:.2} GB)", gigabytes(bytes)) } else { String::new() };
    anyhow::Error::new(error).context(format!("cannot write {}{needs}", output.display()))
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// The metadata that Russet and llama.cpp ask for.
fn describe(header: &mut HeaderWriter, sizes: &Sizes, name: &str, seed: u64) {
    header.set("general.architecture", &Value::String(sizes.architecture.to_owned()));
    header.set("general.name", &Value::String(name.to_owned()));
    let mut set = |key: &str, value| header.set(&format!("{}.{key}", sizes.architecture), &value);
    set("vocab_size", Value::U32(sizes.vocabulary));
    set("context_length", Value::U32(sizes.context));
    set("embedding_length", Value::U32(sizes.dim));
    set("block_count", Value::U32(sizes.layers));
    set("feed_forward_length", Value::U32(sizes.hidden));
    set("attention.head_count", Value::U32(sizes.heads));
    set("attention.head_count_kv", Value::U32(sizes.kv_heads));
    set("attention.key_length", Value::U32(sizes.head_dim));
    set("attention.value_length", Value::U32(sizes.head_dim));
    set("attention.layer_norm_rms_epsilon", Value::F32(sizes.epsilon));
    set("rope.dimension_count", Value::U32(sizes.head_dim));
    set("rope.freq_base", Value::F32(sizes.rope_base));
    if let Some(window) = sizes.window {
        set("attention.sliding_window", Value::U32(window));
    }
    let vocabulary = Vocabulary::new(sizes.vocabulary, &mut Random::new(seed, u64::MAX));
    let mut set = |key: &str, value| header.set(&format!("tokenizer.ggml.{key}"), &value);
    set("model", Value::String("gpt2".to_owned()));
    set("pre", Value::String("gpt-2".to_owned()));
    set("tokens", Value::Array(Array::Strings(vocabulary.tokens)));
    set("token_type", Value::Array(Array::I32(vocabulary.types)));
    set("merges", Value::Array(Array::Strings(vocabulary.merges)));
    set("bos_token_id", Value::U32(vocabulary.end));
    set("eos_token_id", Value::U32(vocabulary.end));
    set("add_bos_token", Value::Bool(false));
    set("add_eos_token", Value::Bool(false));
}

/// The file under another name until it is complete. Removed when it is dropped before that.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Beside `output`, so that the rename stays on one disk. What a killed run left there is written over.
    fn new(output: &Path) -> anyhow::Result<Self> {
        let mut path = output.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let open = File::options().write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("cannot create {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("another process is writing {}", path.display());
        }
        file.set_len(0).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(&self, header: &[u8], tensors: &[Planned], seed: u64) -> std::io::Result<()> {
        let mut file = &self.file;
        file.write_all(header)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        for (stream, tensor) in (0..).zip(tensors) {
            write_tensor(&self.file, tensor, &mut Random::new(seed, stream), &mut chunk)?;
        }
        Ok(())
    }

    fn publish(self, output: &Path) -> anyhow::Result<()> {
        fs::rename(&self.path, output)
            .with_context(|| format!("cannot name the file {}", output.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and where removing fails nothing better can be done.
        drop(fs::remove_file(&self.path));
    }
}

/// Writes one tensor and the padding after it. `chunk` is scratch.
fn write_tensor(
    mut file: &File,
    tensor: &Planned,
    random: &mut Random,
    chunk: &mut [u8],
) -> std::io::Result<()> {
    let (elements, block) = (tensor.format.block_elements() as u64, tensor.format.block_bytes());
    let bytes = tensor.shape.iter().product::<u64>() / elements * block as u64;
    let mut left = bytes;
    while left > 0 {
        let whole = (chunk.len() / block * block) as u64;
        let part = &mut chunk[..usize::try_from(left.min(whole)).unwrap_or(block)];
        if tensor.is_norm() {
            part.as_chunks_mut().0.fill(1f32.to_le_bytes());
        } else {
            blocks::fill(tensor.format, deviation(tensor.shape[0]), random, part);
        }
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    let padding = bytes.next_multiple_of(ALIGNMENT) - bytes;
    std::io::copy(&mut std::io::repeat(0).take(padding), &mut file).map(drop)
}

/// Keeps what goes through a matrix of so many columns at its size.
#[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 numbers")]
fn deviation(columns: u64) -> f32 {
    1.0 / (columns as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Model;
    use model::tokenizer::Tokenizer;
    use ops::format::Format;

    fn arguments(output: PathBuf, shape: Shape, format: Mix) -> SynthArguments {
        let (layers, vocabulary) = (Some(1), Some(SIZE_MIN));
        SynthArguments { output, shape, format, seed: 3, layers, vocabulary, force: false }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("russet-synth-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn every_shape_and_format_opens_as_a_model() {
        let directory = directory("open");
        let shapes = [Shape::Smollm2, Shape::Qwen3, Shape::Gemma3];
        let all = Format::ALL.map(|format| (Shape::Smollm2, Mix::All(format)));
        for (shape, mix) in shapes.map(|shape| (shape, Mix::Q4KM)).into_iter().chain(all) {
            let output = directory.join(format!("{shape:?}-{}.gguf", mix.name()));
            synth(&arguments(output.clone(), shape, mix)).unwrap();
            let model = Model::open(&output, 64).unwrap();
            assert_eq!(model.config.dim, shape.sizes().dim);
            let tokenizer = Tokenizer::from_gguf(model.gguf.metadata()).unwrap();
            let text = "any text at all: \u{20ac}\n";
            let ids = tokenizer.encode_prompt(text).unwrap();
            assert_eq!(tokenizer.decode(&ids, model::tokenizer::Control::Keep), text);
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_same_seed_writes_the_same_file_and_nothing_is_replaced_unasked() {
        let directory = directory("replace");
        let mut arguments = arguments(directory.join("a.gguf"), Shape::Smollm2, Mix::Q4KM);
        synth(&arguments).unwrap();
        let first = fs::read(&arguments.output).unwrap();
        let refused = synth(&arguments).unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        arguments.force = true;
        synth(&arguments).unwrap();
        assert!(fs::read(&arguments.output).unwrap() == first);
        arguments.seed += 1;
        synth(&arguments).unwrap();
        assert!(fs::read(&arguments.output).unwrap() != first);
        let names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a.gguf"], "no partial file is left");
        fs::remove_dir_all(directory).unwrap();
    }
}
