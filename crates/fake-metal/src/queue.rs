//! Queues, command buffers, fences, residency sets: when work runs, and in which order it may.
#![expect(unsafe_code, reason = "names a class as objc2 does")]
use crate::buffer::Buffer;
use crate::foundation::{ErrorPlace, error};
use crate::pass::{Dispatch, Pass, encoder};
use crate::runtime::{Class, Id, Object, Sel, Strong, class, count, lock, misuse};
use crate::settings;
use msl::Workers;
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

class!(QUEUE, c"MTLCommandQueue", [], [
    "commandBuffer" => command_buffer,
    "commandBufferWithUnretainedReferences" => command_buffer_unretained,
    "addResidencySet:" => add_residency_set,
]);

#[derive(Default)]
struct Queue {
    /// In order of their commit, not ended.
    committed: Mutex<Vec<Strong>>,
    residency: Mutex<Vec<Strong>>,
    /// Orders and numbers everything that happens when work runs.
    running: Mutex<(Workers, u64)>,
}

pub(crate) extern "C" fn new_queue(_: &Object, _: Sel) -> Id {
    let queue = Queue {
        running: Mutex::new((Workers::default(), settings::get().seed)),
        ..Queue::default()
    };
    Strong::new(&QUEUE, queue).give()
}

extern "C" fn add_residency_set(this: &Object, _: Sel, set: &'static Object) {
    lock(&this.body::<Queue>().residency).push(Strong::of(set));
}

class!(FENCE, c"MTLFence", [], []);

pub(crate) struct Fence(#[expect(dead_code, reason = "fences are told apart by their address")] u8);

pub(crate) extern "C" fn new_fence(_: &Object, _: Sel) -> Id {
    Strong::new(&FENCE, Fence(0)).give()
}

class!("._OBJC_CLASS_MTLResidencySetDescriptor", RESIDENCY_DESCRIPTOR, c"MTLResidencySetDescriptor", ["new" => new_residency_descriptor], []);

extern "C" fn new_residency_descriptor(_: &Class, _: Sel) -> Id {
    Strong::new(&RESIDENCY_DESCRIPTOR, ()).give()
}

class!(RESIDENCY_SET, c"MTLResidencySet", [], [
    "addAllocation:" => residency_add,
    "removeAllocation:" => residency_remove,
    "containsAllocation:" => residency_contains,
    "commit" => residency_commit,
    "requestResidency" => residency_request,
]);

#[derive(Default)]
struct Residency(Mutex<Sets>);

#[derive(Default)]
struct Sets {
    next: Vec<Strong>,
    committed: Vec<Strong>,
}

pub(crate) extern "C" fn new_residency_set(
    _: &Object,
    _: Sel,
    _descriptor: &Object,
    _: ErrorPlace,
) -> Id {
    if settings::get().macos < 15 {
        misuse!("residency sets came with macOS 15");
    }
    Strong::new(&RESIDENCY_SET, Residency::default()).give()
}

extern "C" fn residency_add(this: &Object, _: Sel, allocation: &'static Object) {
    lock(&this.body::<Residency>().0).next.push(Strong::of(allocation));
}

extern "C" fn residency_remove(this: &Object, _: Sel, allocation: &'static Object) {
    lock(&this.body::<Residency>().0).next.retain(|known| !ptr::eq(known.get(), allocation));
}

extern "C" fn residency_contains(this: &Object, _: Sel, allocation: &'static Object) -> bool {
    let residency = this.body::<Residency>();
    let sets = lock(&residency.0);
    sets.next.iter().any(|known| ptr::eq(known.get(), allocation))
}

extern "C" fn residency_commit(this: &Object, _: Sel) {
    let residency = this.body::<Residency>();
    let before = {
        let mut sets = lock(&residency.0);
        let next = sets.next.clone();
        std::mem::replace(&mut sets.committed, next)
    };
    drop(before);
}

extern "C" fn residency_request(_: &Object, _: Sel) {}

class!(COMMAND_BUFFER, c"MTLCommandBuffer", [], [
    "computeCommandEncoderWithDispatchType:" => new_encoder,
    "commit" => commit,
    "waitUntilCompleted" => wait,
    "status" => status,
    "error" => error_of,
    "GPUStartTime" => start_time,
    "GPUEndTime" => end_time,
]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Status {
    #[default]
    Recording,
    Committed,
    Completed,
    Failed(isize),
}

struct CommandBuffer {
    queue: Strong,
    retain: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: bool,
    status: Status,
    number: u64,
    passes: Vec<Pass>,
    times: (f64, f64),
}

impl Drop for CommandBuffer {
    fn drop(&mut self) {
        if lock(&self.state).open {
            misuse!("a command buffer was released with an open encoder");
        }
    }
}

extern "C" fn command_buffer(this: &'static Object, _: Sel) -> Id {
    make(this, true)
}

extern "C" fn command_buffer_unretained(this: &'static Object, _: Sel) -> Id {
    make(this, false)
}

fn make(queue: &'static Object, retain: bool) -> Id {
    let queue = Strong::of(queue);
    Strong::new(&COMMAND_BUFFER, CommandBuffer { queue, retain, state: Mutex::default() })
        .autorelease()
}

/// `MTLDispatchTypeConcurrent`.
const CONCURRENT: usize = 1;

extern "C" fn new_encoder(this: &'static Object, _: Sel, dispatch_type: usize) -> Id {
    let buffer = this.body::<CommandBuffer>();
    let mut state = lock(&buffer.state);
    if state.status != Status::Recording {
        misuse!("an encoder for a command buffer that was committed");
    }
    if std::mem::replace(&mut state.open, true) {
        misuse!("a second open encoder for one command buffer");
    }
    let concurrent = dispatch_type == CONCURRENT;
    if concurrent {
        count("concurrent encoders");
    }
    encoder(this, buffer.retain, concurrent).autorelease()
}

/// An encoder has ended.
pub(crate) fn close(command_buffer: &Object, pass: Pass) {
    let buffer = command_buffer.body::<CommandBuffer>();
    let mut state = lock(&buffer.state);
    state.open = false;
    state.passes.push(pass);
}

impl State {
    fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.passes.iter().flat_map(|pass| pass.segments.iter().flatten())
    }

    /// Each buffer once, and whether it is written.
    fn buffers(&self) -> Vec<(&'static Object, bool)> {
        let mut found: Vec<(&'static Object, bool)> = Vec::new();
        for dispatch in self.dispatches() {
            dispatch.buffers(&mut |object, written| match found
                .iter_mut()
                .find(|(known, _)| ptr::eq(*known, object))
            {
                Some((_, known)) => *known |= written,
                None => found.push((object, written)),
            });
        }
        found
    }

    /// Whether Metal lets this work begin only when `earlier` has ended.
    fn follows(&self, earlier: &Self) -> bool {
        let updated = |fence: &Arc<Fence>| {
            earlier
                .passes
                .iter()
                .any(|pass| pass.updates.iter().any(|other| Arc::ptr_eq(fence, other)))
        };
        let fenced = self.passes.iter().any(|pass| pass.waits.iter().any(updated));
        let tracked = |(object, written): &(&'static Object, bool)| {
            let other = earlier.buffers().into_iter().find(|(other, _)| ptr::eq(*other, *object));
            other.is_some_and(|(_, wrote)| (*written || wrote) && object.body::<Buffer>().tracked)
        };
        fenced || self.buffers().iter().any(tracked)
    }
}

extern "C" fn commit(this: &'static Object, _: Sel) {
    let buffer = this.body::<CommandBuffer>();
    let queue = buffer.queue.get().body::<Queue>();
    let mut state = lock(&buffer.state);
    if state.open {
        misuse!("commit with an open encoder");
    }
    if state.status != Status::Recording {
        misuse!("a command buffer was committed twice");
    }
    let used = state.buffers();
    resident(&queue, &used);
    for (object, _) in used.iter().filter(|(_, written)| *written) {
        object.body::<Buffer>().promise();
    }
    state.status = Status::Committed;
    state.number = count("command buffers");
    lock(&queue.committed).push(Strong::of(this));
}

/// A queue with residency sets relies on them: then every buffer must be in one that was committed.
fn resident(queue: &Queue, used: &[(&'static Object, bool)]) {
    let sets = lock(&queue.residency);
    let holds = |object: &Object| {
        sets.iter().any(|set| {
            lock(&set.get().body::<Residency>().0)
                .committed
                .iter()
                .any(|known| ptr::eq(known.get(), object))
        })
    };
    if !sets.is_empty()
        && let Some((object, _)) = used.iter().find(|(object, _)| !holds(object))
    {
        misuse!(
            "a buffer of {} bytes is in no committed residency set",
            object.body::<Buffer>().length
        );
    }
}

extern "C" fn wait(this: &'static Object, _: Sel) {
    let buffer = this.body::<CommandBuffer>();
    let queue = buffer.queue.get().body::<Queue>();
    if lock(&buffer.state).status == Status::Recording {
        misuse!("waitUntilCompleted before commit");
    }
    loop {
        // One thread runs everything; others wait for it here.
        let mut running = lock(&queue.running);
        if lock(&buffer.state).status != Status::Committed {
            return;
        }
        let next = ready(&queue, &mut running.1);
        let body = next.get().body::<CommandBuffer>();
        run(&mut lock(&body.state), &mut running);
        lock(&queue.committed).retain(|known| !ptr::eq(known.get(), next.get()));
    }
}

/// Any committed command buffer that need not wait for another.
fn ready(queue: &Queue, seed: &mut u64) -> Strong {
    let committed = lock(&queue.committed);
    let bodies: Vec<Arc<CommandBuffer>> =
        committed.iter().map(|buffer| buffer.get().body()).collect();
    let free = |at: &usize| {
        let state = lock(&bodies[*at].state);
        bodies[..*at].iter().all(|earlier| !state.follows(&lock(&earlier.state)))
    };
    let free: Vec<usize> = (0..bodies.len()).filter(free).collect();
    committed[free[below(seed, free.len())]].clone()
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn run(state: &mut State, (workers, seed): &mut (Workers, u64)) {
    let begin = START.elapsed().as_secs_f64();
    let used = state.buffers();
    for (object, _) in &used {
        object.body::<Buffer>().uncover();
    }
    let fault = settings::get().fault("command-buffer", state.number);
    for pass in state.passes.iter_mut().filter(|_| fault.is_none()) {
        for segment in &mut pass.segments {
            if pass.concurrent {
                for last in (1..segment.len()).rev() {
                    segment.swap(last, below(seed, last + 1));
                }
            }
            for dispatch in &*segment {
                dispatch.run(next(seed), workers);
            }
        }
    }
    for (object, written) in &used {
        let buffer = object.body::<Buffer>();
        if *written {
            buffer.keep();
        }
        buffer.cover();
    }
    state.passes.clear();
    state.status = fault.map_or(Status::Completed, Status::Failed);
    state.times = (begin, START.elapsed().as_secs_f64());
}

/// The next of a sequence of random numbers (xorshift).
fn next(seed: &mut u64) -> u64 {
    *seed = (*seed).max(1);
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn below(seed: &mut u64, count: usize) -> usize {
    usize::try_from(next(seed) % count as u64).unwrap_or(0)
}

extern "C" fn status(this: &Object, _: Sel) -> usize {
    match lock(&this.body::<CommandBuffer>().state).status {
        Status::Recording => 0,
        Status::Committed => 2,
        Status::Completed => 4,
        Status::Failed(_) => 5,
    }
}

extern "C" fn error_of(this: &Object, _: Sel) -> Id {
    match lock(&this.body::<CommandBuffer>().state).status {
        Status::Failed(code) => error(code, &format!("Injected fault {code}")).autorelease(),
        _ => ptr::null(),
    }
}

fn times(this: &Object) -> (f64, f64) {
    let body = this.body::<CommandBuffer>();
    let state = lock(&body.state);
    if matches!(state.status, Status::Recording | Status::Committed) {
        misuse!("the times of a command buffer that has not ended");
    }
    state.times
}

extern "C" fn start_time(this: &Object, _: Sel) -> f64 {
    times(this).0
}

extern "C" fn end_time(this: &Object, _: Sel) -> f64 {
    times(this).1
}
