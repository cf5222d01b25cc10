/* heldout.h  Held-out text, and the perplexity of a model on it. */
#ifndef SFFN_CLI_HELDOUT_H
#define SFFN_CLI_HELDOUT_H
#include "llama.h"
#include "progress.h"
#include "tokenizer.h"

/* Ids from JSON: a list, or an object whose "tokens" is one. CLI_FAILED after an error line. */
int heldout_read_tokens(const char *path, uint32_t n_vocab, struct ids *ids);
/* Ids of a text, by the model's own tokenizer, and its bos token, or -1. CLI_FAILED after an error line. */
int heldout_read_text(const char *path, sffn_context *ctx, const sffn_model *model, struct ids *ids,
                      int32_t *bos);

/*
 * exp of the mean negative log-likelihood. The tokens are cut into windows that do not overlap, each run from an empty
 * cache; bos >= 0 is put before each window and takes one of its places. A window's first token is not predicted.
 * A rest shorter than a window counts as a window of its own, when it has anything to predict.
 */
struct perplexity {
    double value;
    uint64_t n_predicted, ns;
};
int heldout_perplexity(struct llama *llama, const int32_t *tokens, size_t n, uint32_t window,
                       int32_t bos, const char *what, struct perplexity *result);
#endif /* SFFN_CLI_HELDOUT_H */
