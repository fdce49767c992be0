/* llama.cpp's side of `cargo xtask bench`: a native process that does through libllama what Russet's commands do.
 *
 *   peer system                              the features that the library was built with
 *   peer prefix MODEL TOKENS TEXT            the longest start of TEXT with at most so many tokens
 *   peer first MODEL THREADS CONTEXT TEXT    the text of the most probable next token
 *   peer prompt MODEL THREADS TOKENS DEPTH   JSON: seconds for so many tokens at once, after DEPTH
 *   peer decode MODEL THREADS TOKENS DEPTH   JSON: seconds for so many tokens one by one, after DEPTH
 *
 * Everything is llama.cpp's default (mmap, flash attention where it chooses it, F16 cache, repacked weights) but batches of
 * 512, threads as given, and a context as long as needed. Only llama_decode is timed, after one run to warm up. */
#include <llama.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { BATCH = 512, TEXT_TOKENS_MAX = 4096 };

static void fail(const char *what) {
    fprintf(stderr, "peer: %s\n", what);
    exit(1);
}

static void only_errors(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int32_t number(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 0 || value > 1 << 30) fail("a number is malformed");
    return (int32_t)value;
}

static struct llama_model *open_model(const char *path, bool vocabulary_only) {
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = vocabulary_only;
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (!model) fail("the model does not load");
    return model;
}

static struct llama_context *open_context(struct llama_model *model, int32_t threads, int32_t tokens) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)tokens;
    params.n_batch = BATCH;
    params.n_ubatch = BATCH;
    params.n_threads = threads;
    params.n_threads_batch = threads;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) fail("no context");
    return context;
}

/* As `russet run --raw` reads a prompt. */
static int32_t tokenize(const struct llama_model *model, const char *text, int32_t bytes, llama_token *ids) {
    return llama_tokenize(llama_model_get_vocab(model), text, bytes, ids, TEXT_TOKENS_MAX, true, true);
}

static void prefix(const char *path, int32_t tokens_max, const char *text) {
    static llama_token ids[TEXT_TOKENS_MAX];
    struct llama_model *model = open_model(path, true);
    int32_t bytes = (int32_t)strlen(text);
    while (bytes > 0) {
        int32_t count = tokenize(model, text, bytes, ids);
        if (count > 0 && count <= tokens_max) break;
        bytes--;
    }
    fwrite(text, 1, (size_t)bytes, stdout);
}

static void decode(struct llama_context *context, llama_token *ids, int32_t count) {
    for (int32_t done = 0; done < count; done += BATCH) {
        int32_t part = count - done < BATCH ? count - done : BATCH;
        if (llama_decode(context, llama_batch_get_one(ids + done, part))) fail("llama_decode failed");
    }
    llama_synchronize(context);
}

static void first(const char *path, int32_t threads, int32_t context_tokens, const char *text) {
    static llama_token ids[TEXT_TOKENS_MAX];
    struct llama_model *model = open_model(path, false);
    struct llama_context *context = open_context(model, threads, context_tokens);
    int32_t count = tokenize(model, text, (int32_t)strlen(text), ids);
    if (count <= 0) fail("the prompt has no tokens");
    decode(context, ids, count);
    const float *logits = llama_get_logits_ith(context, -1);
    const struct llama_vocab *vocabulary = llama_model_get_vocab(model);
    llama_token best = 0;
    for (llama_token id = 1; id < llama_vocab_n_tokens(vocabulary); id++) {
        if (logits[id] > logits[best]) best = id;
    }
    char piece[256];
    int32_t bytes = llama_token_to_piece(vocabulary, best, piece, sizeof piece, 0, true);
    fwrite(piece, 1, bytes > 0 ? (size_t)bytes : 0, stdout);
    fputc('\n', stdout);
    fflush(stdout);
}

/* The token ids of `russet bench`: SplitMix64 from the state 0, modulo the vocabulary. */
static llama_token *drawn(const struct llama_model *model, int32_t count) {
    uint64_t state = 0, size = (uint64_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token *ids = malloc(((size_t)count + 1) * sizeof *ids);
    if (!ids) fail("out of memory");
    for (int32_t i = 0; i < count; i++) {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        ids[i] = (llama_token)((z ^ (z >> 31)) % size);
    }
    return ids;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static long long memory_bytes_peak(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return usage.ru_maxrss;
#else
    return usage.ru_maxrss * 1024LL;
#endif
}

static void measure(const char *path, int32_t threads, int32_t tokens, int32_t depth, bool one_by_one) {
    struct llama_model *model = open_model(path, false);
    struct llama_context *context = open_context(model, threads, depth + tokens + 3);
    llama_token *ids = drawn(model, depth + tokens);
    double seconds = 0;
    decode(context, ids, depth);
    for (int run = 0; run < 2; run++) {
        if (!llama_memory_seq_rm(llama_get_memory(context), 0, depth, -1)) fail("the cache keeps its tokens");
        double since = seconds_now();
        if (one_by_one) {
            for (int32_t i = 0; i < tokens; i++) decode(context, ids + depth + i, 1);
        } else {
            decode(context, ids + depth, tokens);
        }
        seconds = seconds_now() - since;
    }
    printf("{\"seconds\": %.9f, \"memory_bytes_peak\": %lld}\n", seconds, memory_bytes_peak());
}

int main(int count, char **words) {
    llama_log_set(only_errors, NULL);
    llama_backend_init();
    const char *task = count > 1 ? words[1] : "";
    if (!strcmp(task, "system") && count == 2) {
        puts(llama_print_system_info());
    } else if (!strcmp(task, "prefix") && count == 5) {
        prefix(words[2], number(words[3]), words[4]);
    } else if (!strcmp(task, "first") && count == 6) {
        first(words[2], number(words[3]), number(words[4]), words[5]);
    } else if ((!strcmp(task, "prompt") || !strcmp(task, "decode")) && count == 6) {
        measure(words[2], number(words[3]), number(words[4]), number(words[5]), *task == 'd');
    } else {
        fail("unknown task; see the top of peer.c");
    }
    return 0;
}
