#include "report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int samples_init(struct samples *s)
{
    s->n = 0;
    s->total_ns = 0.0;
    s->ns = malloc(MAX_SAMPLES * sizeof *s->ns);
    return s->ns != NULL;
}

void samples_free(struct samples *s)
{
    free(s->ns);
    s->ns = NULL;
}

void samples_add(struct samples *s, double ns)
{
    if (s->n < MAX_SAMPLES)
        s->ns[s->n++] = ns;
    s->total_ns += ns;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct summary samples_summary(struct samples *s)
{
    if (s->n == 0)
        return (struct summary){(double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN, 0};
    qsort(s->ns, s->n, sizeof *s->ns, compare_doubles);
    const double n = (double)s->n, median = s->n % 2
                                                ? s->ns[s->n / 2]
                                                : 0.5 * (s->ns[s->n / 2 - 1] + s->ns[s->n / 2]);
    /* How many of n samples lie below the true median is binomial with p = 1/2: ranks n/2 +- 1.96 sqrt(n) / 2 hold it in 95 % of all cases. */
    const double below = floor(0.5 * n - 0.98 * sqrt(n));
    double error = (double)INFINITY;
    if (below >= 0.0) {
        const size_t low = (size_t)below;
        error = 0.5 * (s->ns[s->n - 1 - low] - s->ns[low]) / median;
    }
    const double spread = (s->ns[s->n * 3 / 4] - s->ns[s->n / 4]) / median;
    return (struct summary){median, s->ns[0], s->ns[s->n - 1], error, spread, s->n};
}

int round_goes_on(const struct stop_rule *rule, int round, const struct samples *s,
                  size_t calls_of_round, double begin_ns)
{
    if (s->n >= MAX_SAMPLES)
        return 0;
    if (rule->repeats > 0)
        return s->n < (size_t)(rule->repeats * (uint64_t)(round + 1) / ROUNDS);
    /* Slow calls make do with few, so that nothing takes much longer than it may. */
    const double elapsed = (now_ns() - begin_ns) * 1e-9;
    return calls_of_round < 2 ||
           (elapsed < rule->seconds / ROUNDS && (calls_of_round < ROUND_CALLS || elapsed < 0.1));
}

int needs_round(const struct stop_rule *rule, int rounds_done, struct samples *s)
{
    if (rounds_done < ROUNDS)
        return 1;
    return rule->repeats == 0 && s->n < MAX_SAMPLES && s->total_ns * 1e-9 < rule->seconds &&
           !(samples_summary(s).error <= STOP_ERROR);
}

void warn_when_noisy(const char *command, const char *what, const struct summary *s)
{
    if (s->n >= 6 && (s->error > 0.05 || s->spread > 0.25))
        fprintf(stderr,
                "%s: noisy: the median of %s is known within %.0f %%, the middle half of %zu "
                "samples spans %.0f %%\n",
                command, what, 100.0 * s->error, s->n, 100.0 * s->spread);
}

static void json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            printf("\\%c", *c);
        else if (*c < 0x20)
            printf("\\u%04x", *c);
        else
            putchar(*c);
    }
    putchar('"');
}

static void json_key(struct json *j, const char *key)
{
    if (j->n_keys++)
        fputs(", ", stdout);
    json_text(key);
    fputs(": ", stdout);
}

void json_begin(struct json *j)
{
    j->n_keys = 0;
    putchar('{');
}

void json_string(struct json *j, const char *key, const char *value)
{
    json_key(j, key);
    if (value)
        json_text(value);
    else
        fputs("null", stdout);
}

void json_uint(struct json *j, const char *key, uint64_t value)
{
    json_key(j, key);
    printf("%llu", (unsigned long long)value);
}

void json_number(struct json *j, const char *key, double value)
{
    json_key(j, key);
    if (!isfinite(value))
        fputs("null", stdout);
    else
        printf("%.9g", value);
}

void json_summary(struct json *j, const struct summary *s)
{
    json_number(j, "median_ns", s->median);
    json_number(j, "min_ns", s->min);
    json_number(j, "max_ns", s->max);
    json_number(j, "median_error", s->error);
    json_number(j, "spread", s->spread);
    json_uint(j, "repeats", s->n);
}

void print_cell(int width, const char *format, double value)
{
    char text[32] = "-";
    if (isfinite(value))
        snprintf(text, sizeof text, format, value);
    printf(" %*s", width, text);
}

void json_end(struct json *j)
{
    (void)j;
    puts("}");
    fflush(stdout);
}

void progress(const char *format, ...)
{
    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    if (format) {
        va_list args;
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
    }
    fflush(stderr);
}

/* The value after "key" on the line of `path` that starts with it; 0 when there is none. */
static int find_line(const char *path, const char *key, char *value, size_t size)
{
    char line[512];
    int found = 0;
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const char *from = line + strlen(key);
        from += strspn(from, " \t:");
        snprintf(value, size, "%.*s", (int)strcspn(from, "\n"), from);
        found = 1;
    }
    if (f)
        fclose(f);
    return found;
}

void print_machine(FILE *out, const sffn_context_info *info)
{
    char cpu[128];
    if (!find_line("/proc/cpuinfo", "model name", cpu, sizeof cpu))
        snprintf(cpu, sizeof cpu, "CPU");
    fprintf(out,
            "%s, %u cores / %u CPUs, %u NUMA node%s, L2 %.3g MiB, LLC %.3g MiB, kernels %s (%s), ",
            cpu, info->n_cores, info->n_cpus, info->n_numa_nodes,
            info->n_numa_nodes == 1 ? "" : "s", (double)info->l2_bytes / 1048576.0,
            (double)info->llc_bytes / 1048576.0, info->isa, info->cpu_features);
    if (info->huge_page_bytes == 0)
        fprintf(out, "no huge pages");
    else if (info->weight_bytes == 0)
        fprintf(out, "huge pages of %.3g MiB", (double)info->huge_page_bytes / 1048576.0);
    else
        fprintf(out, "huge pages: %.1f %% of %.0f MiB of weights",
                100.0 * (double)info->weight_huge_bytes / (double)info->weight_bytes,
                (double)info->weight_bytes / 1048576.0);
}

void warn_when_busy(const char *command, uint32_t n_cpus)
{
    double load;
    if (getloadavg(&load, 1) == 1 && load > 1.25 * (double)n_cpus)
        fprintf(stderr, "%s: the machine is busy (load %.1f on %u CPUs): figures will be too low\n",
                command, load, n_cpus);
}

/* A number in a file of the cgroup; UINT64_MAX for "max" or no such file. */
static uint64_t read_limit(const char *path)
{
    char text[64];
    if (!find_line(path, "", text, sizeof text) || text[0] < '0' || text[0] > '9')
        return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

uint64_t available_memory_bytes(void)
{
    char text[64];
    uint64_t bytes = (uint64_t)4 << 30; /* a guess where the system does not tell */
    if (find_line("/proc/meminfo", "MemAvailable", text, sizeof text))
        bytes = strtoull(text, NULL, 10) << 10;
    uint64_t limit = read_limit("/sys/fs/cgroup/memory.max"),
             used = read_limit("/sys/fs/cgroup/memory.current");
    if (limit != UINT64_MAX && used != UINT64_MAX) {
        uint64_t left = limit > used ? limit - used : 0;
        bytes = left < bytes ? left : bytes;
    }
    return bytes;
}
