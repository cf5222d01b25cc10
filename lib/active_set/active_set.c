#include "active_set/active_set.h"

#include <string.h>

#include "base/checked.h"
#include "base/context.h"

struct sffn_active_set {
    const sffn_context *ctx; /* for its allocator and error text */
    uint32_t n_blocks, block_size, max_tokens;
    size_t n_tokens;
    size_t bytes;
    size_t bitmap_bytes; /* of one token */
    size_t *count;       /* [max_tokens] */
    uint32_t *indices;   /* [max_tokens][n_blocks], ascending */
    float *weights;      /* [max_tokens][n_blocks], or NULL */
    uint8_t *bitmap;     /* [max_tokens][bitmap_bytes] */
};

sffn_status sffn_active_set_create(sffn_context *ctx, const sffn_active_set_config *config,
                                   sffn_active_set **out)
{
    if (!ctx || !out)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "set" : "ctx");
    *out = NULL;
    sffn_active_set_config c = SFFN_ACTIVE_SET_CONFIG_INIT;
    const sffn_status status =
        sffn_config_copy(ctx, "sffn_active_set_config", &c, sizeof(c), config);
    if (status != SFFN_OK)
        return status;
    if (c.has_weights != 0 && c.has_weights != 1)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "active set: has_weights is %d; expected 0 or 1", (int)c.has_weights);
    if (c.n_blocks == 0 || c.block_size == 0 || c.max_tokens == 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "active set: n_blocks %u, block_size %u, max_tokens %u; expected all > 0",
                         (unsigned)c.n_blocks, (unsigned)c.block_size, (unsigned)c.max_tokens);
    if ((uint64_t)c.n_blocks * c.block_size > INT32_MAX)
        return sffn_fail(
            ctx, SFFN_ERR_INVALID_ARGUMENT,
            "active set: n_blocks %u, block_size %u; expected at most 2147483647 neurons",
            (unsigned)c.n_blocks, (unsigned)c.block_size);
    const size_t bitmap_bytes = (c.n_blocks + 7u) / 8u;
    size_t per_token, bytes;
    if (!sffn_checked_mul(c.n_blocks, sizeof(uint32_t) + (c.has_weights ? sizeof(float) : 0),
                          &per_token) ||
        !sffn_checked_add(per_token, sizeof(size_t) + bitmap_bytes, &per_token) ||
        !sffn_checked_mul(per_token, c.max_tokens, &bytes) ||
        !sffn_checked_add(bytes, sizeof(struct sffn_active_set), &bytes))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "active set of %u blocks for %u tokens does not fit in memory",
                         (unsigned)c.n_blocks, (unsigned)c.max_tokens);
    sffn_active_set *set = sffn_mem_alloc(ctx, bytes);
    if (!set)
        return sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "the allocator returned NULL for an active set of %zu bytes", bytes);
    set->ctx = ctx;
    set->n_blocks = c.n_blocks;
    set->block_size = c.block_size;
    set->max_tokens = c.max_tokens;
    set->n_tokens = 0;
    set->bytes = bytes;
    set->bitmap_bytes = bitmap_bytes;
    set->count = (size_t *)(set + 1);
    set->indices = (uint32_t *)(set->count + c.max_tokens);
    uint32_t *rest = set->indices + (size_t)c.max_tokens * c.n_blocks;
    set->weights = c.has_weights ? (float *)rest : NULL;
    set->bitmap = (uint8_t *)(c.has_weights ? rest + (size_t)c.max_tokens * c.n_blocks : rest);
    *out = set;
    return SFFN_OK;
}

void sffn_active_set_destroy(sffn_active_set *set)
{
    if (set)
        sffn_mem_free(set->ctx, set, set->bytes);
}

static uint8_t *token_bitmap(const sffn_active_set *set, size_t token)
{
    return set->bitmap + token * set->bitmap_bytes;
}

static uint32_t *token_indices(const sffn_active_set *set, size_t token)
{
    return set->indices + token * set->n_blocks;
}

static int bitmap_has(const uint8_t *bitmap, uint32_t block)
{
    return bitmap[block / 8] >> (block % 8) & 1;
}

sffn_status sffn_active_set_clear(sffn_active_set *set, size_t n_tokens)
{
    if (!set)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "set is NULL");
    if (n_tokens > set->max_tokens)
        return sffn_fail(set->ctx, SFFN_ERR_SHAPE,
                         "n_tokens is %zu; the set was made for at most %u", n_tokens,
                         (unsigned)set->max_tokens);
    set->n_tokens = n_tokens;
    memset(set->count, 0, n_tokens * sizeof(*set->count));
    memset(set->bitmap, 0, n_tokens * set->bitmap_bytes);
    for (size_t i = 0; set->weights && i < n_tokens * set->n_blocks; i++)
        set->weights[i] = 1;
    return SFFN_OK;
}

sffn_status sffn_active_set_check_token(const sffn_active_set *set, size_t token, const void *input,
                                        const char *name)
{
    if (!set)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "set is NULL");
    if (!input)
        return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", name);
    if (token >= set->n_tokens)
        return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "token is %zu; the set has %zu tokens", token, set->n_tokens);
    return SFFN_OK;
}

/* The list of a token from its bitmap. */
static void list_from_bitmap(sffn_active_set *set, size_t token)
{
    const uint8_t *bitmap = token_bitmap(set, token);
    uint32_t *indices = token_indices(set, token);
    size_t n = 0;
    for (size_t byte = 0; byte < set->bitmap_bytes; byte++)
        for (unsigned bits = bitmap[byte], bit = 0; bits >> bit; bit++)
            if (bits >> bit & 1)
                indices[n++] = (uint32_t)(byte * 8 + bit);
    set->count[token] = n;
}

sffn_status sffn_active_set_set_indices(sffn_active_set *set, size_t token, const uint32_t *blocks,
                                        size_t n)
{
    const sffn_status status =
        sffn_active_set_check_token(set, token, n ? (const void *)blocks : "", "blocks");
    if (status != SFFN_OK)
        return status;
    for (size_t i = 0; i < n; i++)
        if (blocks[i] >= set->n_blocks)
            return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT,
                             "blocks[%zu] is %u; the set has %u blocks", i, (unsigned)blocks[i],
                             (unsigned)set->n_blocks);
    uint8_t *bitmap = token_bitmap(set, token);
    memset(bitmap, 0, set->bitmap_bytes);
    for (size_t i = 0; i < n; i++)
        bitmap[blocks[i] / 8] |= (uint8_t)(1u << (blocks[i] % 8));
    list_from_bitmap(set, token);
    return SFFN_OK;
}

sffn_status sffn_active_set_set_bitmap(sffn_active_set *set, size_t token, const uint8_t *bitmap)
{
    const sffn_status status = sffn_active_set_check_token(set, token, bitmap, "bitmap");
    if (status != SFFN_OK)
        return status;
    uint8_t *own = token_bitmap(set, token);
    memmove(own, bitmap, set->bitmap_bytes);
    if (set->n_blocks % 8)
        own[set->bitmap_bytes - 1] &= (uint8_t)((1u << (set->n_blocks % 8)) - 1);
    list_from_bitmap(set, token);
    return SFFN_OK;
}

sffn_status sffn_active_set_set_mask(sffn_active_set *set, size_t token, const uint8_t *mask)
{
    const sffn_status status = sffn_active_set_check_token(set, token, mask, "mask");
    if (status != SFFN_OK)
        return status;
    uint32_t *indices = sffn_active_set_begin(set, token);
    size_t n = 0;
    for (uint32_t block = 0; block < set->n_blocks; block++)
        if (mask[block])
            indices[n++] = block;
    sffn_active_set_commit(set, token, n);
    return SFFN_OK;
}

sffn_status sffn_active_set_set_all(sffn_active_set *set, size_t token)
{
    const sffn_status status = sffn_active_set_check_token(set, token, "", "");
    if (status != SFFN_OK)
        return status;
    uint32_t *indices = sffn_active_set_begin(set, token);
    for (uint32_t block = 0; block < set->n_blocks; block++)
        indices[block] = block;
    sffn_active_set_commit(set, token, set->n_blocks);
    return SFFN_OK;
}

sffn_status sffn_active_set_set_slice(sffn_active_set *set, const sffn_active_set *whole,
                                      uint32_t first_block)
{
    if (!set || !whole)
        return sffn_fail(set ? set->ctx : NULL, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL",
                         set ? "whole" : "set");
    if (set == whole)
        return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT, "set and whole are the same set");
    if (set->block_size != whole->block_size || first_block > whole->n_blocks ||
        set->n_blocks > whole->n_blocks - first_block)
        return sffn_fail(
            set->ctx, SFFN_ERR_SHAPE,
            "first_block is %u, set has %u blocks of %u; expected blocks of whole's %u of %u",
            (unsigned)first_block, (unsigned)set->n_blocks, (unsigned)set->block_size,
            (unsigned)whole->n_blocks, (unsigned)whole->block_size);
    if (whole->weights && !set->weights)
        return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "whole has weights and set was made without: they would be lost");
    const sffn_status status = sffn_active_set_clear(set, whole->n_tokens);
    for (size_t t = 0; status == SFFN_OK && t < whole->n_tokens; t++) {
        const uint32_t *from = token_indices(whole, t);
        uint32_t *to = sffn_active_set_begin(set, t);
        size_t n = 0;
        for (size_t i = 0; i < whole->count[t]; i++)
            if (from[i] >= first_block && from[i] - first_block < set->n_blocks)
                to[n++] = from[i] - first_block;
        sffn_active_set_commit(set, t, n);
        if (whole->weights)
            memcpy(set->weights + t * set->n_blocks,
                   whole->weights + t * whole->n_blocks + first_block,
                   set->n_blocks * sizeof(float));
    }
    return status;
}

sffn_status sffn_active_set_set_weights(sffn_active_set *set, size_t token, const float *weights)
{
    const sffn_status status = sffn_active_set_check_token(set, token, weights, "weights");
    if (status != SFFN_OK)
        return status;
    if (!set->weights)
        return sffn_fail(set->ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "the set was made without weights: has_weights was 0");
    memmove(set->weights + token * set->n_blocks, weights, set->n_blocks * sizeof(*weights));
    return SFFN_OK;
}

const float *sffn_active_set_weights(const sffn_active_set *set, size_t token)
{
    return set && set->weights && token < set->n_tokens ? set->weights + token * set->n_blocks
                                                        : NULL;
}

int32_t sffn_active_set_has_weights(const sffn_active_set *set)
{
    return set && set->weights;
}

uint32_t *sffn_active_set_begin(sffn_active_set *set, size_t token)
{
    return token_indices(set, token);
}

float *sffn_active_set_begin_weights(sffn_active_set *set, size_t token)
{
    return set->weights ? set->weights + token * set->n_blocks : NULL;
}

void sffn_active_set_commit(sffn_active_set *set, size_t token, size_t n)
{
    const uint32_t *indices = token_indices(set, token);
    uint8_t *bitmap = token_bitmap(set, token);
    memset(bitmap, 0, set->bitmap_bytes);
    for (size_t i = 0; i < n; i++)
        bitmap[indices[i] / 8] |= (uint8_t)(1u << (indices[i] % 8));
    set->count[token] = n;
}

uint32_t sffn_active_set_n_blocks(const sffn_active_set *set)
{
    return set ? set->n_blocks : 0;
}

uint32_t sffn_active_set_block_size(const sffn_active_set *set)
{
    return set ? set->block_size : 0;
}

uint32_t sffn_active_set_max_tokens(const sffn_active_set *set)
{
    return set ? set->max_tokens : 0;
}

size_t sffn_active_set_n_tokens(const sffn_active_set *set)
{
    return set ? set->n_tokens : 0;
}

size_t sffn_active_set_count(const sffn_active_set *set, size_t token)
{
    return set && token < set->n_tokens ? set->count[token] : 0;
}

const uint32_t *sffn_active_set_indices(const sffn_active_set *set, size_t token)
{
    return set && token < set->n_tokens ? token_indices(set, token) : NULL;
}

int32_t sffn_active_set_contains(const sffn_active_set *set, size_t token, uint32_t block)
{
    return set && token < set->n_tokens && block < set->n_blocks &&
           bitmap_has(token_bitmap(set, token), block);
}

sffn_status sffn_active_set_get_bitmap(const sffn_active_set *set, size_t token, uint8_t *bitmap)
{
    const sffn_status status = sffn_active_set_check_token(set, token, bitmap, "bitmap");
    if (status == SFFN_OK)
        memcpy(bitmap, token_bitmap(set, token), set->bitmap_bytes);
    return status;
}

size_t sffn_active_set_union_count(const sffn_active_set *set)
{
    size_t n = 0;
    for (size_t byte = 0; set && byte < set->bitmap_bytes; byte++) {
        unsigned bits = 0;
        for (size_t token = 0; token < set->n_tokens; token++)
            bits |= token_bitmap(set, token)[byte];
        for (; bits; bits &= bits - 1)
            n++;
    }
    return n;
}

double sffn_active_set_density(const sffn_active_set *set)
{
    double sum = 0;
    for (size_t token = 0; set && token < set->n_tokens; token++)
        sum += (double)set->count[token];
    return set && set->n_tokens ? sum / ((double)set->n_tokens * set->n_blocks) : 0;
}

sffn_status sffn_active_set_recall(const sffn_active_set *predicted, const sffn_active_set *truth,
                                   size_t token, double *recall)
{
    sffn_status status = sffn_active_set_check_token(truth, token, recall, "recall");
    if (status == SFFN_OK)
        status = sffn_active_set_check_token(predicted, token, recall, "recall");
    if (status != SFFN_OK)
        return status;
    if (predicted->n_blocks != truth->n_blocks || predicted->block_size != truth->block_size)
        return sffn_fail(truth->ctx, SFFN_ERR_SHAPE,
                         "predicted has %u blocks of %u, truth %u of %u",
                         (unsigned)predicted->n_blocks, (unsigned)predicted->block_size,
                         (unsigned)truth->n_blocks, (unsigned)truth->block_size);
    const size_t n = truth->count[token];
    const uint32_t *indices = token_indices(truth, token);
    size_t hits = 0;
    for (size_t i = 0; i < n; i++)
        hits += (size_t)bitmap_has(token_bitmap(predicted, token), indices[i]);
    *recall = n ? (double)hits / (double)n : 1.0;
    return SFFN_OK;
}

sffn_status sffn_active_set_check(const sffn_context *ctx, const sffn_active_set *set,
                                  const char *what, uint32_t d_ff, size_t n_tokens)
{
    if ((uint64_t)set->n_blocks * set->block_size != d_ff)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "%s has %u blocks of %u neurons; expected %u neurons in all", what,
                         (unsigned)set->n_blocks, (unsigned)set->block_size, (unsigned)d_ff);
    if (set->n_tokens < n_tokens)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s has %zu tokens; the call has %zu", what,
                         set->n_tokens, n_tokens);
    return SFFN_OK;
}

sffn_status sffn_active_set_check_output(const sffn_context *ctx, const sffn_active_set *set,
                                         const char *what, uint32_t n_blocks, uint32_t block_size,
                                         size_t n_tokens)
{
    if (set->n_blocks != n_blocks || set->block_size != block_size)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s has %u blocks of %u neurons; expected %u of %u",
                         what, (unsigned)set->n_blocks, (unsigned)set->block_size,
                         (unsigned)n_blocks, (unsigned)block_size);
    if (set->max_tokens < n_tokens)
        return sffn_fail(ctx, SFFN_ERR_SHAPE, "%s was made for %u tokens; the call has %zu", what,
                         (unsigned)set->max_tokens, n_tokens);
    return SFFN_OK;
}

const sffn_context *sffn_active_set_context(const sffn_active_set *set)
{
    return set->ctx;
}
