/*
 * collect.h  Inputs of all FFN layers over a text, from the dense model: a random sample of the tokens, kept in files of a work folder, one
 * per layer. Memory does not grow with the text, and an interrupted run goes on at the window where it stopped.
 */
#ifndef SFFN_CLI_COLLECT_H
#define SFFN_CLI_COLLECT_H
#include "llama.h"
#include "work.h"

struct collect_options {
    const int32_t *tokens;
    size_t n_tokens;
    uint32_t window;
    int32_t bos;        /* before each window; -1: none */
    uint32_t n_samples; /* tokens kept; all when there are fewer */
    uint64_t seed;
    int32_t select_input; /* enum sffn_selector_input: kept too, unless it is the FFN's own */
};
/* Runs the text unless the folder has it already. Returns CLI_OK, or CLI_FAILED after an error line. */
int collect_inputs(struct llama *llama, const struct work *work,
                   const struct collect_options *options);
/* The sample of one layer, [*n][d_model], to be freed; NULL after an error line. is_select: the other input that was kept. */
float *collect_read(const struct work *work, uint32_t layer, int is_select, uint32_t d_model,
                    size_t *n);
#endif /* SFFN_CLI_COLLECT_H */
