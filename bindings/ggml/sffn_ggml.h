/** @file sffn_ggml.h  What the ggml backend of libsparseffn runs sparse, what it left to ggml, and why. */
#ifndef SFFN_GGML_H
#define SFFN_GGML_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
/**
 * One JSON object: versions of ggml and of libsparseffn, the kernels in use, packed bytes, the batch size from which ggml runs, and per FFN that was seen in a
 * graph: its name, "sparse" or "dense", the reason of the latter, shapes and types, who selects, and since it was packed: calls and tokens run sparse, and the share of the neurons that were active.
 * @param[out] text  NUL-terminated, cut off after bytes - 1 characters; may be NULL when bytes is 0
 * @return length of the whole text without the NUL
 * Exported by the backend's shared object, and by name through ggml_backend_reg_get_proc_address(). Thread-safe. Since 0.1.
 */
size_t sffn_ggml_report(char *text, size_t bytes);
#ifdef __cplusplus
}
#endif
#endif /* SFFN_GGML_H */
