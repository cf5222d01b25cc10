/* active_set.h  What selectors and layers may do with a set besides the public calls. */
#ifndef SFFN_LIB_ACTIVE_SET_H
#define SFFN_LIB_ACTIVE_SET_H
#include "sparseffn/active_set.h"

/* Room for n_blocks indices of one token, to be filled in ascending order and closed by sffn_active_set_commit(). */
uint32_t *sffn_active_set_begin(sffn_active_set *set, size_t token);
void sffn_active_set_commit(sffn_active_set *set, size_t token, size_t n);

/* The context that made the set. */
const sffn_context *sffn_active_set_context(const sffn_active_set *set);
/* Checks what a change of one token's subset needs: a set, an input (`name` in the words), and the token. */
sffn_status sffn_active_set_check_token(const sffn_active_set *set, size_t token, const void *input,
                                        const char *name);
/* One token's weights, to be written; NULL: made without. */
float *sffn_active_set_begin_weights(sffn_active_set *set, size_t token);

/* Checks that a set describes d_ff neurons for at least n_tokens tokens; `what` names the argument. */
sffn_status sffn_active_set_check(const sffn_context *ctx, const sffn_active_set *set,
                                  const char *what, uint32_t d_ff, size_t n_tokens);
/* Checks that an output set is made for n_blocks blocks of block_size and n_tokens tokens. */
sffn_status sffn_active_set_check_output(const sffn_context *ctx, const sffn_active_set *set,
                                         const char *what, uint32_t n_blocks, uint32_t block_size,
                                         size_t n_tokens);

#endif /* SFFN_LIB_ACTIVE_SET_H */
