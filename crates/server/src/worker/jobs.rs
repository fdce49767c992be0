//! The jobs that run, by the ids that their clients gave them.
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// None while a job of this id runs.
    pub(super) fn enter(&self, id: &str) -> Option<Job> {
        let cancelled = Arc::new(Notify::new());
        match lock(&self.0).entry(id.to_owned()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => place.insert(Arc::clone(&cancelled)),
        };
        Some(Job { jobs: Arc::clone(&self.0), id: id.to_owned(), cancelled })
    }

    pub(super) fn cancel(&self, id: &str) {
        if let Some(job) = lock(&self.0).get(id) {
            job.notify_one();
        }
    }
}

/// A job that runs. It leaves the list when it is dropped.
#[derive(Debug)]
pub(super) struct Job {
    jobs: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    pub(super) id: String,
    cancelled: Arc<Notify>,
}

impl Job {
    /// Waits until a client cancels it.
    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        lock(&self.jobs).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_is_free_again_when_its_job_is_gone() {
        let jobs = Jobs::default();
        let job = jobs.enter("a").unwrap();
        assert!(jobs.enter("a").is_none());
        jobs.cancel("b");
        jobs.cancel("a");
        // Cancelled before anybody waits: not lost.
        job.cancelled().await;
        drop(job);
        assert!(jobs.enter("a").is_some());
        assert!(lock(&jobs.0).is_empty());
    }
}
