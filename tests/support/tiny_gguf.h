/* tiny_gguf.h  A GGUF file with one llama FFN layer, written byte by byte: independent of the
 * library's writer. */
#ifndef TEST_TINY_GGUF_H
#define TEST_TINY_GGUF_H
#include <stdint.h>

/* Writes a temporary file with blk.0.ffn_{gate,up,down}.weight in f32 and fills path (at least 64
 * bytes). Returns 0 on failure. */
int tiny_gguf_write(char *path, uint32_t d_model, uint32_t d_ff);

#endif /* TEST_TINY_GGUF_H */
