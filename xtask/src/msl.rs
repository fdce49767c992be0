//! `msl`: what a Mac, NVIDIA's compiler, AMD's and a debugger would say of kernels in the Metal Shading Language.
use ::msl::{Argument, Compiler, Entry, Schedule, Source, Trial};
use anyhow::{Context as _, Result, bail};
use hal::{Gpu, Program, Text};
use std::fs;
use std::path::Path;

const USAGE: &str = "\
usage: cargo xtask msl FILE... [--launch KERNEL [NAME=VALUES]...]

Reads each file of kernels, holds it to the dialect and gives it to every compiler. FILE may be several texts of one
program, PRELUDE+KERNEL; structs that hal::args! declares in the Rust files beside a text are in front of it.

--launch runs one kernel on made-up numbers: in every order of threads, under AddressSanitizer and UBSan, and looking
for races. What follows it, commas between numbers:
  grid=4,1,1      threadgroups          block=64,1,1    threads of each
  scratch=128     bytes of [[threadgroup(0)]]
  spans=1024,256  bytes of each device pointer
  constants=64,1e-5  the image of the constants: whole numbers are uint (int with a sign), others float
";

/// Fails if any file has a complaint or a kernel a fault.
pub(crate) fn run(options: &[String]) -> Result<()> {
    let launch = options.iter().position(|option| option == "--launch");
    let (files, launch) = options.split_at(launch.unwrap_or(options.len()));
    if files.is_empty() || files.iter().any(|file| file.starts_with('-')) {
        bail!("{USAGE}");
    }
    let mut failed = 0;
    for file in files {
        println!("{file}");
        let texts = texts(file)?;
        let source = Source::new(texts);
        source.entries.iter().for_each(describe);
        failed += usize::from(!compile(&source));
        if let [_, kernel, settings @ ..] = launch {
            failed += usize::from(!try_out(texts, &source, kernel, settings)?);
        }
    }
    if failed > 0 { bail!("{failed} of the files or launches are at fault") } else { Ok(()) }
}

/// The texts of a program live as long as the process, as those of any program.
fn texts(file: &str) -> Result<&'static [Text]> {
    let mut texts = Vec::new();
    for path in file.split('+') {
        let mut beside = String::new();
        let folder = Path::new(path).parent().unwrap_or(Path::new("."));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?.path();
            if entry.extension().is_some_and(|extension| extension == "rs") {
                beside += &::msl::args_of(&fs::read_to_string(&entry)?);
            }
        }
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        texts.push(Text { file: "hal::args!", text: beside.leak() });
        texts.push(Text { file: path.to_owned().leak(), text: text.leak() });
    }
    Ok(texts.leak())
}

fn describe(entry: &Entry) {
    println!("  kernel {}", entry.name);
    for parameter in &entry.parameters {
        let what = match &parameter.argument {
            Argument::Buffer { index, written: false } => format!("span {index}, read"),
            Argument::Buffer { index, written: true } => format!("span {index}, written"),
            Argument::Constant { .. } => "the constants".to_owned(),
            Argument::Threadgroup { .. } => "scratch memory".to_owned(),
            Argument::Position(attribute) => attribute.clone(),
            Argument::Unknown => "?".to_owned(),
        };
        println!("    {:<40} {what}", format!("{} {}", parameter.of_type, parameter.name));
    }
}

/// Whether all are content; a compiler that is missing is named.
fn compile(source: &Source) -> bool {
    let dialect = ::msl::lint(source);
    println!("  {:<40} {}", "dialect", said(&dialect));
    let mut fine = dialect.is_ok();
    for compiler in Compiler::ALL {
        let made = compiler.compile(source, &::msl::any_constants(source));
        println!("  {:<40} {}", compiler.to_string(), said(&made));
        fine &= matches!(made, Ok(_) | Err(::msl::Error::Missing { .. }));
        if let (Ok(path), Compiler::Amd(_)) = (&made, compiler) {
            resources(&fs::read_to_string(path).unwrap_or_default());
        }
    }
    fine
}

fn said<T>(result: &Result<T, impl std::fmt::Display>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("\n    {}", error.to_string().replace('\n', "\n    ")),
    }
}

/// What the assembly for an AMD processor says that each kernel takes: a hint for every GPU.
fn resources(assembly: &str) {
    let mut line = String::new();
    for (name, what) in assembly.lines().filter_map(|line| line.trim().split_once(':')) {
        let what = what.trim();
        match name {
            ".group_segment_fixed_size" => line = format!("{what} bytes of threadgroup memory"),
            ".name" if !line.is_empty() && !line.starts_with(' ') => {
                line = format!("    {what}: {line}");
            }
            ".private_segment_fixed_size" if line.starts_with(' ') => {
                line += &format!(", {what} bytes spilled");
            }
            ".vgpr_count" if line.starts_with(' ') => {
                println!("{line}, {what} registers");
                line.clear();
            }
            _ => {}
        }
    }
}

/// Whether the kernel runs without a fault, and alike in every order.
fn try_out(
    texts: &'static [Text],
    source: &Source,
    kernel: &str,
    settings: &[String],
) -> Result<bool> {
    let entry = source.entry(kernel).with_context(|| format!("there is no kernel {kernel}"))?;
    let trial = trial(texts, source, entry, settings)?;
    let mut first = None;
    let mut fine = true;
    let orders = [
        ("threads first to last", Schedule::Forward, false),
        ("threads last to first", Schedule::Reverse, false),
        ("threads in random order, seed 1", Schedule::Random(1), false),
        ("threads in random order, seed 2", Schedule::Random(2), false),
        ("races", Schedule::Forward, true),
    ];
    for (name, schedule, races) in orders {
        let spans = trial.run_apart(schedule, races);
        println!("  {kernel}: {:<30} {}", name, said(&spans));
        fine &= spans.is_ok();
        if let Ok(spans) = spans
            && first.get_or_insert_with(|| spans.clone()) != &spans
        {
            println!("    other numbers than in the first order");
            fine = false;
        }
    }
    Ok(fine)
}

fn trial(
    texts: &'static [Text],
    source: &Source,
    entry: &Entry,
    settings: &[String],
) -> Result<Trial> {
    let constants = ::msl::any_constants(source).leak();
    let name: &'static str = entry.name.clone().leak();
    let gpu = Gpu { texts, entry: name, constants };
    let program = Box::leak(Box::new(Program { name, host: None, gpu: Some(gpu) }));
    let (grid, block) = ([1; 3], [32, 1, 1]);
    let mut trial =
        Trial { program, spans: Vec::new(), constants: Vec::new(), grid, block, scratch_bytes: 0 };
    for setting in settings {
        let (name, values) =
            setting.split_once('=').with_context(|| format!("{setting}\n\n{USAGE}"))?;
        let whole = || -> Result<Vec<u32>> {
            values.split(',').map(|value| value.parse().with_context(|| setting.clone())).collect()
        };
        match name {
            "grid" => three(&mut trial.grid, &whole()?),
            "block" => three(&mut trial.block, &whole()?),
            "scratch" => trial.scratch_bytes = whole()?[0],
            "spans" => trial.spans = spans(entry, &whole()?),
            "constants" => {
                for value in values.split(',') {
                    trial.constants.extend(word(value).with_context(|| setting.clone())?);
                }
            }
            _ => bail!("{setting}\n\n{USAGE}"),
        }
    }
    Ok(trial)
}

fn three(target: &mut [u32; 3], values: &[u32]) {
    for (target, value) in target.iter_mut().zip(values) {
        *target = *value;
    }
}

fn word(value: &str) -> Option<[u8; 4]> {
    let unsigned = value.parse::<u32>().map(u32::to_le_bytes).ok();
    let signed = || value.parse::<i32>().map(i32::to_le_bytes).ok();
    unsigned.or_else(signed).or_else(|| value.parse::<f32>().map(f32::to_le_bytes).ok())
}

/// Numbers between -1 and 1 for float types, 0 to 3 for others: whole numbers are often indices.
fn spans(entry: &Entry, bytes: &[u32]) -> Vec<(Vec<u8>, bool)> {
    let mut spans = Vec::new();
    for (index, (bytes, written)) in bytes.iter().zip(entry.buffers()).enumerate() {
        let this = |argument: &Argument| matches!(argument, Argument::Buffer { index: i, .. } if *i == index);
        let parameter = entry.parameters.iter().find(|parameter| this(&parameter.argument));
        let of_type = parameter.map_or("", |parameter| parameter.of_type.as_str());
        let mut contents = Vec::new();
        let mut state = 1_u32;
        while contents.len() < *bytes as usize {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Sign and fraction from the state, an exponent below 1.
            match of_type {
                t if t.contains("bfloat") || t.contains("float") && !t.contains("half") => {
                    let bits = 0x3e80_0000
                        | state & 0x807f_0000
                        | if t.contains("bfloat") { 0 } else { state >> 16 };
                    let word = bits.to_le_bytes();
                    contents.extend(if t.contains("bfloat") { &word[2..] } else { &word[..] });
                }
                t if t.contains("half") => {
                    contents.extend(&(0x3400_0000 | state & 0x83ff_0000).to_le_bytes()[2..]);
                }
                t if t.contains("int") => contents.extend((state >> 30).to_le_bytes()),
                _ => contents.push(u8::try_from(state >> 30).unwrap_or(0)),
            }
        }
        contents.truncate(*bytes as usize);
        spans.push((contents, written));
    }
    spans
}
