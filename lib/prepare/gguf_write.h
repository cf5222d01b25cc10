/* gguf_write.h  Writes a GGUF v3 file piece by piece: keys, tensor list, then the tensors' bytes in
 * order, with bounded memory.
 *
 * The file grows under a temporary name beside the wanted one and takes that name when it is
 * complete and synced. */
#ifndef SFFN_GGUF_WRITE_H
#define SFFN_GGUF_WRITE_H
#include <stddef.h>
#include <stdint.h>
#include "model/parts.h"

#define SFFN_GGUF_WRITE_ALIGNMENT 32u

struct sffn_gguf_writer {
    const sffn_context *ctx;
    const char *path; /* borrowed */
    char *temporary;  /* name of the growing file; NULL: none */
    size_t temporary_bytes;
    int fd;
    /* header, keys and tensor list until they are written */
    uint8_t *head;
    size_t head_bytes, head_capacity;
    uint64_t n_metas, n_tensors;
    uint64_t data_bytes; /* of the tensors listed so far, padded */
    uint64_t written;    /* into the data section */
    sffn_status status;  /* of the first failure; later calls do nothing */
};

void sffn_gguf_write_init(struct sffn_gguf_writer *w, const sffn_context *ctx, const char *path);

/* Keys: all before the tensors. general.alignment (SFFN_GGUF_WRITE_ALIGNMENT) is the caller's to
 * write. */
void sffn_gguf_write_u32(struct sffn_gguf_writer *w, const char *key, uint32_t value);
void sffn_gguf_write_f32(struct sffn_gguf_writer *w, const char *key, float value);
void sffn_gguf_write_bool(struct sffn_gguf_writer *w, const char *key, int value);
void sffn_gguf_write_text(struct sffn_gguf_writer *w, const char *key, const char *text,
                          size_t bytes);
/* `raw` is the type word and the value, as another file has them. */
void sffn_gguf_write_raw(struct sffn_gguf_writer *w, const char *key, const void *raw,
                         size_t bytes);
/* An array of n elements of `kind` (enum sffn_gguf_kind); the elements follow through the put
 * calls. */
void sffn_gguf_write_array(struct sffn_gguf_writer *w, const char *key, uint32_t kind, uint64_t n);
void sffn_gguf_put_text(struct sffn_gguf_writer *w, const char *text, size_t bytes);
void sffn_gguf_put_u32(struct sffn_gguf_writer *w, uint32_t value);

/* The next tensor, dims slowest first. */
void sffn_gguf_write_tensor(struct sffn_gguf_writer *w, const char *name,
                            const struct sffn_tensor_type *type, uint32_t n_dims,
                            const uint64_t *dims, uint64_t bytes);

/* Opens the file and writes what was listed. Then the tensors' bytes, in order, in any pieces;
 * padding is added between tensors. */
sffn_status sffn_gguf_write_begin(struct sffn_gguf_writer *w);
sffn_status sffn_gguf_write_data(struct sffn_gguf_writer *w, const void *data, size_t bytes);
/* After the last byte of a tensor. */
sffn_status sffn_gguf_write_pad(struct sffn_gguf_writer *w);
/* Syncs and renames. */
sffn_status sffn_gguf_write_finish(struct sffn_gguf_writer *w);
/* Removes the temporary file, if it is still there, and frees. Always. */
void sffn_gguf_write_close(struct sffn_gguf_writer *w);

#endif /* SFFN_GGUF_WRITE_H */
