//! What the next step is about: a pure function of how far each sequence is and what there is room for.
//!
//! Continuous batching (Yu et al. 2022, "Orca") with chunked prompts beside running answers (Agrawal et al. 2024, "Sarathi-Serve"):
//! answers go first, so that no stream stalls behind a prompt; prompts share what is left. When KV blocks run out, the youngest sequence
//! is paused and later read again (Kwon et al. 2023, "PagedAttention").

/// How far one sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Holds a place and blocks.
    pub(crate) runs: bool,
    /// Tokens known but not yet run through the model.
    pub(crate) pending: u32,
    /// The pending tokens belong to an answer: one that was just sampled, or more after a pause.
    pub(crate) answers: bool,
    /// Others follow them: the beginning of an answer, after a pause that made its prompt pending again.
    pub(crate) more: bool,
    /// Guesses at the tokens after the pending one, which may be tried with it.
    pub(crate) drafts: u32,
    /// Blocks it still needs: a running one for its next step, a waiting one for all its tokens.
    pub(crate) blocks_needed: u32,
    /// Blocks that would be free without it.
    pub(crate) blocks_held: u32,
    /// It waits for another sequence to read the beginning that both share.
    pub(crate) deferred: bool,
}

/// What one step may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) tokens: u32,
    /// Of `tokens`, those that may belong to prompts while answers run.
    pub(crate) prompt_tokens: u32,
    /// Rows of logits.
    pub(crate) rows: u32,
    /// Places for more sequences.
    pub(crate) places: u32,
    /// KV blocks that could be taken.
    pub(crate) blocks: u32,
}

/// A sequence's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Index of the sequence in the list that was given.
    pub(crate) item: usize,
    pub(crate) tokens: u32,
    /// Guesses that are tried, beside `tokens`.
    pub(crate) drafts: u32,
    /// Whether these are its last pending tokens, so that the next one can be sampled.
    pub(crate) samples: bool,
}

/// What happens next. Kept between steps, so that a step allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Sequences that lose their place.
    pub(crate) pause: Vec<usize>,
    /// Sequences that get a place.
    pub(crate) admit: Vec<usize>,
    /// Tokens to run: those of answers first.
    pub(crate) work: Vec<Work>,
}

/// Fills `plan`. `items` are in the order of their arrival.
///
/// A sequence that is alone must fit: whoever starts one sees to that.
pub(crate) fn schedule(items: &[Item], budget: Budget, plan: &mut Plan) {
    plan.pause.clear();
    plan.admit.clear();
    plan.work.clear();
    let blocks = pause(items, budget.blocks, &mut plan.pause);
    if plan.pause.is_empty() {
        admit(items, budget.places, blocks, &mut plan.admit);
    }
    let mut left = budget;
    answers(items, plan, &mut left);
    if !plan.work.is_empty() {
        left.tokens = left.tokens.min(budget.prompt_tokens);
    }
    prompts(items, plan, &mut left);
}

/// Pauses the youngest until the others have their blocks; returns how many are left.
fn pause(items: &[Item], mut blocks: u32, paused: &mut Vec<usize>) -> u32 {
    for (index, item) in items.iter().enumerate().filter(|(_, item)| item.runs) {
        while !paused.contains(&index) && item.blocks_needed > blocks {
            let runs = |at: &usize| items[*at].runs && !paused.contains(at);
            let Some(youngest) = (index..items.len()).rev().find(runs) else { break };
            blocks += items[youngest].blocks_held;
            paused.push(youngest);
        }
        if !paused.contains(&index) {
            blocks -= item.blocks_needed;
        }
    }
    blocks
}

/// Admits in the order of arrival while there is room, and a block beyond for each that runs.
fn admit(items: &[Item], mut places: u32, mut blocks: u32, admitted: &mut Vec<usize>) {
    let running = items.iter().filter(|item| item.runs).count();
    let mut spare = u32::try_from(running).expect("fewer sequences than blocks");
    for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.runs) {
        if item.deferred {
            continue;
        }
        // Nobody overtakes one that is too large for now: it would wait for ever.
        if places == 0 || item.blocks_needed + spare > blocks {
            break;
        }
        places -= 1;
        blocks -= item.blocks_needed;
        spare += 1;
        admitted.push(index);
    }
}

impl Plan {
    fn takes_part(&self, items: &[Item], index: usize) -> bool {
        let item = &items[index];
        let there = item.runs && !self.pause.contains(&index) || self.admit.contains(&index);
        there && item.pending > 0
    }

    fn give(&mut self, items: &[Item], index: usize, tokens: u32, left: &mut Budget) {
        let item = &items[index];
        let mut take = tokens.min(item.pending).min(left.tokens);
        let mut samples = take == item.pending && !item.more;
        if samples && left.rows == 0 {
            // Its last token waits for a step that has room for its logits.
            (take, samples) = (take - 1, false);
        }
        if take == 0 {
            return;
        }
        left.tokens -= take;
        left.rows -= u32::from(samples);
        self.work.push(Work { item: index, tokens: take, drafts: 0, samples });
    }
}

/// Every sequence that continues an answer; guesses take what is left of the rows.
fn answers(items: &[Item], plan: &mut Plan, left: &mut Budget) {
    for most in [1, u32::MAX] {
        for (index, item) in items.iter().enumerate().filter(|(_, item)| item.answers) {
            // First those that go on, then those that read an answer again after a pause.
            if (item.pending == 1) == (most == 1) && plan.takes_part(items, index) {
                plan.give(items, index, most, left);
            }
        }
    }
    for work in plan.work.iter_mut().filter(|work| work.samples) {
        work.drafts = items[work.item].drafts.min(left.rows).min(left.tokens);
        left.rows -= work.drafts;
        left.tokens -= work.drafts;
    }
}

/// The oldest prompt gets half of the tokens, so that it comes to an end; the shortest ones share the other half, so that they do
/// not wait for it.
fn prompts(items: &[Item], plan: &mut Plan, left: &mut Budget) {
    let reads = |plan: &Plan, index: usize| {
        let given = plan.work.iter().any(|work| work.item == index);
        !items[index].answers && !given && plan.takes_part(items, index)
    };
    let Some(oldest) = (0..items.len()).find(|index| reads(plan, *index)) else { return };
    let mut rest = *left;
    let half = left.tokens.div_ceil(2);
    rest.tokens -= half.min(items[oldest].pending);
    rest.rows = rest.rows.saturating_sub(1);
    let first = plan.work.len();
    let next = |plan: &Plan| {
        let others = (0..items.len()).filter(|index| *index != oldest && reads(plan, *index));
        others.min_by_key(|index| items[*index].pending)
    };
    while let Some(index) = next(plan) {
        let before = plan.work.len();
        plan.give(items, index, u32::MAX, &mut rest);
        if plan.work.len() == before {
            break;
        }
    }
    let others: u32 = plan.work[first..].iter().map(|work| work.tokens).sum();
    let rows = plan.work[first..].iter().filter(|work| work.samples).count();
    left.tokens -= others;
    left.rows -= u32::try_from(rows).expect("within the budget");
    plan.give(items, oldest, u32::MAX, left);
}

#[cfg(test)]
mod tests;
