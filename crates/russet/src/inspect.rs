//! `russet inspect`: what a model file holds, whether it can be run, and what that takes.
use crate::args::InspectArguments;
use crate::environment::Environment;
use crate::session::find;
use crate::table::{Align, Table, bytes, count};
use anyhow::Context as _;
use engine::{MemoryPlan, Options, context_that_fits, token_bytes};
use model::chat::ChatTemplate;
use model::gguf::{Array, Gguf, Metadata, TensorInfo, Value as Entry};
use model::tokenizer::Tokenizer;
use model::{Config, Model, RopeScaling};
use ops::KvFormat;
use ops::format::Format;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

/// A file and what was made of it.
struct Inspection {
    gguf: Gguf,
    file_bytes: u64,
    tokenizer: Result<Tokenizer, String>,
    template: Result<ChatTemplate, model::chat::Error>,
    model: Result<(Model, Memory), String>,
}

/// What running the model takes on this machine.
struct Memory {
    context: u32,
    /// Chosen when `--ctx` is not given.
    context_default: u32,
    plan: MemoryPlan,
    cache_token_bytes: u64,
    /// None where the system does not tell.
    free: Option<u64>,
}

pub(crate) fn inspect(
    arguments: &InspectArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let path = find(&arguments.model, environment)?;
    let inspection = Inspection::new(&path, arguments.ctx, arguments.kv.into())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &inspection.json()).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        inspection.print(arguments, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

impl Inspection {
    fn new(path: &Path, ctx: Option<u32>, kv: KvFormat) -> anyhow::Result<Self> {
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::from_gguf(gguf.metadata()).map_err(|error| error.to_string());
        let template = match &tokenizer {
            Ok(tokenizer) => ChatTemplate::from_gguf(gguf.metadata(), tokenizer),
            Err(_) => Err(model::chat::Error::NoTemplate),
        };
        let model = planned(Gguf::open(path)?, ctx, kv).map_err(|error| format!("{error:#}"));
        Ok(Self { file_bytes: std::fs::metadata(path)?.len(), gguf, tokenizer, template, model })
    }

    /// Why `russet run` would refuse the file; empty when it would not.
    fn why_not(&self) -> Vec<&str> {
        let model = self.model.as_ref().err().map(String::as_str);
        let tokenizer = self.tokenizer.as_ref().err().map(String::as_str);
        model.into_iter().chain(tokenizer).collect()
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.gguf.metadata().opt_str(key).ok().flatten()
    }
}

fn planned(gguf: Gguf, ctx: Option<u32>, kv: KvFormat) -> anyhow::Result<(Model, Memory)> {
    let model = Model::from_gguf(gguf, ctx.unwrap_or(0))?;
    let free = hal::cpu::memory_bytes_free();
    let context_default = context_that_fits(&model, kv, free.unwrap_or(u64::MAX));
    let context = ctx.unwrap_or(context_default);
    let chosen = hal::probe().into_iter().find_map(|row| row.device.ok());
    let info = chosen.context("no device can run a model here")?;
    let plan = MemoryPlan::new(&model, &info, &Options { kv, ..Options::single(context) })?;
    let cache_token_bytes = token_bytes(&model, kv);
    Ok((model, Memory { context, context_default, plan, cache_token_bytes, free }))
}

/// Tensors, weights and bytes of each format in the file, in the order of [`Format::ALL`].
fn by_format(tensors: &[TensorInfo]) -> Vec<(Format, usize, u64, u64)> {
    let of = |format: Format| {
        let own = tensors.iter().filter(move |tensor| tensor.format == format);
        let sums = own.fold((0, 0, 0), |(number, weights, bytes), tensor| {
            (number + 1, weights + weights_of(tensor), bytes + tensor.bytes)
        });
        (format, sums.0, sums.1, sums.2)
    };
    Format::ALL.into_iter().map(of).filter(|(_, number, ..)| *number > 0).collect()
}

/// The name of the format that most of a file's weights have.
pub(crate) fn quantization(tensors: &[TensorInfo]) -> &'static str {
    let formats = by_format(tensors).into_iter();
    formats.max_by_key(|(_, _, weights, _)| *weights).map_or("", |(format, ..)| format.name())
}

fn weights_of(tensor: &TensorInfo) -> u64 {
    tensor.columns() * tensor.rows()
}

#[expect(clippy::cast_precision_loss, reason = "shown with three decimals")]
fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    8.0 * bytes as f64 / weights as f64
}

/// As JSON: complete, with stable names.
impl Inspection {
    fn json(&self) -> Value {
        let tensors = self.gguf.tensors();
        let formats = by_format(tensors).into_iter().map(|(format, number, weights, bytes)| {
            json!({ "format": format.name(), "tensors": number, "parameters": weights, "bytes": bytes })
        });
        let metadata = self.gguf.metadata().iter();
        let why_not = self.why_not();
        json!({
            "path": self.gguf.path().display().to_string(),
            "file_bytes": self.file_bytes,
            "gguf_version": self.gguf.version(),
            "name": self.text("general.name"),
            "architecture": self.text("general.architecture"),
            "runs": why_not.is_empty(),
            "why_not": why_not,
            "config": self.model.as_ref().ok().map(|(model, _)| config_json(&model.config)),
            "tokenizer": self.tokenizer_json(),
            "parameters": tensors.iter().map(weights_of).sum::<u64>(),
            "tensor_bytes": tensors.iter().map(|tensor| tensor.bytes).sum::<u64>(),
            "formats": formats.collect::<Vec<_>>(),
            "memory": self.model.as_ref().ok().map(|(model, memory)| memory.json(&model.config)),
            "tensors": tensors.iter().map(tensor_json).collect::<Vec<_>>(),
            "metadata": metadata.map(|(key, value)| (key.to_owned(), entry_json(value))).collect::<Map<_, _>>(),
        })
    }

    fn tokenizer_json(&self) -> Value {
        let Ok(tokenizer) = &self.tokenizer else { return Value::Null };
        json!({
            "kind": format!("{:?}", tokenizer.kind()),
            "vocabulary": tokenizer.vocab_size(),
            "begin": tokenizer.bos(),
            "end": tokenizer.eos(),
            "ends_generation": tokenizer.end_of_generation(),
            "adds_begin": tokenizer.adds_bos(),
            "chat_template": match &self.template {
                Ok(_) => "ok".to_owned(),
                Err(model::chat::Error::NoTemplate) => "none".to_owned(),
                Err(error) => error.to_string(),
            },
        })
    }
}

impl Memory {
    fn json(&self, config: &Config) -> Value {
        json!({
            "context": self.context,
            "context_default": self.context_default,
            "context_of_model": config.context,
            "weight_bytes": self.plan.weights,
            "cache_bytes": self.plan.cache,
            "cache_bytes_per_token": self.cache_token_bytes,
            "activation_bytes": self.plan.activations,
            "input_bytes": self.plan.inputs,
            "total_bytes": self.plan.total(),
            "free_bytes": self.free,
            "fits": self.free.is_none_or(|free| self.plan.total() <= free),
        })
    }
}

fn tensor_json(tensor: &TensorInfo) -> Value {
    json!({
        "name": tensor.name,
        "format": tensor.format.name(),
        "shape": tensor.shape,
        "offset": tensor.offset,
        "bytes": tensor.bytes,
    })
}

fn config_json(config: &Config) -> Value {
    let rope = config.rope.map(|rope| {
        let (scaling, factor, before) = match rope.scaling {
            RopeScaling::None => ("none", None, None),
            RopeScaling::Linear { factor } => ("linear", Some(factor), None),
            RopeScaling::Yarn { factor, context_before } => {
                ("yarn", Some(factor), Some(context_before))
            }
        };
        json!({
            "dims": rope.dims,
            "pairing": config.row.pairing.map(|pairing| format!("{pairing:?}").to_lowercase()),
            "base": decimal(rope.base),
            "base_local": decimal(rope.base_local),
            "scaling": scaling,
            "factor": factor.map(decimal),
            "context_before": before,
            "amplitude": decimal(rope.amplitude),
        })
    });
    json!({
        "layers": config.layers,
        "dim": config.dim,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden": config.hidden,
        "vocabulary": config.vocabulary,
        "context": config.context,
        "norm": format!("{:?}", config.row.norm).to_lowercase(),
        "epsilon": decimal(config.epsilon),
        "activation": format!("{:?}", config.row.activation).to_lowercase(),
        "attention_scale": decimal(config.attention_scale),
        "rope": rope,
        "window": config.window,
        "local_layers": config.local_layers.iter().filter(|local| **local).count(),
        "final_softcap": config.final_softcap.map(decimal),
    })
}

/// The shortest decimal that reads back as the same f32, so that 1e-5 is shown as such.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn entry_json(entry: &Entry) -> Value {
    match entry {
        Entry::U8(v) => json!(v),
        Entry::I8(v) => json!(v),
        Entry::U16(v) => json!(v),
        Entry::I16(v) => json!(v),
        Entry::U32(v) => json!(v),
        Entry::I32(v) => json!(v),
        Entry::U64(v) => json!(v),
        Entry::I64(v) => json!(v),
        Entry::F32(v) => decimal(*v),
        Entry::F64(v) => json!(v),
        Entry::Bool(v) => json!(v),
        Entry::String(v) => json!(v),
        Entry::Array(array) => elements(array, usize::MAX),
    }
}

/// The first `count` elements.
fn elements(array: &Array, count: usize) -> Value {
    fn first<T: Copy + Into<Value>>(values: &[T], count: usize) -> Value {
        values.iter().take(count).map(|value| (*value).into()).collect()
    }
    match array {
        Array::U8(v) => first(v, count),
        Array::I8(v) => first(v, count),
        Array::U16(v) => first(v, count),
        Array::I16(v) => first(v, count),
        Array::U32(v) => first(v, count),
        Array::I32(v) => first(v, count),
        Array::U64(v) => first(v, count),
        Array::I64(v) => first(v, count),
        Array::F32(v) => v.iter().take(count).map(|value| decimal(*value)).collect(),
        Array::F64(v) => first(v, count),
        Array::Bool(v) => first(v, count),
        Array::Strings(v) => v.iter().take(count).map(Value::from).collect(),
        Array::Arrays(v) => v.iter().take(count).map(|array| elements(array, count)).collect(),
    }
}

/// As tables for people.
impl Inspection {
    fn print(&self, arguments: &InspectArguments, out: &mut dyn Write) -> std::io::Result<()> {
        write!(out, "{}", self.overview())?;
        if let Ok((model, memory)) = &self.model {
            write!(out, "\nConfiguration\n{}", Table::of_fields(&config_json(&model.config)))?;
            write!(out, "\nMemory for {} tokens of context\n{}", memory.context, memory.table())?;
        }
        write!(out, "\nFormats\n{}", formats(self.gguf.tensors()))?;
        if arguments.tensors {
            write!(out, "\nTensors\n{}", tensors(self.gguf.tensors()))?;
        }
        if arguments.metadata {
            write!(out, "\nMetadata\n{}", metadata(self.gguf.metadata()))?;
        }
        Ok(())
    }

    fn overview(&self) -> Table {
        let mut table = Table::facts();
        let named = |key| self.text(key).unwrap_or("(not given)");
        let weights = self.gguf.tensors().iter().map(weights_of).sum();
        table.fact("file", self.gguf.path().display());
        table.fact("", format!("GGUF version {}, {}", self.gguf.version(), bytes(self.file_bytes)));
        table.fact("name", named("general.name"));
        table.fact("architecture", named("general.architecture"));
        table.fact(
            "parameters",
            format!("{} in {} tensors", count(weights), self.gguf.tensors().len()),
        );
        match &self.tokenizer {
            Err(error) => table.fact("tokenizer", error),
            Ok(tokenizer) => {
                let text = |id: Option<u32>| {
                    id.map_or("none".to_owned(), |id| {
                        format!("{id} {:?}", tokenizer.token_text(id))
                    })
                };
                let ends: Vec<String> =
                    tokenizer.end_of_generation().iter().map(|id| text(Some(*id))).collect();
                table.fact(
                    "tokenizer",
                    format!("{:?}, {} tokens", tokenizer.kind(), tokenizer.vocab_size()),
                );
                let added = if tokenizer.adds_bos() { " (added to prompts)" } else { "" };
                table.fact("begins with", format!("{}{added}", text(tokenizer.bos())));
                table.fact("ends with", ends.join(", "));
            }
        }
        table.fact(
            "chat template",
            match &self.template {
                Ok(_) => "yes".to_owned(),
                Err(model::chat::Error::NoTemplate) => "none: use --raw".to_owned(),
                Err(error) => error.to_string(),
            },
        );
        match self.why_not().as_slice() {
            [] => table.fact("runs", "yes"),
            reasons => reasons.iter().for_each(|why| table.fact("runs", format!("no: {why}"))),
        }
        table
    }
}

impl Memory {
    fn table(&self) -> Table {
        let mut table = Table::facts();
        let each = bytes(self.cache_token_bytes);
        table.fact("weights", bytes(self.plan.weights));
        table.fact("KV cache", format!("{} ({each} per token)", bytes(self.plan.cache)));
        table.fact("activations", bytes(self.plan.activations));
        table.fact("step inputs", bytes(self.plan.inputs));
        let (total, free) = (self.plan.total(), self.free);
        let fits = free.is_none_or(|free| total <= free);
        let verdict = if fits { "" } else { ": does not fit, use a smaller --ctx" };
        table.fact("total", format!("{}{verdict}", bytes(total)));
        table.fact("free on this machine", free.map_or("unknown".to_owned(), bytes));
        table.fact("context without --ctx", self.context_default);
        table
    }
}

fn formats(tensors: &[TensorInfo]) -> Table {
    let mut table = Table::new(&[
        ("format", Align::Left),
        ("tensors", Align::Right),
        ("parameters", Align::Right),
        ("bytes", Align::Right),
        ("bits each", Align::Right),
    ]);
    for (format, number, weights, size) in by_format(tensors) {
        table.row([
            format.name().to_owned(),
            number.to_string(),
            count(weights),
            bytes(size),
            format!("{:.3}", bits_per_weight(size, weights)),
        ]);
    }
    table
}

fn tensors(tensors: &[TensorInfo]) -> Table {
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("format", Align::Left),
        ("shape", Align::Left),
        ("bytes", Align::Right),
        ("offset", Align::Right),
    ]);
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        table.row([
            tensor.name.clone(),
            tensor.format.name().to_owned(),
            shape.join(" x "),
            tensor.bytes.to_string(),
            tensor.offset.to_string(),
        ]);
    }
    table
}

/// Longer texts and arrays are cut.
const TEXT_CHARS: usize = 60;
const ARRAY_ELEMENTS: usize = 5;

fn metadata(metadata: &Metadata) -> Table {
    let mut table = Table::facts();
    for (key, value) in metadata.iter() {
        table.fact(
            key,
            match value {
                Entry::Array(array) => {
                    let more = if array.len() > ARRAY_ELEMENTS { ", ..." } else { "" };
                    let shown = elements(array, ARRAY_ELEMENTS).to_string();
                    let shown = shown.trim_end_matches(']');
                    format!("{} {}: {shown}{more}]", array.len(), array.element_type())
                }
                Entry::String(text) => shortened(text),
                _ => entry_json(value).to_string(),
            },
        );
    }
    table
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_32_bits_are_shown_as_they_were_written() {
        assert_eq!(decimal(1e-5), json!(1e-5_f64));
        assert_eq!(decimal(10000.0), json!(10000.0));
        assert_eq!(decimal(f32::NAN), Value::Null);
    }

    #[test]
    fn long_values_are_cut_with_their_length() {
        assert_eq!(shortened("a\nb"), r#""a\nb""#);
        let long = "ä".repeat(70);
        assert_eq!(shortened(&long), format!("\"{}\"... (140 bytes)", "ä".repeat(60)));
        let array = Array::U32((0..100).collect());
        assert_eq!(elements(&array, 3).to_string(), "[0,1,2]");
    }
}
