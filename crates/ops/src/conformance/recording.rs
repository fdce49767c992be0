//! What a recording must keep to, whatever its ops: order, memory, layout.
use super::layer::{Layer, steps};
use super::{Random, Setup};
use crate::format::Format;
use crate::record::{Place, Room};
use crate::{Bucket, Inputs, Limits, Recorder, Resources};
use hal::null::Null;
use hal::{Command, Commands, Device, Memory, Span};
use proptest::prelude::*;

/// Each span a command touches, and whether it writes it.
fn accesses(commands: &Commands, command: &Command) -> Vec<(Span, bool)> {
    match command {
        Command::Launch(launch) => {
            let spans = commands.spans_of(launch).iter().zip(0..);
            spans.map(|(span, i)| (*span, launch.writes >> i & 1 == 1)).collect()
        }
        Command::Copy { source, target } => vec![(*source, false), (*target, true)],
        Command::Fill { target, .. } => vec![(*target, true)],
    }
}

/// Whether two commands may not run at the same time: byte by byte arithmetic, not `Span::overlaps`.
fn conflict(a: &[(Span, bool)], b: &[(Span, bool)]) -> bool {
    a.iter().any(|(a, a_writes)| {
        b.iter().any(|(b, b_writes)| {
            let (first, last) =
                (a.offset.max(b.offset), (a.offset + a.bytes).min(b.offset + b.bytes));
            a.buffer == b.buffer && first < last && (*a_writes || *b_writes)
        })
    })
}

fn recorded_layer(format: Format) -> Commands {
    let device = Null::default();
    let mut setup = Setup::new(5);
    let layer = Layer::new(&mut setup, format, true);
    steps(&mut setup);
    let mut commands = None;
    setup.run_recorded(
        &device,
        |to| super::Forward::forward(&layer, to),
        |made| commands = Some(made.clone()),
    );
    commands.expect("a recording")
}

#[test]
fn every_hazard_of_a_layer_has_a_barrier_and_no_barrier_is_idle() {
    for format in [Format::F32, Format::Q4K] {
        let commands = recorded_layer(format);
        let barriers = hal::barriers(&commands);
        let touched: Vec<_> = commands.list.iter().map(|c| accesses(&commands, c)).collect();
        assert!(touched.len() > 12, "a layer is some launches");
        for later in 0..touched.len() {
            for earlier in 0..later {
                assert!(
                    !conflict(&touched[earlier], &touched[later])
                        || barriers[earlier + 1..=later].contains(&true),
                    "{format}: commands {earlier} and {later} may run at the same time"
                );
            }
            let since = (0..later).rev().find(|i| barriers[*i]).unwrap_or(0);
            let needed =
                touched[since..later].iter().any(|earlier| conflict(earlier, &touched[later]));
            assert_eq!(barriers[later], needed, "{format}: the barrier before command {later}");
        }
    }
}

#[test]
fn a_program_loaded_twice_is_one_kernel() {
    let loads = |subject: &super::Subject| !subject.device.info().kind.is_gpu();
    for subject in super::subjects().iter().filter(|subject| loads(subject)) {
        let load = |program| subject.device.load(program).expect("it loads");
        assert_eq!(load(&crate::norm::NORM), load(&crate::norm::NORM), "{}", subject.name);
        assert_ne!(load(&crate::norm::NORM), load(&crate::add::ADD), "{}", subject.name);
    }
}

/// A recorder with nothing to record.
fn with_recorder(f: impl FnOnce(&mut Recorder<'_>)) {
    let device = Null::default();
    let span = |bytes| {
        let buffer = device.alloc(Memory::Bytes(bytes)).expect("null has memory");
        Span { buffer, offset: 0, bytes }
    };
    let limits =
        Limits { tokens: 1, rows: 1, sequences: 1, blocks: 1, block_tokens: 1, vocabulary: 1 };
    let inputs = Inputs { whole: span(limits.bytes()), limits };
    let resources = Resources {
        weights: Vec::new(),
        tiles: None,
        inputs,
        caches: Vec::new(),
        sampled: span(4),
    };
    f(&mut Recorder::new(&device, &resources, Bucket { tokens: 1, rows: 1 }));
}

fn range(room: &Room) -> std::ops::Range<u64> {
    match room.place() {
        Place::Arena { offset, bytes } => offset..offset + bytes,
        Place::Device(_) => unreachable!("rooms lie in the arena"),
    }
}

proptest! {
    #[test]
    fn live_pieces_of_the_arena_never_overlap(seed: u64, actions in 1_usize..200) {
        with_recorder(|recorder| {
            let mut random = Random::new(seed);
            let mut live: Vec<(Room, u64)> = Vec::new();
            for _ in 0..actions {
                if random.below(5) < 2 && !live.is_empty() {
                    let index = random.below(u32::try_from(live.len()).expect("few")) as usize;
                    drop(live.swap_remove(index));
                } else {
                    let bytes = [1, 4, 255, 256, 257, 4096, 100_000][random.below(7) as usize];
                    live.push((recorder.room(bytes), bytes));
                }
                let mut ranges: Vec<_> = live.iter().map(|(room, _)| range(room)).collect();
                ranges.sort_by_key(|range| range.start);
                assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "seed {seed}");
                assert!(live.iter().all(|(room, bytes)| range(room).end - range(room).start >= *bytes));
                assert!(ranges.iter().all(|range| range.start.is_multiple_of(64)), "cache lines");
            }
        });
    }

    #[test]
    fn input_arrays_are_aligned_and_apart(
        tokens in 1_u32..600,
        rows in 1_u32..70,
        sequences in 1_u32..70,
        blocks in 1_u32..300,
        vocabulary in 1_u32..300_000,
    ) {
        let limits = Limits { tokens, rows, sequences, blocks, block_tokens: 16, vocabulary };
        let device = Null::default();
        let buffer = device.alloc(Memory::Bytes(limits.bytes())).expect("null has memory");
        let inputs = Inputs { whole: Span { buffer, offset: 0, bytes: limits.bytes() }, limits };
        let words = |span: Span, words: u32| assert_eq!(span.bytes, 4 * u64::from(words));
        words(inputs.counts(), 4);
        for span in [inputs.tokens(), inputs.positions(), inputs.sequences()] {
            words(span, tokens);
        }
        words(inputs.rows(), rows);
        words(inputs.samplers(), 16 * rows);
        words(inputs.tables(), sequences * blocks);
        words(inputs.counters(), 128);
        words(inputs.seen(), sequences * vocabulary.div_ceil(32));
        words(inputs.allowed(), rows * vocabulary.div_ceil(32));
        words(inputs.bias(), rows * vocabulary);
        let mut spans = [
            inputs.counts(), inputs.tokens(), inputs.positions(), inputs.sequences(),
            inputs.rows(), inputs.samplers(), inputs.tables(), inputs.counters(), inputs.seen(),
            inputs.allowed(), inputs.bias(),
        ];
        prop_assert!(spans.iter().all(|span| span.offset.is_multiple_of(64)));
        spans.sort_by_key(|span| span.offset);
        prop_assert!(spans.windows(2).all(|pair| pair[0].offset + pair[0].bytes <= pair[1].offset));
        prop_assert!(spans.iter().all(|span| span.offset + span.bytes <= limits.bytes()));
        // Sets of tokens and biases are written where they change; everything else at every step.
        prop_assert_eq!(limits.step_bytes() as u64, inputs.seen().offset);
    }
}
