#include "table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void table_begin(struct table *table, const char *align)
{
    memset(table, 0, sizeof *table);
    table->align = align;
    table->n_columns = strlen(align);
}

static void add(struct table *table, const char *text, size_t n)
{
    char *copy = cli_alloc(n + 1, 1);
    for (size_t i = 0; i < n; i++) /* names come from files: no control characters on a terminal */
        copy[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    cli_grow(&table->cells, &table->capacity, table->n_cells, sizeof *table->cells);
    table->cells[table->n_cells++] = copy;
}

void table_cell(struct table *table, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add(table, text, strlen(text));
}

void table_cells(struct table *table, const char *cells)
{
    for (;;) {
        size_t n = strcspn(cells, "|");
        add(table, cells, n);
        if (cells[n] == '\0')
            return;
        cells += n + 1;
    }
}

/* Code points, which is good enough for names of tensors and files. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_row(const struct table *table, size_t row, const size_t *widths, FILE *out)
{
    for (size_t c = 0; c < table->n_columns; c++) {
        const char *cell = table->cells[row * table->n_columns + c];
        int pad = (int)(widths[c] - width(cell));
        if (table->align[c] == 'r')
            fprintf(out, "%*s%s", pad, "", cell);
        else
            fprintf(out, "%s%*s", cell, c + 1 < table->n_columns ? pad : 0, "");
        fputs(c + 1 < table->n_columns ? "  " : "\n", out);
    }
}

void table_end(struct table *table, FILE *out, int has_head)
{
    size_t *widths = cli_alloc(table->n_columns, sizeof *widths);
    size_t n_rows = table->n_cells / table->n_columns, total = 0;
    for (size_t i = 0; i < n_rows * table->n_columns; i++) {
        size_t w = width(table->cells[i]), *column = &widths[i % table->n_columns];
        if (w > *column)
            *column = w;
    }
    for (size_t c = 0; c < table->n_columns; c++)
        total += widths[c] + (c != 0 ? 2 : 0);
    for (size_t row = 0; row < n_rows; row++) {
        print_row(table, row, widths, out);
        if (row == 0 && has_head) {
            for (size_t i = 0; i < total; i++)
                fputc('-', out);
            fputc('\n', out);
        }
    }
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    free(widths);
    memset(table, 0, sizeof *table);
}
