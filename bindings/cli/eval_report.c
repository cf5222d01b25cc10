/* eval_report.c  Results of `sffn eval` as one HTML page with SVG plots; no script, nothing loaded from elsewhere. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli.h"
#include "eval.h"
#include "plot.h"

/* Below this share of y an error is drawn as "at most this": rounding alone makes about 1e-7. */
static const double error_floor = 1e-4;

static const char page_css[] =
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:2rem "
    "auto;max-width:1200px;padding:0 1rem}\n"
    "h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2rem 0 .6rem}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem "
    "1rem;margin:0}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1."
    "5rem 1rem}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-"
    "size:.9rem}\n"
    "th,td{text-align:right;padding:.2rem .7rem;border-bottom:1px solid "
    "var(--grid);white-space:nowrap}\n"
    "th{font-weight:600;vertical-align:bottom}th "
    "small{display:block;color:var(--dim);font-weight:400}\n"
    "th:first-child,td:first-child{text-align:left;padding-left:0}tr.sum td{font-weight:600}\n"
    "code{font-family:ui-monospace,monospace;font-size:.9em}p.note,li{color:var(--dim);max-width:"
    "75ch}\n"
    "summary{cursor:pointer;font-weight:600;margin:.4rem 0}\n";

/* ---------------------------------------------------------------- plots */

/* Values of the points of one series, asked for or of the curve. */
struct points {
    double *density, *recall, *error, *speedup;
    char **notes;
    size_t n;
};

static void points_add(struct points *points, const struct eval_point *p)
{
    const struct measure_row *row = &p->mean;
    size_t i = points->n++;
    char note[256];
    points->density[i] = row->predicted_density;
    points->recall[i] = row->recall;
    points->error[i] = row->relative_error;
    points->speedup[i] = row->ns > 0.0 ? row->dense_ns / row->ns : NAN;
    snprintf(note, sizeof note, "%.80s: density %.4f, recall %.4f, error %.3g, speedup %.2f",
             p->selection->text, row->predicted_density, row->recall, row->relative_error,
             points->speedup[i]);
    points->notes[i] = cli_alloc(strlen(note) + 1, 1);
    memcpy(points->notes[i], note, strlen(note));
}

/* Orders a curve by density, so that its line can be drawn. */
static void points_sort(struct points *points)
{
    double *const columns[] = {points->density, points->recall, points->error, points->speedup};
    for (size_t i = 1; i < points->n; i++)
        for (size_t j = i; j > 0 && points->density[j - 1] > points->density[j]; j--) {
            char *note = points->notes[j];
            points->notes[j] = points->notes[j - 1];
            points->notes[j - 1] = note;
            for (size_t c = 0; c < sizeof columns / sizeof columns[0]; c++) {
                double value = columns[c][j];
                columns[c][j] = columns[c][j - 1];
                columns[c][j - 1] = value;
            }
        }
}

static void points_alloc(struct points *points, size_t capacity)
{
    points->density = cli_alloc(capacity, sizeof *points->density);
    points->recall = cli_alloc(capacity, sizeof *points->recall);
    points->error = cli_alloc(capacity, sizeof *points->error);
    points->speedup = cli_alloc(capacity, sizeof *points->speedup);
    points->notes = cli_alloc(capacity, sizeof *points->notes);
    points->n = 0;
}

static void points_free(struct points *points)
{
    for (size_t i = 0; i < points->n; i++)
        free(points->notes[i]);
    free(points->density);
    free(points->recall);
    free(points->error);
    free(points->speedup);
    free(points->notes);
}

/* "screen" of "screen,margin=1" when the margin is what differs. */
static char *series_label(const struct selection *s)
{
    size_t n = strlen(s->text), n_point = strlen(s->point_text);
    char *label;
    if (n_point != 0 && n > n_point)
        n -= n_point + 1;
    label = cli_alloc(n + 1, 1);
    memcpy(label, s->text, n);
    return label;
}

/* 1 when the curve of a series is one over the share of the neurons that is let through. */
static int series_has_density(const struct eval *e, size_t series)
{
    for (size_t p = 0; p < e->selections.n; p++) {
        const struct selection *s = &e->selections.data[p];
        if (s->series == series && s->is_curve && !isnan(s->density))
            return 1;
    }
    return 0;
}

static void write_density_plot(FILE *out, const struct eval *e)
{
    uint32_t n_layers = e->llama->info.n_layers;
    struct plot_series *series = cli_alloc(e->selections.n + 1, sizeof *series);
    double *layers = cli_alloc(n_layers, sizeof *layers);
    double *values = cli_alloc((e->selections.n + 1) * (size_t)n_layers, sizeof *values);
    struct plot plot = {.title = "Density per layer", .series = series};
    plot.x.label = "layer";
    plot.y.label = "share of the neurons";
    for (uint32_t i = 0; i < n_layers; i++) {
        layers[i] = i;
        values[i] = e->points[0].rows[i].density;
    }
    series[plot.n_series++] = (struct plot_series){.label = "truly active",
                                                   .x = layers,
                                                   .y = values,
                                                   .n = n_layers,
                                                   .colour = 6,
                                                   .has_line = 1};
    for (size_t p = 0; p < e->selections.n; p++) {
        double *y = values + plot.n_series * n_layers;
        /* The full gate looks at every neuron: a line at 1 would only press the others together. */
        if (e->selections.data[p].is_curve || e->points[p].mean.predicted_density > 0.9999)
            continue;
        for (uint32_t i = 0; i < n_layers; i++)
            y[i] = e->points[p].rows[i].predicted_density;
        series[plot.n_series++] =
            (struct plot_series){.label = e->selections.data[p].text,
                                 .x = layers,
                                 .y = y,
                                 .n = n_layers,
                                 .colour = (int)e->selections.data[p].series % 6,
                                 .has_line = 1};
    }
    plot_write_svg(out, &plot, 0);
    free(series);
    free(layers);
    free(values);
}

enum plot_kind { RECALL, ERROR, SPEED };

static void write_point_plot(FILE *out, int kind, const struct points *asked,
                             const struct points *curves, char *const *labels, size_t n_series)
{
    struct plot_series *series = cli_alloc(2 * n_series, sizeof *series);
    struct plot plot = {.series = series, .n_series = 2 * n_series};
    struct plot_axis error = {"relative error of y", 1, 0.0, 0.0, error_floor};
    struct plot_axis density = {"predicted density: share let through to the gate", 1, 0.0, 0.0,
                                0.0};
    plot.x = kind == SPEED ? error : density;
    plot.y = error;
    if (kind == RECALL) {
        plot.title = "Recall against density";
        plot.y = (struct plot_axis){"recall", 0, 0.0, 0.0, 0.0};
    } else if (kind == ERROR) {
        plot.title = "Error against density";
    } else {
        plot.title = "Speed against error";
        plot.y = (struct plot_axis){"speed-up of the FFN layers over dense", 0, 0.0, 0.0, 0.0};
    }
    for (size_t i = 0; i < 2 * n_series; i++) {
        const struct points *points = i < n_series ? &curves[i] : &asked[i - n_series];
        struct plot_series *s = &series[i];
        s->label = i < n_series ? NULL : labels[i - n_series];
        s->x = kind == SPEED ? points->error : points->density;
        s->y = kind == RECALL ? points->recall : kind == ERROR ? points->error : points->speedup;
        s->notes = (const char *const *)points->notes;
        s->n = points->n;
        s->colour = (int)(i % n_series) % 6;
        s->is_big = i >= n_series;
        s->has_line = curves[i % n_series].n > 1;
    }
    plot_write_svg(out, &plot, 0);
    free(series);
}

static void write_plots(FILE *out, const struct eval *e)
{
    size_t n = e->selections.n, n_series = e->selections.data[n - 1].series + 1;
    struct points *asked = cli_alloc(2 * n_series, sizeof *asked), *curves = asked + n_series;
    char **labels = cli_alloc(n_series, sizeof *labels);
    for (size_t s = 0; s < n_series; s++) {
        points_alloc(&asked[s], n);
        points_alloc(&curves[s], n);
        for (size_t p = 0; p < n; p++) {
            const struct selection *selection = &e->selections.data[p];
            if (selection->series != s)
                continue;
            if (labels[s] == NULL)
                labels[s] = series_label(selection);
            /* A point with another decision than the curve's does not lie on it. */
            if (selection->is_curve || !isnan(selection->density) || !series_has_density(e, s))
                points_add(&curves[s], &e->points[p]);
            if (!selection->is_curve)
                points_add(&asked[s], &e->points[p]);
        }
        points_sort(&curves[s]);
    }
    fputs("<div class=\"plots\">\n", out);
    write_density_plot(out, e);
    write_point_plot(out, RECALL, asked, curves, labels, n_series);
    write_point_plot(out, ERROR, asked, curves, labels, n_series);
    if (e->n_timed != 0)
        write_point_plot(out, SPEED, asked, curves, labels, n_series);
    fputs("</div>\n<p class=\"note\">Large markers: the selections that were asked for; small "
          "ones: the same "
          "selection with other values of its knob. Means over the layers. "
          "Rest the mouse on a marker to read its values.</p>\n",
          out);
    for (size_t s = 0; s < n_series; s++) {
        points_free(&asked[s]);
        points_free(&curves[s]);
        free(labels[s]);
    }
    free(asked);
    free(labels);
}

/* ---------------------------------------------------------------- tables */

static void write_cell(FILE *out, const char *format, double value)
{
    fputs("<td>", out);
    if (isfinite(value))
        fprintf(out, format, value);
    else
        fputs("\xe2\x80\x93", out);
    fputs("</td>", out);
}

static void write_row(FILE *out, const struct measure_row *row)
{
    write_cell(out, "%.4f", row->density);
    write_cell(out, "%.4f", row->predicted_density);
    write_cell(out, "%.4f", row->recall);
    write_cell(out, "%.4f", row->precision);
    write_cell(out, "%.3g", row->cett);
    write_cell(out, "%.3g", row->relative_error);
    write_cell(out, "%.2f", row->bytes / 1048576.0);
    write_cell(out, "%.3f", row->bytes / row->dense_bytes);
    write_cell(out, "%.1f", row->ns * 1e-3);
    write_cell(out, "%.2f", row->ns > 0.0 ? row->dense_ns / row->ns : NAN);
}

static void write_head(FILE *out, const char *first, int has_perplexity)
{
    fprintf(
        out,
        "<div class=\"wide\"><table>\n<tr><th>%s</th><th>density<small>truly active</small></th>"
        "<th>predicted<small>let through</small></th><th>recall</th><th>precision</th><th>CETT</th>"
        "<th>error<small>of y</small></th><th>read<small>MiB/token</small></th><th>read"
        "<small>of dense</small></th><th>time<small>\xc2\xb5s/token</small></th>"
        "<th>speed-up<small>over dense</small></th>%s</tr>\n",
        first, has_perplexity ? "<th>perplexity</th>" : "");
}

static void write_summary(FILE *out, const struct eval *e)
{
    double dense_ns = 0.0;
    struct measure_row dense = {
        .density = e->points[0].mean.density, .predicted_density = 1.0, .recall = 1.0};
    for (uint32_t i = 0; i < e->llama->info.n_layers; i++)
        dense_ns += e->dense_ns[i];
    dense.precision = dense.density;
    dense.bytes = dense.dense_bytes = e->points[0].mean.dense_bytes;
    dense.ns = dense.dense_ns = e->n_timed != 0 ? dense_ns : NAN;
    write_head(out, "selection", 1);
    fputs("<tr><td>dense</td>", out);
    write_row(out, &dense);
    write_cell(out, "%.3f", e->dense.value);
    fputs("</tr>\n", out);
    for (size_t p = 0; p < e->selections.n; p++) {
        const struct eval_point *point = &e->points[p];
        if (point->selection->is_curve)
            continue;
        fputs("<tr><td>", out);
        plot_write_text(out, point->selection->text);
        fputs("</td>", out);
        write_row(out, &point->mean);
        write_cell(out, "%.3f", point->perplexity.n_predicted != 0 ? point->perplexity.value : NAN);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void write_layers(FILE *out, const struct eval *e)
{
    for (size_t p = 0; p < e->selections.n; p++) {
        const struct eval_point *point = &e->points[p];
        if (point->selection->is_curve)
            continue;
        fputs("<details open=\"\"><summary>", out);
        plot_write_text(out, point->selection->text);
        fputs("</summary>\n", out);
        write_head(out, "layer", 0);
        for (uint32_t i = 0; i < e->llama->info.n_layers; i++) {
            fprintf(out, "<tr><td>%u</td>", (unsigned)i);
            write_row(out, &point->rows[i]);
            fputs("</tr>\n", out);
        }
        fputs("<tr class=\"sum\"><td>mean; read, time: sum</td>", out);
        write_row(out, &point->mean);
        fputs("</tr>\n</table></div></details>\n", out);
    }
}

/* ---------------------------------------------------------------- page */

/* Linux tells the CPU's name; elsewhere the line is left out. */
static void write_cpu_name(FILE *out)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL) {
            line[strcspn(line, "\n")] = '\0';
            plot_write_text(out, strchr(line, ':') + 2);
            fputs(", ", out);
            break;
        }
    if (file != NULL)
        fclose(file);
}

static void write_meta(FILE *out, const struct eval *e, int argc, char **argv)
{
    const sffn_model_info *info = &e->llama->info;
    sffn_context_info context = SFFN_CONTEXT_INFO_INIT;
    sffn_ffn_info ffn = SFFN_FFN_INFO_INIT;
    char bytes[32], date[64] = "";
    time_t now = time(NULL);
    sffn_context_get_info(e->llama->ctx, &context);
    sffn_ffn_get_info(e->llama->layers[0].ffn, &ffn);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    fputs("<dl><dt>model</dt><dd>", out);
    plot_write_text(out, e->model_path);
    fprintf(out,
            "</dd>\n<dt>layers</dt><dd>%u of d_model %u, d_ff %u, %s, gate %s, down %s, %s in "
            "all</dd>\n",
            (unsigned)info->n_layers, (unsigned)info->d_model, (unsigned)ffn.d_ff,
            sffn_activation_name(ffn.activation),
            sffn_dtype_name(ffn.is_gated ? ffn.gate_dtype : ffn.up_dtype),
            sffn_dtype_name(ffn.down_dtype),
            cli_bytes_text((uint64_t)e->points[0].mean.dense_bytes, bytes));
    fputs("<dt>text</dt><dd>", out);
    plot_write_text(out, e->text_path);
    fprintf(out, ", %zu tokens in windows of %u</dd>\n<dt>command</dt><dd><code>sffn", e->n_tokens,
            (unsigned)e->window);
    for (int i = 0; i < argc; i++) {
        int is_plain = argv[i][0] != '\0' && strpbrk(argv[i], " \t\n'\"\\$&|;<>()*?#`") == NULL;
        fputs(is_plain ? " " : " '", out);
        plot_write_text(out, argv[i]);
        fputs(is_plain ? "" : "'", out);
    }
    fputs("</code></dd>\n<dt>machine</dt><dd>", out);
    write_cpu_name(out);
    fprintf(out, "kernels %s, %u thread%s of %u CPUs</dd>\n", context.isa,
            (unsigned)context.n_threads, context.n_threads == 1 ? "" : "s",
            (unsigned)context.n_cpus);
    fprintf(out, "<dt>made</dt><dd>%s by sffn %s</dd></dl>\n", date, sffn_version_string());
}

static void write_page(FILE *out, const struct eval *e, int argc, char **argv)
{
    const char *name = e->llama->info.name;
    if (name == NULL || name[0] == '\0')
        name = e->model_path;
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n<meta "
          "name=\"viewport\" "
          "content=\"width=device-width, initial-scale=1\"/>\n<title>",
          out);
    plot_write_text(out, name);
    fputs(": what sparse selection catches and costs</title>\n<style>\n", out);
    plot_write_css(out);
    fputs(page_css, out);
    fputs("</style></head><body>\n<h1>", out);
    plot_write_text(out, name);
    fputs(": what sparse selection catches and costs</h1>\n", out);
    write_meta(out, e, argc, argv);
    fputs("<h2>Summary</h2>\n", out);
    write_summary(out, e);
    fputs("<h2>Plots</h2>\n", out);
    write_plots(out, e);
    fputs("<h2>Layers</h2>\n", out);
    write_layers(out, e);
    fprintf(out,
            "<h2>What the words mean</h2>\n<ul>\n"
            "<li>density: share of the neurons that are truly active, as the full gate decides; "
            "predicted: share that the "
            "selection lets through to the gate</li>\n"
            "<li>recall: share of the truly active neurons that were used; precision: share of "
            "those let through that were "
            "truly active</li>\n"
            "<li>CETT: norm of what the skipped neurons would have added over the norm of y, mean "
            "over tokens; no rounding is "
            "in it</li>\n"
            "<li>error: norm of the difference between sparse and dense y over the norm of dense "
            "y, rounding included</li>\n"
            "<li>read: weights read per token when tokens come one by one, selector included</li>\n"
            "<li>time: median over %u tokens that ran one by one through the whole model, "
            "selection included</li>\n"
            "<li>all but the perplexity is measured on the inputs that the dense model gives the "
            "layers</li>\n</ul>\n"
            "</body></html>\n",
            (unsigned)e->n_timed);
}

int eval_write_report(const struct eval *e, const char *folder, int argc, char **argv)
{
    size_t n = strlen(folder) + sizeof "/index.html";
    char *path = cli_alloc(n, 1);
    FILE *out;
    int failed;
    snprintf(path, n, "%s/index.html", folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        failed = cli_fail("cannot make the folder '%s': %s", folder, strerror(errno));
        free(path);
        return failed;
    }
    out = fopen(path, "wb");
    if (out != NULL)
        write_page(out, e, argc, argv);
    failed = out == NULL || ferror(out);
    failed |= out != NULL && fclose(out) != 0;
    if (failed)
        cli_fail("cannot write '%s': %s", path, strerror(errno));
    free(path);
    return failed ? CLI_FAILED : CLI_OK;
}
