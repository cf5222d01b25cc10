/* layers.h  The FFN layers of the models that ggml has loaded, packed for libsparseffn: one table for the whole process. */
#ifndef SFFN_GGML_LAYERS_H
#define SFFN_GGML_LAYERS_H
#include <stdatomic.h>
#include <stdint.h>

#include "match.h"

#include "sparseffn/sparseffn.h"

struct layer {
    char name[64];                /* "blk.3" */
    const void *gate, *up, *down; /* ggml's data: who this layer is */
    /* Of some of these data: an address may come back with other weights behind it. */
    uint64_t down_hash, inner_hash;
    uint32_t n_experts;
    sffn_ffn **experts; /* NULL: not ready, `reason` says why */
    char reason[512];
    sffn_ffn_info info; /* of the first expert */
    uint64_t packed_bytes;
    atomic_int is_whole; /* the last graph in which its down product was seen had the whole FFN */
    atomic_ullong n_calls, n_tokens, n_active;
};

/* What the environment says (README.md), read once when ggml loads the backend. */
struct settings {
    char *model;        /* SFFN_GGML_MODEL; NULL: none */
    int64_t dense_from; /* SFFN_GGML_DENSE_FROM: batches of at least this many tokens are ggml's */
    int with_dense;     /* SFFN_GGML_ALL: also layers in which nothing can be skipped */
};
extern struct settings settings;

/* To the log callback of ggml. level: enum ggml_log_level. */
void log_line(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

void settings_read(void);
/* Each backend instance opens the table and closes it; the last one frees the layers. 0: failed, logged. */
int layers_open(void);
void layers_close(void);
/* The layer of a match, packed when it is seen for the first time. NULL: the table is closed or memory is out. */
struct layer *layers_pack(const struct ffn_match *match);
/* The same without packing; NULL: unknown or not ready. */
struct layer *layers_find(const struct ffn_match *match);
/* 1: gate or up weights of a layer that is ready and whose FFN was whole when it was last seen. */
int layers_has_inner(const struct ggml_tensor *weights);
/* The down product of an FFN that does not match: remembered and logged once. */
void layers_refuse(const struct ggml_tensor *down, const char *reason);
/* Grows whenever a layer has been packed. */
unsigned layers_generation(void);
/* Scratch in `ctx` for all layers. 0: out of memory. */
int layers_reserve(sffn_context *ctx, uint32_t n_threads);
#endif /* SFFN_GGML_LAYERS_H */
