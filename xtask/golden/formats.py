"""Random blocks of every weight format, dequantized by the gguf package.

Writes fixtures/formats/NAME.bin: N blocks as stored, then their N * block_elements weights as
little-endian f32, so that N is the file's length over the bytes of one block and its weights. Scales
run through the edges of f16 (subnormal, zero, minus zero, negative, largest), codes through all
zeros, all ones and random bits.

Also writes the tiny files that the GGUF fuzz target starts from, fuzz/seeds/gguf/*.gguf.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "fixtures" / "formats"
SEEDS = ROOT / "fuzz" / "seeds" / "gguf"

# Where the f16 scales and offsets lie in a block.
F16_AT = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
}
F16_EDGES = [0x3C00, 0xBC00, 0x0001, 0x83FF, 0x0000, 0x8000, 0x7BFF, 0x0400]
E8M0_EDGES = [127, 0, 1, 2, 128, 250]


def float_blocks(kind, rng):
    """Weights of a format without blocks, as bytes: edges of the type, then random finite bits."""
    if kind == Type.F32:
        edges = np.array([0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF], "<u4")
        values = np.concatenate([edges, rng.normal(size=57).astype("<f4").view("<u4")])
    else:
        exponent = 0x7C00 if kind == Type.F16 else 0x7F80
        bits = rng.integers(0, 1 << 16, 512, dtype=np.uint16)
        bits = bits[(bits & exponent) != exponent][:248]
        largest = exponent - 1
        edges = np.array([0, 0x8000, 1, 0x8001, largest, 0x8000 | largest, 0x3C00, 0x03FF], np.uint16)
        values = np.concatenate([edges, bits]).astype("<u2")
    return values.view(np.uint8)


def scaled_blocks(kind, rng):
    """Blocks with edge scales, as an array (blocks, block_bytes)."""
    elements, size = GGML_QUANT_SIZES[kind]
    count = 8 if elements == 256 else 24
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[0], blocks[1] = 0xFF, 0x00
    if kind == Type.MXFP4:
        usual = rng.integers(100, 140, count, dtype=np.uint8)
        blocks[:, 0] = np.concatenate([np.array(E8M0_EDGES, np.uint8), usual])[:count]
        return blocks
    for nth, at in enumerate(F16_AT[kind]):
        usual = rng.normal(scale=0.02, size=count).astype("<f2").view("<u2")
        scales = np.concatenate([np.roll(np.array(F16_EDGES, "<u2"), nth), usual])[:count]
        if elements == 256:
            # Half edges, half usual scales; the all-zeros and all-ones blocks keep edges.
            scales[5:] = usual[5:]
        blocks[:, at : at + 2] = scales.astype("<u2").view(np.uint8).reshape(count, 2)
    return blocks


def write_seed(name, fill):
    SEEDS.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(SEEDS / f"{name}.gguf", "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_value(writer):
    for kind in GGUFValueType:
        if kind not in (GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.BOOL):
            writer.add_key_value(f"k.{kind.name}", 7, kind)
    writer.add_bool("k.bool", True)
    writer.add_array("k.nested", [[1, 2], [3]])
    writer.add_uint16("split.count", 1)


def vocabulary(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<s>", "a", "\u00e9", ""])
    writer.add_token_scores([0.0, -1.0, -2.5, -1000.0])
    writer.add_token_types([3, 1, 1, 6])


def aligned_tensors(writer):
    writer.add_custom_alignment(8)
    writer.add_tensor("a", np.arange(3, dtype=np.float32))
    writer.add_tensor("b", np.zeros((2, 18), np.uint8), raw_dtype=Type.Q4_0)


def seeds(blocks_of):
    write_seed("values", every_value)
    write_seed("vocabulary", vocabulary)
    write_seed("tensors", aligned_tensors)

    def formats(writer):
        for kind, blocks in blocks_of.items():
            if kind in F16_AT:
                writer.add_tensor(kind.name, blocks[2:3], raw_dtype=kind)

    write_seed("formats", formats)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    blocks_of = {}
    for kind in [Type.F32, Type.F16, Type.BF16, *F16_AT, Type.MXFP4]:
        rng = np.random.default_rng(kind.value)
        if kind in (Type.F32, Type.F16, Type.BF16):
            blocks = float_blocks(kind, rng)
        else:
            blocks = scaled_blocks(kind, rng)
        weights = np.ascontiguousarray(dequantize(blocks, kind), dtype="<f4")
        assert np.isfinite(weights).all(), kind
        (OUT / f"{kind.name}.bin").write_bytes(blocks.tobytes() + weights.tobytes())
        blocks_of[kind] = blocks
    seeds(blocks_of)


if __name__ == "__main__":
    main()
