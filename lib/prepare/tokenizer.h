/* tokenizer.h  tokenizer.json of Hugging Face's `tokenizers` -> the keys tokenizer.ggml.* of GGUF.
 *
 * Byte-level BPE becomes tokenizer.ggml.model "gpt2". What splits the text before the merges
 * becomes tokenizer.ggml.pre, under llama.cpp's names:
 *     ByteLevel with its own regex                             "gpt-2"      (reglu-33m)
 *     Digits one by one, then ByteLevel with its own regex     "starcoder"
 *     Split by the Llama 3 or Qwen2 regex, then ByteLevel      "llama-bpe", "qwen2"
 * Any other one leaves tokenizer.ggml.pre out, with a warning in the log: engines then refuse or
 * warn, as they should. BPE with byte fallback (Llama 2 and its descendants) becomes "llama", with
 * scores in the order of the merges. Everything else is left out, with a warning.
 *
 * add_bos_token: what tokenizer_config.json says; else whether the post-processor puts a special
 * token first; else, when there is no post-processor at all, whether config.json names a
 * bos_token_id (reglu-33m: "id 0 starts a document"). */
#ifndef SFFN_TOKENIZER_H
#define SFFN_TOKENIZER_H
#include "model/json.h"
#include "prepare/gguf_write.h"

/* `config` (config.json) and `settings` (tokenizer_config.json) may be NULL. n_vocab: rows of
 * the embedding, 0 when there is none; tokens that the file does not name become "[PAD<id>]",
 * unused. SFFN_ERR_FORMAT for ids that don't fit, twice the same id, merges of another form. */
sffn_status sffn_tokenizer_write(const struct sffn_json *tokenizer, const struct sffn_json *config,
                                 const struct sffn_json *settings, uint32_t n_vocab,
                                 struct sffn_arena *arena, struct sffn_gguf_writer *w);

#endif /* SFFN_TOKENIZER_H */
