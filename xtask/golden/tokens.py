"""Token ids of varied texts, from llama.cpp, and chats rendered by Jinja2.

Writes fixtures/tokens/smollm2.json and gemma3.json for the real models; the first also has SmolLM2's
vocabulary under the other pre-tokenizers. Writes fixtures/tokens/NAME.gguf, hand-made SentencePiece
vocabularies, and NAME.json for each. chat.py writes fixtures/chat/.
"""

import os
import tempfile
from ctypes import c_char, string_at
from pathlib import Path

import gguf
import llama_cpp

import chat
import llama_engine
from json_lines import dump

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "fixtures" / "tokens"
MODELS = Path(os.environ["RUSSET_TEST_MODELS"])
SMOLLM2 = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = MODELS / "gemma-3-270m-Q4_K_M.gguf"
PRES = ["gpt-2", "default", "llama-bpe", "qwen2", "qwen35", "tekken", "dbrx"]

TEXTS = [
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\t",
    "Hello world",
    " Hello world",
    "  Hello   world  ",
    "Hello\n\n\nworld\n",
    "a  \n  b \n\n c\t\t\td \r\n\r\n e\r f",
    "   leading, and trailing   ",
    "tabs\tand\t\tmore\t\t\t\ttabs \t mixed",
    "x" + " " * 37 + "y" + "\n" * 21 + "z" + "\t" * 9,
    "\u00a0no-break\u00a0\u00a0space\u2003em\u3000ideographic\u2028line\u0085next",
    "fn main() {\n    let x: Vec<u8> = vec![0x1F; 16];\n    println!(\"{x:?}\"); // done\n}\n",
    "def f(a, b=None):\n\tif a is not b:\n\t\treturn {**a, 'k': [1, 2.5e-3]}\n    \n\treturn f'{a!r:>10}'\n",
    "#include <stdio.h>\nint main(int argc, char **argv) { return argc >> 1 && !(argv[0][0] == '\\0'); }\r\n",
    "SELECT * FROM t WHERE a<>'b' -- comment\n",
    "0 1 12 123 1234 12345 123456 1234567890 3.14159 1,000,000 -42 1e10 0xFF 007 ١٢٣ ½ ⅷ ２３４５",
    "https://example.com/path?q=1&r=%20#frag user@mail.example C:\\Users\\x ../a/b",
    "I'm you're he'll they'd we've it's don't O'Brien 'tis rock'n'roll",
    "I'M YOU'RE HE'LL THEY'D WE'VE IT'S DON'T 'S 'Re 'lL",
    "I\u2019m don\u2019t 'ſ \u212a'",
    "camelCase PascalCase HTTPServer XMLHttpRequest snake_case SCREAMING_CASE iOS éÉcole ÀB ǅ",
    "🙂😀 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 👍🏽 ❤️ 1️⃣ ©®™",
    "今日は良い天気ですね。你好，世界！안녕하세요 세계 ﾊﾝｶｸ 漢字かなカナ混じり",
    "مرحبا بالعالم، كيف حالك؟ السَّلَامُ عَلَيْكُمْ",
    "नमस्ते दुनिया क्षत्रिय ज़िन्दगी । ১২৩ ไทยแลนด์ ភាសាខ្មែរ தமிழ்",
    "e\u0301 a\u0308o\u0302\u0323 \u0301alone Z\u0351\u036b\u0343algo n\u0303",
    "Привет, мир! Γειά σου Κόσμε שלום עולם Ελληνικά ЁЖ",
    "«quotes» “curly” ‘single’ — dash – en … ellipsis ¿¡ §¶ ±×÷ ∑∫√ €£¥ ♠♣ ┌─┐ ▁▂▃ ▁a ▁▁",
    "\ufffd \ufffd\ufffd a\ufffdb \ufeffBOM \u200bzero\u200bwidth\u200d \u2060 \U000e0041",
    "nul\x00inside \x01\x02\x1b[0m\x7f \x1c\x1d\x1e\x1f",
    "\x00",
    "Ã© â€™ Ä\u0120 Ġhello Ċ <0x41> <0x0A>",
    "\u0378 \U0001c89a \u1c89 \ua7ce \U000323b0 \U0010ffff \ue000",
    "a" * 300,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "!!!!!!!???...,,,;;;:::---___===+++***///\\\\\\|||~~~```^^^%%%$$$###@@@&&&((()))[[[]]]{{{}}}<<<>>>",
    "/* c */ // d\n/// e\n/path/\n\n//\r\n",
    "ab12cd34 a1b2 1a 2b v1.2.3-rc4 3D H2O",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> a <|endoftext|>b",
    " <|im_end|> \n <|im_end|>\t<|im_en",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<bos> <eos>x<unk><pad><unused0><unused99> <mask> <image_soft_token>",
    "<s> </s><s>[INST] hi [/INST]</s> <unk>",
    "<h1>title</h1><table><tr><td>x</td></tr></table><blockquote><strong>b</strong></blockquote>",
    "\n\n\n\n<start_of_turn>\n\n\n  <end_of_turn>  \n",
    "<|user|>\n  hi <|end|>\n\n<|assistant|> \t\nok<|end|>",
    "the cat that the dog bit, then the other; thethethe",
    "the <|tool|>the<|tool|> the[MULTI][MULTI]x aabb ab aaab abab",
]

# Every code point up to the CJK ideographs and most of the rest, in blocks: the classes of the pre-tokenizers.
BLOCK = 512
RANGES = [(0x80, 0x3200, 1), (0xA4D0, 0xAC00, 1), (0xD7B0, 0xD800, 1), (0xE000, 0xE010, 1), (0xF900, 0x10000, 1)]
RANGES += [(0x10000, 0x1FC00, 1), (0x20000, 0x34000, 331), (0xE0000, 0x110000, 5003), (0x3400, 0xA4D0, 97)]

FNV_OFFSET, FNV_PRIME, U64 = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv1a(data: bytes) -> str:
    value = FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * FNV_PRIME & U64
    return f"{value:016x}"


def blocks() -> list[tuple[int, int, int]]:
    """(first, end, step) of each block of code points."""
    return [(at, min(at + BLOCK * step, end), step) for start, end, step in RANGES for at in range(start, end, BLOCK * step)]


def block_text(first: int, end: int, step: int) -> str:
    return "".join(f"a{chr(c)}b {chr(c)}\n{chr(c)}{chr(c)}1" for c in range(first, end, step))


class Vocab:
    """The vocabulary of a GGUF file, in llama.cpp."""

    def __init__(self, path: Path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        llama_cpp.llama_model_free(self.model)

    def ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        out = (llama_cpp.llama_token * (len(data) * 2 + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), out, len(out), add_special, parse_special)
        if count < 0:
            raise RuntimeError("more tokens than room")
        return list(out[:count])

    def piece(self, token: int) -> bytes:
        room = (c_char * 8192)()
        count = llama_cpp.llama_token_to_piece(self.vocab, token, room, len(room), 0, True)
        return string_at(room, count)

    def facts(self) -> dict:
        """What holds for the vocabulary as a whole."""
        return {
            "size": self.size,
            "bos": llama_cpp.llama_vocab_bos(self.vocab),
            "eos": llama_cpp.llama_vocab_eos(self.vocab),
            "end_of_generation": [i for i in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, i)],
            "pieces_fnv1a": fnv1a(b"".join(self.piece(i) + b"\n" for i in range(self.size))),
        }

    def cases(self, texts: list[str]) -> list[dict]:
        return [
            {
                "text": text,
                "plain": self.ids(text, False, False),
                "special": self.ids(text, True, True),
            }
            for text in texts
        ]

    def block_hashes(self) -> list[str]:
        return [
            fnv1a(b"".join(i.to_bytes(4, "little") for i in self.ids(block_text(*block), False, False)))
            for block in blocks()
        ]


def copy_vocab(source: Path, target: Path, pre: str) -> None:
    """The vocabulary of `source` under another pre-tokenizer."""
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in gguf.GGUFReader(source).fields.items():
        if not key.startswith("tokenizer.ggml."):
            continue
        kind = field.types[0]
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = pre if key == "tokenizer.ggml.pre" else field.contents()
        writer.add_key_value(key, value, kind, item)
    write(writer)


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Pieces with ties, nested merges and a piece with a space inside; scores fall in steps.
PIECES = ["▁", "e", "t", "h", "a", "b", "n", "o", "c", "d", "▁t", "he", "▁the", "th", "the", "▁a", "ab", "aa", "bb",
          "aab", "abab", "at", "▁cat", "og", "an", "nd", "▁and", "▁▁", "▁▁▁▁", "d▁t", "é", "漢", "字", "漢字", "\n\n"]


def tiny_sentencepiece(path: Path, name: str, space_prefix: bool, eos: bool) -> None:
    tokens = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    tokens += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    tokens += [(piece, -float(i // 2), NORMAL) for i, piece in enumerate(PIECES)]
    tokens += [(text, 0.0, USER) for text in ["<|tool|>", "[MULTI]", "[MULTI][MULTI]"]]
    tokens += [(text, 0.0, CONTROL) for text in ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]]
    tokens += [("[unused]", -100.0, UNUSED), ("", -100.0, NORMAL)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t for t, _, _ in tokens])
    writer.add_token_scores([s for _, s, _ in tokens])
    writer.add_token_types([k for _, _, k in tokens])
    writer.add_add_space_prefix(space_prefix)
    writer.add_add_eos_token(eos)
    write(writer)


def real_models() -> None:
    with Vocab(SMOLLM2) as vocab:
        smollm2 = {"engine": llama_engine.version(), **vocab.facts(), "cases": vocab.cases(TEXTS)}
        smollm2["blocks"] = [list(block) for block in blocks()]
        smollm2["pre"] = {"smollm": {"blocks": vocab.block_hashes()}}
    with tempfile.TemporaryDirectory() as scratch:
        for pre in PRES:
            path = Path(scratch) / f"{pre}.gguf"
            copy_vocab(SMOLLM2, path, pre)
            with Vocab(path) as vocab:
                plain = [vocab.ids(text, False, False) for text in TEXTS]
                smollm2["pre"][pre] = {"blocks": vocab.block_hashes(), "plain": plain}
    dump(OUT / "smollm2.json", smollm2)
    with Vocab(GEMMA3) as vocab:
        dump(OUT / "gemma3.json", {"engine": llama_engine.version(), **vocab.facts(), "cases": vocab.cases(TEXTS)})


def tiny_models() -> None:
    for file, name, space_prefix, eos in [
        ("spm-llama2", "tiny", True, False),
        ("spm-phi3", "tiny Phi-3", True, True),
        ("spm-no-prefix", "tiny", False, False),
    ]:
        path = OUT / f"{file}.gguf"
        tiny_sentencepiece(path, name, space_prefix, eos)
        with Vocab(path) as vocab:
            dump(OUT / f"{file}.json", {"engine": llama_engine.version(), **vocab.facts(), "cases": vocab.cases(TEXTS)})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    tiny_models()
    real_models()
    chat.main()
