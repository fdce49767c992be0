//! Tokenizers from GGUF metadata: text to token ids and back, with the ids llama.cpp gives.
//!
//! The `tokenizers` crate is not used. It has no merging by score, which the SentencePiece
//! vocabularies in GGUF files need (its Unigram model finds other tokens); its pre-tokenizers are
//! the original regular expressions, where llama.cpp's differ (case and marks in `tekken`, what folds
//! in contractions); and owned strings for every token and merge make it five times as slow to
//! load (SmolLM2's 49,152 tokens: 36 ms against 7 ms here, on two cores of a server).

mod bpe;
mod error;
mod merge;
mod pretokenize;
mod sentencepiece;
mod special;
mod stream;
#[cfg(test)]
mod tests;
mod vocab;

use crate::gguf::Metadata;
use bpe::Bpe;
use sentencepiece::SentencePiece;
use special::{Fragment, Specials};
use vocab::{Vocab, attr};

pub use error::{Error, Fault};
pub use pretokenize::Pre;
pub use stream::Stream;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// Offsets within a text are kept as u32, and a text may triple when spaces are escaped.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// How a tokenizer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Byte-level byte-pair encoding (`gpt2`).
    Bpe(Pre),
    /// SentencePiece BPE with scores and byte fallback (`llama`).
    SentencePiece,
}

/// What [`Tokenizer::encode`] does about special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Add the begin and end tokens that the model asks for.
    pub add_special: bool,
    /// Read the names of control tokens in the text as those tokens. Off for text that is
    /// not trusted: it must not be able to end its turn.
    pub parse_special: bool,
}

/// Whether decoding shows control tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    #[default]
    Skip,
    Keep,
}

#[derive(Debug)]
enum Encoder {
    Bpe(Box<Bpe>),
    SentencePiece(Box<SentencePiece>),
}

/// A tokenizer. Immutable; share it by reference.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
    vocab: Vocab,
    encoder: Encoder,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer that `tokenizer.ggml.*` describes.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, Error> {
        let kind = kind(metadata)?;
        let mut vocab = Vocab::new(metadata, kind)?;
        let named = Named::new(metadata, &vocab, kind)?;
        let end_of_generation = end_of_generation(&mut vocab, &named);
        strip_after_phi3(metadata, &mut vocab)?;
        let encoder = match kind {
            Kind::Bpe(pre) => Encoder::Bpe(Box::new(Bpe::new(metadata, &vocab, pre)?)),
            Kind::SentencePiece => {
                Encoder::SentencePiece(Box::new(SentencePiece::new(metadata, &vocab)?))
            }
        };
        let flag = |key, default| Ok::<_, Error>(metadata.opt_bool(key)?.unwrap_or(default));
        let sentencepiece = kind == Kind::SentencePiece;
        let begins = sentencepiece || matches!(kind, Kind::Bpe(Pre::Llama3 | Pre::Tekken));
        let add_bos = flag(ADD_BOS, begins)?;
        let add_eos = flag(ADD_EOS, false)?;
        for (add, id, field) in [(add_bos, named.bos, BOS), (add_eos, named.eos, EOS)] {
            if add && id.is_none() {
                return Err(Error::BadFile { field, fault: Fault::NoId });
            }
        }
        Ok(Self {
            kind,
            specials: Specials::new(&vocab),
            vocab,
            encoder,
            bos: named.bos,
            eos: named.eos,
            add_bos,
            add_eos,
            add_space_prefix: sentencepiece && flag(ADD_SPACE_PREFIX, true)?,
            end_of_generation,
        })
    }

    /// The token ids of `text`.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, Error> {
        self.encode_from(text, special, self.add_space_prefix)
    }

    fn encode_from(
        &self,
        text: &str,
        special: Special,
        add_space_prefix: bool,
    ) -> Result<Vec<u32>, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooLong { bytes: text.len(), limit: TEXT_BYTES_MAX });
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if special.add_special && self.add_bos {
            out.extend(self.bos);
        }
        let mut after_special = true;
        for fragment in self.specials.split(text, special.parse_special, &self.vocab) {
            match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                }
                Fragment::Text(range) => {
                    let text = &text[range];
                    match &self.encoder {
                        Encoder::Bpe(bpe) => bpe.encode(text, &self.vocab, &mut out),
                        Encoder::SentencePiece(spm) => {
                            let space_before = add_space_prefix && after_special;
                            spm.encode(text, space_before, &self.vocab, &mut out);
                        }
                    }
                    after_special = false;
                }
            }
        }
        if special.add_special && self.add_eos {
            out.extend(self.eos);
        }
        Ok(out)
    }

    /// The token ids of a piece from inside a text: nothing is added, not even the space that
    /// SentencePiece puts before a text, and no control token is read. Their bytes are those of the piece.
    pub fn encode_inside(&self, piece: &str) -> Result<Vec<u32>, Error> {
        self.encode_from(piece, Special::default(), false)
    }

    /// The token ids of a prompt whose control tokens are spelled out, as a chat template
    /// writes it: they are read as such, and BOS is added only where the prompt has none.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let begun = self.bos.is_some_and(|bos| prompt.starts_with(self.token_text(bos)));
        self.encode(prompt, Special { add_special: !begun, parse_special: true })
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. A space that [`Self::encode`]
    /// put before the text is still there.
    #[must_use]
    pub fn decode(&self, ids: &[u32], control: Control) -> String {
        let shown = ids.iter().filter(|&&id| control == Control::Keep || !self.is_control(id));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// Decodes tokens as they arrive.
    #[must_use]
    pub fn stream(&self, control: Control) -> Stream<'_> {
        Stream::new(self, control)
    }

    /// The bytes a token stands for, not always whole characters; for a control token its
    /// name. Empty for an id outside the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The token's text as the file has it; empty for an id outside the vocabulary.
    #[must_use]
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// The id of the token whose text in the file is `text`.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text)
    }

    /// Number of tokens; ids lie below it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether [`Special::add_special`] puts [`Self::bos`] before a text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// The tokens that end an answer, in ascending order.
    #[must_use]
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// Whether a token is for control, not text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.is(id, attr::CONTROL | attr::UNKNOWN)
    }
}

fn kind(metadata: &Metadata) -> Result<Kind, Error> {
    match metadata.str(MODEL)? {
        "llama" => Ok(Kind::SentencePiece),
        "gpt2" => {
            let name = metadata.opt_str(PRE)?.unwrap_or("default");
            let (pre, _) = pretokenize::named(name).ok_or_else(|| Error::Unsupported {
                field: PRE,
                found: name.to_owned(),
                supported: pretokenize::names(),
            })?;
            Ok(Kind::Bpe(pre))
        }
        other => Err(Error::Unsupported {
            field: MODEL,
            found: other.to_owned(),
            supported: "gpt2, llama".to_owned(),
        }),
    }
}

const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// The special tokens the metadata names by id.
struct Named {
    bos: Option<u32>,
    eos: Option<u32>,
    /// Others that end an answer.
    ends: Vec<u32>,
}

impl Named {
    fn new(metadata: &Metadata, vocab: &Vocab, kind: Kind) -> Result<Self, Error> {
        let size = vocab.len();
        let id = |field| match metadata.opt_u32(field)? {
            Some(id) if id as usize >= size => {
                Err(Error::BadFile { field, fault: Fault::Id { id, size } })
            }
            id => Ok(id),
        };
        // Llama's own numbers, for files older than the keys.
        let default = |id| (kind == Kind::SentencePiece && (id as usize) < size).then_some(id);
        let mut ends = Vec::new();
        for field in END_KEYS {
            ends.extend(id(field)?);
        }
        Ok(Self { bos: id(BOS)?.or(default(1)), eos: id(EOS)?.or(default(2)), ends })
    }
}

/// Keys of further tokens that end an answer: end of turn and message, and those that end a
/// piece of code.
const END_KEYS: [&str; 5] = [
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// Tokens that end an answer whatever the metadata says of them: llama.cpp's list.
const END_NAMES: [&str; 20] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
];

/// Names of tokens around code to fill in: of each group the first that the vocabulary has is a
/// control token; those of the last three groups also end an answer.
const FILL_NAMES: [&[&str]; 6] = [
    &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"],
    &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"],
    &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"],
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Collects the tokens that end an answer, and marks them and their like as control tokens.
fn end_of_generation(vocab: &mut Vocab, named: &Named) -> Vec<u32> {
    let mut ends = named.ends.clone();
    for (group, names) in FILL_NAMES.iter().enumerate() {
        if let Some(id) = names.iter().find_map(|name| vocab.id(name)) {
            vocab.set(id, attr::CONTROL);
            ends.extend((group >= 3).then_some(id));
        }
    }
    for id in END_NAMES.iter().filter_map(|name| vocab.id(name)).collect::<Vec<_>>() {
        vocab.set(id, attr::CONTROL);
        ends.push(id);
    }
    // In OpenAI's harmony format `<|end|>` ends a message, not the answer.
    let has = |name| vocab.id(name).is_some_and(|id| ends.contains(&id));
    if has("<|call|>") && has("<|return|>") {
        let end = vocab.id("<|end|>");
        ends.retain(|&id| Some(id) != end);
    }
    ends.extend(named.eos);
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Phi-3 was trained with whitespace dropped after its control tokens; no key says so, and
/// llama.cpp goes by the model's name.
fn strip_after_phi3(metadata: &Metadata, vocab: &mut Vocab) -> Result<(), Error> {
    let name = metadata.opt_str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Ok(());
    }
    for id in vocab.all() {
        let kept = matches!(vocab.text(id), "<unk>" | "<s>" | "<|endoftext|>");
        if !kept && (vocab.is(id, attr::SPECIAL) || vocab.text(id) == "</s>") {
            vocab.set(id, attr::STRIP_RIGHT);
        }
    }
    Ok(())
}
