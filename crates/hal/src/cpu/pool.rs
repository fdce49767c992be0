//! A persistent pool of threads for steps that last microseconds: spin, then park.
//!
//! The thread that calls [`Pool::run`] is thread 0 of the work, so that a step costs no hand-over to another thread.
//! Between two pieces of a step, threads meet at a [`Barrier`].
//!
//! Who waits first spins, since what it waits for is microseconds away when every thread has a core. Then it sleeps: where
//! other programs run, the thread that is waited for may not be running, and the system moves it to the core that a sleeper
//! leaves idle at once, but not to one that spins or yields.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often a worker looks for new work before it sleeps: some 0.1 to 1 ms, longer than the gap between two decode steps.
const SPINS_BETWEEN_RUNS: u32 = 20_000;
/// How often a thread looks at a barrier before it sleeps: some 50 us. Threads with cores of their own are closer together than
/// that, and to be woken costs tens of microseconds. It never yields: to a busy program on the same core that gives a whole time
/// slice, milliseconds.
const SPINS_AT_BARRIER: u32 = 2000;

/// Where threads sleep until something has changed.
#[derive(Debug, Default)]
struct Bell {
    sleepers: AtomicU32,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Returns when `changed` does not say false any more. It must look at an atomic with [`Ordering::SeqCst`].
    fn wait(&self, spins: u32, changed: impl Fn() -> bool) {
        for _ in 0..spins {
            if changed() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut lock = self.lock.lock().expect("no panic holds this lock");
        // SeqCst pairs with `ring`: either we see the change, or it sees a sleeper.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !changed() {
            lock = self.rung.wait(lock).expect("no panic holds this lock");
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes the sleepers, and says whether there were any. Call it after a change that was made with [`Ordering::SeqCst`].
    fn ring(&self) -> bool {
        let asleep = self.sleepers.load(Ordering::SeqCst) > 0;
        if asleep {
            // A sleeper that has not seen the change holds the lock until it listens.
            drop(self.lock.lock().expect("no panic holds this lock"));
            self.rung.notify_all();
        }
        asleep
    }
}

/// A pointer to the work of one `run`, valid until every worker has reported its end.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[expect(unsafe_code, reason = "the pointer is read only while `run` keeps the closure alive")]
// SAFETY: the closure is Sync and `run` does not return before all workers have finished with it.
unsafe impl Send for Work {}

struct Shared {
    /// Counts the pieces of work handed out; a worker acts when it grows.
    round: AtomicU64,
    /// Workers that have not finished this round.
    busy: AtomicU32,
    stop: AtomicBool,
    panicked: AtomicBool,
    work: Mutex<Option<Work>>,
    begun: Bell,
    ended: Bell,
}

/// Threads that stay, see the module.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// A kernel panicked on some thread.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Pool {
    /// `threads` counts the calling thread too.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            round: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            work: Mutex::new(None),
            begun: Bell::default(),
            ended: Bell::default(),
        });
        // Made first, so that the workers end when one of them cannot be started.
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("russet-cpu-{index}");
            let thread = std::thread::Builder::new().name(name);
            pool.workers.push(thread.spawn(move || worker(index, &shared))?);
        }
        Ok(pool)
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(thread)` once on every thread and returns when all have ended.
    ///
    /// One caller at a time: the device holds a lock around it.
    pub(crate) fn run(&self, work: &(dyn Fn(usize) + Sync)) -> Result<(), Panicked> {
        let count = u32::try_from(self.workers.len()).expect("few threads");
        if count > 0 {
            self.hand_out(work, count);
        }
        let ours = catch_unwind(AssertUnwindSafe(|| work(0)));
        let ended = || self.shared.busy.load(Ordering::SeqCst) == 0;
        self.shared.ended.wait(SPINS_AT_BARRIER, ended);
        let theirs = self.shared.panicked.swap(false, Ordering::Relaxed);
        if ours.is_err() || theirs { Err(Panicked) } else { Ok(()) }
    }

    #[expect(unsafe_code, reason = "lengthens the life of a reference that `run` keeps alive")]
    fn hand_out(&self, work: &(dyn Fn(usize) + Sync), count: u32) {
        // SAFETY: only the lifetime changes. `run` waits for `busy` to reach 0 before it returns, and a worker does
        // not touch the pointer after it has counted itself out of `busy`.
        let work: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(work) };
        *self.shared.work.lock().expect("no panic holds this lock") = Some(Work(work));
        self.shared.busy.store(count, Ordering::Relaxed);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        self.shared.begun.ring();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        self.shared.begun.ring();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so join can only fail with nothing left to report.
            drop(worker.join());
        }
    }
}

fn worker(index: usize, shared: &Shared) {
    super::apple::prefer_performance_cores();
    let (mut seen, mut spins) = (0, SPINS_BETWEEN_RUNS);
    loop {
        let begun = || shared.round.load(Ordering::SeqCst) != seen;
        shared.begun.wait(spins, begun);
        seen += 1;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let work = shared.work.lock().expect("no panic holds this lock").expect("a round has work");
        #[expect(unsafe_code, reason = "calls the closure that `run` keeps alive")]
        // SAFETY: see `hand_out`: the closure lives until this worker leaves `busy`.
        let run = || unsafe { (*work.0)(index) };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        let last = shared.busy.fetch_sub(1, Ordering::SeqCst) == 1;
        // Whom we have just woken may be waiting for this very core: it would wait until we have spun.
        spins = if last && shared.ended.ring() { 0 } else { SPINS_BETWEEN_RUNS };
    }
}

/// Where the threads of one step meet. Central counter with a generation.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    arrived: AtomicU32,
    generation: AtomicU32,
    opened: Bell,
}

impl Barrier {
    /// Returns when `threads` threads have called it. What they wrote before is visible after.
    pub(crate) fn wait(&self, threads: usize) {
        if threads == 1 {
            return;
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let last = u32::try_from(threads - 1).expect("few threads");
        if self.arrived.fetch_add(1, Ordering::AcqRel) == last {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            self.opened.ring();
            return;
        }
        let opened = || self.generation.load(Ordering::SeqCst) != generation;
        self.opened.wait(SPINS_AT_BARRIER, opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_each_round_once() {
        let pool = Pool::new(3).unwrap();
        let counts: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
        for _ in 0..1000 {
            pool.run(&|thread| {
                counts[thread].fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1000));
    }

    #[test]
    fn a_barrier_makes_earlier_writes_visible() {
        let pool = Pool::new(3).unwrap();
        let barrier = Barrier::default();
        let sum = AtomicU64::new(0);
        pool.run(&|_| {
            for round in 1..=200 {
                sum.fetch_add(1, Ordering::Relaxed);
                barrier.wait(3);
                assert_eq!(sum.load(Ordering::Relaxed), 3 * round);
                barrier.wait(3);
            }
        })
        .unwrap();
    }

    #[test]
    fn a_panic_is_reported_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        for thread in 0..2 {
            let result = pool.run(&|t| assert!(t != thread, "on purpose"));
            assert!(result.is_err());
        }
        assert!(pool.run(&|_| ()).is_ok());
    }

    #[test]
    fn a_parked_worker_wakes_up() {
        let pool = Pool::new(2).unwrap();
        while pool.shared.begun.sleepers.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(pool.run(&|_| ()).is_ok());
    }
}
