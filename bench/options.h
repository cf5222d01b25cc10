/* options.h  Strict command lines: every mistake is one line on standard error and exit status 2. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H
#include <stddef.h>
#include <stdint.h>

#define EXIT_USAGE 2

struct option_def {
    const char *name;  /* "--shape" */
    int takes_value;   /* "--shape V" and "--shape=V" */
    const char *value; /* out: NULL when not given; "" for a flag that was given */
};

/* Fills the values. `command` starts the error lines. Returns 0 or EXIT_USAGE. */
int options_parse(const char *command, int argc, char **argv, struct option_def *defs,
                  size_t n_defs);
/* The value of an option that is in defs; NULL when not given. */
const char *option_value(const struct option_def *defs, size_t n_defs, const char *name);

/* Whole text must be one number in [min, max]. Return 0 or EXIT_USAGE. */
int parse_uint(const char *command, const char *option, const char *text, uint64_t min,
               uint64_t max, uint64_t *out);
int parse_double(const char *command, const char *option, const char *text, double min, double max,
                 double *out);

/* Copies the next item of a comma-separated list and moves *list behind it; 0 at the end. Too long items are cut. */
int next_item(const char **list, char *item, size_t size);

/* "sffn-bench ffn: <text>" on standard error; returns EXIT_USAGE. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif /* BENCH_OPTIONS_H */
