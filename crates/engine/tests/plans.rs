//! What GPUs would run of tiny models: recorded for Metal on a device that runs nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Engine, Options};
use hal::null::Null;
use hal::{
    Buffer, Commands, Device, Executed, Fence, Handle, Info, Kernel, Kind, Memory, Prepared,
    Program, Result, Span, Timing,
};
use model::Model;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Says it is Metal's, and remembers which programs were asked for.
#[derive(Debug)]
struct Paper {
    null: Null,
    info: Info,
    programs: Mutex<Vec<&'static Program>>,
}

impl Paper {
    fn new() -> Self {
        let info = Info { name: "paper".to_owned(), ..Info::new(Kind::Metal) };
        Self { null: Null::default(), info, programs: Mutex::default() }
    }
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Paper {
    fn info(&self) -> &Info {
        &self.info
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        self.null.alloc(memory)
    }
    fn free(&self, handle: Handle) {
        self.null.free(handle);
    }
    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        self.null.write(target, source)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        self.null.read(source, target)
    }
    fn resident(&self, span: Span) -> Result<u64> {
        self.null.resident(span)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        let mut programs = self.programs.lock().unwrap();
        if !programs.iter().any(|known| std::ptr::eq(*known, program)) {
            programs.push(program);
        }
        self.null.load(program)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        // SAFETY: the caller's promise.
        unsafe { self.null.prepare(commands) }
    }
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        self.null.submit(prepared, timing)
    }
    fn wait(&self, fence: Fence) -> Result<()> {
        self.null.wait(fence)
    }
    fn executed(&self) -> Vec<Executed> {
        self.null.executed()
    }
}

fn engine(device: &Arc<Paper>, name: &str) -> Engine {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny").join(name);
    let model = Arc::new(Model::open(&path, 128).unwrap());
    let options = Options { sequences: 4, ..Options::single(128) };
    Engine::new(Arc::clone(device) as Arc<dyn Device>, model, options).unwrap()
}

/// Launches of a layer in a step of one token: qkv, attend and its fold, output, gate and up, down; a norm after each block in Gemma.
#[test]
fn a_layer_is_a_few_launches_when_one_token_is_decoded() {
    // Beside the layers: embed, the rows whose logits are wanted of x and of y, head, sample, and the angles of each table of
    // frequencies.
    let cases = [("llama-q4_1.gguf", 6, 6), ("qwen3.gguf", 6, 6), ("gemma3.gguf", 8, 7)];
    for (name, per_layer, others) in cases {
        let engine = engine(&Arc::new(Paper::new()), name);
        let steps = engine.plan_summary().unwrap();
        let layers = engine.model().config.layers as usize;
        assert_eq!((steps[0].tokens, steps[0].transfers), (1, 0), "{name}");
        assert_eq!(steps[0].launches, per_layer * layers + others, "{name}, {layers} layers");
    }
}

#[test]
fn every_kernel_passes_every_compiler() {
    let device = Arc::new(Paper::new());
    for name in ["llama-q4_1.gguf", "gemma3.gguf", "gpt2.gguf"] {
        drop(engine(&device, name));
    }
    let programs = device.programs.lock().unwrap();
    assert!(programs.len() > 15, "a step is more than {} kernels", programs.len());
    let mut missing = Vec::new();
    for program in &*programs {
        let gpu =
            program.gpu.as_ref().unwrap_or_else(|| panic!("{} is not for GPUs", program.name));
        missing.extend(msl::check(gpu).unwrap_or_else(|error| panic!("{}: {error}", program.name)));
    }
    missing.sort();
    missing.dedup();
    missing.iter().for_each(|compiler| eprintln!("SKIPPED: {compiler}"));
}
