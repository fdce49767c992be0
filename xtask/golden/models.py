"""Makes fixtures/models: what whole models must compute, by llama.cpp and by a numpy forward pass.

    python xtask/golden/models.py [--models DIR] [--out fixtures/models] [--only NAME...]

DIR holds SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-Q4_K_M.gguf; it defaults to
$RUSSET_TEST_MODELS, then to the user's cache. The F32 copies of the real models take 2 GB of temporary disk.

All binaries are little endian without header. All llama.cpp runs: F32 KV cache, no flash attention, CPU.

Runs, by name
    llama   llama.cpp on the F32 twin: same file with every tensor dequantized by the gguf package. Exact
            weights and no rounding of activations; the first thing to compare with.
    stored  llama.cpp on the file as it is. It rounds activations to int8 (f16, bf16) before products with
            quantized (F16, BF16) weights, so it is noisy: compare loosely.
    numpy   numpy_forward.py in f64 (tiny models only). Exact also where llama.cpp is not: its GELU (gemma3,
            gpt2) is a table of f16, which moves logits by up to 3e-3.

tiny/NAME.gguf      a seeded model. NAME.json beside it:
    model, sha256, architecture, note
    tokens          ids to feed at positions 0..; they do not come from the tokenizer
    positions, vocab   the shape of every logits file
    n_ctx           the allocated context, which decides long or short RoPE factors
    kv_type, engine, logits_std
    split_abs_diff_max   llama run against itself when fed in chunks of 7, 1, 9, 7 and one by one
    logits[]        run; file; tolerance_abs = suggested bound for |difference| of any logit: 3 times how far
                    the run is from numpy, at least 2e-4; numpy_abs_diff_max; numpy_cosine_min = the least
                    cosine of a row with numpy's. All-F32 models have no stored run: it is the llama run.
tiny/NAME.RUN.f32   logits, f32 (positions, vocab)

real/NAME.json      NAME is smollm2 or gemma3:
    model (file name), sha256, vocab, n_ctx, kv_type, engine; numpy_cosine_min = the llama run of the first
                    prompt against numpy_forward.py (checked to be above 0.99999)
    rows, buckets   the shape of every sketch file
    prompts[8]      text; tokens (llama.cpp, special tokens recognised, BOS by the model's own rule);
                    row = first row of this prompt in the sketch files, one row for each token;
                    stored_cosine_min, stored_cosine_mean: stored run against llama run, full rows
      .runs.RUN     norms[tokens] = L2 norm of the full row; top_ids[tokens][8], top_logits[tokens][8];
                    greedy = tokens[64] that follow the prompt when the largest logit is fed back (no token
                    ends it), second[64] = runner-up at each step, logits[64][2] = of both
    perplexity      text (file name), tokens; runs.RUN = predicted (tokens - 1), nll_mean (natural log, mean
                    over positions 1.. in one context), perplexity = exp(nll_mean)
real/NAME.RUN.sketch.f16   count-sketches of the rows of logits, f16 (rows, buckets).
    sketch[b] = sum over ids v with h(v) % 512 == b of (bit 32 of h(v) ? -1 : 1) * logit[v]
    h(v): z = v + 0x9E3779B97F4A7C15; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
          z = (z ^ z >> 27) * 0x94D049BB133111EB; h = z ^ z >> 31   (u64, wrapping)
    The cosine of two sketches stands for that of the rows: 1 - cosine is right to about 6 %.
perplexity.txt      the text, written by hand
"""

import argparse
import os
import tempfile
from pathlib import Path

import real_models
import tiny_models

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "fixtures" / "models" / "perplexity.txt"


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "russet" / "models"
    parser = argparse.ArgumentParser(description="Makes the fixtures of whole models.")
    parser.add_argument("--models", type=Path, default=Path(os.environ.get("RUSSET_TEST_MODELS", cache)))
    parser.add_argument("--out", type=Path, default=ROOT / "fixtures" / "models")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these models, not all")
    return parser.parse_args()


def make_tiny(out: Path, scratch: Path, only: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not only:
        for old in out.iterdir():
            old.unlink()
    for row in tiny_models.ROWS:
        if only and row.name not in only:
            continue
        made = tiny_models.make(row, out, scratch)
        off = ", ".join(f"{e['run']} {e['numpy_abs_diff_max']:.1e}" for e in made["logits"][1:])
        print(f"{row.name:24} std {made['logits_std']:.2f}  from numpy: {off}", flush=True)


def make_real(directory: Path, text: Path, out: Path, scratch: Path, only: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for model in real_models.MODELS:
        if only and model.name not in only:
            continue
        made = real_models.make(model, directory, text, out, scratch)
        runs = made["perplexity"]["runs"]
        cosine = min(p["stored_cosine_min"] for p in made["prompts"])
        print(
            f"{model.name}: {made['rows']} rows, stored run: cosine >= {cosine:.5f}, perplexity"
            f" {runs['stored']['perplexity']:.4f} against {runs['llama']['perplexity']:.4f}",
            flush=True,
        )


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_tiny(args.out / "tiny", scratch, args.only)
        make_real(args.models, TEXT, args.out / "real", scratch, args.only)


if __name__ == "__main__":
    main()
