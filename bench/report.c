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
        return (struct summary){(double)NAN, (double)NAN, (double)NAN, 0};
    qsort(s->ns, s->n, sizeof *s->ns, compare_doubles);
    double median = s->n % 2 ? s->ns[s->n / 2] : 0.5 * (s->ns[s->n / 2 - 1] + s->ns[s->n / 2]);
    return (struct summary){median, s->ns[0], s->ns[s->n - 1], s->n};
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
    json_text(value);
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
