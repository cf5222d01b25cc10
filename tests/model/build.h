/* build.h  Model files made by hand, right or wrong, and an allocator that counts and fails. */
#ifndef TEST_MODEL_BUILD_H
#define TEST_MODEL_BUILD_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/sparseffn.h"

/* ---- bytes ---- */

struct buf {
    uint8_t *data;
    size_t n, capacity;
};
void b_raw(struct buf *b, const void *data, size_t n);
void b_u8(struct buf *b, uint8_t v);
void b_u32(struct buf *b, uint32_t v);
void b_u64(struct buf *b, uint64_t v);
void b_f32(struct buf *b, float v);
void b_fill(struct buf *b, size_t n);         /* a pattern */
void b_pad(struct buf *b, size_t alignment);  /* zeros */
void b_text(struct buf *b, const char *text); /* GGUF's: length and bytes */
void b_free(struct buf *b);

/* ---- GGUF ---- */

enum {
    K_U8,
    K_I8,
    K_U16,
    K_I16,
    K_U32,
    K_I32,
    K_F32,
    K_BOOL,
    K_STRING,
    K_ARRAY,
    K_U64,
    K_I64,
    K_F64
};
void g_head(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
void g_key(struct buf *b, const char *key, uint32_t type);
void g_key_u32(struct buf *b, const char *key, uint32_t v);
void g_key_f32(struct buf *b, const char *key, float v);
void g_key_text(struct buf *b, const char *key, const char *v);
void g_key_array(struct buf *b, const char *key, uint32_t type, uint64_t n);
/* ne0 is the fastest dimension; 0 ends the list. */
void g_tensor(struct buf *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
              uint64_t offset);

/* A small file with keys of every kind and two llama layers of f32: d_model 32, d_ff 64. */
void g_valid(struct buf *b);

/* ---- safetensors ---- */

/* Length word, header, n bytes of data. */
void s_file(struct buf *b, const char *header, size_t n);
void s_valid(struct buf *b);

/* ---- files ---- */

/* A new folder under $TMPDIR or /tmp; path_of() joins into one of a few static buffers. */
const char *folder_make(void);
void folder_remove(const char *folder);
const char *path_of(const char *folder, const char *name);
void file_write(const char *path, const void *data, size_t n);
void file_write_text(const char *path, const char *text);
int file_is_there(const char *path);

/* ---- allocator ---- */

struct heap {
    size_t live, peak, calls, fail_at; /* fail_at: number of the call that fails, 0 = none */
};
sffn_context *heap_context(struct heap *heap, uint32_t n_threads);
/* Resets peak and calls. */
void heap_mark(struct heap *heap);

/* Calls everything that a model can be asked; returns a checksum so that nothing is optimised
 * away. */
uint64_t model_walk(const sffn_model *model);

#endif /* TEST_MODEL_BUILD_H */
