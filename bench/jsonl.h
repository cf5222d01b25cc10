/* jsonl.h  Reads the JSON lines that these programs write: flat objects of strings, numbers and null. */
#ifndef BENCH_JSONL_H
#define BENCH_JSONL_H
#include <stddef.h>

struct jsonl_value {
    char *key, *text; /* text NULL: a number */
    double number;    /* NaN: null */
};
struct jsonl_row {
    struct jsonl_value *values;
    size_t n_values;
};
struct jsonl {
    struct jsonl_row *rows;
    size_t n_rows, max_rows;
};

/* Appends the rows of a file. 0: an error line that begins with `command` has been printed. */
int jsonl_read(struct jsonl *j, const char *command, const char *path);
void jsonl_free(struct jsonl *j);
/* "" and NaN where the row has no such key. */
const char *jsonl_string(const struct jsonl_row *row, const char *key);
double jsonl_number(const struct jsonl_row *row, const char *key);

#endif /* BENCH_JSONL_H */
