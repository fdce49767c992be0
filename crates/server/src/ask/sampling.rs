//! How tokens are chosen: one set of fields for every API, under the names of OpenAI, vLLM and llama.cpp.
use super::{Fields, Violations};
use engine::{Dry, Params, Penalties, Reuse, WhenFull};
use model::tokenizer::Tokenizer;
use ops::sample::Sampler;

const STOPS_MAX: usize = 16;
const BIASES_MAX: usize = 1024;
/// Tokens at the beginning that stay when the context shifts: attention leans on the first few (Xiao et al. 2023).
const KEEP: u32 = 4;

/// How an answer is sampled and where it ends.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    pub(crate) sampler: Sampler,
    /// None: another one for each request.
    pub(crate) seed: Option<u64>,
    pub(crate) penalties: Penalties,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// The answer ends before any of these.
    pub(crate) stops: Vec<String>,
    /// It also ends with any of these.
    pub(crate) stop_tokens: Vec<u32>,
    /// The model's own end tokens do not end it.
    pub(crate) ignore_end: bool,
    pub(crate) when_full: WhenFull,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            sampler: Sampler { temperature: 1.0, ..Sampler::GREEDY },
            seed: None,
            penalties: Penalties::default(),
            logit_bias: Vec::new(),
            stops: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_end: false,
            when_full: WhenFull::End,
        }
    }
}

impl Sampling {
    /// Reads all fields about sampling. `stop` is the name of the field with stop strings.
    pub(crate) fn read(fields: &Fields<'_>, stop: &str) -> Self {
        let shifts = fields.flag("context_shift").unwrap_or(false);
        let keep = fields.count("n_keep", 0).unwrap_or(KEEP);
        Self {
            sampler: sampler(fields),
            seed: fields.seed("seed"),
            penalties: penalties(fields),
            logit_bias: logit_bias(fields),
            stops: fields.texts(stop, STOPS_MAX),
            stop_tokens: fields.token_ids("stop_token_ids").unwrap_or_default(),
            ignore_end: fields.flag("ignore_eos").unwrap_or(false),
            when_full: if shifts { WhenFull::Shift { keep } } else { WhenFull::End },
        }
    }

    /// What only the model's tokenizer can tell.
    pub(crate) fn check(&self, tokenizer: &Tokenizer, violations: &Violations) {
        let size = tokenizer.vocab_size();
        let biased = self.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stopping = self.stop_tokens.iter().map(|id| ("stop_token_ids", *id));
        for (field, id) in biased.chain(stopping).filter(|(_, id)| *id as usize >= size) {
            violations.add(field, format!("has the token id {id}, the model has {size} tokens"));
        }
    }

    /// The engine's parameters of the answer number `choice`.
    pub(crate) fn params(
        &self,
        tokenizer: &Tokenizer,
        choice: u32,
        tokens_max: Option<u32>,
    ) -> Params {
        let drawn = || crate::drawn();
        let seed = self.seed.unwrap_or_else(drawn).wrapping_add(u64::from(choice));
        let mut end_tokens = self.stop_tokens.clone();
        if !self.ignore_end {
            end_tokens.extend(tokenizer.end_of_generation());
        }
        // Who names a seed wants the same tokens again, whatever the cache holds.
        let reproducible = self.seed.is_some() || self.sampler.temperature == 0.0;
        Params {
            end_tokens,
            penalties: self.penalties,
            logit_bias: self.logit_bias.clone(),
            when_full: self.when_full,
            reuse: if reproducible { Reuse::Prompts } else { Reuse::All },
            ..Params::new(Sampler { seed, ..self.sampler }, tokens_max.unwrap_or(u32::MAX))
        }
    }
}

fn sampler(fields: &Fields<'_>) -> Sampler {
    let off = Sampler::GREEDY;
    let repetition = ["repetition_penalty", "repeat_penalty"];
    let repetition_penalty =
        repetition.iter().find_map(|name| fields.number(name, 0.01..=10.0)).unwrap_or(1.0);
    // vLLM writes "off" as -1, llama.cpp as 0.
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX)).unwrap_or(0).max(0);
    Sampler {
        temperature: fields.number("temperature", 0.0..=2.0).unwrap_or(1.0),
        repetition_penalty,
        top_k: u32::try_from(top_k).unwrap_or(0),
        typical_p: fields.number("typical_p", 0.0..=1.0).unwrap_or(off.typical_p),
        top_p: fields.number("top_p", 0.0..=1.0).unwrap_or(off.top_p),
        min_p: fields.number("min_p", 0.0..=1.0).unwrap_or(off.min_p),
        xtc_probability: fields.number("xtc_probability", 0.0..=1.0).unwrap_or(off.xtc_probability),
        xtc_threshold: fields.number("xtc_threshold", 0.001..=1.0).unwrap_or(off.xtc_threshold),
        ..off
    }
}

fn penalties(fields: &Fields<'_>) -> Penalties {
    let off = Dry::default();
    Penalties {
        frequency: fields.number("frequency_penalty", -2.0..=2.0).unwrap_or(0.0),
        presence: fields.number("presence_penalty", -2.0..=2.0).unwrap_or(0.0),
        dry: Dry {
            multiplier: fields.number("dry_multiplier", 0.0..=100.0).unwrap_or(off.multiplier),
            base: fields.number("dry_base", 1.0..=10.0).unwrap_or(off.base),
            length_allowed: fields.count("dry_allowed_length", 1).unwrap_or(off.length_allowed),
        },
    }
}

/// `{"token id": bias}`.
fn logit_bias(fields: &Fields<'_>) -> Vec<(u32, f32)> {
    let Some(biases) = fields.inner("logit_bias") else { return Vec::new() };
    if biases.object().len() > BIASES_MAX {
        fields.wrong("logit_bias", format!("must have up to {BIASES_MAX} tokens"));
        return Vec::new();
    }
    let one = |name: &String| {
        let Ok(id) = name.parse() else {
            fields.wrong("logit_bias", "must have token ids as its names");
            return None;
        };
        Some((id, biases.number(name, -100.0..=100.0)?))
    };
    biases.object().keys().filter_map(one).collect()
}
