//! What tokens per second mean: the bytes and operations behind them, and this machine's limits.
use engine::Engine;
use hal::Kind;
use model::forward;
use ops::Cost;
use ops::simd::Family;
use std::time::Duration;

/// `count` in `time`, per second. 0 for no time at all.
pub(crate) fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

/// What one step of an engine moves and computes: `tokens` tokens, of prompts or of an answer, after `context` earlier ones, with `rows` rows
/// of logits.
pub(crate) fn step_cost(
    engine: &Engine,
    (tokens, prompts): (u64, bool),
    rows: u64,
    context: u64,
) -> Cost {
    let model = engine.model();
    let packed_for = (engine.device().info().kind == Kind::Cpu).then(Family::host);
    let kv = engine.options().kv;
    let mut cost = Cost { kv, packed_for, prompts, ..Cost::new(tokens, rows, context) };
    forward(&mut cost, model);
    cost
}

/// The most that a device can do, as measured with as many threads as the device has. None where that is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) read_bytes_per_second: Option<f64>,
    pub(crate) int8_ops_per_second: Option<f64>,
}

impl Limits {
    pub(crate) fn measure(info: &hal::Info) -> Self {
        let int8_ops_per_second = match info.kind {
            Kind::Cpu => hal::cpu::int8_ops_per_second(info.threads as usize).ok().flatten(),
            _ => None,
        };
        Self { read_bytes_per_second: read_limit(info), int8_ops_per_second }
    }
}

/// Bytes per second that the device reads from its memory at most.
pub(crate) fn read_limit(info: &hal::Info) -> Option<f64> {
    match info.kind {
        Kind::Cpu => hal::cpu::read_bytes_per_second(info.threads as usize).ok(),
        _ => None,
    }
}

pub(crate) fn percent(value: f64, limit: f64) -> f64 {
    100.0 * value / limit
}
