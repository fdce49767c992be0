//! The thread of an engine: take jobs, step, hand out what came of it.
use super::{Command, Ended, Failure, Job, Piece, Reason, Status, TokenFacts, Update, Usage};
use crate::metrics::Metrics;
use engine::{Embedding, End, Engine, Event, Pace, SequenceId, StopStrings};
use model::tokenizer::{Stream, Tokenizer};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

const STUCK: &str = "the grammar allows no token of this model here, or became too complex";

/// What the thread shares with its handle.
pub(super) struct Shared {
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) healthy: Arc<AtomicBool>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) metrics: Arc<Metrics>,
}

/// A job that has a sequence.
struct Running<'t> {
    stream: Stream<'t>,
    stops: StopStrings,
    updates: UnboundedSender<Update>,
    cancelled: Arc<AtomicBool>,
    usage: Usage,
    since: Instant,
    first: Option<Instant>,
    last: Instant,
}

impl Running<'_> {
    /// A reader that is gone is noticed before the next step.
    fn send(&self, update: Update) {
        drop(self.updates.send(update));
    }
}

/// Runs until the handle is gone or drained and nothing runs any more.
pub(super) fn run(
    engine: Engine,
    tokenizer: &Tokenizer,
    inbox: &mpsc::Receiver<Command>,
    shared: &Shared,
) {
    let mut turns = Turns {
        engine,
        tokenizer,
        running: HashMap::new(),
        shared,
        draining: false,
        pace: Pace::default(),
        embeddings: VecDeque::new(),
    };
    while turns.take_commands(inbox) {
        turns.let_go_of_cancelled();
        turns.step();
        turns.embed();
    }
}

struct Turns<'t> {
    engine: Engine,
    tokenizer: &'t Tokenizer,
    running: HashMap<SequenceId, Running<'t>>,
    shared: &'t Shared,
    draining: bool,
    pace: Pace,
    /// Texts to embed, one after another: each turn reads a piece of the first.
    embeddings: VecDeque<(Embedding, Reply)>,
}

type Reply = oneshot::Sender<Result<Vec<f32>, engine::Error>>;

impl<'t> Turns<'t> {
    /// Takes what has come; waits for it when nothing runs. False: the end.
    fn take_commands(&mut self, inbox: &mpsc::Receiver<Command>) -> bool {
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                return false;
            }
            let command = if self.running.is_empty() && self.embeddings.is_empty() {
                self.publish();
                if self.draining {
                    return false;
                }
                self.wait(inbox)
            } else {
                inbox.try_recv()
            };
            match command {
                Ok(command) => self.take(command),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return !self.running.is_empty(),
            }
        }
    }

    /// The next command, however long it takes. Until it comes weights are packed, as far as they are not.
    fn wait(&mut self, inbox: &mpsc::Receiver<Command>) -> Result<Command, mpsc::TryRecvError> {
        loop {
            match inbox.try_recv() {
                // An error of the device shows in the next step, which has somebody to tell.
                Err(mpsc::TryRecvError::Empty) if self.engine.settle().unwrap_or(false) => {}
                Err(mpsc::TryRecvError::Empty) => break,
                command => return command,
            }
        }
        inbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Start { job, updates, cancelled, reply } => {
                let result = self.start(*job, updates, cancelled);
                // Whoever hears of it is counted already.
                self.publish();
                // Nobody waits for the reply of a request that is gone; its job is let go of before the next step.
                drop(reply.send(result));
            }
            Command::Embed { tokens, pooling, reply } => {
                match self.engine.embedding(&tokens, pooling) {
                    Ok(text) => self.embeddings.push_back((text, reply)),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Resident { reply } => drop(reply.send(self.engine.weights_resident())),
            Command::Drain => self.draining = true,
        }
    }

    fn start(
        &mut self,
        job: Job,
        updates: UnboundedSender<Update>,
        cancelled: Arc<AtomicBool>,
    ) -> Result<(), engine::Error> {
        let id = self.engine.start(&job.prompt, job.params)?;
        let now = Instant::now();
        let usage = Usage {
            prompt_tokens: u32::try_from(job.prompt.len()).unwrap_or(u32::MAX),
            ..Usage::default()
        };
        let (stream, stops) =
            (self.tokenizer.stream(job.control).showing(job.markers), StopStrings::new(job.stops));
        self.running.insert(
            id,
            Running {
                stream,
                stops,
                updates,
                cancelled,
                usage,
                since: now,
                first: None,
                last: now,
            },
        );
        Ok(())
    }

    fn let_go_of_cancelled(&mut self) {
        let engine = &mut self.engine;
        self.running.retain(|id, running| {
            let gone = running.cancelled.load(Ordering::Relaxed) || running.updates.is_closed();
            if gone {
                engine.release(*id);
            }
            !gone
        });
    }

    fn step(&mut self) {
        let since = Instant::now();
        let result = self.engine.step().map(|(report, events)| (report, events.to_vec()));
        self.shared.healthy.store(result.is_ok(), Ordering::Relaxed);
        match result {
            Ok((report, events)) => {
                let time = since.elapsed();
                self.shared.metrics.stepped(&report, time);
                self.pace.observe(&report, time.as_secs_f64());
                self.engine.set_prompt_tokens(self.pace.prompt_tokens());
                self.engine.set_draft_cost(self.pace.draft_cost());
                // Whoever hears of a token finds its sequence counted.
                self.publish();
                events.into_iter().for_each(|event| self.take_event(event));
                self.publish();
            }
            Err(error) => self.fail_all(&error),
        }
    }

    fn embed(&mut self) {
        self.embeddings.retain(|(_, reply)| !reply.is_closed());
        let Some((text, _)) = self.embeddings.front_mut() else { return };
        if let Some(result) = self.engine.advance(text).transpose()
            && let Some((_, reply)) = self.embeddings.pop_front()
        {
            drop(reply.send(result));
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Token { sequence, token } => self.take_token(sequence, token),
            Event::End { sequence, end } => match end {
                End::ByModel => self.end(sequence, Reason::Model),
                End::TokensMax => self.end(sequence, Reason::TokensMax),
                End::ContextFull => self.end(sequence, Reason::ContextFull),
                End::Stuck => self.fail(sequence, &Failure::of(STUCK)),
            },
        }
    }

    fn take_token(&mut self, id: SequenceId, token: u32) {
        let logprobs = self.engine.logprobs(id).map(|found| (found.logprob, found.top.clone()));
        let cached_tokens = self.engine.cached_tokens(id);
        let Some(running) = self.running.get_mut(&id) else { return };
        let now = Instant::now();
        match running.first {
            None => self.shared.metrics.first_token(now - running.since, cached_tokens),
            Some(_) => self.shared.metrics.next_token(now - running.last),
        }
        running.first.get_or_insert(now);
        running.last = now;
        running.usage.answer_tokens += 1;
        running.usage.cached_tokens = cached_tokens;
        let found = running.stops.push(running.stream.push(token));
        let piece = Piece { text: found.text, tokens: vec![TokenFacts { id: token, logprobs }] };
        running.send(Update::Piece(piece));
        if let Some(stop) = found.stopped {
            self.end(id, Reason::Stop(stop));
        }
    }

    /// Ends an answer: shows what was held back, unless a stop string says not to.
    fn end(&mut self, id: SequenceId, reason: Reason) {
        let Some(mut running) = self.running.remove(&id) else { return };
        self.engine.release(id);
        if !matches!(reason, Reason::Stop(_)) {
            let mut text = running.stops.push(running.stream.finish()).text;
            text.push_str(&running.stops.finish());
            if !text.is_empty() {
                running.send(Update::Piece(Piece { text, tokens: Vec::new() }));
            }
        }
        if reason == Reason::Model {
            running.usage.answer_tokens += 1;
        }
        let decode_time =
            running.first.map_or(std::time::Duration::ZERO, |first| running.last - first);
        self.shared.metrics.ended(&reason, running.since.elapsed());
        running.send(Update::End(Ended { reason, usage: running.usage, decode_time }));
    }

    /// A step failed: no answer can be trusted to go on.
    fn fail_all(&mut self, error: &engine::Error) {
        tracing::error!(%error, "a step failed");
        let out_of_memory = matches!(error, engine::Error::Device(hal::Error::OutOfMemory { .. }));
        let failure = Failure { out_of_memory, ..Failure::of(&error.to_string()) };
        let ids: Vec<SequenceId> = self.running.keys().copied().collect();
        ids.into_iter().for_each(|id| self.fail(id, &failure));
    }

    fn fail(&mut self, id: SequenceId, failure: &Failure) {
        self.engine.release(id);
        if let Some(running) = self.running.remove(&id) {
            self.shared.metrics.count_end("failed");
            running.send(Update::Failed(failure.clone()));
        }
    }

    fn publish(&self) {
        let status = self.engine.status();
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}
