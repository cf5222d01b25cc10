/* plots.c  sffn-bench plot: SVG from the JSON lines of the other commands. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "jsonl.h"
#include "options.h"
#include "plot.h"

#define COMMAND    "sffn-bench plot"
#define MAX_SERIES 24
#define MAX_SHAPES 16

static const char help[] =
    "Usage: " COMMAND " DIR [OPTIONS]\n"
    "\n"
    "Draws what the JSON lines in DIR/*.jsonl hold, for each shape (S), for the smallest number of "
    "threads in them, or --threads:\n"
    "\n"
    "  speedup_SELECT_S.svg   speed-up over the own dense path against density, with the line that "
    "the bytes allow (ffn rows)\n"
    "  batch_DTYPE_S.svg      time against tokens per call, ours and the peers' (compare rows)\n"
    "  roofline_S.svg         operations per second against operations per byte, by stage, under "
    "the memory's roof (stages rows)\n"
    "  scaling_DTYPE_S.svg    bytes per second against threads, with the streaming rate (scaling "
    "rows)\n"
    "\n"
    "A plot needs two different values on its x axis. Of rows with the same name the last one "
    "counts.\n"
    "\n"
    "  --out DIR              where the files go; default DIR\n"
    "  --threads N            1..512\n"
    "  --help                 this text\n"
    "\n"
    "Prints the names of the files that it wrote, one a line.\n";

/* ---- a figure that grows ---- */

struct series {
    char label[96];
    double *x, *y;
    char **notes;
    size_t n;
    int has_line, colour;
};

struct figure {
    struct series series[MAX_SERIES];
    size_t n_series;
    int failed; /* no memory */
};

/* Adds to the series of this label, which is made at need. Points of a series are kept in order of x. */
static void add_point(struct figure *f, const char *label, int colour, int has_line, double x,
                      double y, const char *note)
{
    struct series *s = NULL;
    for (size_t i = 0; i < f->n_series; i++)
        if (strcmp(f->series[i].label, label) == 0)
            s = &f->series[i];
    if (!isfinite(x) || !isfinite(y) || (!s && f->n_series == MAX_SERIES))
        return;
    if (!s) {
        s = &f->series[f->n_series++];
        memset(s, 0, sizeof *s);
        snprintf(s->label, sizeof s->label, "%s", label);
        s->has_line = has_line;
        s->colour = colour >= 0 ? colour : (int)f->n_series - 1;
    }
    double *xs = realloc(s->x, (s->n + 1) * sizeof *xs);
    s->x = xs ? xs : s->x;
    double *ys = realloc(s->y, (s->n + 1) * sizeof *ys);
    s->y = ys ? ys : s->y;
    char **notes = realloc(s->notes, (s->n + 1) * sizeof *notes), *copy = strdup(note);
    s->notes = notes ? notes : s->notes;
    if (!xs || !ys || !notes || !copy) {
        free(copy);
        f->failed = 1;
        return;
    }
    size_t at = s->n++;
    for (; at > 0 && s->x[at - 1] > x; at--) {
        s->x[at] = s->x[at - 1];
        s->y[at] = s->y[at - 1];
        s->notes[at] = s->notes[at - 1];
    }
    s->x[at] = x;
    s->y[at] = y;
    s->notes[at] = copy;
}

static void figure_free(struct figure *f)
{
    for (size_t i = 0; i < f->n_series; i++) {
        for (size_t j = 0; j < f->series[i].n; j++)
            free(f->series[i].notes[j]);
        free(f->series[i].notes);
        free(f->series[i].x);
        free(f->series[i].y);
    }
}

static int has_two_x(const struct figure *f)
{
    double first = (double)NAN;
    for (size_t i = 0; i < f->n_series; i++)
        for (size_t j = 0; j < f->series[i].n; j++) {
            if (isnan(first))
                first = f->series[i].x[j];
            if (f->series[i].x[j] != first)
                return 1;
        }
    return 0;
}

/* Frees the figure. Writes nothing, which is no failure, when there is too little to draw. */
static int write_figure(struct figure *f, const char *folder, const char *name, const char *title,
                        struct plot_axis x, struct plot_axis y)
{
    struct plot_series series[MAX_SERIES];
    char path[1200];
    int ok = !f->failed;
    if (!ok)
        fprintf(stderr, COMMAND ": no memory\n");
    if (ok && has_two_x(f)) {
        for (size_t i = 0; i < f->n_series; i++) {
            const struct series *s = &f->series[i];
            series[i] = (struct plot_series){
                s->label, s->x,      s->y,        (const char *const *)s->notes,
                s->n,     s->colour, s->has_line, 0};
        }
        const struct plot plot = {title, x, y, series, f->n_series};
        snprintf(path, sizeof path, "%s/%s.svg", folder, name);
        FILE *out = fopen(path, "we");
        if (out)
            plot_write_svg(out, &plot, 1);
        ok = out && ferror(out) == 0;
        if (out)
            ok = fclose(out) == 0 && ok;
        if (ok)
            printf("%s.svg\n", name);
        else
            fprintf(stderr, COMMAND ": cannot write '%s': %s\n", path, strerror(errno));
    }
    figure_free(f);
    return ok;
}

/* ---- rows ---- */

struct plots {
    struct jsonl rows;
    const char *shapes[MAX_SHAPES];
    size_t n_shapes;
    double n_threads; /* 0: the smallest there is */
    const char *out;
};

static int starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static int is_last_of_name(const struct jsonl *rows, size_t i)
{
    for (size_t j = i + 1; j < rows->n_rows; j++)
        if (strcmp(jsonl_string(&rows->rows[i], "name"), jsonl_string(&rows->rows[j], "name")) == 0)
            return 0;
    return 1;
}

/* The next row at or behind *at of this command and shape, for the number of threads (NaN: all). NULL: no more. */
static const struct jsonl_row *next_row(const struct plots *p, size_t *at, const char *command,
                                        const char *shape, double n_threads)
{
    while (*at < p->rows.n_rows) {
        const struct jsonl_row *row = &p->rows.rows[*at];
        const size_t i = (*at)++;
        if (starts_with(jsonl_string(row, "name"), command) &&
            strcmp(jsonl_string(row, "shape"), shape) == 0 &&
            (isnan(n_threads) || jsonl_number(row, "n_threads") == n_threads) &&
            is_last_of_name(&p->rows, i))
            return row;
    }
    return NULL;
}

static double threads_of(const struct plots *p, const char *command, const char *shape)
{
    double least = (double)NAN;
    size_t at = 0;
    if (p->n_threads > 0.0)
        return p->n_threads;
    for (const struct jsonl_row *row; (row = next_row(p, &at, command, shape, (double)NAN));)
        least = fmin(isnan(least) ? INFINITY : least, jsonl_number(row, "n_threads"));
    return isnan(least) ? 0.0 : least;
}

static const char *threads_words(double n, char text[32])
{
    snprintf(text, 32, "%.0f thread%s", n, n == 1.0 ? "" : "s");
    return text;
}

/* Equal types look equal in all plots. */
static int colour_of(const char *dtype)
{
    static const char *const names[] = {"q4_0", "q8_0", "bf16", "f16", "f32"};
    for (int i = 0; i < 5; i++)
        if (strcmp(names[i], dtype) == 0)
            return i;
    return 5;
}

/* A file name of a shape: "64,128" has a comma. */
static const char *file_words(const char *shape, char text[64])
{
    snprintf(text, 64, "%s", shape);
    for (char *c = text; *c; c++)
        if (*c == ',' || *c == '/')
            *c = 'x';
    return text;
}

/* ---- the plots ---- */

static int plot_speedup(const struct plots *p, const char *shape, const char *select)
{
    struct figure f = {0};
    const double n_threads = threads_of(p, "ffn ", shape);
    char note[160], title[160], name[128], words[64], threads[32];
    size_t at = 0;
    for (const struct jsonl_row *row; (row = next_row(p, &at, "ffn ", shape, n_threads));) {
        if (strcmp(jsonl_string(row, "select"), select) != 0 ||
            jsonl_number(row, "n_tokens") != 1.0)
            continue;
        const double density = jsonl_number(row, "density"),
                     speedup = jsonl_number(row, "speedup_vs_dense");
        const char *dtype = jsonl_string(row, "dtype");
        snprintf(note, sizeof note, "%s: %.2fx at %.3g, %.3f ms, error %.2g", dtype, speedup,
                 density, jsonl_number(row, "median_ns") * 1e-6,
                 jsonl_number(row, "relative_error"));
        add_point(&f, dtype, colour_of(dtype), 1, density, speedup, note);
    }
    at = 0; /* last, so that it is last in the legend */
    for (const struct jsonl_row *row; (row = next_row(p, &at, "ffn ", shape, n_threads));) {
        if (strcmp(jsonl_string(row, "select"), select) != 0 ||
            jsonl_number(row, "n_tokens") != 1.0)
            continue;
        const double limit = jsonl_number(row, "weight_bytes") / jsonl_number(row, "touched_bytes");
        snprintf(note, sizeof note, "bytes of %s allow %.2fx", jsonl_string(row, "dtype"), limit);
        add_point(&f, "what the bytes allow", 6, 1, jsonl_number(row, "density"), limit, note);
    }
    snprintf(title, sizeof title, "%s, %s: times faster than dense, %s", shape, select,
             threads_words(n_threads, threads));
    snprintf(name, sizeof name, "speedup_%s_%s", select, file_words(shape, words));
    return write_figure(&f, p->out, name, title,
                        (struct plot_axis){"share of active neurons", 1, 0, 0, 0},
                        (struct plot_axis){"own dense time / time", 0, 0, 0, 0});
}

static int plot_batch(const struct plots *p, const char *shape, const char *dtype)
{
    struct figure f = {0};
    const double n_threads = threads_of(p, "compare ", shape);
    char label[96], note[200], title[160], name[128], words[64], threads[32];
    size_t at = 0;
    for (const struct jsonl_row *row; (row = next_row(p, &at, "compare ", shape, n_threads));) {
        if (strcmp(jsonl_string(row, "layer_dtype"), dtype) != 0)
            continue;
        const char *peer = jsonl_string(row, "peer");
        snprintf(label, sizeof label, "%.30s %.30s", peer,
                 strcmp(peer, "sffn") == 0 ? jsonl_string(row, "select")
                                           : jsonl_string(row, "dtype"));
        snprintf(note, sizeof note, "%s: %.0f tokens, %.3f ms, error %.2g", label,
                 jsonl_number(row, "n_tokens"), jsonl_number(row, "median_ns") * 1e-6,
                 jsonl_number(row, "relative_error"));
        add_point(&f, label, -1, 1, jsonl_number(row, "n_tokens"),
                  jsonl_number(row, "median_ns") * 1e-6, note);
    }
    snprintf(title, sizeof title, "%s, %s: one layer, %s", shape, dtype,
             threads_words(n_threads, threads));
    snprintf(name, sizeof name, "batch_%s_%s", dtype, file_words(shape, words));
    return write_figure(&f, p->out, name, title, (struct plot_axis){"tokens per call", 1, 0, 0, 0},
                        (struct plot_axis){"milliseconds", 1, 0, 0, 0});
}

static int plot_roofline(const struct plots *p, const char *shape)
{
    struct figure f = {0};
    const double n_threads = threads_of(p, "stages ", shape);
    char note[200], title[160], name[128], words[64], threads[32];
    double roof = 0.0, least = INFINITY, most = 0.0;
    size_t at = 0;
    for (const struct jsonl_row *row; (row = next_row(p, &at, "stages ", shape, n_threads));) {
        const double bytes = jsonl_number(row, "touched_bytes"),
                     intensity = jsonl_number(row, "flops") / bytes,
                     gflops = jsonl_number(row, "gflops");
        const char *stage = jsonl_string(row, "stage"), *dtype = jsonl_string(row, "dtype");
        if (!(bytes > 0.0) || !(gflops > 0.0) || strcmp(stage, "total") == 0)
            continue;
        snprintf(note, sizeof note,
                 "%s, %s, %s, %.0f tokens: %.1f GFLOP/s, %.1f GB/s, %.2f of the limit", dtype,
                 jsonl_string(row, "select"), stage, jsonl_number(row, "n_tokens"), gflops,
                 jsonl_number(row, "effective_gbps"), jsonl_number(row, "limit_fraction"));
        char label[96];
        snprintf(label, sizeof label, "%.40s", stage);
        add_point(&f, label, -1, 0, intensity, gflops, note);
        roof = fmax(roof, jsonl_number(row, "stream_gbps"));
        least = fmin(least, intensity);
        most = fmax(most, intensity);
    }
    if (roof > 0.0) {
        snprintf(note, sizeof note, "memory: %.1f GB/s", roof);
        for (int i = 0; i < 2; i++) {
            const double x = i == 0 ? least / 1.15 : most * 1.15;
            add_point(&f, note, 6, 1, x, x * roof, note);
        }
    }
    snprintf(title, sizeof title, "%s: stages under the memory's roof, %s", shape,
             threads_words(n_threads, threads));
    snprintf(name, sizeof name, "roofline_%s", file_words(shape, words));
    return write_figure(&f, p->out, name, title,
                        (struct plot_axis){"operations per byte of weights", 1, 0, 0, 0},
                        (struct plot_axis){"GFLOP/s", 1, 0, 0, 0});
}

static int plot_scaling(const struct plots *p, const char *shape, const char *dtype)
{
    struct figure f = {0};
    char note[160], title[160], name[128], words[64];
    size_t at = 0;
    for (const struct jsonl_row *row; (row = next_row(p, &at, "scaling ", shape, (double)NAN));) {
        if (strcmp(jsonl_string(row, "dtype"), dtype) != 0)
            continue;
        const double n = jsonl_number(row, "n_threads");
        const char *select = jsonl_string(row, "select");
        snprintf(note, sizeof note, "%s, %.0f threads: %.3f ms, %.1f GB/s", select, n,
                 jsonl_number(row, "median_ns") * 1e-6, jsonl_number(row, "effective_gbps"));
        add_point(&f, select, -1, 1, n, jsonl_number(row, "effective_gbps"), note);
    }
    at = 0;
    for (const struct jsonl_row *row; (row = next_row(p, &at, "scaling ", shape, (double)NAN));) {
        if (strcmp(jsonl_string(row, "dtype"), dtype) != 0)
            continue;
        /* It is measured for each row: the best of each number of threads counts. */
        const double n = jsonl_number(row, "n_threads"), gbps = jsonl_number(row, "stream_gbps");
        size_t other_at = 0;
        int is_best = 1;
        for (const struct jsonl_row *other; (other = next_row(p, &other_at, "scaling ", shape, n));)
            if (strcmp(jsonl_string(other, "dtype"), dtype) == 0 &&
                (jsonl_number(other, "stream_gbps") > gbps ||
                 (jsonl_number(other, "stream_gbps") == gbps && other < row)))
                is_best = 0;
        if (!is_best)
            continue;
        snprintf(note, sizeof note, "streaming, %.0f threads: %.1f GB/s", n, gbps);
        add_point(&f, "memory, streaming", 6, 1, n, gbps, note);
    }
    snprintf(title, sizeof title, "%s, %s: weights read per second", shape, dtype);
    snprintf(name, sizeof name, "scaling_%s_%s", dtype, file_words(shape, words));
    return write_figure(&f, p->out, name, title, (struct plot_axis){"threads", 1, 0, 0, 0},
                        (struct plot_axis){"GB/s", 0, 0, 0, 0});
}

/* ---- the command ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_folder(struct jsonl *rows, const char *folder)
{
    char *names[256], path[1200];
    size_t n = 0;
    DIR *dir = opendir(folder);
    if (!dir) {
        fprintf(stderr, COMMAND ": cannot open '%s': %s\n", folder, strerror(errno));
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(dir)) && n < 256;) {
        const size_t length = strlen(entry->d_name);
        if (length > 6 && strcmp(entry->d_name + length - 6, ".jsonl") == 0 &&
            (names[n] = strdup(entry->d_name)))
            n++;
    }
    closedir(dir);
    qsort(names, n, sizeof *names, compare_names);
    int ok = 1;
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        ok = ok && jsonl_read(rows, COMMAND, path);
        free(names[i]);
    }
    if (ok && rows->n_rows == 0) {
        fprintf(stderr, COMMAND ": '%s' has no rows in files *.jsonl\n", folder);
        return 0;
    }
    return ok;
}

static void find_shapes(struct plots *p)
{
    for (size_t i = 0; i < p->rows.n_rows; i++) {
        const char *shape = jsonl_string(&p->rows.rows[i], "shape");
        size_t known = 0;
        while (known < p->n_shapes && strcmp(p->shapes[known], shape) != 0)
            known++;
        if (shape[0] && known == p->n_shapes && p->n_shapes < MAX_SHAPES)
            p->shapes[p->n_shapes++] = shape;
    }
}

int bench_plot(int argc, char **argv)
{
    static const char *const dtypes[] = {"f32", "f16", "bf16", "q8_0", "q4_0"},
                             *const selects[] = {"gate",     "screen", "cascade", "sign",
                                                 "low_rank", "oracle", "router"};
    struct option_def defs[] = {{"--out", 1, NULL}, {"--threads", 1, NULL}, {"--help", 0, NULL}};
    const size_t n_defs = sizeof defs / sizeof defs[0];
    const char *folder = argc > 0 && argv[0][0] != '-' ? argv[0] : NULL;
    struct plots p;
    uint64_t n_threads = 0;
    memset(&p, 0, sizeof p);
    if (options_parse(COMMAND, argc - (folder != NULL), argv + (folder != NULL), defs, n_defs))
        return EXIT_USAGE;
    if (option_value(defs, n_defs, "--help")) {
        fputs(help, stdout);
        return 0;
    }
    if (!folder)
        return usage_error(COMMAND, "DIR is missing; see " COMMAND " --help");
    const char *text = option_value(defs, n_defs, "--threads");
    if (text && parse_uint(COMMAND, "--threads", text, 1, 512, &n_threads))
        return EXIT_USAGE;
    p.out = option_value(defs, n_defs, "--out") ? option_value(defs, n_defs, "--out") : folder;
    p.n_threads = (double)n_threads;
    int ok = read_folder(&p.rows, folder);
    if (ok)
        find_shapes(&p);
    for (size_t s = 0; ok && s < p.n_shapes; s++) {
        for (size_t i = 0; ok && i < sizeof selects / sizeof selects[0]; i++)
            ok = plot_speedup(&p, p.shapes[s], selects[i]);
        for (size_t i = 0; ok && i < sizeof dtypes / sizeof dtypes[0]; i++)
            ok = plot_batch(&p, p.shapes[s], dtypes[i]) && plot_scaling(&p, p.shapes[s], dtypes[i]);
        ok = ok && plot_roofline(&p, p.shapes[s]);
    }
    jsonl_free(&p.rows);
    return ok ? 0 : 1;
}
