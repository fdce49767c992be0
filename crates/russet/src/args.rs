//! The command line.
use crate::synth::{Mix, SIZE_MIN, Shape};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ops::KvFormat;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Large language models on every processor this machine has.
#[derive(Debug, Parser)]
#[command(name = "russet", version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt. The answer goes to standard output, everything else to standard error
    Run(RunArguments),
    /// Ask question after question; /help there lists the commands
    Chat(ChatArguments),
    /// Answer over HTTP: the APIs of OpenAI and Anthropic, and a chat page
    Serve(ServeArguments),
    /// Print the logits of a prompt, for tests and comparisons
    Logits(LogitsArguments),
    /// Fetch a model into the store: a known name, hf:owner/repo[:file], or the path of a GGUF file
    Pull {
        /// Which model
        model: String,
    },
    /// List the models in the store
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a model file holds, whether it can be run, and the memory that takes
    Inspect(InspectArguments),
    /// Show every kind of device: what was found, and why the others cannot be used
    Devices {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what would be used on this machine and what stands in the way
    Doctor(DoctorArguments),
    /// Measure prompt processing and decode of a model against the limits of this machine
    Bench(BenchArguments),
    /// Write a model of a published shape with random weights, to measure speed with
    Synth(SynthArguments),
    /// Remove a model from the store. Files that were registered by path stay
    Rm {
        /// Its name in `russet list`
        model: String,
    },
}

/// How the KV cache stores numbers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kv {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Kv> for KvFormat {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::F16 => Self::F16,
            Kv::Q8_0 => Self::Q8_0,
        }
    }
}

/// Which model on which device.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArguments {
    /// A name from the store, a path to a GGUF file, or hf:owner/repo[:file]; fetched when missing
    #[arg(long, short, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// Tokens of context [default: the model's own, or what fits into memory]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx: Option<u32>,
    /// How the KV cache stores numbers: q8_0 takes about half the memory, and rounds
    #[arg(long, default_value = "f16", value_enum, value_name = "FORMAT")]
    pub(crate) kv: Kv,
    /// Threads of the CPU device [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// auto, cpu, metal[:N], cuda[:N] or hip[:N]. A device that is named and cannot be opened is an error
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: String,
}

/// How tokens are chosen. Order: temperature, repetition penalty, top-k, top-p, min-p, draw.
#[derive(Clone, Debug, PartialEq, Args, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SamplingArguments {
    /// Tokens to answer with at most [default: until the model ends or the context is full]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the most probable token
    #[arg(long, short, default_value_t = 0.8, value_name = "T")]
    pub(crate) temperature: f32,
    /// Keep the K most probable tokens; 0 is off
    #[arg(long, default_value_t = 40, value_name = "K")]
    pub(crate) top_k: u32,
    /// Keep the most probable tokens that together have this probability; 1 is off
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub(crate) top_p: f32,
    /// Keep tokens at least this probable compared with the most probable one; 0 is off
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    pub(crate) min_p: f32,
    /// Make tokens that were seen less probable; 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "R")]
    pub(crate) repetition_penalty: f32,
    /// Same seed, same answer on the same device [default: drawn, and shown at the end]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The prompt; - or nothing reads standard input
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) sampling: SamplingArguments,
    /// Continue the prompt as plain text, without the model's chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// System message of the chat
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Write what ran as JSON: model, device, kernels with their time, tokens, seed, build
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    /// Print a hash of all logits that were sampled from
    #[arg(long)]
    pub(crate) logits_hash: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) sampling: SamplingArguments,
    /// System message of the chat
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Neither read nor write the file that remembers what was typed
    #[arg(long)]
    pub(crate) no_history: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Address to listen on; any but a loopback one needs a key
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub(crate) port: u16,
    /// A file with a chat template (Jinja) to use in place of the model's own
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// A file with one API key a line; requests must carry one of them
    #[arg(long, value_name = "FILE")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Origin of web pages that may ask, such as https://example.org; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Answers that are written at the same time
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: u32,
    /// Requests that may wait or run at the same time; more are refused
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) requests_max: usize,
    /// Seconds from a request's arrival to the end of its answer
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) time_max: u64,
    /// Tokens of one answer at most [default: until the context is full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens_max: Option<u32>,
    /// Memory of all loaded models together, in MiB [default: what is free at the start]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u64>,
    /// Logs as JSON
    #[arg(long)]
    pub(crate) log_json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsArguments {
    /// The prompt, as plain text; - or nothing reads standard input
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Token ids instead of a prompt, comma separated
    #[arg(long, value_delimiter = ',', value_name = "IDS", conflicts_with = "prompt")]
    pub(crate) tokens: Option<Vec<u32>>,
    /// Show so many of the most probable tokens at each position
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) top: usize,
    /// Write all logits as f32, little endian, (positions, vocabulary)
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print nothing but a hash of all logits
    #[arg(long)]
    pub(crate) hash: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// A name from the store, a path to a GGUF file, or hf:owner/repo[:file]; fetched when missing
    pub(crate) model: String,
    /// Tokens of context to plan memory for [default: what `run` would choose]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx: Option<u32>,
    /// KV cache to plan memory for
    #[arg(long, default_value = "f16", value_enum, value_name = "FORMAT")]
    pub(crate) kv: Kv,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// List the metadata, long values cut
    #[arg(long)]
    pub(crate) metadata: bool,
    /// Everything as JSON, nothing cut
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Ask the hub whether it answers
    #[arg(long)]
    pub(crate) online: bool,
    /// Measure the read bandwidth and the int8 peak
    #[arg(long)]
    pub(crate) measure: bool,
}

/// Token ids are drawn from a fixed stream, so that every run measures the same work; answers are greedy and never end early.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// A name from the store, a path to a GGUF file, or hf:owner/repo[:file]; fetched when missing
    #[arg(default_value = "smollm2")]
    pub(crate) model: String,
    /// Tokens of prompt to measure, comma separated; 0 leaves prompts out
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    pub(crate) prompt: Vec<u32>,
    /// Tokens of answer to measure, comma separated; 0 leaves answers out
    #[arg(long, value_delimiter = ',', default_value = "128", value_name = "TOKENS")]
    pub(crate) decode: Vec<u32>,
    /// Tokens that the cache already holds, comma separated: everything is measured at each depth
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "TOKENS")]
    pub(crate) depth: Vec<u32>,
    /// How often each is measured, after one run to warm up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repeat: u32,
    /// How the KV cache stores numbers: q8_0 takes about half the memory, and rounds
    #[arg(long, default_value = "f16", value_enum, value_name = "FORMAT")]
    pub(crate) kv: Kv,
    /// Threads of the CPU device [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// auto, cpu, metal[:N], cuda[:N] or hip[:N]. A device that is named and cannot be opened is an error
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: String,
    /// One line of JSON per measurement
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the measurements with their limits
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Measure nothing: print what a step consists of on a chip that need not be here, such as --device metal:m4-max, and what
    /// its published bandwidth predicts. MODEL may also be synth:SHAPE[:FORMAT], with the shapes of `russet synth`
    #[arg(long, conflicts_with_all = ["repeat", "threads", "plot"])]
    pub(crate) plan: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SynthArguments {
    /// The GGUF file to write
    #[arg(value_name = "OUTPUT.gguf")]
    pub(crate) output: PathBuf,
    /// Which model's sizes
    #[arg(long, value_enum, default_value = "llama-1b", value_name = "SHAPE")]
    pub(crate) shape: Shape,
    /// `Q4_K_M`, or one format for all matrices, such as `Q8_0` or `BF16`
    #[arg(long, default_value = "Q4_K_M", value_name = "FORMAT")]
    pub(crate) format: Mix,
    /// Same seed, same file
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Layers [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) layers: Option<u32>,
    /// Tokens of the vocabulary [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(i64::from(SIZE_MIN)..=1 << 20))]
    pub(crate) vocabulary: Option<u32>,
    /// Replace a file that exists
    #[arg(long)]
    pub(crate) force: bool,
}
