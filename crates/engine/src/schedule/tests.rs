//! The scheduler as a state machine: a table of cases, and whole lives of sequences under random load.
use super::*;
use proptest::prelude::*;

const ROOM: Budget = Budget { tokens: 64, prompt_tokens: 64, rows: 8, places: 8, blocks: 1000 };

fn item(runs: bool, pending: u32, answers: bool) -> Item {
    let blocks_needed = if runs { 0 } else { pending.div_ceil(32) };
    Item {
        runs,
        pending,
        answers,
        more: false,
        drafts: 0,
        blocks_needed,
        blocks_held: 0,
        deferred: false,
    }
}

fn planned(items: &[Item], budget: Budget) -> Plan {
    let mut plan = Plan::default();
    schedule(items, budget, &mut plan);
    plan
}

fn work(plan: &Plan) -> Vec<(usize, u32, bool)> {
    plan.work.iter().map(|work| (work.item, work.tokens, work.samples)).collect()
}

#[test]
fn answers_go_first_and_prompts_share_the_rest() {
    let items =
        [item(true, 100, false), item(true, 1, true), item(true, 8, false), item(true, 1, true)];
    // 62 tokens are left: the short prompt is read whole, the oldest gets what remains.
    let plan = planned(&items, ROOM);
    assert_eq!(work(&plan), [(1, 1, true), (3, 1, true), (2, 8, true), (0, 54, false)]);
    // Two long ones: half for the oldest.
    let items = [item(true, 100, false), item(true, 200, false)];
    assert_eq!(work(&planned(&items, ROOM)), [(1, 32, false), (0, 32, false)]);
}

#[test]
fn beside_answers_prompts_keep_to_their_share_and_alone_they_do_not() {
    let budget = Budget { prompt_tokens: 4, ..ROOM };
    let plan = planned(&[item(true, 1, true), item(true, 100, false)], budget);
    assert_eq!(work(&plan), [(0, 1, true), (1, 4, false)]);
    assert_eq!(work(&planned(&[item(true, 100, false)], budget)), [(0, 64, false)]);
}

#[test]
fn the_youngest_is_paused_when_blocks_run_out_and_nobody_is_admitted_then() {
    let runs =
        |blocks_needed, blocks_held| Item { blocks_needed, blocks_held, ..item(true, 1, true) };
    let items = [runs(1, 3), runs(1, 2), runs(0, 2), item(false, 10, false)];
    let plan = planned(&items, Budget { blocks: 0, ..ROOM });
    assert_eq!((&plan.pause[..], &plan.admit[..]), (&[2][..], &[][..]));
    assert_eq!(work(&plan), [(0, 1, true), (1, 1, true)]);
    // One that holds no block of its own brings nothing: the next goes too.
    let items = [runs(1, 3), runs(1, 2), runs(0, 0)];
    assert_eq!(planned(&items, Budget { blocks: 0, ..ROOM }).pause, [2, 1]);
}

#[test]
fn admission_keeps_the_order_and_a_block_for_each_that_runs() {
    let items = [
        item(true, 1, true),
        item(false, 64, false),
        item(false, 320, false),
        item(false, 1, false),
    ];
    // 2 for the first and a spare one for the running; the second needs 10 and two spare ones.
    assert_eq!(planned(&items, Budget { blocks: 13, ..ROOM }).admit, [1]);
    assert_eq!(planned(&items, Budget { blocks: 14, ..ROOM }).admit, [1, 2]);
    assert_eq!(planned(&items, Budget { places: 1, ..ROOM }).admit, [1]);
    let mut waits = items;
    waits[1].deferred = true;
    assert_eq!(planned(&waits, ROOM).admit, [2, 3]);
}

#[test]
fn guesses_take_only_what_others_leave() {
    let drafting = |drafts| Item { drafts, ..item(true, 1, true) };
    let plan =
        planned(&[drafting(3), drafting(9), item(true, 1, true)], Budget { rows: 8, ..ROOM });
    let drafts: Vec<u32> = plan.work.iter().map(|work| work.drafts).collect();
    assert_eq!(drafts, [3, 2, 0]);
}

/// A sequence's life: its prompt is read, some tokens are sampled, it ends.
#[derive(Clone, Debug)]
struct Life {
    prompt: u32,
    answer: u32,
    sampled: u32,
    cached: u32,
    blocks: u32,
    runs: bool,
}

const BLOCK: u32 = 32;

impl Life {
    fn item(&self) -> Item {
        let tokens = self.prompt + self.sampled;
        let end = if self.cached < self.prompt { self.prompt } else { tokens };
        Item {
            runs: self.runs,
            pending: end - self.cached,
            answers: self.cached >= self.prompt,
            more: end < tokens,
            drafts: 0,
            blocks_needed: tokens.div_ceil(BLOCK).saturating_sub(self.blocks),
            blocks_held: self.blocks,
            deferred: false,
        }
    }

    fn ended(&self) -> bool {
        self.sampled == self.answer
    }
}

/// Runs all lives to their end; returns after how many steps each ended.
fn live(mut lives: Vec<Life>, pool: u32, places: u32, budget: Budget) -> Vec<u32> {
    let mut ended = vec![0; lives.len()];
    let mut order: Vec<usize> = (0..lives.len()).collect();
    let mut free = pool;
    let mut plan = Plan::default();
    for step in 1.. {
        assert!(step < 100_000, "nothing comes to an end");
        let items: Vec<Item> = order.iter().map(|at| lives[*at].item()).collect();
        let running = u32::try_from(items.iter().filter(|item| item.runs).count()).unwrap();
        schedule(&items, Budget { places: places - running, blocks: free, ..budget }, &mut plan);
        let tokens: u32 = plan.work.iter().map(|work| work.tokens).sum();
        assert!(tokens <= budget.tokens && !plan.work.is_empty());
        assert!(plan.work.iter().filter(|work| work.samples).count() <= budget.rows as usize);
        for at in &plan.pause {
            let life = &mut lives[order[*at]];
            free += std::mem::take(&mut life.blocks);
            (life.runs, life.cached) = (false, 0);
        }
        for at in &plan.admit {
            lives[order[*at]].runs = true;
        }
        for at in &order {
            let life = &mut lives[*at];
            if life.runs {
                let needed = life.item().blocks_needed;
                free = free.checked_sub(needed).expect("no block is given twice");
                life.blocks += needed;
            }
        }
        for work in &plan.work {
            let life = &mut lives[order[work.item]];
            assert!(life.runs && work.tokens <= life.item().pending);
            life.cached += work.tokens;
            if work.samples {
                assert_eq!(life.cached, life.prompt + life.sampled);
                life.sampled += 1;
            }
        }
        order.retain(|at| {
            let life = &mut lives[*at];
            if life.ended() {
                ended[*at] = step;
                free += std::mem::take(&mut life.blocks);
            }
            !life.ended()
        });
        if order.is_empty() {
            break;
        }
    }
    assert_eq!(free, pool, "blocks were lost");
    ended
}

fn life(prompt: u32, answer: u32) -> Life {
    Life { prompt, answer, sampled: 0, cached: 0, blocks: 0, runs: false }
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let ended = live(vec![life(6400, 1), life(20, 1)], 1000, 8, ROOM);
    assert_eq!(ended, [101, 1]);
}

proptest! {
    /// Under any load every sequence ends, budgets hold, no block is lost or given twice.
    #[test]
    fn everything_comes_to_an_end(
        lives in prop::collection::vec((1u32..300, 1u32..100), 1..20), pool in 13u32..60, places in 1u32..9, tokens in 9u32..64
    ) {
        let lives = lives.into_iter().map(|(prompt, answer)| life(prompt, answer)).collect();
        let budget = Budget { tokens, prompt_tokens: tokens.min(7), rows: places, places, blocks: 0 };
        live(lives, pool, places, budget);
    }
}
