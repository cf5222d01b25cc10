/* columns_axpy_tmpl.h  Body of columns_axpy. Contract: kernels.h. Parameters: ISA, and of the ISA
 *     columns_step_<isa>(out, column, next, q, n_rows)   adds SFFN_COLUMNS_STEP columns, each from column[c], to out, in any form that it likes, and
 *                                                        fetches as many from next[c]
 *     columns_finish_<isa>(out, n_rows)                  turns that form into the sums; with COLUMNS_FINISH, else out has them
 */
static void PLAIN_KERNEL(columns_axpy)(int32_t *out, const void *codes, size_t column_bytes, const uint32_t *columns, const int8_t *q,
                                       size_t n_columns, size_t n_rows)
{
    memset(out, 0, n_rows * sizeof *out);
    for (size_t i = 0; i < n_columns; i += SFFN_COLUMNS_STEP) {
        const size_t then = i + SFFN_COLUMNS_STEP < n_columns ? i + SFFN_COLUMNS_STEP : i;
        const char *column[SFFN_COLUMNS_STEP], *next[SFFN_COLUMNS_STEP];
        for (size_t c = 0; c < SFFN_COLUMNS_STEP; c++) {
            column[c] = (const char *)codes + columns[i + c] * column_bytes;
            next[c] = (const char *)codes + columns[then + c] * column_bytes;
        }
        PLAIN_KERNEL(columns_step)(out, column, next, q + i, n_rows);
    }
#ifdef COLUMNS_FINISH
    PLAIN_KERNEL(columns_finish)(out, n_rows);
#endif
}
