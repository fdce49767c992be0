//! Handles: an index with a generation.
use crate::{Error, Result};

/// Names a value in a [`Slots`] table. The generation tells a reused slot from the old one, the owner one device from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    index: u32,
    generation: u32,
    owner: u32,
}

/// A table whose entries are named by [`Id`]s that go stale when the entry is removed.
#[derive(Debug)]
pub struct Slots<T> {
    what: &'static str,
    owner: u32,
    entries: Vec<(u32, Option<T>)>,
}

impl<T> Slots<T> {
    /// `what` names the kind of handle in errors; `owner` is a number no other device has.
    #[must_use]
    pub fn new(what: &'static str, owner: u32) -> Self {
        Self { what, owner, entries: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> Id {
        let free = self.entries.iter().position(|(_, entry)| entry.is_none());
        let at = free.unwrap_or_else(|| {
            self.entries.push((0, None));
            self.entries.len() - 1
        });
        let (generation, entry) = &mut self.entries[at];
        *generation += 1;
        *entry = Some(value);
        let index = u32::try_from(at).expect("fewer than 2^32 handles");
        Id { index, generation: *generation, owner: self.owner }
    }

    pub fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id).ok()?;
        self.entries[id.index as usize].1.take()
    }

    pub fn get(&self, id: Id) -> Result<&T> {
        let entry = self.entries.get(id.index as usize).filter(|_| id.owner == self.owner);
        match entry {
            Some((generation, Some(value))) if *generation == id.generation => Ok(value),
            _ => Err(Error::Stale { what: self.what }),
        }
    }

    pub fn get_mut(&mut self, id: Id) -> Result<&mut T> {
        self.get(id)?;
        self.entries[id.index as usize].1.as_mut().ok_or(Error::Stale { what: self.what })
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, entry)| entry.as_ref())
    }
}

/// A number for the next device that is opened.
#[must_use]
pub fn next_owner() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_entry_goes_stale_even_when_its_slot_is_reused() {
        let mut slots = Slots::new("test", 1);
        let old = slots.insert("old");
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new");
        assert!(matches!(slots.get(old), Err(Error::Stale { what: "test" })));
        assert_eq!(slots.get(new).unwrap(), &"new");
        assert_eq!(slots.remove(old), None);
    }

    #[test]
    fn another_owners_handle_is_refused() {
        let mut ours = Slots::new("test", 1);
        let mut theirs = Slots::new("test", 2);
        ours.insert(1);
        let foreign = theirs.insert(2);
        assert!(ours.get(foreign).is_err());
    }
}
