//! A hash of logits: tells whether two runs computed the same, bit for bit.

/// FNV-1a over 32-bit words (Fowler, Noll and Vo), a word at a time for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitsHash(pub u64);

impl Default for LogitsHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl LogitsHash {
    /// Adds one row of logits.
    pub fn add(&mut self, row: &[f32]) {
        for value in row {
            self.add_word(value.to_bits());
        }
    }

    pub(crate) fn add_word(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    }
}
