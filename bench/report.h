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
    size_t n;
};
/* Sorts the samples. NaN when there are none. */
struct summary samples_summary(struct samples *s);

/* One JSON object on one line of standard output. NaN and infinities become null. */
struct json {
    int n_keys;
};
void json_begin(struct json *j);
void json_string(struct json *j, const char *key, const char *value);
void json_uint(struct json *j, const char *key, uint64_t value);
void json_number(struct json *j, const char *key, double value);
void json_end(struct json *j);

/* Progress on standard error, overwritten in place; nothing when that is no terminal. NULL clears the line. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* CPU, cores, caches, ISA, pages: one line without a newline. */
void print_machine(FILE *out, const sffn_context_info *info);
/* One line on standard error when more is running than the CPUs can take: the figures will be too low. */
void warn_when_busy(const char *command, uint32_t n_cpus);
/* Memory that may still be taken: the system's and the cgroup's limit, whichever is less. */
uint64_t available_memory_bytes(void);

#endif /* BENCH_REPORT_H */
