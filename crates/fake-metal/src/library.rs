//! From source text to pipelines: clang compiles, archives remember only what was in them.
#![expect(unsafe_code, reason = "reads the values of function constants")]
use crate::foundation::{ErrorPlace, fail, text};
use crate::runtime::{Class, Id, Object, Sel, Strong, class, count, lock, misuse};
use crate::settings;
use hal::{FunctionConstant, Value};
use msl::{Kernels, Piece, Source};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

class!("._OBJC_CLASS_MTLCompileOptions", OPTIONS, c"MTLCompileOptions", ["new" => new_options], [
    "setLanguageVersion:" => set_option,
    "setFastMathEnabled:" => set_option,
    "setMathMode:" => set_option,
    "setMathFloatingPointFunctions:" => set_option,
]);

extern "C" fn new_options(_: &Class, _: Sel) -> Id {
    Strong::new(&OPTIONS, ()).give()
}

extern "C" fn set_option(_: &Object, _: Sel, _: isize) {}

class!("._OBJC_CLASS_MTLFunctionConstantValues", VALUES, c"MTLFunctionConstantValues", ["new" => new_values], [
    "setConstantValue:type:atIndex:" => set_value,
]);

type Values = Mutex<Vec<FunctionConstant>>;

extern "C" fn new_values(_: &Class, _: Sel) -> Id {
    Strong::new(&VALUES, Values::default()).give()
}

unsafe extern "C" fn set_value(
    this: &Object,
    _: Sel,
    value: *const u8,
    of_type: usize,
    index: usize,
) {
    let mut image = [0; 4];
    let bytes = if of_type == 53 { 1 } else { 4 };
    // SAFETY: the selector's contract: as many bytes as the type has.
    unsafe { image.as_mut_ptr().copy_from_nonoverlapping(value, bytes) };
    let value = match of_type {
        3 => Value::Float(f32::from_le_bytes(image)),
        29 => Value::Int(i32::from_le_bytes(image)),
        33 => Value::Uint(u32::from_le_bytes(image)),
        53 => Value::Bool(image[0] != 0),
        other => misuse!("a function constant of MTLDataType {other}"),
    };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    lock(&this.body::<Values>()).push(FunctionConstant { index, value });
}

class!(LIBRARY, c"MTLLibrary", [], ["newFunctionWithName:constantValues:error:" => new_function]);

struct Library {
    source: Arc<Source>,
}

static LIBRARIES: AtomicU64 = AtomicU64::new(0);

/// What clang says stands in "program_source", as with Apple's compiler.
pub(crate) extern "C" fn new_library(
    _: &Object,
    _: Sel,
    source: &Object,
    options: Option<&Object>,
    error: ErrorPlace,
) -> Id {
    if options.is_none() {
        misuse!("a library without options: the default has fast math");
    }
    if settings::fails("library", &LIBRARIES) {
        return fail(error, "Compiler encountered an internal error");
    }
    let source = Source::of(vec![Piece { file: "program_source".to_owned(), text: text(source) }]);
    let checked = msl::lint(&source).and_then(|()| match source.constants.is_empty() {
        true => Kernels::compile(&source, &[]).map(drop),
        false => Ok(()),
    });
    match checked {
        Err(complaint) => fail(error, &complaint.to_string()),
        Ok(()) => Strong::new(&LIBRARY, Library { source: Arc::new(source) }).give(),
    }
}

class!(FUNCTION, c"MTLFunction", [], []);

/// A specialised kernel.
pub(crate) struct Function {
    pub(crate) source: Arc<Source>,
    pub(crate) name: String,
    pub(crate) kernels: Kernels,
    /// What it is, for archives.
    key: String,
}

extern "C" fn new_function(
    this: &Object,
    _: Sel,
    name: &Object,
    values: &Object,
    error: ErrorPlace,
) -> Id {
    let source = Arc::clone(&this.body::<Library>().source);
    let name = text(name);
    if source.entry(&name).is_none() {
        return fail(error, &format!("Function {name} was not found in the library"));
    }
    let values = lock(&values.body::<Values>()).clone();
    for declared in &source.constants {
        let value = values.iter().find(|value| value.index == declared.index);
        if value.is_none_or(|value| value.value.type_name() != declared.of_type) {
            let what = format!(
                "Function constant {} has no value of type {}",
                declared.name, declared.of_type
            );
            return fail(error, &what);
        }
    }
    let mut hash = DefaultHasher::new();
    source.pieces.iter().for_each(|piece| piece.text.hash(&mut hash));
    let key = format!("{name} {values:?} {:x}", hash.finish());
    match Kernels::compile(&source, &values) {
        Ok(kernels) => Strong::new(&FUNCTION, Function { source, name, kernels, key }).give(),
        Err(complaint) => fail(error, &complaint.to_string()),
    }
}

class!("._OBJC_CLASS_MTLComputePipelineDescriptor", PIPELINE_DESCRIPTOR, c"MTLComputePipelineDescriptor", ["new" => new_descriptor], [
    "setComputeFunction:" => set_function,
    "setBinaryArchives:" => set_archives,
]);

#[derive(Default)]
struct PipelineDescriptor {
    function: Mutex<Option<Strong>>,
    archives: Mutex<Option<Strong>>,
}

impl PipelineDescriptor {
    fn function(&self) -> Strong {
        lock(&self.function).clone().unwrap_or_else(|| misuse!("a pipeline without a function"))
    }
}

extern "C" fn new_descriptor(_: &Class, _: Sel) -> Id {
    Strong::new(&PIPELINE_DESCRIPTOR, PipelineDescriptor::default()).give()
}

extern "C" fn set_function(this: &Object, _: Sel, function: Option<&'static Object>) {
    *lock(&this.body::<PipelineDescriptor>().function) = function.map(Strong::of);
}

extern "C" fn set_archives(this: &Object, _: Sel, archives: Option<&'static Object>) {
    *lock(&this.body::<PipelineDescriptor>().archives) = archives.map(Strong::of);
}

class!(PIPELINE, c"MTLComputePipelineState", [], [
    "threadExecutionWidth" => width,
    "maxTotalThreadsPerThreadgroup" => threads_max,
    "staticThreadgroupMemoryLength" => static_memory,
]);

pub(crate) struct Pipeline {
    function: Strong,
}

impl Pipeline {
    pub(crate) fn function(&self) -> Arc<Function> {
        self.function.get().body()
    }
}

static PIPELINES: AtomicU64 = AtomicU64::new(0);
/// `MTLPipelineOptionFailOnBinaryArchiveMiss`.
const FAIL_ON_MISS: usize = 1 << 2;

pub(crate) extern "C" fn new_pipeline(
    _: &Object,
    _: Sel,
    descriptor: &Object,
    options: usize,
    _reflection: usize,
    error: ErrorPlace,
) -> Id {
    let descriptor = descriptor.body::<PipelineDescriptor>();
    let function = descriptor.function();
    let key = &function.get().body::<Function>().key;
    let archives = lock(&descriptor.archives).clone();
    let kept = archives.is_some_and(|archives| {
        let has = |archive: &Strong| lock(&archive.get().body::<Archive>()).contains(key);
        archives.get().body::<Vec<Strong>>().iter().any(has)
    });
    if !kept && options & FAIL_ON_MISS != 0 {
        return fail(error, "Function not found in the binary archives");
    }
    if settings::fails("pipeline", &PIPELINES) {
        return fail(error, "Internal error while creating the pipeline");
    }
    count(if kept { "pipelines from archives" } else { "pipelines compiled" });
    Strong::new(&PIPELINE, Pipeline { function }).give()
}

extern "C" fn width(_: &Object, _: Sel) -> usize {
    settings::get().width
}

extern "C" fn threads_max(_: &Object, _: Sel) -> usize {
    settings::get().threads
}

/// The CPU's compiler lays arrays out when a kernel runs, and checks them then.
extern "C" fn static_memory(_: &Object, _: Sel) -> usize {
    0
}

class!("._OBJC_CLASS_MTLBinaryArchiveDescriptor", ARCHIVE_DESCRIPTOR, c"MTLBinaryArchiveDescriptor", ["new" => new_archive_descriptor], [
    "setUrl:" => set_url,
]);

type Url = Mutex<Option<PathBuf>>;

extern "C" fn new_archive_descriptor(_: &Class, _: Sel) -> Id {
    Strong::new(&ARCHIVE_DESCRIPTOR, Url::default()).give()
}

extern "C" fn set_url(this: &Object, _: Sel, url: Option<&Object>) {
    *lock(&this.body::<Url>()) = url.map(|url| (*url.body::<PathBuf>()).clone());
}

class!(ARCHIVE, c"MTLBinaryArchive", [], [
    "addComputePipelineFunctionsWithDescriptor:error:" => archive_add,
    "serializeToURL:error:" => archive_write,
]);

/// Keys of functions.
type Archive = Mutex<Vec<String>>;
/// First line of a file.
const MAGIC: &str = "fake binary archive";

pub(crate) extern "C" fn new_archive(
    _: &Object,
    _: Sel,
    descriptor: &Object,
    error: ErrorPlace,
) -> Id {
    let keys = match &*lock(&descriptor.body::<Url>()) {
        None => Vec::new(),
        Some(path) => {
            let file = std::fs::read_to_string(path).unwrap_or_default();
            let mut lines = file.lines();
            if lines.next() != Some(MAGIC) {
                return fail(error, "Invalid binary archive");
            }
            lines.map(str::to_owned).collect()
        }
    };
    Strong::new(&ARCHIVE, Archive::new(keys)).give()
}

extern "C" fn archive_add(this: &Object, _: Sel, descriptor: &Object, _: ErrorPlace) -> bool {
    let function = descriptor.body::<PipelineDescriptor>().function();
    lock(&this.body::<Archive>()).push(function.get().body::<Function>().key.clone());
    true
}

extern "C" fn archive_write(this: &Object, _: Sel, url: &Object, error: ErrorPlace) -> bool {
    let keys = lock(&this.body::<Archive>()).join("\n");
    let written = std::fs::write(&*url.body::<PathBuf>(), format!("{MAGIC}\n{keys}\n"));
    written.map_err(|found| fail(error, &found.to_string())).is_ok()
}
