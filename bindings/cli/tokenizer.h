/* tokenizer.h  Byte-level BPE ("gpt2") from a GGUF file's metadata: text -> ids -> text. */
#ifndef SFFN_CLI_TOKENIZER_H
#define SFFN_CLI_TOKENIZER_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/model.h"

struct tokenizer;

/* A growing list of ids; start from { NULL, 0, 0 } and free() data. */
struct ids {
    int32_t *data;
    size_t n, capacity;
};
void ids_add(struct ids *ids, int32_t id);

/* Borrows the model's strings. NULL after an error line. */
struct tokenizer *tokenizer_create(const sffn_context *ctx, const sffn_model *model);
void tokenizer_destroy(struct tokenizer *tokenizer);

uint32_t tokenizer_n_tokens(const struct tokenizer *tokenizer);
/* -1: the file names none. */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);
/* 1 when a text starts with bos unless the caller decides otherwise. */
int tokenizer_adds_bos(const struct tokenizer *tokenizer);
/* 1 for the tokens after which nothing follows: end of sequence, end of turn, and the start of another document. */
int tokenizer_is_end(const struct tokenizer *tokenizer, int32_t id);

/*
 * Appends the ids of n bytes of text; no bos is added. with_special: control tokens written out in the text, such as
 * "<s>", become their id, as in the `tokenizers` package; otherwise they are text like any other.
 */
void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n,
                      int with_special, struct ids *ids);
/*
 * Bytes of one token, not NUL-terminated, maybe a part of a character; nothing for control tokens and unknown ids.
 * Returns their number; they are valid until the next call.
 */
size_t tokenizer_decode(struct tokenizer *tokenizer, int32_t id, const char **bytes);
#endif /* SFFN_CLI_TOKENIZER_H */
