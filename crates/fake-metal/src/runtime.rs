//! Classes, messages, reference counts, autorelease pools: what objc2 asks of a runtime with GNUstep's ABI.
#![expect(unsafe_code, reason = "raw objects across the C ABI")]
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Says what was done wrong and ends the process: there is nothing sensible to return to.
macro_rules! misuse {
    ($($arg:tt)*) => {{
        eprintln!("FAKE-METAL: {}", format_args!($($arg)*));
        std::process::abort()
    }};
}
pub(crate) use misuse;

/// A selector: its name, once in memory.
pub(crate) type Sel = *const c_char;

/// What a message leads to. Every one has the C ABI, and takes the receiver and the selector first.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) function: *const (),
}

/// As objc2 sees a class: an object whose class is the metaclass, which has the class methods.
#[repr(C)]
pub(crate) struct Class {
    pub(crate) isa: Option<&'static Self>,
    pub(crate) name: &'static CStr,
    pub(crate) methods: &'static [Method],
}
// SAFETY: functions are immutable and shared.
unsafe impl Sync for Class {}

/// Declares a class with its methods. With a symbol, code can name it; the others are only reached through objects.
macro_rules! class {
    ($name:ident, $text:literal, [$($class_method:literal => $class_function:expr),* $(,)?], [$($method:literal => $function:expr),* $(,)?]) => {
        $crate::runtime::class!(@statics [] $name, $text, [$($class_method => $class_function),*], [$($method => $function),*]);
    };
    ($symbol:literal, $name:ident, $text:literal, [$($class_method:literal => $class_function:expr),* $(,)?], [$($method:literal => $function:expr),* $(,)?]) => {
        $crate::runtime::class!(@statics [#[unsafe(export_name = $symbol)]] $name, $text, [$($class_method => $class_function),*], [$($method => $function),*]);
    };
    (@statics [$($export:tt)*] $name:ident, $text:literal, [$($class_method:literal => $class_function:expr),*], [$($method:literal => $function:expr),*]) => {
        $($export)*
        pub(crate) static $name: $crate::runtime::Class = {
            use $crate::runtime::Class;
            static META: Class = Class {
                isa: None,
                name: $text,
                methods: &[$($crate::runtime::Method { name: $class_method, function: $class_function as *const () }),*],
            };
            Class {
                isa: Some(&META),
                name: $text,
                methods: &[$($crate::runtime::Method { name: $method, function: $function as *const () }),*],
            }
        };
    };
}
pub(crate) use class;

/// What every object begins with, classes too.
#[repr(C)]
pub(crate) struct Head {
    isa: Option<&'static Class>,
}

/// An instance. Its memory is never given back, so that a message to one that has ended is seen.
#[repr(C)]
pub(crate) struct Object {
    class: &'static Class,
    retains: AtomicIsize,
    body: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

pub(crate) type Id = *const Object;

/// What a report at exit says.
#[derive(Default)]
struct Counts {
    messages: u64,
    selectors: BTreeSet<usize>,
    alive: BTreeMap<&'static CStr, i64>,
}

static COUNTS: Mutex<Option<Counts>> = Mutex::new(None);

fn counts<T>(f: impl FnOnce(&mut Counts) -> T) -> T {
    let mut counts = lock(&COUNTS);
    f(counts.get_or_insert_with(Counts::default))
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Object {
    /// A new instance with one owner.
    pub(crate) fn allocate(class: &'static Class) -> &'static Self {
        counts(|counts| *counts.alive.entry(class.name).or_default() += 1);
        Box::leak(Box::new(Self { class, retains: AtomicIsize::new(1), body: Mutex::new(None) }))
    }

    pub(crate) fn fill(&self, body: impl Any + Send + Sync) {
        *lock(&self.body) = Some(Arc::new(body));
    }

    /// What the instance holds, which must be a `T`.
    pub(crate) fn body<T: Any + Send + Sync>(&self) -> Arc<T> {
        let body = lock(&self.body).clone();
        match body.map(Arc::downcast) {
            Some(Ok(body)) => body,
            Some(Err(_)) => misuse!("an object of class {} was passed as another", self.name()),
            None => misuse!(
                "an object of class {} was used before its init or after its end",
                self.name()
            ),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.class.name.to_str().unwrap_or_default()
    }

    fn retain(&self) {
        if self.retains.fetch_add(1, Ordering::Relaxed) <= 0 {
            misuse!("an object of class {} was retained after its end", self.name());
        }
    }

    fn release(&self) {
        match self.retains.fetch_sub(1, Ordering::AcqRel) {
            1 => {
                let body = lock(&self.body).take();
                drop(body);
                counts(|counts| *counts.alive.entry(self.class.name).or_default() -= 1);
            }
            count if count <= 0 => misuse!("over-release of an object of class {}", self.name()),
            _ => {}
        }
    }
}

/// An object that its holder owns.
pub(crate) struct Strong(&'static Object);

impl Strong {
    pub(crate) fn new(class: &'static Class, body: impl Any + Send + Sync) -> Self {
        let object = Object::allocate(class);
        object.fill(body);
        Self(object)
    }

    /// Another owner of what was passed in.
    pub(crate) fn of(object: &'static Object) -> Self {
        object.retain();
        Self(object)
    }

    pub(crate) fn get(&self) -> &'static Object {
        self.0
    }

    /// Hands the ownership to the caller of a method whose name begins with new, alloc or init.
    pub(crate) fn give(self) -> Id {
        let object = self.0;
        object.retain();
        object
    }

    /// For the caller of any other method: lives until the pool ends.
    pub(crate) fn autorelease(self) -> Id {
        let object = self.0;
        POOLS.with_borrow_mut(|pools| match pools.last_mut() {
            Some(pool) => pool.push(self),
            None => misuse!("an object of class {} was autoreleased without a pool", object.name()),
        });
        object
    }
}

impl Clone for Strong {
    fn clone(&self) -> Self {
        Self::of(self.0)
    }
}

impl Drop for Strong {
    fn drop(&mut self) {
        self.0.release();
    }
}

thread_local! {
    static POOLS: RefCell<Vec<Vec<Strong>>> = const { RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
extern "C" fn objc_autoreleasePoolPush() -> usize {
    POOLS.with_borrow_mut(|pools| {
        pools.push(Vec::new());
        pools.len()
    })
}

#[unsafe(no_mangle)]
extern "C" fn objc_autoreleasePoolPop(pool: usize) {
    let ended = POOLS.with_borrow_mut(|pools| {
        if pools.len() != pool {
            misuse!("autorelease pool {pool} was popped while {} were open", pools.len());
        }
        pools.pop()
    });
    // Outside of the borrow: an object's end may autorelease others.
    drop(ended);
}

#[unsafe(no_mangle)]
extern "C" fn objc_retain(object: Option<&'static Object>) -> Id {
    object.inspect(|object| object.retain()).map_or(ptr::null(), ptr::from_ref)
}

#[unsafe(no_mangle)]
extern "C" fn objc_retainAutoreleasedReturnValue(object: Option<&'static Object>) -> Id {
    objc_retain(object)
}

#[unsafe(no_mangle)]
extern "C" fn objc_release(object: Option<&'static Object>) {
    if let Some(object) = object {
        object.release();
    }
}

static SELECTORS: Mutex<BTreeMap<CString, &'static CStr>> = Mutex::new(BTreeMap::new());

/// # Safety
/// `name` ends with a zero.
#[unsafe(no_mangle)]
unsafe extern "C" fn sel_registerName(name: *const c_char) -> Sel {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let mut known = lock(&SELECTORS);
    if let Some(found) = known.get(name) {
        return found.as_ptr();
    }
    let kept: &'static CStr = Box::leak(name.to_owned().into_boxed_c_str());
    known.insert(name.to_owned(), kept);
    kept.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn sel_getName(selector: Sel) -> *const c_char {
    selector
}

#[unsafe(no_mangle)]
extern "C" fn sel_isEqual(a: Sel, b: Sel) -> bool {
    a == b
}

/// objc2 looks one class up by name, to make an error where a method failed and left none.
#[unsafe(no_mangle)]
extern "C" fn objc_getClass(_: *const c_char) -> *const Class {
    misuse!("a method failed without an error")
}

extern "C" fn nil() -> usize {
    0
}

/// Finds what a message leads to.
///
/// # Safety
/// The receiver is an object or a class, the selector one of ours.
#[unsafe(no_mangle)]
unsafe extern "C" fn objc_msg_lookup(receiver: *const Head, selector: Sel) -> *const () {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(selector) }.to_str().unwrap_or_default();
    // SAFETY: the caller's promise.
    let Some(head) = (unsafe { receiver.as_ref() }) else { return nil as *const () };
    let Some(class) = head.isa else { misuse!("the message {name} was sent to what is no object") };
    let is_class = class.isa.is_none();
    if !is_class {
        // SAFETY: what has a class that is no metaclass is an instance.
        let object = unsafe { &*receiver.cast::<Object>() };
        if object.retains.load(Ordering::Relaxed) <= 0 {
            misuse!(
                "the message {name} was sent to an object of class {} after its end",
                object.name()
            );
        }
    }
    counts(|counts| {
        counts.messages += 1;
        counts.selectors.insert(selector.addr());
    });
    match class.methods.iter().find(|method| method.name == name) {
        Some(method) => method.function,
        None => {
            let kind = if is_class { '+' } else { '-' };
            misuse!("unknown selector: {kind}[{} {name}]", class.name.to_string_lossy())
        }
    }
}

/// # Safety
/// As of [`objc_msg_lookup`].
#[unsafe(no_mangle)]
unsafe extern "C" fn objc_msg_lookup_stret(receiver: *const Head, selector: Sel) -> *const () {
    // SAFETY: the caller's promise.
    unsafe { objc_msg_lookup(receiver, selector) }
}

#[unsafe(no_mangle)]
extern "C" fn object_getClass(object: Option<&Head>) -> *const Class {
    object.and_then(|head| head.isa).map_or(ptr::null(), ptr::from_ref)
}

#[unsafe(no_mangle)]
extern "C" fn class_getName(class: Option<&Class>) -> *const c_char {
    class.map_or(c"nil", |class| class.name).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn class_isMetaClass(class: Option<&Class>) -> bool {
    class.is_some_and(|class| class.isa.is_none())
}

/// What the fake counted beside objects: name and number.
pub(crate) static EVENTS: [(&str, AtomicU64); 6] = [
    ("command buffers", AtomicU64::new(0)),
    ("dispatches", AtomicU64::new(0)),
    ("barriers", AtomicU64::new(0)),
    ("concurrent encoders", AtomicU64::new(0)),
    ("pipelines compiled", AtomicU64::new(0)),
    ("pipelines from archives", AtomicU64::new(0)),
];

/// Counts one of [`EVENTS`], and returns how many there were before.
pub(crate) fn count(event: &str) -> u64 {
    let found = EVENTS.iter().find(|(name, _)| *name == event);
    found.map_or(0, |(_, number)| number.fetch_add(1, Ordering::Relaxed))
}

/// Status of a process that leaks.
const LEAKED: i32 = 97;

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

/// Runs when the process exits.
extern "C" fn report() {
    let (messages, selectors, alive) = counts(|counts| {
        let alive = counts.alive.iter().filter(|(_, number)| **number != 0);
        let mut alive: Vec<String> =
            alive.map(|(name, number)| format!("{number} {}", name.to_string_lossy())).collect();
        let blocks = crate::block::alive();
        if blocks != 0 {
            alive.push(format!("{blocks} blocks"));
        }
        (counts.messages, counts.selectors.len(), alive)
    });
    if crate::settings::get().report {
        let events = EVENTS
            .iter()
            .map(|(name, number)| format!("{} {name}", number.load(Ordering::Relaxed)));
        let events: Vec<String> = events.collect();
        eprintln!("FAKE-METAL: {messages} messages, {selectors} selectors, {}", events.join(", "));
    }
    if !alive.is_empty() {
        eprintln!("FAKE-METAL: leaked {}", alive.join(", "));
        // SAFETY: ends the process; other threads have nothing left to do.
        unsafe { _exit(LEAKED) };
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = report;
