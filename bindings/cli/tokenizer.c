/*
 * Encoding has three steps: control tokens are cut out, the rest is cut into pieces (letters, numbers, other, white
 * space: a regular expression that tokenizer.ggml.pre names), and in each piece the pair of symbols with the best merge
 * is joined until none is left. Symbols are bytes at first; the vocabulary writes byte b as the printable character
 * byte_to_char(b).
 */
#include "tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "utf8.h"

enum { CLASS_OTHER = 0, CLASS_LETTER = 1, CLASS_NUMBER = 2, CLASS_SPACE = 3 };
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 }; /* tokenizer.ggml.token_type */
enum { N_CHARS = 0x144 };                                          /* byte_to_char is below this */

struct token {
    const char *text;
    uint32_t n_bytes;
    int32_t type;
};
struct merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* lower joins first; UINT32_MAX: empty slot */
    uint32_t id;   /* of the joined token */
};
/* How text is cut into pieces, by tokenizer.ggml.pre. */
struct pre {
    const char *name;
    int is_llama3;       /* Llama 3's expression, else GPT-2's */
    unsigned max_digits; /* numbers are cut after so many; 0: never */
    int keeps_tokens;    /* a piece that is a token as a whole is not merged from its bytes */
};
static const struct pre pres[] = {
    {"gpt-2", 0, 0, 0},     {"gpt2", 0, 0, 0},   {"starcoder", 0, 1, 0},
    {"smollm", 0, 1, 0}, /* single digits are cut out first */
    {"llama-bpe", 1, 3, 1}, {"llama3", 1, 3, 1}, {"qwen2", 1, 1, 0},
};

struct tokenizer {
    const struct pre *pre;
    struct token *tokens;
    uint32_t n_tokens, longest;
    uint32_t *slots; /* open addressing: id + 1 by text, 0 is empty */
    size_t slot_mask;
    struct merge *merges; /* open addressing by pair */
    size_t merge_mask;
    int32_t byte_ids[256]; /* -1: the vocabulary lacks this byte */
    int16_t char_to_byte[N_CHARS];
    const struct token **special; /* those that may be written out in text, longest first */
    size_t n_special;
    unsigned char begins_special[256];
    int32_t bos, eos, eot;
    int adds_bos;
    char *decoded;
};

/* ---------------------------------------------------------------- small parts */

void ids_add(struct ids *ids, int32_t id)
{
    cli_grow(&ids->data, &ids->capacity, ids->n, sizeof *ids->data);
    ids->data[ids->n++] = id;
}

static const uint32_t class_starts[] = {
#include "unicode_classes.inc"
};

static int class_of(uint32_t code)
{
    size_t low = 0, high = sizeof class_starts / sizeof class_starts[0];
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (class_starts[middle] >> 2 <= code)
            low = middle;
        else
            high = middle;
    }
    return (int)(class_starts[low] & 3);
}

/* Printable Latin-1 stands for itself, the other 68 bytes for 256, 257, ... in their order. */
static uint32_t byte_to_char(unsigned byte)
{
    static const unsigned char gaps[][2] = {{0, 32}, {127, 160}, {173, 173}};
    uint32_t n = 256;
    for (size_t i = 0; i < 3; i++) {
        if (byte < gaps[i][0])
            return byte;
        if (byte <= gaps[i][1])
            return n + byte - gaps[i][0];
        n += gaps[i][1] - gaps[i][0] + 1u;
    }
    return byte;
}

static uint64_t hash_text(const char *text, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash ^ hash >> 29;
}

static uint64_t hash_pair(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u;
    return pair ^ pair >> 32;
}

static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < 2 * n)
        size *= 2;
    return size;
}

static int32_t find_token(const struct tokenizer *t, const char *text, size_t n)
{
    size_t at = hash_text(text, n) & t->slot_mask;
    for (; t->slots[at] != 0; at = (at + 1) & t->slot_mask) {
        const struct token *token = &t->tokens[t->slots[at] - 1];
        if (token->n_bytes == n && memcmp(token->text, text, n) == 0)
            return (int32_t)(t->slots[at] - 1);
    }
    return -1;
}

static struct merge *merge_slot(const struct tokenizer *t, uint64_t pair)
{
    size_t at = hash_pair(pair) & t->merge_mask;
    while (t->merges[at].rank != UINT32_MAX && t->merges[at].pair != pair)
        at = (at + 1) & t->merge_mask;
    return &t->merges[at];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* ---------------------------------------------------------------- pieces */

static int class_at(const char *text, size_t n, size_t at, size_t *length)
{
    uint32_t code = 0;
    int bytes = utf8_next(text + at, n - at, &code);
    if (bytes <= 0) { /* no UTF-8: each byte is a character of its own, neither letter nor number */
        *length = 1;
        return CLASS_OTHER;
    }
    *length = (size_t)bytes;
    return class_of(code);
}

/* End of the run of characters of one class. */
static size_t run_end(const char *text, size_t n, size_t at, int class)
{
    size_t length;
    while (at < n && class_at(text, n, at, &length) == class)
        at += length;
    return at;
}

/* White space: all of it at the end of the text, else it leaves its last character to what follows, unless it has only that one. */
static size_t space_end(const char *text, size_t n, size_t at)
{
    size_t begin = at, last = at, length;
    for (; at < n && class_at(text, n, at, &length) == CLASS_SPACE; at += length)
        last = at;
    return at < n && last > begin ? last : at;
}

/* Bytes of 's 't 're 've 'm 'll 'd at the start of text, or 0. */
static size_t contraction(const char *text, size_t n, int any_case)
{
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (n == 0 || text[0] != '\'')
        return 0;
    if (any_case && n >= 3 && memcmp(text + 1, "\xc5\xbf", 2) == 0)
        return 3; /* the long s is an s in lower case, to a regular expression */
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t length = strlen(endings[i]), j = 0;
        while (
            j < length && j + 1 < n &&
            (text[j + 1] == endings[i][j] || (any_case && (text[j + 1] | 0x20) == endings[i][j])))
            j++;
        if (j == length)
            return length + 1;
    }
    return 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t piece_end_gpt2(const char *text, size_t n, size_t at)
{
    size_t length, short_form = contraction(text + at, n - at, 0);
    int class = class_at(text, n, at, &length);
    if (short_form != 0)
        return at + short_form;
    if (text[at] == ' ' && at + 1 < n && class_at(text, n, at + 1, &length) != CLASS_SPACE) {
        at++; /* a blank belongs to the word that it precedes */
        class = class_at(text, n, at, &length);
    }
    return class == CLASS_SPACE ? space_end(text, n, at) : run_end(text, n, at, class);
}

/*
 * (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static size_t piece_end_llama3(const char *text, size_t n, size_t at, unsigned max_digits)
{
    size_t length, next, skip, short_form = contraction(text + at, n - at, 1);
    int class = class_at(text, n, at, &length);
    if (short_form != 0)
        return at + short_form;
    next = at + length;
    if (class == CLASS_LETTER || (class != CLASS_NUMBER && text[at] != '\r' && text[at] != '\n' &&
                                  next < n && class_at(text, n, next, &skip) == CLASS_LETTER))
        return run_end(text, n, next, CLASS_LETTER);
    if (class == CLASS_NUMBER) {
        for (unsigned digits = 1;
             digits < max_digits && next < n && class_at(text, n, next, &length) == CLASS_NUMBER;
             digits++)
            next += length;
        return next;
    }
    if (text[at] == ' ' && next < n && class_at(text, n, next, &skip) == CLASS_OTHER)
        class = CLASS_OTHER;
    if (class == CLASS_OTHER) {
        for (next = run_end(text, n, next, CLASS_OTHER);
             next < n && (text[next] == '\r' || text[next] == '\n');)
            next++;
        return next;
    }
    for (next = run_end(text, n, at, CLASS_SPACE); next > at; next--) /* up to the last line end */
        if (text[next - 1] == '\r' || text[next - 1] == '\n')
            return next;
    return space_end(text, n, at);
}

static size_t piece_end(const struct pre *pre, const char *text, size_t n, size_t at)
{
    size_t end = at, length;
    if (pre->is_llama3)
        return piece_end_llama3(text, n, at, pre->max_digits);
    if (pre->max_digits == 0)
        return piece_end_gpt2(text, n, at);
    /* Digits alone, and what is between two of them as if it were a text of its own. */
    if (class_at(text, n, at, &length) == CLASS_NUMBER)
        return at + length;
    while (end < n && class_at(text, n, end, &length) != CLASS_NUMBER)
        end += length;
    return piece_end_gpt2(text, end, at);
}

/* ---------------------------------------------------------------- merging */

struct symbol {
    int32_t id;            /* -1: joined into the one before */
    size_t previous, next; /* SIZE_MAX: none */
};
struct candidate { /* two neighbours that can be joined */
    uint64_t pair;
    size_t left;
    uint32_t rank;
};
/* Memory of one encode call. */
struct workspace {
    struct symbol *symbols;
    struct candidate *heap; /* smallest rank first, then leftmost */
    size_t symbol_capacity, heap_capacity, n_heap;
};

static int is_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct workspace *w, struct candidate new)
{
    size_t at = w->n_heap;
    cli_grow(&w->heap, &w->heap_capacity, w->n_heap++, sizeof *w->heap);
    for (; at != 0 && is_before(&new, &w->heap[(at - 1) / 2]); at = (at - 1) / 2)
        w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = new;
}

static struct candidate heap_pop(struct workspace *w)
{
    struct candidate top = w->heap[0], moved = w->heap[--w->n_heap];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < w->n_heap) {
        if (child + 1 < w->n_heap && is_before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!is_before(&w->heap[child], &moved))
            break;
        w->heap[at] = w->heap[child];
        at = child;
    }
    w->heap[at] = moved;
    return top;
}

static void offer(const struct tokenizer *t, struct workspace *w, size_t left)
{
    struct candidate candidate;
    if (left == SIZE_MAX || w->symbols[left].next == SIZE_MAX)
        return;
    candidate.pair = pair_of(w->symbols[left].id, w->symbols[w->symbols[left].next].id);
    candidate.left = left;
    candidate.rank = merge_slot(t, candidate.pair)->rank;
    if (candidate.rank != UINT32_MAX)
        heap_push(w, candidate);
}

/* The token that is these n bytes, or -1. */
static int32_t whole_token(const struct tokenizer *t, const char *text, size_t n)
{
    char *written;
    size_t n_written = 0;
    int32_t id;
    if (n > t->longest)
        return -1;
    written = cli_alloc(2 * n, 1);
    for (size_t i = 0; i < n; i++)
        n_written += utf8_put(byte_to_char((unsigned char)text[i]), written + n_written);
    id = find_token(t, written, n_written);
    free(written);
    return id;
}

static void encode_piece(const struct tokenizer *t, struct workspace *w, const char *text, size_t n,
                         struct ids *ids)
{
    size_t n_symbols = 0;
    int32_t whole = t->pre->keeps_tokens ? whole_token(t, text, n) : -1;
    if (whole >= 0) {
        ids_add(ids, whole);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_ids[(unsigned char)text[i]];
        if (id < 0)
            continue;
        cli_grow(&w->symbols, &w->symbol_capacity, n_symbols, sizeof *w->symbols);
        w->symbols[n_symbols].id = id;
        w->symbols[n_symbols].previous = n_symbols - 1; /* SIZE_MAX for the first */
        w->symbols[n_symbols].next = n_symbols + 1;
        n_symbols++;
    }
    if (n_symbols == 0)
        return;
    w->symbols[n_symbols - 1].next = SIZE_MAX;
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < n_symbols; i++)
        offer(t, w, i);
    while (w->n_heap != 0) {
        struct candidate best = heap_pop(w);
        struct symbol *left = &w->symbols[best.left], *right;
        /* Stale when one of the two has been joined with another neighbour since. */
        if (left->id < 0 || left->next == SIZE_MAX)
            continue;
        right = &w->symbols[left->next];
        if (pair_of(left->id, right->id) != best.pair)
            continue;
        left->id = (int32_t)merge_slot(t, best.pair)->id;
        right->id = -1;
        left->next = right->next;
        if (left->next != SIZE_MAX)
            w->symbols[left->next].previous = best.left;
        offer(t, w, left->previous);
        offer(t, w, best.left);
    }
    for (size_t i = 0; i != SIZE_MAX; i = w->symbols[i].next)
        ids_add(ids, w->symbols[i].id);
}

/* The control token that is written out at the start of text, or NULL. */
static const struct token *special_at(const struct tokenizer *t, const char *text, size_t n,
                                      int with_control)
{
    if (!t->begins_special[(unsigned char)text[0]])
        return NULL;
    for (size_t i = 0; i < t->n_special; i++) {
        const struct token *token = t->special[i];
        if (token->n_bytes <= n && memcmp(token->text, text, token->n_bytes) == 0 &&
            (with_control || token->type == TYPE_USER_DEFINED))
            return token;
    }
    return NULL;
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int with_special,
                      struct ids *ids)
{
    struct workspace w = {NULL, NULL, 0, 0, 0};
    size_t at = 0;
    while (at < n) {
        size_t end = at;
        const struct token *special = NULL;
        while (end < n && (special = special_at(t, text + end, n - end, with_special)) == NULL)
            end++;
        while (at < end) {
            size_t next = piece_end(t->pre, text, end, at);
            encode_piece(t, &w, text + at, next - at, ids);
            at = next;
        }
        if (special != NULL) {
            ids_add(ids, (int32_t)(special - t->tokens));
            at = end + special->n_bytes;
        }
    }
    free(w.symbols);
    free(w.heap);
}

size_t tokenizer_decode(struct tokenizer *t, int32_t id, const char **bytes)
{
    const struct token *token;
    size_t at = 0, n = 0;
    *bytes = t->decoded;
    if (id < 0 || (uint32_t)id >= t->n_tokens)
        return 0;
    token = &t->tokens[id];
    if (token->type == TYPE_CONTROL)
        return 0;
    while (at < token->n_bytes) {
        uint32_t code = N_CHARS;
        int length = utf8_next(token->text + at, token->n_bytes - at, &code);
        if (length <= 0)
            length = 1;
        if (token->type != TYPE_USER_DEFINED && code < N_CHARS && t->char_to_byte[code] >= 0) {
            t->decoded[n++] = (char)t->char_to_byte[code];
        } else { /* written out as it is */
            memcpy(t->decoded + n, token->text + at, (size_t)length);
            n += (size_t)length;
        }
        at += (size_t)length;
    }
    return n;
}

/* ---------------------------------------------------------------- from the model file */

static int longest_first(const void *a, const void *b)
{
    const struct token *left = *(const struct token *const *)a,
                       *right = *(const struct token *const *)b;
    return (left->n_bytes < right->n_bytes) - (left->n_bytes > right->n_bytes);
}

static int read_tokens(struct tokenizer *t, const sffn_context *ctx, const sffn_model *model)
{
    size_t n = sffn_model_meta_count(model, "tokenizer.ggml.tokens");
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    int has_types = sffn_model_meta_count(model, "tokenizer.ggml.token_type") == n;
    if (n == 0)
        return cli_fail("the model has no tokenizer (metadata tokenizer.ggml.tokens): run 'sffn "
                        "prepare MODEL -o OUT.gguf' on its "
                        "Hugging Face folder, which takes tokenizer.json along");
    sffn_model_get_info(model, &info);
    if (n > info.n_vocab || n > INT32_MAX / 2)
        return cli_fail(
            "tokenizer.ggml.tokens has %zu entries, expected at most the model's vocabulary, %u", n,
            (unsigned)info.n_vocab);
    t->tokens = cli_alloc(n, sizeof *t->tokens);
    t->slots = cli_alloc(table_size(n), sizeof *t->slots);
    t->slot_mask = table_size(n) - 1;
    t->special = cli_alloc(n, sizeof *t->special);
    for (size_t i = 0; i < n; i++) {
        struct token *token = &t->tokens[i];
        size_t n_bytes = 0, at;
        int64_t type = TYPE_NORMAL;
        sffn_status status =
            sffn_model_get_string(model, "tokenizer.ggml.tokens", i, &token->text, &n_bytes);
        if (status == SFFN_OK && has_types)
            status = sffn_model_get_int(model, "tokenizer.ggml.token_type", i, &type);
        if (status != SFFN_OK)
            return cli_fail_status(ctx, status, "tokenizer");
        if (n_bytes > UINT16_MAX)
            return cli_fail("token %zu has %zu bytes, expected at most %d", i, n_bytes, UINT16_MAX);
        token->n_bytes = (uint32_t)n_bytes;
        token->type = (int32_t)type;
        t->n_tokens = (uint32_t)i + 1;
        if (token->n_bytes > t->longest)
            t->longest = token->n_bytes;
        if (find_token(t, token->text, n_bytes) < 0) { /* the first of equal ones counts */
            for (at = hash_text(token->text, n_bytes) & t->slot_mask; t->slots[at] != 0;)
                at = (at + 1) & t->slot_mask;
            t->slots[at] = (uint32_t)i + 1;
        }
        if ((type == TYPE_CONTROL || type == TYPE_USER_DEFINED) && n_bytes != 0)
            t->special[t->n_special++] = token;
    }
    qsort(t->special, t->n_special, sizeof *t->special, longest_first);
    for (size_t i = 0; i < t->n_special; i++)
        t->begins_special[(unsigned char)t->special[i]->text[0]] = 1;
    t->decoded = cli_alloc(t->longest + 1u, 1);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[4];
        t->byte_ids[byte] = find_token(t, text, utf8_put(byte_to_char(byte), text));
    }
    return CLI_OK;
}

/* "left right": neither contains a blank, which is written as another character. */
static int add_merge(struct tokenizer *t, uint32_t rank, const char *text, size_t n_bytes,
                     char *joined)
{
    const char *blank = n_bytes > 1 ? memchr(text + 1, ' ', n_bytes - 1) : NULL;
    size_t n_left = blank != NULL ? (size_t)(blank - text) : 0, n_right = n_bytes - n_left - 1;
    int32_t left = -1, right = -1, id = -1;
    struct merge *slot;
    if (blank != NULL) {
        left = find_token(t, text, n_left);
        right = find_token(t, blank + 1, n_right);
    }
    if (left >= 0 && right >= 0) {
        memcpy(joined, text, n_left);
        memcpy(joined + n_left, blank + 1, n_right);
        id = find_token(t, joined, n_left + n_right);
    }
    if (id < 0)
        return cli_fail(
            "tokenizer.ggml.merges[%u] is '%.*s', expected two tokens whose union is a token",
            (unsigned)rank, (int)(n_bytes < 64 ? n_bytes : 64), text);
    slot = merge_slot(t, pair_of(left, right));
    if (slot->rank == UINT32_MAX) { /* the first of equal ones counts */
        slot->pair = pair_of(left, right);
        slot->rank = rank;
        slot->id = (uint32_t)id;
    }
    return CLI_OK;
}

static int read_merges(struct tokenizer *t, const sffn_context *ctx, const sffn_model *model)
{
    size_t n = sffn_model_meta_count(model, "tokenizer.ggml.merges"), size = table_size(n);
    char *joined;
    int result = CLI_OK;
    if (n > INT32_MAX / 2)
        return cli_fail("tokenizer.ggml.merges has %zu entries, expected at most %d", n,
                        INT32_MAX / 2);
    joined = cli_alloc(2 * (size_t)t->longest + 1, 1);
    t->merges = cli_alloc(size, sizeof *t->merges);
    t->merge_mask = size - 1;
    for (size_t i = 0; i < size; i++)
        t->merges[i].rank = UINT32_MAX;
    for (size_t i = 0; result == CLI_OK && i < n; i++) {
        const char *text = NULL;
        size_t n_bytes = 0;
        sffn_status status =
            sffn_model_get_string(model, "tokenizer.ggml.merges", i, &text, &n_bytes);
        result = status == SFFN_OK ? add_merge(t, (uint32_t)i, text, n_bytes, joined)
                                   : cli_fail_status(ctx, status, "tokenizer");
    }
    free(joined);
    return result;
}

static int read_kind(struct tokenizer *t, const sffn_model *model)
{
    const char *text;
    size_t n;
    int64_t adds_space;
    if (sffn_model_get_string(model, "tokenizer.ggml.model", 0, &text, &n) == SFFN_OK &&
        !(n == 4 && memcmp(text, "gpt2", 4) == 0))
        return cli_fail("tokenizer.ggml.model is '%.*s', expected gpt2 (byte-level BPE)",
                        (int)(n < 64 ? n : 64), text);
    if (sffn_model_get_int(model, "tokenizer.ggml.add_space_prefix", 0, &adds_space) == SFFN_OK &&
        adds_space != 0)
        return cli_fail("tokenizer.ggml.add_space_prefix is true, expected false");
    if (sffn_model_get_string(model, "tokenizer.ggml.pre", 0, &text, &n) != SFFN_OK) {
        if (sffn_model_meta_count(model, "tokenizer.ggml.tokens") != 0)
            fprintf(stderr,
                    "sffn: warning: the model has no tokenizer.ggml.pre; gpt-2 is assumed\n");
        t->pre = &pres[0];
        return CLI_OK;
    }
    for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++)
        if (strlen(pres[i].name) == n && memcmp(pres[i].name, text, n) == 0)
            t->pre = &pres[i];
    if (t->pre == NULL)
        return cli_fail(
            "tokenizer.ggml.pre is '%.*s', expected gpt-2, starcoder, smollm, llama-bpe or qwen2",
            (int)(n < 64 ? n : 64), text);
    return CLI_OK;
}

static int32_t read_id(const struct tokenizer *t, const sffn_model *model, const char *key)
{
    int64_t id = -1;
    if (sffn_model_get_int(model, key, 0, &id) != SFFN_OK || id < 0 || id >= (int64_t)t->n_tokens)
        return -1;
    return (int32_t)id;
}

struct tokenizer *tokenizer_create(const sffn_context *ctx, const sffn_model *model)
{
    struct tokenizer *t = cli_alloc(1, sizeof *t);
    int64_t adds_bos;
    memset(t->char_to_byte, -1, sizeof t->char_to_byte);
    for (unsigned byte = 0; byte < 256; byte++)
        t->char_to_byte[byte_to_char(byte)] = (int16_t)byte;
    if (read_kind(t, model) != CLI_OK || read_tokens(t, ctx, model) != CLI_OK ||
        read_merges(t, ctx, model) != CLI_OK) {
        tokenizer_destroy(t);
        return NULL;
    }
    t->bos = read_id(t, model, "tokenizer.ggml.bos_token_id");
    t->eos = read_id(t, model, "tokenizer.ggml.eos_token_id");
    t->eot = read_id(t, model, "tokenizer.ggml.eot_token_id");
    if (sffn_model_get_int(model, "tokenizer.ggml.add_bos_token", 0, &adds_bos) != SFFN_OK)
        adds_bos = 1; /* a file that names a bos and says no more */
    t->adds_bos = t->bos >= 0 && adds_bos != 0;
    return t;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (t == NULL)
        return;
    free(t->tokens);
    free(t->slots);
    free(t->merges);
    free(t->special);
    free(t->decoded);
    free(t);
}

uint32_t tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->n_tokens;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

int tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (id == t->eos || id == t->eot || id == t->bos);
}
