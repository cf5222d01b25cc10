/* report.h  Time, samples, JSON lines, progress, and one line about the machine. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sparseffn/context.h"

double now_ns(void);

#define MAX_SAMPLES 100000
struct samples {
    double *ns; /* MAX_SAMPLES of them */
    size_t n;
    double total_ns;
};
int samples_init(struct samples *s); /* 0 without memory */
void samples_free(struct samples *s);
void samples_add(struct samples *s, double ns);
struct summary {
    double median, min, max;
    /* half the 95 % confidence interval of the median, relative to it; infinite below 6 samples */
    double error;
    double spread; /* the middle half of the samples, relative to the median */
    size_t n;
};
/* Sorts the samples. NaN when there are none. */
struct summary samples_summary(struct samples *s);

/* When to stop sampling: "until the spread is known". */
struct stop_rule {
    /* 0: until the median is known within STOP_ERROR, in at least ROUNDS rounds of ROUND_CALLS
     * calls */
    uint64_t repeats;
    double seconds; /* most time for each thing that takes turns */
};
#define STOP_ERROR 0.01
#define ROUNDS                                                                                     \
    3 /* things to compare take turns, so that a slow spell of the machine meets all of them */
#define ROUND_CALLS 10
/* 1: another call belongs to round `round` of this thing, which began at begin_ns. */
int round_goes_on(const struct stop_rule *rule, int round, const struct samples *s,
                  size_t calls_of_round, double begin_ns);
/* 1: another round is needed. */
int needs_round(const struct stop_rule *rule, int rounds_done, struct samples *s);
/* One line on standard error when the samples scatter so much that the median says little. */
void warn_when_noisy(const char *command, const char *what, const struct summary *s);

/* One JSON object on one line of standard output. NaN and infinities become null. */
struct json {
    int n_keys;
};
void json_begin(struct json *j);
void json_string(struct json *j, const char *key, const char *value); /* NULL becomes null */
void json_uint(struct json *j, const char *key, uint64_t value);
void json_number(struct json *j, const char *key, double value);
/* median_ns, min_ns, max_ns, median_error, spread, repeats */
void json_summary(struct json *j, const struct summary *s);
void json_end(struct json *j);

/* A number in a column of `width` on standard output, "-" when there is none. */
void print_cell(int width, const char *format, double value);

/* Progress on standard error, overwritten in place; nothing when that is no terminal. NULL clears the line. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* CPU, cores, caches, ISA, pages: one line without a newline. */
void print_machine(FILE *out, const sffn_context_info *info);
/* One line on standard error when more is running than the CPUs can take: the figures will be too low. */
void warn_when_busy(const char *command, uint32_t n_cpus);
/* Memory that may still be taken: the system's and the cgroup's limit, whichever is less. */
uint64_t available_memory_bytes(void);

#endif /* BENCH_REPORT_H */
