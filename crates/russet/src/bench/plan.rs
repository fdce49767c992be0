//! `russet bench --plan`: what a step consists of on a chip that need not be here, and what follows from published numbers.
use super::chips::{self, Chip};
use super::{Phase, Test, tests};
use crate::args::BenchArguments;
use crate::environment::Environment;
use crate::session::find;
use crate::synth::{Mix, Shape, hollow};
use crate::table::{Align, Table, bytes, count};
use anyhow::{Context as _, anyhow};
use clap::ValueEnum as _;
use engine::{Options, StepSummary};
use hal::{Info, Kind, MatrixUnits};
use model::{Model, forward, gguf::Gguf};
use ops::{Cost, KvFormat};
use serde_json::json;
use std::io::Write as _;
use std::process::ExitCode;

/// What a step costs beside reading, at its best or its worst. Sources: measurements that llama.cpp's, MLX's and uzu's
/// authors published for Apple GPUs.
#[derive(Clone, Copy, Debug)]
struct Overheads {
    /// Share of the published bandwidth that a kernel reads at.
    bandwidth: f64,
    launch_us: f64,
    command_buffer_us: f64,
    synchronization_us: f64,
}

const BEST: Overheads = Overheads {
    bandwidth: 0.90,
    launch_us: 1.4,
    command_buffer_us: 20.0,
    synchronization_us: 130.0,
};
const WORST: Overheads = Overheads {
    bandwidth: 0.85,
    launch_us: 5.0,
    command_buffer_us: 200.0,
    synchronization_us: 180.0,
};

/// One decode step after `context` tokens.
#[derive(Clone, Copy, Debug)]
struct Step {
    context: u32,
    summary: StepSummary,
    launches_per_layer: f64,
    cost: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Bytes {
    weights: u64,
    kv: u64,
}

pub(super) fn plan(
    arguments: &BenchArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let chip = chips::find(&arguments.device)?;
    let kv = KvFormat::from(arguments.kv);
    let mut steps = Vec::new();
    for test in tests(arguments).iter().filter(|test| test.phase == Phase::Decode) {
        steps.push(Step::new(|| open(&arguments.model, environment), test, kv)?);
    }
    if steps.is_empty() {
        return Err(anyhow!("--plan is about decoding: give --decode a number above 0"));
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        for step in &steps {
            writeln!(out, "{}", step.json(arguments, &chip))?;
        }
    } else {
        write!(out, "{}", text(arguments, &chip, &steps))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A file, or the shape of one.
fn open(name: &str, environment: &Environment) -> anyhow::Result<Gguf> {
    let Some(shape) = name.strip_prefix("synth:") else {
        return Ok(Gguf::open(&find(name, environment)?)?);
    };
    let (shape, mix) = shape.split_once(':').unwrap_or((shape, "Q4_K_M"));
    let known = || Shape::value_variants().iter().filter_map(Shape::to_possible_value);
    let shape = Shape::from_str(shape, true).map_err(|_| {
        let names: Vec<String> = known().map(|value| value.get_name().to_owned()).collect();
        anyhow!("there is no shape {shape}; known are {}", names.join(", "))
    })?;
    let mix: Mix = mix.parse().map_err(|known| anyhow!("there is no format {mix}; {known}"))?;
    hollow(shape, mix).context("cannot plan without the model's header")
}

impl Step {
    /// The middle of the answer that `test` is about.
    fn new(
        open: impl Fn() -> anyhow::Result<Gguf>,
        test: &Test,
        kv: KvFormat,
    ) -> anyhow::Result<Self> {
        let context = test.first_context() + test.tokens / 2;
        let options = Options { kv, ..Options::single(context + 1) };
        let mut model = Model::from_gguf(open()?, context)?;
        let info =
            Info { simd_width: 32, matrix_units: MatrixUnits::Tiles, ..Info::new(Kind::Metal) };
        let mut cost = Cost { kv, ..Cost::new(1, 1, u64::from(context)) };
        forward(&mut cost, &model);
        let decode = |model: &Model| -> anyhow::Result<StepSummary> {
            let steps = StepSummary::planned(model, &info, &options)?;
            steps.into_iter().next().context("an engine has steps")
        };
        let summary = decode(&model)?;
        let layers = model.layers.len();
        // What does not grow with the layers is not theirs. The first half has every kind of layer that a model alternates.
        model.layers.truncate(layers.div_ceil(2));
        let others = (layers - model.layers.len()).max(1);
        let of_others = summary.launches - decode(&model)?.launches;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred launches")]
        let launches_per_layer = of_others as f64 / others as f64;
        let cost = Bytes { weights: cost.weight_bytes, kv: cost.kv_bytes };
        Ok(Self { context, summary, launches_per_layer, cost })
    }

    const fn needed(&self) -> u64 {
        self.cost.weights + self.cost.kv
    }

    /// All that moves, as a multiple of what must.
    fn moved_ratio(&self) -> f64 {
        float(self.needed() + self.summary.activation_bytes) / float(self.needed())
    }

    fn tokens_per_second(&self, chip: &Chip, overheads: &Overheads) -> f64 {
        let bandwidth = 1e9 * chip.gigabytes_per_second * overheads.bandwidth;
        let read = float(self.needed() + self.summary.activation_bytes) / bandwidth;
        let launches = float(self.summary.launches as u64) * overheads.launch_us;
        let microseconds = launches + overheads.command_buffer_us + overheads.synchronization_us;
        1.0 / (read + 1e-6 * microseconds)
    }

    fn json(&self, arguments: &BenchArguments, chip: &Chip) -> serde_json::Value {
        json!({
            "plan": true,
            "model": arguments.model,
            "device": arguments.device,
            "context": self.context,
            "kv": KvFormat::from(arguments.kv).name(),
            "launches_per_step": self.summary.launches,
            "launches_per_layer": self.launches_per_layer,
            "barriers_per_step": self.summary.barriers,
            "command_buffers_per_step": 1,
            "synchronizations_per_step": 1,
            "weight_bytes_per_step": self.cost.weights,
            "kv_bytes_per_step": self.cost.kv,
            "activation_bytes_per_step": self.summary.activation_bytes,
            "moved_ratio": self.moved_ratio(),
            "predicted_tokens_per_second_worst": self.tokens_per_second(chip, &WORST),
            "predicted_tokens_per_second_best": self.tokens_per_second(chip, &BEST),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
const fn float(count: u64) -> f64 {
    count as f64
}

fn text(arguments: &BenchArguments, chip: &Chip, steps: &[Step]) -> String {
    let mut table = Table::new(&[
        ("decode after", Align::Right),
        ("launches/step", Align::Right),
        ("per layer", Align::Right),
        ("barriers/step", Align::Right),
        ("weights", Align::Right),
        ("KV", Align::Right),
        ("activations", Align::Right),
        ("moved / needed", Align::Right),
        ("predicted tokens/s", Align::Right),
    ]);
    for step in steps {
        let predicted = [&WORST, &BEST].map(|overheads| step.tokens_per_second(chip, overheads));
        table.row([
            step.context.to_string(),
            count(step.summary.launches as u64),
            format!("{:.1}", step.launches_per_layer),
            count(step.summary.barriers as u64),
            bytes(step.cost.weights),
            bytes(step.cost.kv),
            bytes(step.summary.activation_bytes),
            format!("{:.3}", step.moved_ratio()),
            format!("{:.0} to {:.0}", predicted[0], predicted[1]),
        ]);
    }
    let published = chip.gigabytes_per_second;
    format!(
        "{} on {}: a plan, nothing was run\n\n{table}\n\
         Each step is one command buffer and one synchronization.\n\
         The tokens/s are a PREDICTION: {published:.0} GB/s as Apple publishes, read at {:.0} to {:.0} %, {} to {} us a launch, {:.0} to \
         {:.0} us a command buffer, {:.0} to {:.0} us a synchronization.\n",
        arguments.model,
        arguments.device,
        100.0 * WORST.bandwidth,
        100.0 * BEST.bandwidth,
        BEST.launch_us,
        WORST.launch_us,
        BEST.command_buffer_us,
        WORST.command_buffer_us,
        BEST.synchronization_us,
        WORST.synchronization_us,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(launches: usize, activation_bytes: u64) -> StepSummary {
        StepSummary { tokens: 1, rows: 1, launches, transfers: 0, barriers: 0, activation_bytes }
    }

    #[test]
    fn a_prediction_is_what_arithmetic_says() {
        let chip = chips::find("metal:m4-max").unwrap();
        let cost = Bytes { weights: 400_000_000, kv: 90_400_000 };
        let summary = summary(100, 1_000_000);
        let step = Step { context: 1, summary, launches_per_layer: 6.0, cost };
        // 491.4 MB at 0.9 * 546 GB/s take 1 ms; 100 launches 140 us; a command buffer and a synchronization 150 us.
        assert!((step.tokens_per_second(&chip, &BEST) - 1.0 / 1.29e-3).abs() < 1e-6);
        // At 0.85 * 546 GB/s 1058.8 us, then 500 us and 380 us.
        assert!((step.tokens_per_second(&chip, &WORST) - 1.0 / 1.938_823_5e-3).abs() < 1e-3);
        assert!((step.moved_ratio() - 491.4 / 490.4).abs() < 1e-12);
    }

    /// The budget of a decode step on Metal: each model that issue trackers ask about first.
    #[test]
    fn a_decode_step_on_metal_keeps_to_its_budget() {
        let shapes = ["llama-8b", "qwen3-0.6b", "smollm2-135m:Q4_1", "gemma3-270m"];
        let environment = Environment::read();
        for shape in shapes {
            let test = Test { phase: Phase::Decode, tokens: 128, depth: 512 };
            let open = || open(&format!("synth:{shape}"), &environment);
            let step = Step::new(open, &test, KvFormat::F16).unwrap();
            let (launches, moved) = (step.launches_per_layer, step.moved_ratio());
            assert!(launches <= 8.0, "{shape}: {launches} launches a layer");
            assert!(moved <= 1.03, "{shape}: moves {moved} of what it needs");
        }
    }

    #[test]
    fn unknown_chips_shapes_and_formats_are_refused_with_what_is_known() {
        let environment = Environment::read();
        let error = |name: &str| open(name, &environment).unwrap_err().to_string();
        assert!(chips::find("metal:m9").unwrap_err().to_string().contains("m4-max"));
        assert!(chips::find("cpu").unwrap_err().to_string().contains("metal:CHIP"));
        assert!(error("synth:llama-9b").contains("llama-8b"));
        assert!(error("synth:llama-8b:Q9").contains("Q4_K_M"));
    }
}
