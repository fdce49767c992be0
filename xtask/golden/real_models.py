"""Expectations for the two real models: logits of prompts, greedy continuations, perplexity."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import f32_twin
import llama_engine
import numpy_forward
from json_lines import dump

BUCKETS = 512
N_CTX = 1024
TOP = 8
GREEDY = 64
CHUNK = 128  # positions whose logits are held at once


@dataclass(frozen=True)
class RealModel:
    name: str
    file: str
    chat: str


MODELS = [
    RealModel(
        "smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    ),
    RealModel(
        "gemma3",
        "gemma-3-270m-Q4_K_M.gguf",
        "<start_of_turn>user\nWhy is the sky blue? Answer in one short sentence, please.<end_of_turn>\n"
        "<start_of_turn>model\n",
    ),
]

PROMPTS = [
    "The old lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote down the weather"
    " in a small blue book. One night",
    'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n        return n\n',
    "人工知能は、計算機の技術である。今日の天気は 你好",
    "1, 2, 4, 8, 16, 32, 64, 128, 256,",
    "Les chats dorment pendant la journée, mais la nuit ils préfèrent chasser. Übrigens: Größe 🙂",
    "# Shopping list\n\n- 3 apples\n- 2 loaves of bread\n- 1.5 litres of milk\n\n# Steps\n\n1. Go to the shop\n2.",
    "SELECT name, COUNT(*) AS orders FROM customers JOIN orders USING (customer_id) WHERE total > 99.5 GROUP BY",
]


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 after one step from the state `values`, u64."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Sketch:
    """Count-sketch of a row of logits: 512 signed sums that keep inner products to a few percent."""

    def __init__(self, n_vocab: int):
        h = splitmix64(np.arange(n_vocab, dtype=np.uint64))
        self.bucket = (h % np.uint64(BUCKETS)).astype(np.int64)
        self.sign = np.where((h >> np.uint64(32)) & np.uint64(1), -1.0, 1.0)

    def of(self, row: np.ndarray) -> np.ndarray:
        return np.bincount(self.bucket, weights=row * self.sign, minlength=BUCKETS)


def numbers(values) -> list[float]:
    return [float(f"{v:.7g}") for v in np.ravel(values)]


def top(row: np.ndarray, count: int) -> list[int]:
    """Ids of the largest logits, largest first; the lower id first where they are equal."""
    some = np.argpartition(-row, count)[: count + 1]
    return [int(i) for i in sorted(some, key=lambda i: (-row[i], i))[:count]]


def greedy(engine, prompt: list[int]) -> dict:
    """Feeds the largest logit's id back `GREEDY` times; no token ends it."""
    row = engine.logits(prompt)[-1]
    tokens, second, logits = [], [], []
    for _ in range(GREEDY):
        best, next_best = top(row, 2)
        tokens.append(best)
        second.append(next_best)
        logits.append(numbers(row[[best, next_best]]))
        row = engine.extend([best])[0]
    return {"tokens": tokens, "second": second, "logits": logits}


def perplexity(engine, text: str) -> dict:
    """Mean of -ln p(token | all before it) over the positions 1.. of the text, in one context."""
    tokens = engine.tokenize(text)
    engine.reset()
    nll = []
    for start in range(0, len(tokens) - 1, CHUNK):
        part = tokens[start : min(start + CHUNK, len(tokens) - 1)]
        rows = engine.extend(part)
        for i, row in enumerate(rows):
            row = row.astype(np.float64)
            peak = row.max()
            nll.append(peak + np.log(np.exp(row - peak).sum()) - row[tokens[start + i + 1]])
    mean = float(np.mean(nll))
    return {"tokens": tokens, "predicted": len(nll), "nll_mean": mean, "perplexity": float(np.exp(mean))}


def run_prompts(engine, texts: list[str], sketch_file: Path) -> tuple[list[dict], list[np.ndarray]]:
    """What one run gives for each prompt, and the full logits; writes the sketches."""
    sketch = Sketch(engine.n_vocab)
    runs, full, sketches = [], [], []
    for text in texts:
        tokens = engine.tokenize(text)
        rows = engine.logits(tokens)
        best = [top(row, TOP) for row in rows]
        runs.append(
            {
                "norms": numbers(np.linalg.norm(rows.astype(np.float64), axis=1)),
                "top_ids": best,
                "top_logits": [numbers(row[ids]) for row, ids in zip(rows, best)],
                "greedy": greedy(engine, tokens),
            }
        )
        full.append(rows)
        sketches += [sketch.of(row) for row in rows]
    np.array(sketches, "<f2").tofile(sketch_file)
    return runs, full


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def check(source: Path, tokens: list[int], logits: np.ndarray) -> float:
    """The least cosine of a row of `logits` with the numpy forward pass; refuses one that is not exact."""
    least = float(cosines(numpy_forward.Model(source, N_CTX).logits(tokens), logits).min())
    if least < 0.99999:
        raise RuntimeError(f"llama.cpp and numpy disagree on {source}: cosine {least}")
    return least


def make(model: RealModel, directory: Path, text_file: Path, out: Path, scratch: Path) -> dict:
    source, twin = directory / model.file, scratch / "twin.gguf"
    f32_twin.write(source, twin)
    texts = [model.chat, *PROMPTS]
    text = text_file.read_text()
    results, logits, perplexities = {}, {}, {}
    for run, path in (("llama", twin), ("stored", source)):
        with llama_engine.Engine(path, N_CTX) as engine:
            results[run], logits[run] = run_prompts(engine, texts, out / f"{model.name}.{run}.sketch.f16")
            perplexities[run] = perplexity(engine, text)
            tokens = [engine.tokenize(t) for t in texts]
            vocab = engine.n_vocab
    twin.unlink()
    numpy_cosine = check(source, tokens[0], logits["llama"][0])
    prompts, row = [], 0
    for i, ids in enumerate(tokens):
        cosine = cosines(logits["llama"][i], logits["stored"][i])
        prompts.append(
            {
                "text": texts[i],
                "tokens": ids,
                "row": row,
                "stored_cosine_min": float(cosine.min()),
                "stored_cosine_mean": float(cosine.mean()),
                "runs": {run: results[run][i] for run in results},
            }
        )
        row += len(ids)
    text_tokens = perplexities["llama"].pop("tokens")
    perplexities["stored"].pop("tokens")
    description = {
        "model": model.file,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "vocab": vocab,
        "n_ctx": N_CTX,
        "kv_type": "f32",
        "buckets": BUCKETS,
        "rows": row,
        "engine": llama_engine.version(),
        "numpy_cosine_min": numpy_cosine,
        "perplexity": {"text": text_file.name, "tokens": text_tokens, "runs": perplexities},
        "prompts": prompts,
    }
    dump(out / f"{model.name}.json", description)
    return description
