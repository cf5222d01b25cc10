/*
 * mask_file.h  Activation masks of a text: which neurons of each layer were truly active for each token.
 *
 * A file, little-endian: 8 bytes "SFFNMASK", then u32 version (1), n_layers, d_ff, 0, u64 n_tokens: 32 bytes; then for each token, for each
 * layer a bitmap of (d_ff + 7) / 8 bytes, neuron i being bit i % 8 of byte i / 8. Token after token, so a reader needs one token's memory.
 */
#ifndef SFFN_CLI_MASK_FILE_H
#define SFFN_CLI_MASK_FILE_H
#include <stdint.h>
#include <stdio.h>
#include "sparseffn/sparseffn.h"

struct mask_file {
    FILE *file;
    char *path, *part_path; /* it is written as PATH.part and renamed at the end */
    uint32_t n_layers, d_ff, max_tokens;
    uint64_t n_tokens;
    uint8_t *batch; /* [max_tokens][n_layers][bytes of a bitmap] */
};
/* All return CLI_OK, or CLI_FAILED after an error line. */
int mask_file_create(struct mask_file *mask, const char *path, uint32_t n_layers, uint32_t d_ff,
                     uint32_t max_tokens);
/* Layers come in order, each with the same tokens; the last one writes the batch. */
int mask_file_add(struct mask_file *mask, uint32_t layer, const sffn_active_set *active);
int mask_file_finish(struct mask_file *mask);
/* Removes what was not finished; fine after finish, and on a zeroed struct. */
void mask_file_free(struct mask_file *mask);
#endif /* SFFN_CLI_MASK_FILE_H */
