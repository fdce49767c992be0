//! KV blocks: which are free.

/// Hands out the blocks of the KV cache.
#[derive(Debug)]
pub(crate) struct Blocks {
    free: Vec<u32>,
    total: u32,
}

impl Blocks {
    pub(crate) fn new(total: u32) -> Self {
        // Low numbers first: a short run touches few pages of the cache.
        Self { free: (0..total).rev().collect(), total }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(crate) fn give_back(&mut self, block: u32) {
        assert!(block < self.total && self.free.len() < self.total as usize, "block was not taken");
        self.free.push(block);
    }
}
