/* Layers computed in float64 by tests/reference/make_golden.py: README.md has the file format and
 * the derived bounds.
 *
 *     test_golden DIRECTORY
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "weights.h"

enum { MAX_FILES = 256, MAX_ISAS = 16 };

struct gld_head {
    char magic[8];
    uint32_t n_fields, n_arrays;
    char zero[48];
};
struct gld_field {
    char name[24], kind[8];
    union {
        uint32_t u32;
        float f32;
        char str[32];
    } value;
};
struct gld_array {
    char name[24], dtype[8];
    uint32_t n_dims, zero, dims[2];
    uint64_t offset, n_bytes;
};

static const char *directory;

/* ---------------------------------------------------------------- files */

struct golden {
    unsigned char *bytes;
    size_t n_bytes;
    const struct gld_field *fields;
    const struct gld_array *arrays;
    uint32_t n_fields, n_arrays;
};

static void golden_read(struct golden *g, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "rb");
    CHECK_SAYS(f != NULL, "%s can't be opened", path);
    fseek(f, 0, SEEK_END);
    g->n_bytes = (size_t)ftell(f);
    rewind(f);
    g->bytes = malloc(g->n_bytes);
    CHECK(g->bytes && fread(g->bytes, 1, g->n_bytes, f) == g->n_bytes);
    fclose(f);
    struct gld_head head;
    CHECK(g->n_bytes >= sizeof head);
    memcpy(&head, g->bytes, sizeof head);
    CHECK(memcmp(head.magic, "SFFNGLD1", 8) == 0);
    g->n_fields = head.n_fields;
    g->n_arrays = head.n_arrays;
    g->fields = (const struct gld_field *)(const void *)(g->bytes + 64);
    g->arrays =
        (const struct gld_array *)(const void *)(g->bytes + 64 + 64 * (size_t)head.n_fields);
    CHECK(g->n_bytes >= 64 + 64 * ((size_t)head.n_fields + head.n_arrays));
    for (uint32_t i = 0; i < g->n_arrays; i++)
        CHECK(g->arrays[i].offset % 16 == 0 &&
              g->arrays[i].offset + g->arrays[i].n_bytes <= g->n_bytes);
}

static const struct gld_field *field(const struct golden *g, const char *name)
{
    for (uint32_t i = 0; i < g->n_fields; i++)
        if (strcmp(g->fields[i].name, name) == 0)
            return &g->fields[i];
    CHECK_SAYS(0, "no field %s", name);
    return NULL;
}

static uint32_t get_u32(const struct golden *g, const char *name)
{
    CHECK_TEXT(field(g, name)->kind, "u32");
    return field(g, name)->value.u32;
}

static float get_f32(const struct golden *g, const char *name)
{
    CHECK_TEXT(field(g, name)->kind, "f32");
    return field(g, name)->value.f32;
}

static const char *get_str(const struct golden *g, const char *name)
{
    CHECK_TEXT(field(g, name)->kind, "str");
    return field(g, name)->value.str;
}

/* Index of the field's text in a table. */
static int32_t get_choice(const struct golden *g, const char *name, const char *const *choices,
                          int32_t n)
{
    const char *text = get_str(g, name);
    for (int32_t i = 0; i < n; i++)
        if (strcmp(choices[i], text) == 0)
            return i;
    CHECK_SAYS(0, "%s is %s", name, text);
    return -1;
}

/* An array's data, or NULL when the file has none of this name. */
static const void *find_array(const struct golden *g, const char *name, const char *dtype,
                              uint32_t rows, uint32_t columns)
{
    for (uint32_t i = 0; i < g->n_arrays; i++) {
        const struct gld_array *a = &g->arrays[i];
        if (strcmp(a->name, name) != 0)
            continue;
        CHECK_TEXT(a->dtype, dtype);
        CHECK_SAYS(a->dims[0] == rows && a->dims[1] == columns, "%s is %u x %u", name,
                   (unsigned)a->dims[0], (unsigned)a->dims[1]);
        return g->bytes + a->offset;
    }
    return NULL;
}

static const double *get_doubles(const struct golden *g, const char *name, uint32_t rows,
                                 uint32_t columns)
{
    const double *data = find_array(g, name, "f64", rows, columns);
    CHECK_SAYS(data != NULL, "no array %s", name);
    return data;
}

/* ---------------------------------------------------------------- one case */

struct expected {
    uint32_t d, f, n;
    int is_gated, is_block, is_exact; /* exact ties: every sum is exact in float */
    const uint8_t *active;
    const double *h, *y, *h_cond, *y_cond, *y_abs, *h_int8, *y_int8;
};

static void config_of(const struct golden *g, struct expected *e, sffn_ffn_config *config)
{
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q4_0"}, *const ties[] = {
                                                                                   "drop", "keep"};
    static const char *const activations[] = {"relu", "fatrelu",  "relu2",    "drelu",
                                              "silu", "gelu_erf", "gelu_tanh"};
    static const char *const rules[] = {"none", "score", "abs_score", "abs_h"}, *const layouts[] = {
                                                                                    "neuron_major",
                                                                                    "model_major"};
    const char *wtype = get_str(g, "wtype");
    int32_t type = get_choice(g, "wtype", types, 5),
            layout = get_choice(g, "down_layout", layouts, 2);
    memset(e, 0, sizeof *e);
    e->d = get_u32(g, "d_model");
    e->f = get_u32(g, "d_ff");
    e->n = get_u32(g, "n_tokens");
    e->is_gated = (int)get_u32(g, "is_gated");
    e->is_block = is_quantised(type);
    e->is_exact = get_u32(g, "n_ties") > 0;
    config->d_model = e->d;
    config->d_ff = e->f;
    config->gate.data = find_array(g, "gate", wtype, e->f, e->d);
    config->up.data = find_array(g, "up", wtype, e->f, e->d);
    config->down.data = find_array(g, "down", wtype, layout ? e->d : e->f, layout ? e->f : e->d);
    CHECK((config->gate.data != NULL) == e->is_gated && config->up.data && config->down.data);
    config->gate.dtype = config->up.dtype = config->down.dtype = type;
    config->down.layout = layout ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
    config->gate_bias = find_array(g, "gate_bias", "f32", e->f, 1);
    config->up_bias = find_array(g, "up_bias", "f32", e->f, 1);
    config->down_bias = find_array(g, "down_bias", "f32", e->d, 1);
    CHECK((config->up_bias != NULL) == (get_u32(g, "has_bias") != 0));
    config->activation = get_choice(g, "activation", activations, 7);
    config->act_threshold = get_f32(g, "act_threshold");
    config->act_tie = get_choice(g, "act_tie", ties, 2);
    config->rule = get_choice(g, "rule", rules, 4);
    config->rule_tie = get_choice(g, "rule_tie", ties, 2);
    config->rule_threshold = get_f32(g, "rule_threshold");
    config->rule_thresholds = find_array(g, "thresholds", "f32", e->f, 1);
    e->active = find_array(g, "active", "u8", e->n, e->f);
    CHECK(e->active != NULL);
    e->h = get_doubles(g, "h", e->n, e->f);
    e->y = get_doubles(g, "y", e->n, e->d);
    e->h_cond = get_doubles(g, "h_cond", e->n, e->f);
    e->y_cond = get_doubles(g, "y_cond", e->n, e->d);
    e->y_abs = get_doubles(g, "y_abs", e->n, e->d);
    if (e->is_block) {
        e->h_int8 = get_doubles(g, "h_int8", e->n, e->f);
        e->y_int8 = get_doubles(g, "y_int8", e->n, e->d);
    }
}

/* The bounds of README.md: float sums, and for blocks what int8 x and h lose. */
static void compare(const struct expected *e, const float *h, const float *y,
                    const sffn_active_set *active, const char *what)
{
    double eps = gamma_n(e->d + 8.0), squares = 0.0, bound_squares = 0.0;
    for (size_t t = 0; t < e->n; t++)
        for (uint32_t i = 0; i < e->f; i++) {
            size_t at = t * e->f + i;
            double bound = eps * e->h_cond[at] + (e->is_block ? e->h_int8[at] : 0.0);
            CHECK_WITHIN((double)h[at], e->h[at], e->is_exact ? 0.0 : bound, "%s: token %zu h[%u]",
                         what, t, (unsigned)i);
            /* dReLU and |h| rules drop after up: in the file such neurons are not active, in
             * active_out they may be */
            int is_member = sffn_active_set_contains(active, t, i);
            CHECK_SAYS(is_member || !e->active[at], "%s: token %zu neuron %u is missing", what, t,
                       (unsigned)i);
            CHECK_SAYS(e->active[at] || h[at] == 0.0f, "%s: token %zu neuron %u should be skipped",
                       what, t, (unsigned)i);
        }
    for (size_t k = 0; k < (size_t)e->n * e->d; k++) {
        double bound = eps * e->y_cond[k] + gamma_n(e->f + 2.0) * e->y_abs[k] +
                       (e->is_block ? e->y_int8[k] : 0.0);
        CHECK_WITHIN((double)y[k], e->y[k], e->is_exact ? 0.0 : bound, "%s: y[%zu]", what, k);
        squares += ((double)y[k] - e->y[k]) * ((double)y[k] - e->y[k]);
        bound_squares += bound * bound;
    }
    /* worst cases are wide: a tenth of the bound in the mean is what README.md promises */
    if (!e->is_exact && e->d > 1)
        CHECK_SAYS(sqrt(squares) <= 0.1 * sqrt(bound_squares),
                   "%s: root mean square error %g, a tenth of the bound is %g", what, sqrt(squares),
                   0.1 * sqrt(bound_squares));
}

static void golden_case(void **state)
{
    const char *name = *state;
    struct golden g;
    struct expected e;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    golden_read(&g, name);
    config_of(&g, &e, &config);
    const float *x = find_array(&g, "x", "f32", e.n, e.d);
    CHECK(x != NULL);
    const char *isas[MAX_ISAS];
    size_t n_isas = supported_isas(isas, MAX_ISAS);
    float *h = malloc((size_t)e.n * e.f * sizeof *h), *y = malloc((size_t)e.n * e.d * sizeof *y);
    CHECK(h && y);
    for (size_t i = 0; i < n_isas; i++) {
        sffn_context *ctx = make_context(1 + (uint32_t)i % 3, isas[i]);
        for (int32_t storage = 0; storage < 2; storage++) {
            sffn_ffn *ffn = NULL;
            config.storage = storage;
            CHECK_OK(ctx, sffn_ffn_create(ctx, &config, &ffn));
            sffn_active_set_config set_config = SFFN_ACTIVE_SET_CONFIG_INIT;
            sffn_active_set *active = NULL;
            set_config.n_blocks = e.f;
            set_config.max_tokens = e.n;
            CHECK_OK(ctx, sffn_active_set_create(ctx, &set_config, &active));
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = x;
            args.y = y;
            args.h = h;
            args.n_tokens = e.n;
            args.active_out = active;
            args.select = SFFN_SELECT_GATE;
            CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
            compare(&e, h, y, active, isas[i]);
            if (config.rule == SFFN_RULE_NONE) { /* dense computes the same function then */
                args.select = SFFN_SELECT_DENSE;
                args.active_out = NULL;
                CHECK_OK(ctx, sffn_ffn_forward(ctx, ffn, &args));
                for (size_t t = 0; t < e.n; t++)
                    CHECK_OK(ctx, sffn_active_set_set_all(active, t));
                compare(&e, h, y, active, "dense");
            }
            sffn_active_set_destroy(active);
            sffn_ffn_destroy(ffn);
        }
        sffn_context_destroy(ctx);
    }
    free(h);
    free(y);
    free(g.bytes);
}

/* ---------------------------------------------------------------- all of them */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
    struct cases cases = {0};
    char *names[MAX_FILES];
    size_t n = 0;
    directory = argc > 1 ? argv[1] : ".";
    DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (length > 4 && strcmp(entry->d_name + length - 4, ".bin") == 0 && n < MAX_FILES)
            names[n++] = cases_keep(&cases, entry->d_name, length + 1);
    }
    if (dir)
        closedir(dir);
    if (n == 0) {
        print_error("no .bin file in %s\n", directory);
        return 1;
    }
    qsort(names, n, sizeof names[0], by_name);
    for (size_t i = 0; i < n; i++)
        cases_add(&cases, golden_case, names[i], "%s", names[i]);
    return cases_run(&cases, "golden");
}
