//! A model opened for use: tokenizer, template and engine together.
use crate::args::{ModelArguments, SamplingArguments};
use crate::environment::Environment;
use crate::store::Terminal;
use anyhow::Context as _;
use engine::{Engine, Options, Params, context_that_fits};
use hal::cpu::CpuOptions;
use hal::{MetalOptions, OpenOptions};
use model::Model;
use model::chat::{ChatTemplate, LocalTime, Message};
use model::gguf::Gguf;
use model::tokenizer::Tokenizer;
use ops::KvFormat;
use ops::sample::Sampler;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    /// What the user asked for.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) engine: Engine,
    /// None for a model that is not made for chat.
    pub(crate) template: Option<ChatTemplate>,
}

/// What an engine does beside answering.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    /// Measure each kernel.
    pub(crate) kernels: bool,
    pub(crate) logits_hash: bool,
}

impl Session {
    /// Finds the model, fetching it when it is missing, opens the device and prepares everything.
    pub(crate) fn open(
        arguments: &ModelArguments,
        watch: Watch,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let path = find(&arguments.model, environment)?;
        let gguf = Gguf::open(&path)?;
        let selection = open_device(arguments, environment)?;
        let kv = arguments.kv.into();
        // Before the tokenizer: that an architecture is unknown says more than what its tokenizer lacks.
        let (model, context) = open_model(gguf, arguments.ctx, kv)?;
        let model = Arc::new(model);
        // A GPU's launches run beside each other: timing each would take them apart.
        let timed = watch.kernels && !selection.device.info().kind.is_gpu();
        let options = Options {
            timing: if timed { hal::Timing::PerKernel } else { hal::Timing::Off },
            hash_logits: watch.logits_hash,
            kv,
            ..Options::single(context)
        };
        // A tokenizer keeps one thread busy for as long as a small model's weights keep all of them.
        let (words, engine) = std::thread::scope(|scope| {
            let words = scope.spawn(|| words(&model, &path));
            let engine = Engine::new(selection.device, Arc::clone(&model), options);
            (words.join(), engine)
        });
        let (tokenizer, template) =
            words.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let engine = engine?;
        Ok(Self { name: arguments.model.clone(), path, tokenizer, engine, template })
    }

    /// The tokens of a chat, up to where the answer begins.
    pub(crate) fn chat_tokens(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let template = self.template.as_ref().with_context(|| {
            format!(
                "{} has no chat template: it only continues text, use --raw",
                self.path.display()
            )
        })?;
        let prompt = template.render(messages, true, LocalTime(seconds_since_1970()))?;
        Ok(self.tokenizer.encode_prompt(&prompt)?)
    }

    /// How the engine continues a prompt.
    pub(crate) fn params(&self, sampling: &SamplingArguments) -> Params {
        let sampler = Sampler {
            temperature: sampling.temperature,
            repetition_penalty: sampling.repetition_penalty,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed: sampling.seed.unwrap_or_else(drawn_seed),
            ..Sampler::GREEDY
        };
        Params {
            end_tokens: self.tokenizer.end_of_generation().to_vec(),
            ..Params::new(sampler, sampling.max_tokens.unwrap_or(u32::MAX))
        }
    }
}

/// The device asked for.
pub(crate) fn open_device(
    arguments: &ModelArguments,
    environment: &Environment,
) -> anyhow::Result<hal::Selection> {
    let threads = arguments.threads.map(|threads| threads as usize);
    let options = OpenOptions {
        cpu: CpuOptions { threads },
        metal: MetalOptions {
            cache: environment.cache_root.as_ref().map(|root| root.join("metal")),
        },
    };
    let selection = hal::open(&arguments.device, &options)?;
    if arguments.device == "auto" {
        say_what_was_passed_over(&selection);
    }
    Ok(selection)
}

/// The tokenizer of a model, and its template if it has one.
pub(crate) fn words(
    model: &Model,
    path: &Path,
) -> anyhow::Result<(Tokenizer, Option<ChatTemplate>)> {
    let metadata = model.gguf.metadata();
    let tokenizer = Tokenizer::from_gguf(metadata)
        .with_context(|| format!("{}: the tokenizer cannot be built", path.display()))?;
    let template = match ChatTemplate::from_gguf(metadata, &tokenizer) {
        Ok(template) => Some(template),
        Err(model::chat::Error::NoTemplate) => None,
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    Ok((tokenizer, template))
}

/// The file behind a name, a path or a reference to the hub.
pub(crate) fn find(name: &str, environment: &Environment) -> anyhow::Result<PathBuf> {
    Ok(environment.store()?.resolve(name, &environment.sources, &mut Terminal::default())?)
}

/// The model with the context asked for, or the largest that is sensible here.
pub(crate) fn open_model(
    gguf: Gguf,
    ctx: Option<u32>,
    kv: KvFormat,
) -> anyhow::Result<(Model, u32)> {
    let free = hal::cpu::memory_bytes_free().unwrap_or(u64::MAX);
    let model = Model::from_gguf(gguf, ctx.unwrap_or(0))?;
    let own = model.config.context;
    let context = ctx.unwrap_or_else(|| context_that_fits(&model, kv, free));
    if ctx.is_none() && context < own {
        say(&format!(
            "context: {context} of the model's {own} tokens, so that the KV cache fits into memory"
        ));
    }
    if context > own {
        say(&format!("context: {context} tokens are more than the {own} the model was made for"));
    }
    // Opened without a context, a model has LongRoPE's short factors; past the context before scaling it needs the long ones.
    let long = model.config.rope.is_some_and(|rope| context > rope.context_before);
    let again = ctx.is_none() && long;
    let model = if again { Model::from_gguf(model.gguf, context)? } else { model };
    Ok((model, context))
}

fn say_what_was_passed_over(selection: &hal::Selection) {
    let reason =
        |row: &hal::Row| row.device.as_ref().err().map(|why| format!("{}: {why}", row.kind.name()));
    let reasons: Vec<String> = selection.passed_over.iter().filter_map(reason).collect();
    if !reasons.is_empty() && selection.worth_saying() {
        say(&format!("device: {} ({})", selection.device.info().kind.name(), reasons.join("; ")));
    }
}

/// One line for the user, on standard error.
#[expect(clippy::print_stderr, reason = "everything but the answer goes to standard error")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

fn seconds_since_1970() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(0)
}

/// A seed from the system's randomness, by way of the standard library's hasher.
fn drawn_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // 32 bits are easier to type again.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}
