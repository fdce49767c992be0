"""Tiny seeded models: one GGUF file for each row of `ROWS`, and the logits that they must give."""

import ctypes
import hashlib
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

import f32_twin
import llama_engine
import numpy_forward
from json_lines import dump

VOCAB = 64
N_CTX = 256  # llama.cpp rounds a context up to this; phi3 picks long or short RoPE factors by it
PROMPT = 24
CHUNKS = [7, 1, 9, 7]
DISAGREEMENT_MAX = 0.01  # llama.cpp's GELU table costs 0.003

_ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
_ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
_ggml.ggml_quantize_chunk.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
]


@dataclass(frozen=True)
class Row:
    """One tiny model. `keys` are metadata below the architecture's prefix."""

    name: str
    arch: str
    note: str
    dim: int = 32
    ffn: int = 64
    layers: int = 2
    heads: int = 2
    heads_kv: int = 1
    head_dim: int = 16
    tied: bool = False
    bias: tuple = ()
    keys: dict = field(default_factory=dict)
    # Tensor types: `weights` for all matrices, `types` for names that contain the key.
    weights: Type = Type.F32
    types: dict = field(default_factory=dict)
    rope_factors: dict = field(default_factory=dict)
    explicit_head_dim: bool = False


def llama3_factors(head_dim, base, factor, low, high, original):
    """The divisors that converters write to rope_freqs.weight for Llama 3.1 and later."""
    out = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * base ** (2 * i / head_dim)
        if wavelength < original / high:
            out.append(1.0)
        elif wavelength > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return out


_LONG = {
    "rope.scaling.type": "longrope",
    "rope.scaling.attn_factor": 1.19,
    "rope.dimension_count": 12,
}
_LONGROPE = {
    "rope_factors_long": [1.0, 1.5, 2.5, 4.0, 7.0, 12.0],
    "rope_factors_short": [1.0, 1.05, 1.1, 1.3, 1.5, 2.0],
}

ARCHITECTURES = [
    Row("llama", "llama", "GQA, separate output", dim=64, heads=4, heads_kv=2),
    Row(
        "llama-bias",
        "llama",
        "biases on q, k, v, output and the FFN",
        bias=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
        tied=True,
    ),
    Row(
        "llama3-rope",
        "llama",
        "rope_freqs.weight as Llama 3.1 has it, base 500000",
        keys={"rope.freq_base": 500000.0},
        rope_factors={"rope_freqs": llama3_factors(16, 500000.0, 8.0, 1.0, 4.0, 64)},
    ),
    Row(
        "mistral",
        "llama",
        "heads * head_dim is not dim (attention.key_length)",
        heads=4,
        heads_kv=2,
        explicit_head_dim=True,
    ),
    Row(
        "llama-linear",
        "llama",
        "linear RoPE scaling by 4",
        keys={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    Row(
        "llama-yarn",
        "llama",
        "YaRN by 4",
        head_dim=32,
        heads=1,
        keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 256},
    ),
    Row(
        "qwen2",
        "qwen2",
        "q, k, v biases, base 1000000",
        heads=4,
        heads_kv=2,
        dim=64,
        layers=1,
        bias=("attn_q", "attn_k", "attn_v"),
        keys={"rope.freq_base": 1e6},
    ),
    Row(
        "qwen2-yarn",
        "qwen2",
        "YaRN by 4, tied",
        head_dim=32,
        heads=1,
        tied=True,
        bias=("attn_q", "attn_k", "attn_v"),
        keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 256},
    ),
    Row(
        "qwen3",
        "qwen3",
        "QK-norm, head_dim is not dim / heads",
        heads=4,
        heads_kv=2,
        explicit_head_dim=True,
        tied=True,
        keys={"rope.freq_base": 1e6},
    ),
    Row(
        "gemma3",
        "gemma3",
        "layer 5 global, window 8, no pattern key (period 6)",
        layers=7,
        ffn=48,
        explicit_head_dim=True,
        tied=True,
        keys={"attention.sliding_window": 8, "rope.freq_base": 1e6},
    ),
    Row(
        "gemma3-pattern",
        "gemma3",
        "pattern 2, local base 5000, linear scaling of global layers, logit softcap, separate output",
        layers=3,
        ffn=48,
        explicit_head_dim=True,
        keys={
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": 2,
            "rope.freq_base": 1e5,
            "rope.freq_base_swa": 5000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    Row(
        "phi3",
        "phi3",
        "fused qkv and gate+up; the window key is there and llama.cpp ignores it",
        keys={"attention.sliding_window": 6, "rope.dimension_count": 16},
    ),
    Row(
        "phi3-long",
        "phi3",
        "partial RoPE (12 of 16), long factors: the context (256) is larger than the original (64)",
        keys={**_LONG, "rope.scaling.original_context_length": 64},
        rope_factors=_LONGROPE,
    ),
    Row(
        "phi3-short",
        "phi3",
        "partial RoPE (12 of 16), short factors: the context (256) is not larger than the original (256)",
        keys={**_LONG, "rope.scaling.original_context_length": 256},
        rope_factors=_LONGROPE,
    ),
    Row("gpt2", "gpt2", "LayerNorm, learned positions, biases, tied", heads=2, heads_kv=2, ffn=128, tied=True),
]

_SMALL = dict(dim=64, ffn=96, layers=1, heads=2, heads_kv=1, head_dim=32)
# Rows of 256, the super-block. attn_output has rows of 64 and is Q8_0.
_WIDE = dict(dim=256, ffn=256, layers=1, heads=2, heads_kv=1, head_dim=32, explicit_head_dim=True)

FORMATS = [
    *(
        Row(f"llama-{t.name.lower()}", "llama", f"weights in {t.name}", weights=t, **_SMALL)
        for t in (Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.IQ4_NL, Type.MXFP4)
    ),
    *(
        Row(
            f"llama-{t.name.lower()}",
            "llama",
            f"weights in {t.name}, attn_output in Q8_0",
            weights=t,
            types={"attn_output": Type.Q8_0},
            tied=True,
            **_WIDE,
        )
        for t in (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS)
    ),
    Row(
        "llama-mixed-q8_0-tied",
        "llama",
        "the mixture of SmolLM2 Q4_1: tied embedding in Q8_0",
        weights=Type.Q4_1,
        types={"token_embd": Type.Q8_0},
        tied=True,
        **_SMALL,
    ),
    Row(
        "llama-mixed-q6_k-tied",
        "llama",
        "the mixture of Q4_K_M: tied embedding, v and down in Q6_K",
        weights=Type.Q4_K,
        tied=True,
        types={"token_embd": Type.Q6_K, "attn_v": Type.Q6_K, "ffn_down": Type.Q6_K, "attn_output": Type.Q5_0},
        **_WIDE,
    ),
]

ROWS = ARCHITECTURES + FORMATS


def quantized(values: np.ndarray, kind: Type) -> np.ndarray:
    """`values` (rows, row length) f32 in `kind`'s blocks, by ggml itself: bytes, (rows, bytes of a row)."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // block * size), np.uint8)
    source = np.ascontiguousarray(values, np.float32)
    _ggml.ggml_quantize_chunk(int(kind), source.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    return out


class Builder:
    def __init__(self, row: Row, path: Path):
        self.row = row
        self.rng = np.random.default_rng(zlib.crc32(row.name.encode()))
        self.writer = gguf.GGUFWriter(path, row.arch)

    def matrix(self, name, out, inp, gain=1.0):
        """A weight (out, inp) whose product with unit inputs has about the deviation `gain`."""
        row = self.row
        values = self.rng.normal(0, gain / math.sqrt(inp), (out, inp)).astype(np.float32)
        kind = next((t for part, t in row.types.items() if part in name), row.weights)
        if kind == Type.F32:
            self.writer.add_tensor(f"{name}.weight", values)
        elif kind == Type.F16:
            self.writer.add_tensor(f"{name}.weight", values.astype(np.float16))
        else:
            self.writer.add_tensor(f"{name}.weight", quantized(values, kind), raw_dtype=kind)
        if any(name.endswith(b) for b in row.bias) or (row.arch == "gpt2" and name.startswith("blk.")):
            self.bias(name, out)

    def bias(self, name, size):
        self.writer.add_tensor(f"{name}.bias", self.rng.normal(0, 0.3, size).astype(np.float32))

    def norm(self, name, size):
        values = 1 + self.rng.normal(0, 0.2, size)
        self.writer.add_tensor(f"{name}.weight", values.astype(np.float32))
        if self.row.arch == "gpt2":
            self.bias(name, size)

    def attention(self, blk):
        row = self.row
        q, kv = row.heads * row.head_dim, row.heads_kv * row.head_dim
        self.norm(blk + "attn_norm", row.dim)
        if row.arch in ("phi3", "gpt2"):
            self.matrix(blk + "attn_qkv", q + 2 * kv, row.dim, 1.4)
        else:
            self.matrix(blk + "attn_q", q, row.dim, 1.6)
            self.matrix(blk + "attn_k", kv, row.dim, 1.6)
            self.matrix(blk + "attn_v", kv, row.dim)
        if row.arch in ("qwen3", "gemma3"):
            self.norm(blk + "attn_q_norm", row.head_dim)
            self.norm(blk + "attn_k_norm", row.head_dim)
        self.matrix(blk + "attn_output", row.dim, q)
        if row.arch == "gemma3":
            self.norm(blk + "post_attention_norm", row.dim)

    def ffn(self, blk):
        row = self.row
        self.norm(blk + "ffn_norm", row.dim)
        if row.arch == "phi3":
            self.matrix(blk + "ffn_up", 2 * row.ffn, row.dim, 1.5)
        else:
            if row.arch != "gpt2":
                self.matrix(blk + "ffn_gate", row.ffn, row.dim, 1.5)
            self.matrix(blk + "ffn_up", row.ffn, row.dim, 1.5)
        self.matrix(blk + "ffn_down", row.dim, row.ffn)
        if row.arch == "gemma3":
            self.norm(blk + "post_ffw_norm", row.dim)

    def tensors(self):
        row = self.row
        # A tied embedding is also the output: its rows are scaled for logits with a deviation of 2.
        gain = 2.0 if row.tied else math.sqrt(row.dim)
        self.matrix("token_embd", VOCAB, row.dim, gain)
        if row.arch == "gpt2":
            self.writer.add_tensor("position_embd.weight", self.rng.normal(0, 0.2, (64, row.dim)).astype(np.float32))
        for name, values in row.rope_factors.items():
            self.writer.add_tensor(f"{name}.weight", np.array(values, np.float32))
        for layer in range(row.layers):
            self.attention(f"blk.{layer}.")
            self.ffn(f"blk.{layer}.")
        self.norm("output_norm", row.dim)
        if not row.tied:
            self.matrix("output", VOCAB, row.dim, 2.0)

    def metadata(self):
        row, writer = self.row, self.writer
        writer.add_name("tiny")  # llama.cpp wants certain tokens in a vocabulary whose name has phi3 in it
        writer.add_context_length(64 if row.arch == "gpt2" else 1024)
        writer.add_embedding_length(row.dim)
        writer.add_block_count(row.layers)
        writer.add_feed_forward_length(row.ffn)
        writer.add_head_count(row.heads)
        if row.arch == "gpt2":
            writer.add_layer_norm_eps(1e-5)
        else:
            writer.add_head_count_kv(row.heads_kv)
            writer.add_layer_norm_rms_eps(1e-5)
        if row.explicit_head_dim or row.heads * row.head_dim != row.dim:
            writer.add_key_length(row.head_dim)
            writer.add_value_length(row.head_dim)
        for name, value in row.keys.items():
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{row.arch}.{name}", value)
        tokens = ["<|begin|>", "<|end|>"] + [chr(c) for c in range(ord("A"), ord("Z") + 1)]
        tokens += [chr(c) for c in range(ord("a"), ord("z") + 1)] + [
            "ab",
            "cd",
            "Ġ",
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
        ]
        normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([control] * 2 + [normal] * (VOCAB - 2))
        writer.add_token_merges(["a b", "c d"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(False)

    def write(self):
        self.metadata()
        self.tensors()
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def worst(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def cosine_min(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def rounded_up(value: float) -> float:
    """`value` with one significant digit, upwards."""
    step = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / step) * step:.0e}")


def make(row: Row, out: Path, scratch: Path) -> dict:
    """Writes the model and its expectations; returns the JSON's content."""
    path, twin = out / f"{row.name}.gguf", scratch / "twin.gguf"
    Builder(row, path).write()
    tokens = [int(t) for t in np.random.default_rng(zlib.crc32(row.name.encode()) + 1).integers(2, VOCAB, PROMPT)]
    exact = numpy_forward.Model(path, N_CTX).logits(tokens)
    f32_twin.write(path, twin)
    with llama_engine.Engine(twin, N_CTX) as engine:
        llama = engine.logits(tokens)
        splits = {
            "chunks": worst(llama, engine.logits(tokens, CHUNKS)),
            "one_by_one": worst(llama, engine.logits(tokens, [1] * PROMPT)),
        }
    if max(worst(exact, llama), *splits.values()) > DISAGREEMENT_MAX:
        raise RuntimeError(f"llama.cpp and numpy disagree on {row.name}")
    runs = {"numpy": exact, "llama": llama}
    if row.weights != Type.F32:
        with llama_engine.Engine(path, N_CTX) as engine:
            runs["stored"] = engine.logits(tokens)
    entries = []
    for run, values in runs.items():
        file = f"{row.name}.{run}.f32"
        np.asarray(values, "<f4").tofile(out / file)
        off = worst(exact, values)
        entries.append(
            {
                "run": run,
                "file": file,
                "numpy_abs_diff_max": off,
                "tolerance_abs": max(2e-4, rounded_up(3 * off)) if off else 2e-4,
                "numpy_cosine_min": cosine_min(exact, values),
            }
        )
    description = {
        "model": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "architecture": row.arch,
        "note": row.note,
        "tokens": tokens,
        "positions": PROMPT,
        "vocab": VOCAB,
        "n_ctx": N_CTX,
        "kv_type": "f32",
        "logits_std": float(exact.std()),
        "split_abs_diff_max": splits,
        "logits": entries,
        "engine": llama_engine.version(),
    }
    dump(out / f"{row.name}.json", description)
    return description
