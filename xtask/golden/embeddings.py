"""Makes fixtures/models/embeddings.json and logprobs.json: what llama.cpp makes of token ids given directly.

    python xtask/golden/embeddings.py

The weights are the files' F32 twins, as in models.py; F32 KV cache, no flash attention, CPU.

embeddings.json
    engine
    models[]        model (file name); real = it lies in the user's cache, not in tiny/
      texts[]       tokens; vectors.{mean,cls,last} = the pooled rows of the last norm, divided by their length

logprobs.json
    engine, model, top
    prompts[]       tokens; answer = the greedy continuation; logprobs = of its tokens (natural log of the
                    softmax of all logits); top_ids[][top], top_logprobs[][top] = the most probable at each step
"""

import os
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

import f32_twin
import llama_engine
from json_lines import dump
from real_models import numbers, top

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "fixtures" / "models"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "russet" / "models"
REAL = Path(os.environ.get("RUSSET_TEST_MODELS", CACHE))
TINY = ["llama", "gemma3", "qwen3"]
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
POOLING = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}
N_CTX = 256
LENGTHS = [5, 150]  # the longer one takes several steps in Russet
ANSWER = 8
TOP = 5
GAP_MIN = 0.01  # between the two best logits: a smaller one would make the answer a matter of rounding


def vectors(path: Path, tokens: list[int]) -> dict:
    out = {}
    for name, pooling in POOLING.items():
        with llama_engine.Engine(path, N_CTX, pooling) as engine:
            row = engine.embedding(tokens).astype(np.float64)
        out[name] = numbers(row / np.linalg.norm(row))
    return out


def embeddings(source: Path, twin: Path, seed: int, lengths: list[int]) -> dict:
    f32_twin.write(source, twin)
    with llama_engine.Engine(twin, N_CTX) as engine:
        vocab = engine.n_vocab
    random = np.random.default_rng(seed)
    texts = []
    for length in lengths:
        tokens = [int(token) for token in random.integers(3, vocab, length)]
        texts.append({"tokens": tokens, "vectors": vectors(twin, tokens)})
    return {"model": source.name, "real": source.parent == REAL, "texts": texts}


def answer(engine, tokens: list[int]) -> dict:
    out = {"tokens": tokens, "answer": [], "logprobs": [], "top_ids": [], "top_logprobs": []}
    row = engine.logits(tokens)[-1]
    for _ in range(ANSWER):
        best = top(row, TOP)
        if row[best[0]] - row[best[1]] < GAP_MIN:
            raise RuntimeError(f"{tokens}: two tokens are as good as equal")
        logprobs = llama_cpp.Llama.logits_to_logprobs(row)
        out["answer"].append(best[0])
        out["logprobs"] += numbers(logprobs[best[0]])
        out["top_ids"].append(best)
        out["top_logprobs"].append(numbers(logprobs[best]))
        row = engine.extend(best[:1])[0]
    return out


def logprobs(source: Path, twin: Path) -> dict:
    f32_twin.write(source, twin)
    random = np.random.default_rng(7)
    with llama_engine.Engine(twin, N_CTX) as engine:
        prompts = [[int(t) for t in random.integers(2, engine.n_vocab, length)] for length in (3, 12, 70)]
        answers = [answer(engine, tokens) for tokens in prompts]
    return {"engine": llama_engine.version(), "model": source.name, "top": TOP, "prompts": answers}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        twin = Path(name) / "twin.gguf"
        models = [embeddings(OUT / "tiny" / f"{name}.gguf", twin, i, LENGTHS) for i, name in enumerate(TINY)]
        models.append(embeddings(REAL / SMOLLM2, twin, len(TINY), LENGTHS[1:]))
        dump(OUT / "embeddings.json", {"engine": llama_engine.version(), "models": models})
        dump(OUT / "logprobs.json", logprobs(OUT / "tiny" / "llama-q4_1.gguf", twin))


if __name__ == "__main__":
    main()
