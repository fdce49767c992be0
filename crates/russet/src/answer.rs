//! One answer: tokens from the engine become text, and the time they took becomes numbers.
use crate::interrupt;
use crate::session::Session;
use crate::speed::{per_second, percent, read_limit, step_cost};
use engine::{End, Event, Params, SequenceId, StopStrings};
use hal::Kind;
use model::tokenizer::Control;
use std::time::{Duration, Instant};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    ByModel,
    ByStopString,
    TokensMax,
    ContextFull,
    Interrupted,
}

impl Ended {
    /// The word used in receipts.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ByModel => "EOS",
            Self::ByStopString => "STOP_SEQUENCE",
            Self::TokensMax => "MAX_TOKENS",
            Self::ContextFull => "CONTEXT_FULL",
            Self::Interrupted => "CANCELLED",
        }
    }
}

/// What an answer took.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) ended: Ended,
    /// Tokens of the prompt that were run; those that the cache still held are not among them.
    pub(crate) prompt_tokens: u32,
    pub(crate) prompt_time: Duration,
    /// Tokens that were sampled, the end token included.
    pub(crate) tokens: u32,
    /// Steps that each continued the answer by one token.
    pub(crate) decode_steps: u32,
    pub(crate) decode_time: Duration,
    /// Weights and KV cache that those steps read.
    pub(crate) decode_bytes: u64,
    pub(crate) seed: u64,
}

impl Answer {
    pub(crate) fn prompt_tokens_per_second(&self) -> f64 {
        per_second(f64::from(self.prompt_tokens), self.prompt_time)
    }

    pub(crate) fn tokens_per_second(&self) -> f64 {
        per_second(f64::from(self.decode_steps), self.decode_time)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    pub(crate) fn bytes_per_second(&self) -> f64 {
        per_second(self.decode_bytes as f64, self.decode_time)
    }

    /// The closing line. Measures the read bandwidth of this machine with as many threads as ran.
    pub(crate) fn summary(&self, session: &Session) -> String {
        let info = session.engine.device().info();
        let mut line = match info.kind {
            Kind::Cpu => format!("{} ({}, {} threads)", info.kind.name(), info.name, info.threads),
            _ => format!("{} ({})", info.kind.name(), info.name),
        };
        line += &format!(
            " | prompt {} tokens, {:.1} tokens/s",
            self.prompt_tokens,
            self.prompt_tokens_per_second()
        );
        line += &format!(" | answer {} tokens", self.tokens);
        if self.decode_steps > 0 {
            line += &format!(", {:.1} tokens/s", self.tokens_per_second());
            line += &self.bandwidth(info);
        }
        if session.engine.options().hash_logits {
            line += &format!(" | logits {:016x}", session.engine.logits_hash());
        }
        line + &format!(" | seed {}", self.seed)
    }

    fn bandwidth(&self, info: &hal::Info) -> String {
        let read = format!(" | {:.1} GB/s read", self.bytes_per_second() / 1e9);
        match read_limit(info) {
            None => read,
            Some(limit) => {
                let percent = percent(self.bytes_per_second(), limit);
                format!("{read}, {percent:.0} % of this machine's {:.1} GB/s", limit / 1e9)
            }
        }
    }
}

/// Runs a sequence to its end and calls `show` with each piece of text. `show` fails when nobody reads any more.
pub(crate) fn answer(
    session: &mut Session,
    id: SequenceId,
    params: &Params,
    stops: &[String],
    show: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Answer> {
    let result = interrupt::generating(|| run(session, id, params, stops, show));
    // However it ended, nothing goes on behind the user's back.
    session.engine.stop(id);
    result
}

fn run(
    session: &mut Session,
    id: SequenceId,
    params: &Params,
    stops: &[String],
    show: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Answer> {
    let mut answer = Answer {
        text: String::new(),
        ended: Ended::Interrupted,
        prompt_tokens: 0,
        prompt_time: Duration::ZERO,
        tokens: 0,
        decode_steps: 0,
        decode_time: Duration::ZERO,
        decode_bytes: 0,
        seed: params.sampler.seed,
    };
    let mut stream = session.tokenizer.stream(Control::Skip);
    let mut stop = StopStrings::new(stops.iter().cloned());
    let first_context = session.engine.tokens(id)?.len();
    let mut ended = None;
    while ended.is_none() && !interrupt::stopped() {
        let since = Instant::now();
        let (report, events) = session.engine.step()?;
        let time = since.elapsed();
        if report.decode_tokens > 0 {
            answer.decode_steps += 1;
            answer.decode_time += time;
        } else {
            answer.prompt_tokens += report.prompt_tokens;
            answer.prompt_time += time;
        }
        answer.tokens += report.sampled;
        for event in events {
            let found = match event {
                Event::End { end, .. } => {
                    ended = ended.or(Some(Ended::from(*end)));
                    continue;
                }
                Event::Token { token, .. } => stop.push(stream.push(*token)),
            };
            if found.stopped.is_some() {
                ended = Some(Ended::ByStopString);
            }
            answer.text.push_str(&found.text);
            show(&found.text)?;
        }
    }
    if ended != Some(Ended::ByStopString) {
        let mut rest = stop.push(stream.finish()).text;
        rest.push_str(&stop.finish());
        answer.text.push_str(&rest);
        show(&rest)?;
    }
    answer.ended = ended.unwrap_or(Ended::Interrupted);
    let contexts = first_context..first_context + answer.decode_steps as usize;
    let engine = &session.engine;
    answer.decode_bytes =
        contexts.map(|context| step_cost(engine, (1, false), 1, context as u64).bytes()).sum();
    Ok(answer)
}

impl From<End> for Ended {
    fn from(end: End) -> Self {
        match end {
            End::ByModel => Self::ByModel,
            End::TokensMax => Self::TokensMax,
            // Nothing here has a grammar.
            End::ContextFull | End::Stuck => Self::ContextFull,
        }
    }
}
