"""A second, independent forward pass: numpy in f64, for the six architectures.

It checks what llama.cpp computed (and measures how far llama.cpp's own rounding goes), and it gives
the tight expectation for models where llama.cpp rounds on the way (its GELU is a table of f16).
"""

import math
from pathlib import Path

import gguf
import numpy as np

NORM, NEOX, NO_ROPE = "norm", "neox", "none"
ROPE = {"llama": NORM, "qwen2": NEOX, "qwen3": NEOX, "gemma3": NEOX, "phi3": NEOX, "gpt2": NO_ROPE}


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


class Model:
    def __init__(self, path: Path, n_ctx: int):
        reader = gguf.GGUFReader(path)
        self.meta = {k: f.contents() for k, f in reader.fields.items()}
        self.tensors = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
        self.arch = self.meta["general.architecture"]
        self.n_ctx = n_ctx
        self.dim = self.key("embedding_length")
        self.layers = self.key("block_count")
        self.heads = self.key("attention.head_count")
        self.heads_kv = self.key("attention.head_count_kv", self.heads)
        self.head_dim = self.key("attention.key_length", self.dim // self.heads)
        self.n_rot = self.key("rope.dimension_count", self.head_dim)

    def key(self, name, default=None):
        value = self.meta.get(f"{self.arch}.{name}", default)
        if value is None:
            raise KeyError(name)
        return value

    def linear(self, name, x):
        y = x @ self.tensors[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name, x):
        weight = self.tensors[f"{name}.weight"]
        if self.arch == "gpt2":
            x = x - x.mean(-1, keepdims=True)
            eps = self.key("attention.layer_norm_epsilon")
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight + self.tensors[f"{name}.bias"]
        eps = self.key("attention.layer_norm_rms_epsilon")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight

    def window(self, layer):
        """Tokens that a query of this layer sees, itself included; 0 is all."""
        if self.arch != "gemma3":  # llama.cpp ignores phi3's key
            return 0
        size = self.key("attention.sliding_window", 0)
        period = self.key("attention.sliding_window_pattern", 6)
        return size if layer % period < period - 1 else 0

    def rope_factors(self):
        if self.arch == "llama" and "rope_freqs.weight" in self.tensors:
            return self.tensors["rope_freqs.weight"]
        original = self.key("rope.scaling.original_context_length", self.key("context_length"))
        name = "long" if self.n_ctx > original else "short"
        return self.tensors.get(f"rope_factors_{name}.weight", np.ones(self.n_rot // 2))

    def rope_angles(self, positions, layer):
        """Angles, (positions, n_rot / 2), and the factor of cos and sin."""
        base = self.key("rope.freq_base", 10000.0)
        kind = self.key("rope.scaling.type", "linear")
        factor = self.key("rope.scaling.factor", 1.0) if kind != "none" else 1.0
        if self.window(layer):
            base, factor = self.key("rope.freq_base_swa", 10000.0), 1.0
        i = np.arange(self.n_rot // 2)
        extrapolated = positions[:, None] * base ** (-2 * i / self.n_rot) / self.rope_factors()
        interpolated = extrapolated / factor
        scale = self.key("rope.scaling.attn_factor", 1.0)
        if kind != "yarn":
            return interpolated, scale
        original = self.key("rope.scaling.original_context_length", self.key("context_length"))

        def turn(rotations):
            return self.n_rot * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(turn(32))), min(self.n_rot - 1, math.ceil(turn(1)))
        keep = 1 - np.clip((i - low) / max(0.001, high - low), 0, 1)
        return interpolated * (1 - keep) + extrapolated * keep, scale * (1 + 0.1 * math.log(factor))

    def rope(self, x, positions, layer):
        """x: (tokens, heads, head_dim)"""
        kind = ROPE[self.arch]
        if kind == NO_ROPE:
            return x
        angles, scale = self.rope_angles(positions, layer)
        cos, sin = np.cos(angles)[:, None] * scale, np.sin(angles)[:, None] * scale
        half = self.n_rot // 2
        first = slice(0, self.n_rot, 2) if kind == NORM else slice(0, half)
        second = slice(1, self.n_rot, 2) if kind == NORM else slice(half, self.n_rot)
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return out

    def qkv(self, layer, h):
        sizes = [self.heads, self.heads_kv, self.heads_kv]
        if f"blk.{layer}.attn_qkv.weight" in self.tensors:
            fused = self.linear(f"blk.{layer}.attn_qkv", h)
            parts = np.split(fused, np.cumsum(sizes[:2]) * self.head_dim, axis=-1)
        else:
            parts = [self.linear(f"blk.{layer}.attn_{n}", h) for n in "qkv"]
        return [p.reshape(len(h), n, self.head_dim) for p, n in zip(parts, sizes)]

    def attention(self, layer, h, positions):
        q, k, v = self.qkv(layer, h)
        if f"blk.{layer}.attn_q_norm.weight" in self.tensors:
            q, k = self.norm(f"blk.{layer}.attn_q_norm", q), self.norm(f"blk.{layer}.attn_k_norm", k)
        q, k = self.rope(q, positions, layer), self.rope(k, positions, layer)
        group = self.heads // self.heads_kv
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.head_dim)
        distance = positions[:, None] - positions[None, :]
        hidden = distance < 0
        if self.window(layer):
            hidden |= distance >= self.window(layer)
        scores = np.where(hidden, -np.inf, scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, v).reshape(len(h), -1)
        return self.linear(f"blk.{layer}.attn_output", mixed)

    def ffn(self, layer, h):
        blk = f"blk.{layer}."
        up = self.linear(blk + "ffn_up", h)
        if self.arch == "gpt2":
            hidden = gelu(up)
        elif self.arch == "phi3":
            gate, up = np.split(up, 2, axis=-1)
            hidden = silu(gate) * up
        else:
            act = gelu if self.arch == "gemma3" else silu
            hidden = act(self.linear(blk + "ffn_gate", h)) * up
        return self.linear(blk + "ffn_down", hidden)

    def logits(self, tokens):
        """(tokens, vocab) f64"""
        positions = np.arange(len(tokens))
        x = self.tensors["token_embd.weight"][tokens]
        if self.arch == "gemma3":
            x = x * math.sqrt(self.dim)
        if self.arch == "gpt2":
            x = x + self.tensors["position_embd.weight"][positions]
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            a = self.attention(layer, self.norm(blk + "attn_norm", x), positions)
            x = x + (self.norm(blk + "post_attention_norm", a) if self.arch == "gemma3" else a)
            f = self.ffn(layer, self.norm(blk + "ffn_norm", x))
            x = x + (self.norm(blk + "post_ffw_norm", f) if self.arch == "gemma3" else f)
        head = "output" if "output.weight" in self.tensors else "token_embd"
        logits = self.linear(head, self.norm("output_norm", x))
        cap = self.key("final_logit_softcapping", 0.0)
        return np.tanh(logits / cap) * cap if cap else logits
