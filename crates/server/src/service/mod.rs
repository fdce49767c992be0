//! An engine on a thread of its own, and the streams that come out of it.
//!
//! The thread sleeps while there is nothing to do. Between two steps it takes new jobs and lets go of those whose reader is gone:
//! dropping an [`Answer`] is how a job is cancelled.
mod turns;

use crate::metrics::Metrics;
pub use engine::Status;
use engine::{Engine, Params};
use model::tokenizer::{Control, Tokenizer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc as streams, oneshot};

/// What is to be answered.
#[derive(Debug)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub params: Params,
    /// The answer ends before any of these.
    pub stops: Vec<String>,
    /// Whether control tokens become text: a parser of tool calls wants to see them.
    pub control: Control,
    /// Control tokens that become text also where others are skipped.
    pub markers: Vec<&'static str>,
}

/// A part of an answer, in the order in which it came to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Text that became whole. Every token is in exactly one piece, also where its text is still held back.
    Piece(Piece),
    /// The answer is complete. Nothing follows.
    End(Ended),
    /// The answer broke off. Nothing follows.
    Failed(Failure),
}

/// Some text, and the tokens that brought it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// May be empty: a character that is not whole, or what could become a stop string, is held back.
    pub text: String,
    pub tokens: Vec<TokenFacts>,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFacts {
    pub id: u32,
    /// Natural logarithm of its probability before sampling's changes, and the most probable tokens with theirs. Only when asked for.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub reason: Reason,
    pub usage: Usage,
    /// Time from the first token to the last.
    pub decode_time: Duration,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it.
    Model,
    /// This stop string came.
    Stop(String),
    TokensMax,
    ContextFull,
}

/// Tokens that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Tokens of the prompt whose K and V were still there.
    pub cached_tokens: u32,
    /// Sampled tokens, the one that ended the answer included.
    pub answer_tokens: u32,
}

/// Why an answer broke off, for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// The device had no memory left; the service goes on.
    pub out_of_memory: bool,
    /// Its time was up.
    pub timeout: bool,
}

impl Failure {
    pub(crate) fn of(message: &str) -> Self {
        Self { message: message.to_owned(), out_of_memory: false, timeout: false }
    }
}

/// The stream of one job's updates. Dropping it cancels the job.
#[derive(Debug)]
pub struct Answer {
    updates: streams::UnboundedReceiver<Update>,
    /// Set together with dropping; tells the thread before it has text to send.
    cancelled: Arc<AtomicBool>,
}

impl Answer {
    /// The next update; None after the last.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The engine says why: see [`engine::Error`].
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The service has ended.
    #[error("the model is being unloaded")]
    Gone,
}

/// What the thread is told.
enum Command {
    Start {
        job: Box<Job>,
        updates: streams::UnboundedSender<Update>,
        cancelled: Arc<AtomicBool>,
        reply: oneshot::Sender<Result<(), engine::Error>>,
    },
    Embed {
        tokens: Vec<u32>,
        pooling: engine::Pooling,
        reply: oneshot::Sender<Result<Vec<f32>, engine::Error>>,
    },
    Resident {
        reply: oneshot::Sender<Result<(u64, u64), engine::Error>>,
    },
    /// Finish what runs, take nothing new.
    Drain,
}

/// An engine that answers jobs. Ends its thread when dropped, after the step it is in.
#[derive(Debug)]
pub struct Service {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<Status>>,
    healthy: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the thread.
    #[must_use]
    pub fn start(engine: Engine, tokenizer: Arc<Tokenizer>, metrics: Arc<Metrics>) -> Self {
        let (commands, inbox) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let (healthy, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let shared = turns::Shared {
            status: Arc::clone(&status),
            healthy: Arc::clone(&healthy),
            stop: Arc::clone(&stop),
            metrics,
        };
        let thread = std::thread::spawn(move || turns::run(engine, &tokenizer, &inbox, &shared));
        Self { commands, status, healthy, stop, thread: Some(thread) }
    }

    /// Takes a job. It is cancelled by dropping the answer.
    ///
    /// # Errors
    /// What [`Engine::start`] refuses; [`Refusal::Gone`] when the service has ended.
    pub async fn submit(&self, job: Job) -> Result<Answer, Refusal> {
        let (sender, updates) = streams::unbounded_channel();
        let (reply, replied) = oneshot::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let answer = Answer { updates, cancelled: Arc::clone(&cancelled) };
        self.send(Command::Start { job: Box::new(job), updates: sender, cancelled, reply })?;
        replied.await.map_err(|_| Refusal::Gone)??;
        Ok(answer)
    }

    /// The embedding of `tokens`, of length 1.
    ///
    /// # Errors
    /// As [`Service::submit`].
    pub async fn embed(
        &self,
        tokens: Vec<u32>,
        pooling: engine::Pooling,
    ) -> Result<Vec<f32>, Refusal> {
        let (reply, replied) = oneshot::channel();
        self.send(Command::Embed { tokens, pooling, reply })?;
        Ok(replied.await.map_err(|_| Refusal::Gone)??)
    }

    /// Bytes of the weights that lie where the device computes from, and all of them.
    ///
    /// # Errors
    /// Device errors; [`Refusal::Gone`].
    pub async fn weights_resident(&self) -> Result<(u64, u64), Refusal> {
        let (reply, replied) = oneshot::channel();
        self.send(Command::Resident { reply })?;
        Ok(replied.await.map_err(|_| Refusal::Gone)??)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last step ran without an error of the device.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Takes no more jobs; those that run go on.
    pub fn drain(&self) {
        // A thread that has ended already drains nothing.
        drop(self.commands.send(Command::Drain));
    }

    fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).map_err(|_| Refusal::Gone)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.drain();
        if let Some(thread) = self.thread.take() {
            // It has said already why it panicked.
            drop(thread.join());
        }
    }
}
