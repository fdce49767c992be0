//! Answers as events of a stream, in the words of any API.
use super::{Answering, Part};
use crate::service::Usage;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use std::collections::VecDeque;
use std::convert::Infallible;

/// How an API words a stream.
pub(crate) trait Voice: Send + 'static {
    /// Before the first part.
    fn begin(&mut self, choices: u32) -> Vec<Event>;
    /// [`Part::Failed`] is the last there is: [`Voice::end`] is not called after it.
    fn part(&mut self, part: Part) -> Vec<Event>;
    /// When all answers have ended.
    fn end(&mut self, usage: Usage) -> Vec<Event>;
}

struct Speech<V> {
    answering: Answering,
    voice: V,
    events: VecDeque<Event>,
    over: bool,
}

/// The response that streams the answers. They are cancelled when it is dropped, as it is when the client goes away.
pub(crate) fn speak(answering: Answering, mut voice: impl Voice) -> Response {
    let events = voice.begin(answering.choices).into();
    let speech = Speech { answering, voice, events, over: false };
    let stream = futures_util::stream::unfold(speech, |mut speech| async {
        let event = speech.next().await?;
        Some((Ok::<_, Infallible>(event), speech))
    });
    // Comments keep proxies from closing a connection on which a long prompt is still read.
    let mut response = Sse::new(stream).keep_alive(KeepAlive::default()).into_response();
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
    response
}

impl<V: Voice> Speech<V> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.answering.next().await {
                Some(part) => {
                    self.over = matches!(part, Part::Failed(_));
                    self.events.extend(self.voice.part(part));
                }
                None => {
                    self.over = true;
                    self.events.extend(self.voice.end(self.answering.usage()));
                }
            }
        }
    }
}
