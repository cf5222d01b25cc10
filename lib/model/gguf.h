/* gguf.h  Reads GGUF version 2 and 3, and PowerInfer's files, which differ in the magic number
 * only. */
#ifndef SFFN_GGUF_H
#define SFFN_GGUF_H
#include "model/parts.h"

#define SFFN_GGUF_MAX_ALIGNMENT 1048576u /* ggml has no bound; every file we know has 32 */
#define SFFN_GGUF_MAX_NAME      255      /* ggml itself refuses tensor names of 64 bytes and more */
#define SFFN_GGUF_MAX_KEY       65535    /* the specification's */
#define SFFN_GGUF_MAX_NESTING   4        /* of arrays in arrays; ggml refuses them */

int sffn_gguf_is_magic(const uint8_t *data, size_t bytes);
/* 1: PowerInfer's magic. */
int sffn_gguf_is_powerinfer(const struct sffn_file *file);
/* The file must stay open as long as the parts are used. Duplicate tensor names are left to
 * model.c; duplicate keys are refused here. */
sffn_status sffn_gguf_parse(const struct sffn_file *file, struct sffn_arena *arena,
                            struct sffn_parts *parts);
/* The scalar or element at `at`, widened. Bounds were checked when the file was opened. */
int64_t sffn_gguf_load_int(const struct sffn_file *file, uint32_t type, size_t at,
                           int *is_too_large);
double sffn_gguf_load_float(const struct sffn_file *file, uint32_t type, size_t at);
/* The bytes of the string at `at`. Its length is read again from the mapping, so it is checked again: 0 when the
 * file has changed. */
int sffn_gguf_string(const struct sffn_file *file, size_t at, const char **text, size_t *bytes);
/* Bytes of one value of a fixed-size kind, 0 for strings, arrays and unknown ones. */
size_t sffn_gguf_kind_bytes(uint32_t type);

#endif /* SFFN_GGUF_H */
