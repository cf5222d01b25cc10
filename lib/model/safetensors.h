/* safetensors.h  Reads one safetensors file, by the rules of the reference implementation. */
#ifndef SFFN_SAFETENSORS_H
#define SFFN_SAFETENSORS_H
#include "model/parts.h"

#define SFFN_SAFETENSORS_MAX_HEADER 100000000u

/* 1 when the file can be one: eight bytes of length and a brace. */
int sffn_safetensors_is_likely(const uint8_t *data, size_t bytes);
/* Tensors keep the file's names (name == file_name). Metas are the strings of __metadata__;
 * `keep_metas` 0: none. */
sffn_status sffn_safetensors_parse(const struct sffn_file *file, int keep_metas,
                                   struct sffn_arena *arena, struct sffn_parts *parts);

#endif /* SFFN_SAFETENSORS_H */
