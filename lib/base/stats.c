/* stats.c  Counters of a context: rows that come and go, and their texts. */
#include "base/stats.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "sparseffn/ffn.h"
#include "sparseffn/stats.h"

void sffn_stats_init(struct sffn_stats *stats)
{
    pthread_mutex_init(&stats->lock, NULL);
    atomic_init(&stats->rows, NULL);
    atomic_init(&stats->unregistered_calls, 0);
}

void sffn_stats_fini(const sffn_context *ctx, struct sffn_stats *stats)
{
    for (struct sffn_stats_row *row = atomic_load(&stats->rows), *next; row; row = next) {
        next = atomic_load(&row->next);
        sffn_mem_free(ctx, row, sizeof(*row));
    }
    pthread_mutex_destroy(&stats->lock);
}

struct sffn_stats_row *sffn_stats_find(struct sffn_stats *stats, uint64_t layer_id)
{
    struct sffn_stats_row *row = atomic_load_explicit(&stats->rows, memory_order_acquire);
    while (row && atomic_load_explicit(&row->layer_id, memory_order_acquire) != layer_id)
        row = atomic_load_explicit(&row->next, memory_order_acquire);
    return row;
}

/* ---- names ---- */

/* Bytes of the UTF-8 character at s; 0: it is none. */
static size_t utf8_bytes(const char *s)
{
    const unsigned char *b = (const unsigned char *)s;
    if (b[0] < 0x80)
        return 1;
    const size_t n = b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3 : 2;
    if (b[0] < 0xC2 || b[0] > 0xF4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((b[i] & 0xC0) != 0x80)
            return 0;
    /* longer than it need be, a surrogate, or past U+10FFFF */
    const unsigned second = b[1];
    return (b[0] == 0xE0 && second < 0xA0) || (b[0] == 0xED && second > 0x9F) ||
                   (b[0] == 0xF0 && second < 0x90) || (b[0] == 0xF4 && second > 0x8F)
               ? 0
               : n;
}

static int is_taken(const struct sffn_stats *stats, const char *name)
{
    for (const struct sffn_stats_row *row = atomic_load(&stats->rows); row;
         row = atomic_load(&row->next))
        if (atomic_load(&row->layer_id) && strcmp(row->name, name) == 0)
            return 1;
    return 0;
}

/* A layer's name as a label: valid UTF-8, and its own: "ffn", "ffn#2", ... */
static void make_label(const struct sffn_stats *stats, char *label, size_t size, const char *name)
{
    char plain[64];
    size_t n = 0;
    while (*name && n + 1 < sizeof(plain)) {
        const size_t bytes = utf8_bytes(name);
        if (n + bytes + 1 > sizeof(plain))
            break;
        if (bytes == 0)
            plain[n++] = '?';
        for (size_t i = 0; i < bytes; i++)
            plain[n++] = name[i];
        name += bytes ? bytes : 1;
    }
    plain[n] = 0;
    snprintf(label, size, "%s", plain);
    for (unsigned i = 2; is_taken(stats, label); i++)
        snprintf(label, size, "%s#%u", plain, i);
}

sffn_status sffn_stats_register(const sffn_context *ctx, struct sffn_stats *stats,
                                uint64_t layer_id, const char *name, uint32_t d_ff)
{
    pthread_mutex_lock(&stats->lock);
    struct sffn_stats_row *row = sffn_stats_find(stats, layer_id);
    const int is_known = row != NULL;
    _Atomic(struct sffn_stats_row *) *link = NULL;
    if (!is_known) {
        row = sffn_stats_find(stats, 0);
        if (!row && (row = sffn_mem_alloc_zero(ctx, sizeof(*row))) != NULL) {
            link = &stats->rows;
            for (struct sffn_stats_row *r; (r = atomic_load(link)) != NULL;)
                link = &r->next;
        }
    }
    if (row && !is_known) {
        for (int i = 0; i < SFFN_STAT_COUNT; i++)
            atomic_store_explicit(&row->values[i], 0, memory_order_relaxed);
        row->d_ff = d_ff;
        make_label(stats, row->name, sizeof(row->name), name);
        atomic_store_explicit(&row->layer_id, layer_id, memory_order_release);
        if (link)
            atomic_store_explicit(link, row, memory_order_release);
    }
    pthread_mutex_unlock(&stats->lock);
    return row ? SFFN_OK
               : sffn_fail(ctx, SFFN_ERR_OUT_OF_MEMORY,
                           "the allocator returned NULL for the statistics of %s", name);
}

void sffn_stats_forget(struct sffn_stats *stats, uint64_t layer_id)
{
    pthread_mutex_lock(&stats->lock);
    struct sffn_stats_row *row = sffn_stats_find(stats, layer_id);
    if (row)
        atomic_store_explicit(&row->layer_id, 0, memory_order_release);
    pthread_mutex_unlock(&stats->lock);
}

/* ---- public ---- */

static sffn_status check_collects(const sffn_context *ctx)
{
    if (!ctx)
        return sffn_fail(NULL, SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    if (!sffn_context_collects_stats(ctx))
        return sffn_fail(ctx, SFFN_ERR_UNSUPPORTED,
                         "this context collects no statistics: set collect_stats when it is made");
    return SFFN_OK;
}

sffn_status sffn_context_reset_stats(sffn_context *ctx)
{
    sffn_status status = check_collects(ctx);
    if (status == SFFN_OK)
        status = sffn_context_enter(ctx);
    if (status != SFFN_OK)
        return status;
    struct sffn_stats *stats = sffn_context_stats(ctx);
    pthread_mutex_lock(&stats->lock);
    for (struct sffn_stats_row *row = atomic_load(&stats->rows); row; row = atomic_load(&row->next))
        for (int i = 0; i < SFFN_STAT_COUNT; i++)
            atomic_store_explicit(&row->values[i], 0, memory_order_relaxed);
    atomic_store(&stats->unregistered_calls, 0);
    pthread_mutex_unlock(&stats->lock);
    sffn_context_leave(ctx);
    return SFFN_OK;
}

/* ---- texts ---- */

struct writer {
    char *buffer;
    size_t bytes, used; /* used counts on when the buffer is full */
};

static void put(struct writer *w, const char *format, ...) SFFN_PRINTF(2, 3);
static void put(struct writer *w, const char *format, ...)
{
    const size_t room = w->used < w->bytes ? w->bytes - w->used : 0;
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(room ? w->buffer + w->used : NULL, room, format, args);
    va_end(args);
    w->used += n > 0 ? (size_t)n : 0;
}

/* Without %f, whose point is a comma in some locales. */
static void put_seconds(struct writer *w, uint64_t ns)
{
    put(w, "%" PRIu64 ".%09" PRIu64, ns / 1000000000u, ns % 1000000000u);
}

/* a / b in [0, 1]; null without a b. */
static void put_share(struct writer *w, uint64_t a, uint64_t b)
{
    const uint64_t millionths = b ? (uint64_t)((double)a / (double)b * 1e6 + 0.5) : 0;
    if (b)
        put(w, "%" PRIu64 ".%06" PRIu64, millionths / 1000000u, millionths % 1000000u);
    else
        put(w, "null");
}

static void put_escaped(struct writer *w, const char *text, int is_json)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            put(w, "\\%c", *text);
        else if (*text == '\n')
            put(w, "\\n");
        else if (is_json && (unsigned char)*text < 0x20)
            put(w, "\\u%04x", (unsigned)*text);
        else
            put(w, "%c", *text);
    }
}

/* What a text shows of a row, by name. */
static uint64_t other_ns(const struct sffn_stats_row *row)
{
    uint64_t known = 0;
    for (int i = SFFN_STAT_SELECT_NS; i <= SFFN_STAT_CHECK_NS; i++)
        known += sffn_stat_get(row, (enum sffn_stat)i);
    const uint64_t total = sffn_stat_get(row, SFFN_STAT_TOTAL_NS);
    return total > known ? total - known : 0;
}

static const char *const path_names[] = {"sparse", "dense", "onednn"};
/* By enum sffn_dense_reason. */
static const char *const reason_names[] = {"not", "asked", "plan", "no_zeros", "many_tokens"};

const char *sffn_dense_reason_name(int32_t reason)
{
    return reason >= 0 && (size_t)reason < sizeof(reason_names) / sizeof(*reason_names)
               ? reason_names[reason]
               : "unknown";
}
static const char *const stage_names[] = {"select", "gate", "up", "down", "check", "other"};

static void write_json_row(struct writer *w, const struct sffn_stats_row *row)
{
#define GET(which) sffn_stat_get(row, SFFN_STAT_##which)
    put(w, "{\"name\":\"");
    put_escaped(w, row->name, 1);
    put(w, "\",\"d_ff\":%" PRIu32 ",\"calls\":{", row->d_ff);
    for (int i = 0; i < 3; i++)
        put(w, "%s\"%s\":%" PRIu64, i ? "," : "", path_names[i],
            sffn_stat_get(row, (enum sffn_stat)(SFFN_STAT_CALLS_SPARSE + i)));
    put(w, "},\"dense_reasons\":{");
    for (int i = 0; i < 4; i++)
        put(w, "%s\"%s\":%" PRIu64, i ? "," : "", reason_names[1 + i],
            sffn_stat_get(row, (enum sffn_stat)(SFFN_STAT_DENSE_ASKED + i)));
    put(w,
        "},\"tokens\":%" PRIu64 ",\"widened\":%" PRIu64 ",\"neurons\":%" PRIu64
        ",\"selected\":%" PRIu64 ",\"active\":%" PRIu64 ",\"nonzero\":%" PRIu64
        ",\"weight_bytes\":%" PRIu64 ",\"seconds\":{",
        GET(TOKENS), GET(WIDENED), GET(TOKENS) * row->d_ff, GET(SELECTED), GET(ACTIVE),
        GET(NONZERO), GET(BYTES));
    for (int i = 0; i < 6; i++) {
        put(w, "\"%s\":", stage_names[i]);
        put_seconds(w, i < 5 ? sffn_stat_get(row, (enum sffn_stat)(SFFN_STAT_SELECT_NS + i))
                             : other_ns(row));
        put(w, ",");
    }
    put(w, "\"total\":");
    put_seconds(w, GET(TOTAL_NS));
    put(w,
        "},\"sampled\":{\"tokens\":%" PRIu64 ",\"true\":%" PRIu64 ",\"selected\":%" PRIu64
        ",\"hits\":%" PRIu64 ",\"recall\":",
        GET(SAMPLED_TOKENS), GET(SAMPLED_TRUE), GET(SAMPLED_SELECTED), GET(SAMPLED_HITS));
    put_share(w, GET(SAMPLED_HITS), GET(SAMPLED_TRUE));
    put(w, ",\"precision\":");
    put_share(w, GET(SAMPLED_HITS), GET(SAMPLED_SELECTED));
    put(w, "}}");
#undef GET
}

static void write_json(struct writer *w, const struct sffn_stats *stats)
{
    put(w, "{\"version\":\"%s\",\"unregistered_calls\":%" PRIu64 ",\"layers\":[",
        sffn_version_string(), atomic_load(&stats->unregistered_calls));
    const char *separator = "";
    for (const struct sffn_stats_row *row = atomic_load(&stats->rows); row;
         row = atomic_load(&row->next)) {
        if (!atomic_load(&row->layer_id))
            continue;
        put(w, "%s", separator);
        separator = ",";
        write_json_row(w, row);
    }
    put(w, "]}\n");
}

/* One metric with a line per layer and value of `label`, if it has one. */
struct metric {
    const char *name, *help, *label;
    const char *const *label_values;
    int n_values, first; /* of enum sffn_stat */
};

static void write_metric(struct writer *w, const struct sffn_stats *stats, const struct metric *m)
{
    const int is_time = m->label_values == stage_names;
    put(w, "# HELP %s %s\n# TYPE %s counter\n", m->name, m->help, m->name);
    for (const struct sffn_stats_row *row = atomic_load(&stats->rows); row;
         row = atomic_load(&row->next)) {
        for (int i = 0; atomic_load(&row->layer_id) && i < m->n_values; i++) {
            put(w, "%s{layer=\"", m->name);
            put_escaped(w, row->name, 0);
            put(w, "\"");
            if (m->label)
                put(w, ",%s=\"%s\"", m->label, m->label_values[i]);
            put(w, "} ");
            const int is_other = is_time && i + 1 == m->n_values;
            const uint64_t value =
                is_other ? other_ns(row) : sffn_stat_get(row, (enum sffn_stat)(m->first + i));
            if (is_time)
                put_seconds(w, value);
            else
                put(w, "%" PRIu64, value);
            put(w, "\n");
        }
    }
}

static void write_prometheus(struct writer *w, const struct sffn_stats *stats)
{
    static const struct metric metrics[] = {
        {"sffn_layer_calls_total", "Forward calls by the way they went.", "path", path_names, 3,
         SFFN_STAT_CALLS_SPARSE},
        {"sffn_layer_dense_calls_total", "Forward calls that ran dense, by why.", "reason",
         reason_names + 1, 4, SFFN_STAT_DENSE_ASKED},
        {"sffn_layer_widened_tokens_total",
         "Tokens whose selection exceeded max_density: the gate looked at all neurons.", NULL, NULL,
         1, SFFN_STAT_WIDENED},
        {"sffn_layer_tokens_total", "Tokens of these calls.", NULL, NULL, 1, SFFN_STAT_TOKENS},
        {"sffn_layer_selected_neurons_total",
         "Neurons let through to the gate, summed over tokens.", NULL, NULL, 1, SFFN_STAT_SELECTED},
        {"sffn_layer_active_neurons_total", "Neurons whose up row was needed, summed over tokens.",
         NULL, NULL, 1, SFFN_STAT_ACTIVE},
        {"sffn_layer_nonzero_neurons_total",
         "Neurons whose down row was needed, summed over tokens.", NULL, NULL, 1,
         SFFN_STAT_NONZERO},
        {"sffn_layer_weight_bytes_total", "Weight bytes read, selectors included.", NULL, NULL, 1,
         SFFN_STAT_BYTES},
        {"sffn_layer_seconds_total", "Time of the stages on the calling thread.", "stage",
         stage_names, 6, SFFN_STAT_SELECT_NS},
        {"sffn_layer_sampled_tokens_total", "Tokens whose selection was checked by the whole gate.",
         NULL, NULL, 1, SFFN_STAT_SAMPLED_TOKENS},
        {"sffn_layer_sampled_true_neurons_total",
         "Neurons of sampled tokens that are active by the gate.", NULL, NULL, 1,
         SFFN_STAT_SAMPLED_TRUE},
        {"sffn_layer_sampled_selected_neurons_total",
         "Neurons of sampled tokens that were let through.", NULL, NULL, 1,
         SFFN_STAT_SAMPLED_SELECTED},
        {"sffn_layer_sampled_hit_neurons_total",
         "Neurons of sampled tokens that are active and were let through.", NULL, NULL, 1,
         SFFN_STAT_SAMPLED_HITS},
    };
    put(w, "# HELP sffn_layer_neurons Neurons of a layer.\n# TYPE sffn_layer_neurons gauge\n");
    for (const struct sffn_stats_row *row = atomic_load(&stats->rows); row;
         row = atomic_load(&row->next)) {
        if (!atomic_load(&row->layer_id))
            continue;
        put(w, "sffn_layer_neurons{layer=\"");
        put_escaped(w, row->name, 0);
        put(w, "\"} %" PRIu32 "\n", row->d_ff);
    }
    for (size_t i = 0; i < sizeof(metrics) / sizeof(*metrics); i++)
        write_metric(w, stats, &metrics[i]);
    put(w,
        "# HELP sffn_unregistered_calls_total Calls of layers that were not reserved with the "
        "context.\n# TYPE sffn_unregistered_calls_total counter\nsffn_unregistered_calls_total "
        "%" PRIu64 "\n",
        atomic_load(&stats->unregistered_calls));
}

sffn_status sffn_context_write_stats(const sffn_context *ctx, int32_t format, char *buffer,
                                     size_t bytes, size_t *needed)
{
    const sffn_status status = check_collects(ctx);
    if (status != SFFN_OK)
        return status;
    if (format != SFFN_STATS_JSON && format != SFFN_STATS_PROMETHEUS)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "format is %d; expected a value of enum sffn_stats_format", (int)format);
    if (!buffer && bytes > 0)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "buffer is NULL and bytes %zu", bytes);
    struct sffn_stats *stats = sffn_context_stats(ctx);
    struct writer w = {buffer, bytes, 0};
    pthread_mutex_lock(&stats->lock);
    (format == SFFN_STATS_JSON ? write_json : write_prometheus)(&w, stats);
    pthread_mutex_unlock(&stats->lock);
    if (needed)
        *needed = w.used + 1;
    if (!buffer || w.used < bytes)
        return SFFN_OK;
    if (bytes > 0)
        buffer[0] = 0;
    return sffn_fail(ctx, SFFN_ERR_SHAPE, "bytes is %zu; the text needs %zu", bytes, w.used + 1);
}
