/* eval_print.c  Results of `sffn eval` as a table and as JSON. */
#include <math.h>
#include <stdio.h>

#include "eval.h"
#include "json_out.h"
#include "table.h"

static void json_row(struct json *json, const struct measure_row *row)
{
    json_number(json, "density", row->density);
    json_number(json, "predicted_density", row->predicted_density);
    json_number(json, "down_density", row->down_density);
    json_number(json, "recall", row->recall);
    json_number(json, "precision", row->precision);
    json_number(json, "cett", row->cett);
    json_number(json, "relative_error", row->relative_error);
    json_number(json, "bytes", row->bytes);
    json_number(json, "dense_bytes", row->dense_bytes);
    json_number(json, "ns", row->ns);
    json_number(json, "dense_ns", row->dense_ns);
}

static double perplexity_of(const struct perplexity *perplexity)
{
    return perplexity->n_predicted != 0 ? perplexity->value : NAN;
}

void eval_print_json(const struct eval *e)
{
    for (size_t p = 0; p < e->selections.n; p++) {
        const struct eval_point *point = &e->points[p];
        struct json json;
        if (point->selection->is_curve)
            continue;
        json_begin(&json, stdout);
        json_text(&json, "name", "eval");
        json_text(&json, "model", e->model_path);
        json_text(&json, "select", point->selection->text);
        json_uint(&json, "n_tokens", e->n_tokens);
        json_uint(&json, "n_predicted", e->dense.n_predicted);
        json_uint(&json, "window", e->window);
        json_number(&json, "perplexity_dense", perplexity_of(&e->dense));
        json_number(&json, "perplexity_sparse", perplexity_of(&point->perplexity));
        json_row(&json, &point->mean);
        json_array_begin(&json, "layers");
        for (uint32_t i = 0; i < e->llama->info.n_layers; i++) {
            json_object_begin(&json, NULL);
            json_uint(&json, "layer", i);
            json_row(&json, &point->rows[i]);
            json_object_end(&json);
        }
        json_array_end(&json);
        json_end(&json);
    }
}

static void table_row(struct table *table, const char *name, const struct measure_row *row)
{
    char bytes[32], dense[32];
    table_cell(table, "%s", name);
    table_cell(table, "%.4f", row->density);
    table_cell(table, "%.4f", row->predicted_density);
    table_cell(table, "%.4f", row->down_density);
    table_cell(table, "%.4f", row->recall);
    table_cell(table, "%.4f", row->precision);
    table_cell(table, "%.3g", row->cett);
    table_cell(table, "%.3g", row->relative_error);
    table_cell(table, "%s", cli_bytes_text((uint64_t)row->bytes, bytes));
    table_cell(table, "%s", cli_bytes_text((uint64_t)row->dense_bytes, dense));
    if (isnan(row->ns))
        table_cells(table, "-|-");
    else {
        table_cell(table, "%.1f", row->ns * 1e-3);
        table_cell(table, "%.1f", row->dense_ns * 1e-3);
    }
}

void eval_print_table(const struct eval *e)
{
    for (size_t p = 0; p < e->selections.n; p++) {
        const struct eval_point *point = &e->points[p];
        struct table table;
        char name[32];
        if (point->selection->is_curve)
            continue;
        printf("%sselection %s\n\n", p != 0 ? "\n" : "", point->selection->text);
        table_begin(&table, "lrrrrrrrrrrr");
        table_cells(&table, "layer|density|predicted|down|recall|precision|CETT|rel. "
                            "error|bytes/token|dense bytes|us|dense us");
        for (uint32_t i = 0; i < e->llama->info.n_layers; i++) {
            snprintf(name, sizeof name, "%u", (unsigned)i);
            table_row(&table, name, &point->rows[i]);
        }
        table_row(&table, "mean; sums", &point->mean);
        table_end(&table, stdout, 1);
        printf("\nperplexity  dense %.4f  sparse %.4f\n", e->dense.value, point->perplexity.value);
    }
    printf(
        "\n%zu tokens in windows of %u\n"
        "density: share of neurons that are truly active; predicted: share that the selection "
        "lets through to the gate; down: share whose\ndown row was read; "
        "recall: share of the truly active neurons that were used; precision: share of those let "
        "through that were active\n"
        "CETT: |sum over the skipped neurons| / |y|, mean over tokens; rel. error: |y sparse - y "
        "dense| / |y dense|, rounding included\n"
        "bytes/token: weights read when tokens come one by one; us: median time of the layer per "
        "token, selection included\n",
        e->n_tokens, (unsigned)e->window);
}
