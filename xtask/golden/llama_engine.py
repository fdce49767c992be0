"""Runs token ids through llama.cpp and returns the logits of every position, or one embedding.

All runs have the F32 KV cache, no flash attention, two threads and no GPU, so that what is left of
rounding comes from the weights' own kernels.
"""

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

THREADS = 2
_GGML_TYPE_F32 = 0


def version() -> str:
    """The Python package's version and the version of the ggml that it holds."""
    lib = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    ggml = ctypes.CDLL(str(lib))
    ggml.ggml_version.restype = ctypes.c_char_p
    return f"llama-cpp-python {llama_cpp.__version__}, ggml {ggml.ggml_version().decode()}"


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _log_errors(level, text, _user):
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        print("llama.cpp:", text.decode(errors="replace"), end="")


llama_cpp.llama_log_set(_log_errors, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


class Engine:
    """One model file with one context of `n_ctx` tokens; the context is emptied by `reset`.

    With `pooling` (LLAMA_POOLING_TYPE_*) it gives embeddings, else logits.
    """

    def __init__(self, path: Path, n_ctx: int, pooling: int | None = None):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_ctx
        params.n_ubatch = min(n_ctx, 512)
        params.n_threads = params.n_threads_batch = THREADS
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = _GGML_TYPE_F32
        params.offload_kqv = params.op_offload = False
        params.no_perf = True
        if pooling is not None:
            params.embeddings, params.pooling_type = True, pooling
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise RuntimeError(f"llama.cpp makes no context for {path}")
        self.n_past = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def reset(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)
        self.n_past = 0

    def tokenize(self, text: str) -> list[int]:
        """Ids with the model's own BOS rule; special tokens in the text are recognised."""
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), True, True)
        if count < 0:
            raise RuntimeError("more tokens than bytes")
        return list(ids[:count])

    def decode(self, tokens: list[int]) -> None:
        """Evaluates `tokens` after what is in the context, all as outputs."""
        n = len(tokens)
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.n_past + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        status = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        self.n_past += n

    def extend(self, tokens: list[int]) -> np.ndarray:
        """Evaluates `tokens` after what is in the context: logits, (len(tokens), vocab) f32."""
        self.decode(tokens)
        n = len(tokens)
        out = np.empty((n, self.n_vocab), np.float32)
        for i in range(n):
            row = llama_cpp.llama_get_logits_ith(self.ctx, i)
            out[i] = np.ctypeslib.as_array(row, (self.n_vocab,))
        return out

    def embedding(self, tokens: list[int]) -> np.ndarray:
        """The pooled row of a fresh context, (dim,) f32, as long as it is."""
        self.reset()
        self.decode(tokens)
        row = llama_cpp.llama_get_embeddings_seq(self.ctx, 0)
        return np.ctypeslib.as_array(row, (llama_cpp.llama_model_n_embd(self.model),)).copy()

    def logits(self, tokens: list[int], chunks: list[int] | None = None) -> np.ndarray:
        """Logits of a fresh context, (len(tokens), vocab); `chunks` are the sizes of the decode calls."""
        self.reset()
        rows, start = [], 0
        for size in chunks or [len(tokens)]:
            rows.append(self.extend(tokens[start : start + size]))
            start += size
        if start != len(tokens):
            raise ValueError("chunks do not add up")
        return np.concatenate(rows)
