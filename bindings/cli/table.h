/* table.h  A text table whose columns are as wide as their widest cell. */
#ifndef SFFN_CLI_TABLE_H
#define SFFN_CLI_TABLE_H
#include <stddef.h>
#include <stdio.h>
#include "cli.h"

struct table {
    char **cells; /* row by row */
    size_t n_cells, capacity, n_columns;
    const char *align; /* per column 'l' or 'r' */
};
/* One letter per column: "lrr". Borrowed. */
void table_begin(struct table *table, const char *align);
void table_cell(struct table *table, const char *format, ...) CLI_PRINTF(2, 3);
/* Several cells of one line of text, separated by '|', e.g. the head. */
void table_cells(struct table *table, const char *cells);
/* Prints all and frees; has_head draws a line under the first row. */
void table_end(struct table *table, FILE *out, int has_head);
#endif /* SFFN_CLI_TABLE_H */
