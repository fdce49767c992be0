//! KV blocks: which are used by whom, and what the unused ones still hold.
//!
//! A full block is known by its tokens and all tokens before them, as a path through a tree: a key is the parent's node and the
//! block's own tokens, compared exactly, so that no two texts are ever mixed up. A block whose last user is gone stays in the tree until
//! its memory is needed: the one unused longest goes first, and a child before its parent. Sliding-window layers keep K and V of the whole
//! context, so a block holds all that any layer needs.
use crate::memory::BLOCK_TOKENS;
use crate::sequence::Reuse;
use std::collections::HashMap;

const TOKENS: usize = BLOCK_TOKENS as usize;

/// A path through the tree: where it has come to, and whether all of it was read as prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    node: u64,
    pub(crate) prompts: bool,
}

impl Path {
    pub(crate) const ROOT: Self = Self { node: 0, prompts: true };
}

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    parent: u64,
    /// All tokens up to here were read as prompts: reading them anew gives the same bits.
    prompts: bool,
    tokens: [u32; TOKENS],
}

#[derive(Clone, Debug, Default)]
struct Block {
    users: u32,
    /// Its place in the tree, if it has one.
    key: Option<Key>,
    node: u64,
    /// When its last user gave it back.
    released: u64,
}

/// The blocks of a KV cache.
#[derive(Debug)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    /// Blocks that hold nothing.
    empty: Vec<u32>,
    tree: HashMap<Key, u32>,
    /// Blocks of the tree without users.
    idle: u32,
    clock: u64,
}

impl Blocks {
    pub(crate) fn new(total: u32) -> Self {
        Self {
            blocks: vec![Block::default(); total as usize],
            // Low numbers first: a short run touches few pages of the cache.
            empty: (0..total).rev().collect(),
            tree: HashMap::with_capacity(total as usize),
            idle: 0,
            clock: 0,
        }
    }

    pub(crate) fn total(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("made from a u32")
    }

    /// Blocks that could be taken now.
    pub(crate) fn available(&self) -> u32 {
        u32::try_from(self.empty.len()).expect("no more than all") + self.idle
    }

    /// A block for one user; what it held is forgotten.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.empty.pop().or_else(|| self.evict())?;
        self.blocks[block as usize].users = 1;
        Some(block)
    }

    /// Calls `found` with the blocks that hold the beginning of `tokens`, in order, and where each leads.
    pub(crate) fn find(&self, tokens: &[u32], reuse: Reuse, mut found: impl FnMut(u32, Path)) {
        let mut path = Path::ROOT;
        for tokens in tokens.as_chunks::<TOKENS>().0 {
            let key = |prompts| Key { parent: path.node, prompts, tokens: *tokens };
            let as_prompt = path.prompts.then(|| self.tree.get(&key(true))).flatten();
            let any = as_prompt.or_else(|| match reuse {
                Reuse::All => self.tree.get(&key(false)),
                Reuse::Prompts | Reuse::Nothing => None,
            });
            let Some(block) = any.filter(|_| reuse != Reuse::Nothing) else { break };
            path = Path { node: self.blocks[*block as usize].node, prompts: as_prompt.is_some() };
            found(*block, path);
        }
    }

    /// One more user for a block that was found.
    pub(crate) fn share(&mut self, block: u32) {
        let block = &mut self.blocks[block as usize];
        self.idle -= u32::from(block.users == 0);
        block.users += 1;
    }

    pub(crate) fn has_one_user(&self, block: u32) -> bool {
        self.blocks[block as usize].users == 1
    }

    pub(crate) fn is_idle(&self, block: u32) -> bool {
        self.blocks[block as usize].users == 0
    }

    /// Makes a block that is now full findable; returns where it leads. When another one holds the same, that one stays.
    pub(crate) fn keep(&mut self, block: u32, before: Path, tokens: &[u32], prompts: bool) -> Path {
        let prompts = prompts && before.prompts;
        let tokens = tokens.try_into().expect("a full block");
        let key = Key { parent: before.node, prompts, tokens };
        if let Some(other) = self.tree.get(&key) {
            return Path { node: self.blocks[*other as usize].node, prompts };
        }
        self.clock += 1;
        let place = &mut self.blocks[block as usize];
        (place.key, place.node) = (Some(key.clone()), self.clock);
        self.tree.insert(key, block);
        Path { node: self.clock, prompts }
    }

    /// One user less for each of a sequence's blocks, which are in the order of its tokens.
    pub(crate) fn give_back(&mut self, blocks: &[u32]) {
        // The last one first: it is unused longer than those it continues.
        for id in blocks.iter().rev() {
            self.clock += 1;
            let block = &mut self.blocks[*id as usize];
            block.users = block.users.checked_sub(1).expect("the block was taken");
            if block.users > 0 {
                continue;
            }
            block.released = self.clock;
            if block.key.is_some() {
                self.idle += 1;
            } else {
                self.empty.push(*id);
            }
        }
    }

    /// Takes the block unused longest out of the tree.
    fn evict(&mut self) -> Option<u32> {
        let idle = (0..).zip(&self.blocks).filter(|(_, block)| block.users == 0);
        let (id, _) = idle.min_by_key(|(_, block)| block.released)?;
        let key = self.blocks[id as usize].key.take();
        self.tree.remove(&key.expect("an unused block out of the tree is empty"));
        self.idle -= 1;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(blocks: &Blocks, tokens: &[u32], reuse: Reuse) -> Vec<u32> {
        let mut found = Vec::new();
        blocks.find(tokens, reuse, |block, _| found.push(block));
        found
    }

    /// Takes and fills the blocks of a text, as a sequence does; `answer` says from which token on it was not read as a prompt.
    fn fill(blocks: &mut Blocks, tokens: &[u32], answer: usize) -> Vec<u32> {
        let (mut own, mut path) = (Vec::new(), Path::ROOT);
        blocks.find(tokens, Reuse::All, |block, to| {
            own.push(block);
            path = to;
        });
        own.iter().for_each(|block| blocks.share(*block));
        for (number, full) in tokens.chunks_exact(TOKENS).enumerate().skip(own.len()) {
            let block = blocks.take().unwrap();
            path = blocks.keep(block, path, full, (number + 1) * TOKENS <= answer);
            own.push(block);
        }
        own
    }

    fn text(seed: u32, blocks: usize) -> Vec<u32> {
        (0..u32::try_from(blocks * TOKENS).unwrap()).map(|i| i * 7 + seed).collect()
    }

    #[test]
    fn a_shared_beginning_is_found_and_survives_its_first_user() {
        let mut blocks = Blocks::new(8);
        let first = fill(&mut blocks, &text(1, 3), usize::MAX);
        let mut other = text(1, 3);
        other[2 * TOKENS] = 9999;
        assert_eq!(found(&blocks, &other, Reuse::Prompts), first[..2]);
        let second = fill(&mut blocks, &other, usize::MAX);
        assert_eq!((second[..2].to_vec(), blocks.available()), (first[..2].to_vec(), 4));
        blocks.give_back(&first);
        assert_eq!(blocks.available(), 5);
        assert_eq!(found(&blocks, &text(1, 3), Reuse::Prompts), first);
        assert!(found(&blocks, &text(1, 3), Reuse::Nothing).is_empty());
    }

    #[test]
    fn under_pressure_the_oldest_goes_and_children_before_parents() {
        let mut blocks = Blocks::new(4);
        let old = fill(&mut blocks, &text(1, 2), usize::MAX);
        let new = fill(&mut blocks, &text(2, 2), usize::MAX);
        blocks.give_back(&old);
        blocks.give_back(&new);
        assert_eq!(blocks.take(), Some(old[1]));
        assert_eq!(found(&blocks, &text(1, 2), Reuse::All), old[..1]);
        assert_eq!(blocks.take(), Some(old[0]));
        assert_eq!(blocks.take(), Some(new[1]));
        assert_eq!(found(&blocks, &text(2, 2), Reuse::All), new[..1]);
    }

    #[test]
    fn what_an_answer_left_is_only_for_those_who_want_it() {
        let mut blocks = Blocks::new(8);
        let own = fill(&mut blocks, &text(1, 3), TOKENS);
        assert_eq!(found(&blocks, &text(1, 3), Reuse::Prompts), own[..1]);
        assert_eq!(found(&blocks, &text(1, 3), Reuse::All), own);
        // Read as a prompt after an answer's block it is still no pure prompt.
        let path = Path { prompts: false, ..Path::ROOT };
        let block = blocks.take().unwrap();
        assert!(!blocks.keep(block, path, &text(5, 1), true).prompts);
    }

    proptest! {
        /// Whatever happens: counts add up, no block has two owners that did not share it, and what is found was filled with just that.
        #[test]
        fn books_are_kept(ops in prop::collection::vec((0u32..4, 1usize..4, any::<bool>()), 1..60)) {
            let mut blocks = Blocks::new(12);
            let mut live: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
            for (seed, length, give) in ops {
                let text = text(seed % 2, length);
                if give && !live.is_empty() {
                    let (_, own) = live.remove(seed as usize % live.len());
                    blocks.give_back(&own);
                } else if blocks.available() as usize >= length {
                    let own = fill(&mut blocks, &text, if seed < 2 { usize::MAX } else { TOKENS });
                    live.push((text, own));
                }
                let mut used: Vec<u32> = live.iter().flat_map(|(_, own)| own.clone()).collect();
                used.sort_unstable();
                used.dedup();
                prop_assert_eq!(used.len(), 12 - blocks.available() as usize);
                for (text, own) in &live {
                    for (other, theirs) in &live {
                        for (i, block) in own.iter().enumerate() {
                            let end = (i + 1) * TOKENS;
                            let same = other.len() >= end && other[..end] == text[..end];
                            prop_assert!(!theirs.contains(block) || same);
                        }
                    }
                }
            }
        }
    }
}
