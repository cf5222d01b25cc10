#include "heldout.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { BATCH = 16 }; /* tokens */

static const char *skip_space(const char *at)
{
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

int heldout_read_tokens(const char *path, uint32_t n_vocab, struct ids *ids)
{
    size_t n_bytes = 0;
    char *text = cli_read_file(path, &n_bytes);
    const char *at, *key;
    if (text == NULL)
        return CLI_FAILED;
    at = skip_space(text);
    if (*at == '{') {
        key = strstr(at, "\"tokens\"");
        at = key != NULL ? skip_space(key + 8) : "";
        at = *at == ':' ? skip_space(at + 1) : "";
    }
    if (*at != '[') {
        free(text);
        return cli_fail(
            "'%s' has no list of token ids, expected [1, 2, ...] or {\"tokens\": [1, 2, ...]}",
            path);
    }
    at = skip_space(at + 1);
    while (*at != ']') {
        char *end;
        unsigned long id = strtoul(at, &end, 10);
        const char *next = skip_space(end);
        if (!isdigit((unsigned char)*at) || (*next != ',' && *next != ']') || id >= n_vocab) {
            int status =
                cli_fail("'%s' byte %zu: '%.12s', expected a token id below %u and a comma", path,
                         (size_t)(at - text), at, (unsigned)n_vocab);
            free(text);
            return status;
        }
        ids_add(ids, (int32_t)id);
        at = *next == ',' ? skip_space(next + 1) : next;
    }
    free(text);
    return CLI_OK;
}

int heldout_read_text(const char *path, sffn_context *ctx, const sffn_model *model, struct ids *ids,
                      int32_t *bos)
{
    size_t n_bytes = 0;
    char *text = cli_read_text(path, &n_bytes);
    struct tokenizer *tokenizer = text != NULL ? tokenizer_create(ctx, model) : NULL;
    int status = tokenizer != NULL ? CLI_OK : CLI_FAILED;
    if (tokenizer != NULL) {
        *bos = tokenizer_bos(tokenizer);
        tokenizer_encode(tokenizer, text, n_bytes, 0, ids);
    }
    tokenizer_destroy(tokenizer);
    free(text);
    return status;
}

/* -log softmax(logits)[target] */
static double negative_log_likelihood(const float *logits, uint32_t n, int32_t target)
{
    float max = logits[0];
    double sum = 0.0;
    for (uint32_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return log(sum) - ((double)logits[target] - max);
}

int heldout_perplexity(struct llama *m, const int32_t *tokens, size_t n, uint32_t window,
                       int32_t bos, const char *what, struct perplexity *result)
{
    uint32_t n_vocab = m->info.n_vocab;
    float *logits = cli_alloc(BATCH, n_vocab * sizeof *logits);
    int32_t *input = cli_alloc(window, sizeof *input);
    size_t per_window = window - (bos >= 0 ? 1u : 0u);
    uint64_t start_ns = cli_now_ns();
    struct progress progress;
    double sum = 0.0;
    int status = CLI_OK;
    memset(result, 0, sizeof *result);
    progress_begin(&progress);
    for (size_t begin = 0; status == CLI_OK && begin < n; begin += per_window) {
        size_t taken = n - begin < per_window ? n - begin : per_window, length = 0;
        if (bos >= 0)
            input[length++] = bos;
        memcpy(input + length, tokens + begin, taken * sizeof *input);
        length += taken;
        if (length < 2)
            break;
        llama_reset(m);
        /* The last token of a window predicts nothing. */
        for (size_t at = 0; status == CLI_OK && at + 1 < length; at += BATCH) {
            size_t batch = length - 1 - at < BATCH ? length - 1 - at : BATCH;
            status = llama_eval(m, input + at, batch, batch, logits);
            for (size_t t = 0; status == CLI_OK && t < batch; t++)
                sum += negative_log_likelihood(logits + t * n_vocab, n_vocab, input[at + t + 1]);
            result->n_predicted += batch;
            progress_update(&progress, what, begin + at, n);
            if (status == CLI_OK && cli_interrupted())
                status = cli_fail("interrupted");
        }
    }
    progress_end(&progress);
    result->ns = cli_now_ns() - start_ns;
    result->value = result->n_predicted != 0 ? exp(sum / (double)result->n_predicted) : NAN;
    free(logits);
    free(input);
    return status;
}
