//! Sequences of a tiny model on the CPU device: what an engine's users rely on. No fixture decides here: each test compares two
//! ways to the same tokens, or counts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::grammar::{Grammar, Vocabulary};
use engine::{End, Engine, Error, Event, Options, Params, Penalties, Reuse, SequenceId, WhenFull};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use model::tokenizer::{Control, Tokenizer};
use ops::sample::Sampler;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

#[expect(unsafe_code, reason = "an allocator that passes everything on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn engine(name: &str, options: Options) -> Engine {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny").join(name);
    let model = Arc::new(Model::open(&path, options.context).unwrap());
    let device = Arc::new(Cpu::open(CpuOptions { threads: Some(2) }).unwrap());
    Engine::new(device, model, options).unwrap()
}

fn small(sequences: u32, prompt_chunk: u32) -> Options {
    Options { sequences, prompt_chunk, cache_tokens: 128 * sequences, ..Options::single(128) }
}

fn params(tokens_max: u32, seed: u64) -> Params {
    let sampler = Sampler { temperature: 1.0, top_k: 40, top_p: 0.95, seed, ..Sampler::GREEDY };
    Params::new(sampler, tokens_max)
}

/// Runs everything that is running to its end.
fn finish(engine: &mut Engine) -> Vec<(SequenceId, Vec<u32>, End)> {
    let mut answers: Vec<(SequenceId, Vec<u32>, End)> = Vec::new();
    let mut open: Vec<(SequenceId, Vec<u32>)> = Vec::new();
    loop {
        let (report, events) = engine.step().unwrap();
        if report == engine::Report::default() {
            return answers;
        }
        for event in events {
            match *event {
                Event::Token { sequence, token } => {
                    match open.iter_mut().find(|(id, _)| *id == sequence) {
                        Some((_, tokens)) => tokens.push(token),
                        None => open.push((sequence, vec![token])),
                    }
                }
                Event::End { sequence, end } => {
                    let at = open.iter().position(|(id, _)| *id == sequence);
                    let tokens = at.map(|at| open.remove(at).1).unwrap_or_default();
                    answers.push((sequence, tokens, end));
                }
            }
        }
    }
}

const PROMPT: [u32; 9] = [5, 9, 33, 2, 2, 61, 7, 40, 18];

#[test]
fn ten_runs_alone_and_in_a_batch_give_the_same_tokens() {
    for name in ["llama-q4_1.gguf", "gemma3.gguf", "qwen3.gguf"] {
        let mut alone = engine(name, small(1, 64));
        let id = alone.start(&PROMPT, params(20, 7)).unwrap();
        let expected = finish(&mut alone).remove(0).1;
        assert_eq!(expected.len(), 20);
        alone.release(id);
        let mut batch = engine(name, small(5, 16));
        for run in 0..10 {
            let id = batch.start(&PROMPT, params(20, 7)).unwrap();
            // Neighbours of other lengths, which come and go while it runs.
            let others: Vec<SequenceId> = (0..run % 5)
                .map(|i| {
                    batch
                        .start(&PROMPT[..2 + i], params(3 + 4 * u32::try_from(i).unwrap(), 100))
                        .unwrap()
                })
                .collect();
            let answers = finish(&mut batch);
            let ours = &answers.iter().find(|(other, ..)| *other == id).unwrap().1;
            assert_eq!(*ours, expected, "{name}, run {run} with {} others", others.len());
            others.into_iter().chain([id]).for_each(|id| batch.release(id));
        }
    }
}

/// A text of `tokens` tokens, different for each seed.
fn text(tokens: u32, seed: u32) -> Vec<u32> {
    (0..tokens).map(|i| 3 + (i * 31 + seed * 7) % 60).collect()
}

/// Runs one prompt to its end; returns its tokens and how many of the prompt the cache held.
fn run(engine: &mut Engine, prompt: &[u32], params: Params) -> (Vec<u32>, u32) {
    let id = engine.start(prompt, params).unwrap();
    let tokens = finish(engine).remove(0).1;
    let found = engine.cached_tokens(id);
    engine.release(id);
    (tokens, found)
}

#[test]
fn a_prefix_is_read_once_and_changes_no_token() {
    let mut fresh = engine("llama-q4_1.gguf", small(1, 64));
    let mut engine = engine("llama-q4_1.gguf", small(1, 64));
    let reuse = |reuse| Params { reuse, ..params(10, 3) };
    let prompt = text(70, 1);
    let first = run(&mut engine, &prompt, reuse(Reuse::Prompts));
    assert_eq!(first, run(&mut fresh, &prompt, reuse(Reuse::Nothing)));
    assert_eq!(first.1, 0);
    // The same again: two full blocks of 32.
    assert_eq!(run(&mut engine, &prompt, reuse(Reuse::Prompts)), (first.0, 64));
    // Another end: what is shared is kept, the tokens are those of an engine that never saw the first.
    let other: Vec<u32> = prompt[..40].iter().copied().chain(text(25, 2)).collect();
    let (tokens, found) = run(&mut engine, &other, reuse(Reuse::Prompts));
    assert_eq!((tokens, found), (run(&mut fresh, &other, reuse(Reuse::Nothing)).0, 32));
    assert_eq!(engine.status().blocks_used, 0);
}

#[test]
fn a_conversation_goes_on_without_reading_its_answers_again() {
    let mut engine = engine("llama.gguf", small(1, 64));
    let prompt = text(50, 1);
    let (answer, _) = run(&mut engine, &prompt, params(40, 1));
    // 89 of these tokens were run: two full blocks, the second with tokens of the answer.
    let longer: Vec<u32> = prompt.iter().chain(&answer).chain(&[11, 12]).copied().collect();
    let prompts = Params { reuse: Reuse::Prompts, ..params(1, 1) };
    assert_eq!(run(&mut engine, &longer, prompts).1, 32);
    assert_eq!(run(&mut engine, &longer, params(1, 1)).1, 64);
}

#[test]
fn requests_with_a_common_beginning_that_come_together_read_it_once() {
    let mut engine = engine("llama-q4_1.gguf", small(4, 16));
    let mut expected = Vec::new();
    for end in 0..4 {
        let prompt: Vec<u32> = text(64, 1).into_iter().chain(text(5, 9 + end)).collect();
        expected
            .push(run(&mut engine, &prompt, Params { reuse: Reuse::Nothing, ..params(8, 5) }).0);
    }
    let mut engine = self::engine("llama-q4_1.gguf", small(4, 16));
    let ids: Vec<SequenceId> = (0..4)
        .map(|end| {
            let prompt: Vec<u32> = text(64, 1).into_iter().chain(text(5, 9 + end)).collect();
            engine.start(&prompt, params(8, 5)).unwrap()
        })
        .collect();
    let answers = finish(&mut engine);
    for (id, expected) in ids.iter().zip(expected) {
        let (_, tokens, _) = answers.iter().find(|(other, ..)| other == id).unwrap();
        assert_eq!(*tokens, expected);
    }
    let found: Vec<u32> = ids.iter().map(|id| engine.cached_tokens(*id)).collect();
    assert_eq!(found, [0, 64, 64, 64]);
}

#[test]
fn sequences_that_do_not_fit_together_are_paused_and_give_the_same_tokens() {
    let mut alone = engine("llama-q4_1.gguf", small(1, 64));
    let expected: Vec<Vec<u32>> =
        (0..3).map(|i| run(&mut alone, &text(30 + i, i), params(60, 7)).0).collect();
    // Three of 30 + 60 tokens need nine blocks; there are five.
    let options = Options { cache_tokens: 160, ..small(3, 64) };
    let mut engine = engine("llama-q4_1.gguf", options);
    let ids: Vec<SequenceId> =
        (0..3).map(|i| engine.start(&text(30 + i, i), params(60, 7)).unwrap()).collect();
    let mut paused = 0;
    let mut tokens = vec![Vec::new(); 3];
    loop {
        let (report, events) = engine.step().unwrap();
        paused += report.paused;
        for event in events {
            if let Event::Token { sequence, token } = event {
                tokens[ids.iter().position(|id| id == sequence).unwrap()].push(*token);
            }
        }
        if report == engine::Report::default() {
            break;
        }
    }
    assert!(paused > 0);
    assert_eq!(tokens, expected);
    assert_eq!(engine.status().blocks_used, 0);
}

#[test]
fn a_full_context_shifts_when_asked() {
    let mut engine = engine("llama.gguf", small(1, 64));
    let shifting = Params { when_full: WhenFull::Shift { keep: 4 }, ..params(300, 1) };
    let id = engine.start(&text(20, 1), shifting).unwrap();
    let (_, tokens, end) = finish(&mut engine).remove(0);
    assert_eq!((tokens.len(), end), (300, End::TokensMax));
    let held = engine.tokens(id).unwrap();
    assert!(held.len() < 128 && held[..4] == text(20, 1)[..4] && held.ends_with(&tokens[290..]));
}

/// Guessing changes no token: not alone, not in a batch, not across blocks, whatever the sampler and whoever guesses. Returns how
/// many were guessed and how many came true.
fn guess(plain: &mut Engine, guessing: &mut Engine, repeated: bool) -> (u32, u32) {
    guessing.set_draft_cost(0.05);
    let (mut drafted, mut accepted) = (0, 0);
    for seed in 0..12 {
        let sampler = if seed % 2 == 0 {
            Sampler::GREEDY
        } else {
            Sampler { temperature: 0.6, top_k: 3, seed: u64::from(seed), ..Sampler::GREEDY }
        };
        let params = Params::new(sampler, 50);
        let length = if repeated { 12 } else { 40 };
        let prompt: Vec<u32> = text(length, seed).into_iter().cycle().take(40).collect();
        let expected = run(plain, &prompt, params.clone()).0;
        let others: Vec<SequenceId> = (0..seed % 3)
            .map(|i| guessing.start(&text(20, i), self::params(40, 1)).unwrap())
            .collect();
        let id = guessing.start(&prompt, params).unwrap();
        let mut tokens = Vec::new();
        loop {
            let (report, events) = guessing.step().unwrap();
            drafted += report.drafted_tokens;
            accepted += report.accepted_tokens;
            tokens.extend(events.iter().filter_map(|event| match event {
                Event::Token { sequence, token } if *sequence == id => Some(*token),
                _ => None,
            }));
            if report == engine::Report::default() {
                break;
            }
        }
        assert_eq!(tokens, expected, "seed {seed}");
        others.into_iter().chain([id]).for_each(|id| guessing.release(id));
        assert_eq!(guessing.status().blocks_used, 0);
        assert!(guessing.draft_status().is_none_or(|draft| draft == (0, 0)));
    }
    (drafted, accepted)
}

#[test]
fn guesses_from_the_text_change_no_token() {
    for name in ["llama-q4_1.gguf", "gemma3.gguf"] {
        let mut guessing = engine(name, Options { speculate: true, ..small(3, 64) });
        let (drafted, accepted) = guess(&mut engine(name, small(1, 64)), &mut guessing, true);
        assert!(accepted > 20 && drafted > accepted, "{name}: {accepted} of {drafted}");
    }
}

#[test]
fn guesses_of_a_draft_model_change_no_token() {
    // The model itself, whose guesses come true but where the text offers another, and a different one.
    for (draft, least) in [("llama-q4_1.gguf", 0.7), ("llama.gguf", 0.0)] {
        let mut guessing = engine("llama-q4_1.gguf", Options { speculate: true, ..small(3, 64) });
        guessing.set_draft(engine(draft, small(3, 64))).unwrap();
        let mut plain = engine("llama-q4_1.gguf", small(1, 64));
        let (drafted, accepted) = guess(&mut plain, &mut guessing, false);
        assert!(drafted > 50, "{draft}: {drafted}");
        let rate = f64::from(accepted) / f64::from(drafted);
        assert!(rate >= least, "{draft}: {accepted} of {drafted}");
    }
    let mut without = engine("llama-q4_1.gguf", small(3, 64));
    assert!(without.set_draft(engine("llama.gguf", small(3, 64))).is_err());
}

#[test]
fn biases_and_penalties_reach_the_sampler() {
    let mut engine = engine("llama.gguf", small(2, 64));
    let greedy = Params::new(Sampler::GREEDY, 12);
    let (plain, _) = run(&mut engine, &PROMPT, greedy.clone());
    // What is forced comes, what is forbidden does not, a neighbour in the batch notices nothing.
    let forced = Params { logit_bias: vec![(17, 1e4)], ..greedy.clone() };
    let forbidden = Params { logit_bias: vec![(plain[0], f32::NEG_INFINITY)], ..greedy.clone() };
    let neighbour = engine.start(&PROMPT, greedy.clone()).unwrap();
    engine.start(&PROMPT, forced).unwrap();
    let answers = finish(&mut engine);
    for (id, tokens, _) in &answers {
        assert_eq!(*tokens, if *id == neighbour { plain.clone() } else { vec![17; 12] });
        engine.release(*id);
    }
    assert!(!run(&mut engine, &PROMPT, forbidden).0.contains(&plain[0]));
    // With a presence penalty far above any logit no token comes twice.
    let penalties = Penalties { presence: 1e4, ..Penalties::default() };
    let (mut once, _) = run(&mut engine, &PROMPT, Params { penalties, ..greedy });
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 12);
}

/// Random weights write what a grammar wants, beside a neighbour without one.
#[test]
fn a_grammar_reaches_the_sampler() {
    let mut engine = engine("llama.gguf", small(2, 64));
    let tokenizer = Arc::new(Tokenizer::from_gguf(engine.model().gguf.metadata()).unwrap());
    let vocabulary = Vocabulary::new(Arc::clone(&tokenizer)).unwrap();
    let grammar = Grammar::Regex("(ab|ba){3}".to_owned());
    let neighbour = engine.start(&PROMPT, params(12, 3)).unwrap();
    let (expected, _) = run(&mut self::engine("llama.gguf", small(1, 64)), &PROMPT, params(12, 3));
    for seed in 0..5 {
        let constraint = Some(vocabulary.constrain(&grammar).unwrap());
        let constrained = Params { constraint, ..params(30, seed) };
        let id = engine.start(&PROMPT, constrained).unwrap();
        for (other, tokens, end) in finish(&mut engine) {
            if other == neighbour {
                assert_eq!(tokens, expected);
                continue;
            }
            let text = tokenizer.decode(&tokens, Control::Keep);
            let parts: Vec<&str> = (0..3).map(|i| &text[2 * i..2 * i + 2]).collect();
            assert!(
                text.len() == 6 && parts.iter().all(|part| ["ab", "ba"].contains(part)),
                "{text}"
            );
            assert_eq!(end, End::ByModel);
        }
        engine.release(id);
    }
}

#[test]
fn those_who_wait_get_their_turn_and_those_who_leave_take_nothing() {
    let mut engine = engine("llama.gguf", Options { waiting: 2, ..small(1, 64) });
    let ids: Vec<SequenceId> =
        (0..3).map(|i| engine.start(&text(40, i), params(5, 1)).unwrap()).collect();
    assert!(matches!(
        engine.start(&PROMPT, params(5, 1)),
        Err(Error::Busy { sequences: 1, waiting: 2 })
    ));
    engine.step().unwrap();
    assert_eq!((engine.status().running, engine.status().waiting), (1, 2));
    engine.release(ids[1]);
    engine.release(ids[0]);
    assert_eq!(engine.status().blocks_used, 0);
    let answers = finish(&mut engine);
    assert_eq!(answers.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [ids[2]]);
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut engine = engine("llama.gguf", Options { context: 16, ..small(1, 64) });
    engine.start(&PROMPT, params(u32::MAX, 1)).unwrap();
    let (_, tokens, end) = finish(&mut engine).remove(0);
    assert_eq!((tokens.len(), end), (16 - PROMPT.len(), End::ContextFull));
}

#[test]
fn an_end_token_ends_the_answer_and_is_not_shown() {
    let mut engine = engine("llama.gguf", small(1, 64));
    engine.start(&PROMPT, params(20, 7)).unwrap();
    let all = finish(&mut engine).remove(0).1;
    let mut again = self::engine("llama.gguf", small(1, 64));
    let stop = Params { end_tokens: vec![all[5]], ..params(20, 7) };
    again.start(&PROMPT, stop).unwrap();
    let (_, tokens, end) = finish(&mut again).remove(0);
    let first = all.iter().position(|token| *token == all[5]).unwrap();
    assert_eq!((&tokens[..], end), (&all[..first], End::ByModel));
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut engine = engine("llama.gguf", small(1, 64));
    let bad = |engine: &mut Engine, prompt: &[u32], change: fn(&mut Sampler)| {
        let mut params = params(5, 1);
        change(&mut params.sampler);
        engine.start(prompt, params).unwrap_err().to_string()
    };
    assert!(bad(&mut engine, &[], |_| ()).contains("empty"));
    assert!(bad(&mut engine, &[1_000_000], |_| ()).contains("1000000"));
    assert!(bad(&mut engine, &[1; 128], |_| ()).contains("128 tokens"));
    assert!(bad(&mut engine, &[1], |s| s.temperature = f32::NAN).contains("temperature"));
    assert!(bad(&mut engine, &[1], |s| s.top_p = 1.5).contains("top_p"));
    assert!(bad(&mut engine, &[1], |s| s.repetition_penalty = 0.0).contains("repetition_penalty"));
    let id = engine.start(&PROMPT, params(2, 1)).unwrap();
    assert!(matches!(
        engine.start(&PROMPT, params(2, 1)),
        Err(Error::Busy { sequences: 1, waiting: 0 })
    ));
    engine.release(id);
    assert!(engine.tokens(id).is_err());
    assert!(engine.start(&PROMPT, params(2, 1)).is_ok());
}

#[test]
fn an_absurd_context_is_refused_with_numbers() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny/llama.gguf");
    let model = Arc::new(Model::open(&path, 64).unwrap());
    let device = Arc::new(Cpu::open(CpuOptions { threads: Some(1) }).unwrap());
    let error = Engine::new(device, model, Options::single(u32::MAX / 2)).map(drop).unwrap_err();
    assert!(
        matches!(&error, Error::Memory { needed, available, .. } if needed > available),
        "{error}"
    );
    assert!(error.to_string().contains("--ctx"), "{error}");
}

#[test]
fn a_warm_step_allocates_nothing() {
    let mut engine = engine("llama-q4_1.gguf", small(2, 64));
    for seed in 0..2 {
        engine
            .start(
                &PROMPT,
                Params {
                    sampler: Sampler { repetition_penalty: 1.1, ..params(60, seed).sampler },
                    ..params(60, seed)
                },
            )
            .unwrap();
    }
    for _ in 0..5 {
        engine.step().unwrap();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..40 {
        let (report, _) = engine.step().unwrap();
        assert_eq!(report.decode_tokens, 2);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

/// A NaN scale would silently spread to every logit: packed or not, it is refused when the weights are loaded.
#[test]
fn a_bad_scale_is_refused_by_name() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/models/tiny/llama-q8_0.gguf");
    let model = Model::open(&path, 64).unwrap();
    let mut bytes = model.gguf.mapping().to_vec();
    let tensor = model.gguf.tensor("blk.0.ffn_down.weight").unwrap();
    // The scale of the tensor's second block.
    let at = usize::try_from(tensor.offset).unwrap() + 34;
    bytes[at..at + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    let damaged = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(damaged.path(), bytes).unwrap();
    let device = Arc::new(Cpu::open(CpuOptions { threads: Some(2) }).unwrap());
    let model = Arc::new(Model::open(damaged.path(), 64).unwrap());
    let error = Engine::new(device, model, Options::single(64)).map(drop).unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_down.weight") && error.contains("block 1"), "{error}");
}
