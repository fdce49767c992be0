//! The newest responses, in memory: clients name one to go on from it.
use model::chat::Message;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

const RESPONSES_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;

/// A response and what led to it.
#[derive(Debug)]
pub(super) struct Entry {
    id: String,
    /// As it was told, in JSON.
    pub(super) response: String,
    /// The conversation up to and with the answer, without `instructions`.
    pub(super) messages: Vec<Message>,
    /// Roughly what it takes.
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::http) struct Stored(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    bytes: usize,
    /// The oldest first.
    all: VecDeque<Arc<Entry>>,
}

impl Stored {
    pub(super) fn put(&self, id: &str, response: String, messages: Vec<Message>) {
        let bytes = response.len() + messages.iter().map(bytes_of).sum::<usize>();
        let entry = Entry { id: id.to_owned(), response, messages, bytes };
        self.with(|entries| {
            entries.bytes += bytes;
            entries.all.push_back(Arc::new(entry));
            while entries.bytes > BYTES_MAX || entries.all.len() > RESPONSES_MAX {
                entries.remove(0);
            }
        });
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.with(|entries| entries.all.iter().find(|entry| entry.id == id).cloned())
    }

    /// False when there is no such response.
    pub(super) fn delete(&self, id: &str) -> bool {
        self.with(|entries| {
            let at = entries.all.iter().position(|entry| entry.id == id);
            at.inspect(|at| entries.remove(*at)).is_some()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entries) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entries {
    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.all.remove(at) {
            self.bytes -= entry.bytes;
        }
    }
}

fn bytes_of(message: &Message) -> usize {
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| call.name.len() + call.arguments.to_string().len());
    let reasoning = message.reasoning.as_ref().map_or(0, String::len);
    size_of::<Message>() + message.content.len() + reasoning + calls.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_deleted_ones_are_gone() {
        let stored = Stored::default();
        for i in 0..=RESPONSES_MAX {
            stored.put(&i.to_string(), "{}".to_owned(), vec![Message::new("user", "Hi")]);
        }
        assert!(stored.get("0").is_none());
        assert_eq!(stored.get("1").unwrap().messages[0].content, "Hi");
        assert!(stored.delete("1") && !stored.delete("1"));
        assert!(stored.get("1").is_none());
    }

    #[test]
    fn long_ones_leave_room_for_fewer() {
        let stored = Stored::default();
        for i in 0..3 {
            stored.put(&i.to_string(), "x".repeat(BYTES_MAX / 2), Vec::new());
        }
        assert!(
            stored.get("0").is_none() && stored.get("1").is_some() && stored.get("2").is_some()
        );
        stored.put("3", "x".repeat(BYTES_MAX + 1), Vec::new());
        assert!((0..4).all(|i| stored.get(&i.to_string()).is_none()));
        assert_eq!(stored.with(|entries| entries.bytes), 0);
    }
}
