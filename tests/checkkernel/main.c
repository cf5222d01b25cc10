/* main.c  checkkernel: every op x weight type x ISA that this CPU runs, against scalar and exact arithmetic; with --bench, timed.
 *
 *   checkkernel [--filter 'rows_dot_q8_0_*'] [--isa avx2] [--list] [--quick] [--seed N]
 *   checkkernel --bench [--json] [--bench-mib 1024] ...
 *
 * Exit status: 0 all kernels passed, 1 some failed, 2 wrong usage.
 */
#include "harness.h"
#include "cpu/features.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ck ck;

/* A read or write beyond the guards: say who. Only async-signal-safe calls. */
static void on_fault(int number)
{
    static const char text[] = "FAIL: access outside its arguments (or an illegal instruction) in ";
    (void)number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    if (ck.name != NULL)
        (void)!write(STDERR_FILENO, ck.name, strlen(ck.name));
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(1);
}

static int usage(const char *wrong)
{
    fprintf(stderr,
            "checkkernel: bad option '%s'\n"
            "usage: checkkernel [--filter PATTERN] [--isa NAME] [--seed N] [--quick] [--list] "
            "[--bench] [--bench-mib N] [--json]\n",
            wrong);
    return 2;
}

static void check_all(void)
{
#define SFFN_WEIGHT_OP(op)                                                                         \
    for (int32_t dtype = 0; dtype < SFFN_N_WTYPES; dtype++)                                        \
        if (ck.table->op[dtype].fn != NULL)                                                        \
            check_##op(&ck, dtype);
#include "kernels/weight_ops.inc"
#define SFFN_PLAIN_OP(op)                                                                          \
    if (ck.table->op.fn != NULL)                                                                   \
        check_##op(&ck);
#include "kernels/plain_ops.inc"
}

int main(int argc, char **argv)
{
    const uint64_t cpu =
        sffn_cpu_detect() & ~SFFN_CPU_SLOW_ZMM; /* what it can run, not what it should */
    char features[512];
    ck.seed = 1;
    ck.bench_bytes = (size_t)1 << 30;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        char *end = NULL;
        if (strcmp(argv[i], "--bench") == 0) {
            ck.bench = 1;
        } else if (strcmp(argv[i], "--list") == 0) {
            ck.list = 1;
        } else if (strcmp(argv[i], "--json") == 0) {
            ck.json = 1;
        } else if (strcmp(argv[i], "--quick") == 0) {
            ck.quick = 1;
        } else if (value != NULL && strcmp(argv[i], "--filter") == 0) {
            ck.filter = value;
            i++;
        } else if (value != NULL && strcmp(argv[i], "--isa") == 0) {
            ck.isa = value;
            i++;
        } else if (value != NULL &&
                   (strcmp(argv[i], "--seed") == 0 || strcmp(argv[i], "--bench-mib") == 0)) {
            errno = 0;
            const unsigned long long number = strtoull(value, &end, 0);
            if (errno != 0 || end == value || *end != '\0')
                return usage(value);
            if (argv[i][2] == 's')
                ck.seed = number;
            else if (number >= 16 && number <= 1u << 20)
                ck.bench_bytes = (size_t)number << 20;
            else
                return usage(value);
            i++;
        } else {
            return usage(argv[i]);
        }
    }
    sffn_cpu_describe(sffn_cpu_detect(), features, sizeof features);
    if (!ck.json && !ck.list)
        printf("cpu: %s\nseed: %llu\n", features, (unsigned long long)ck.seed);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
    ck.scalar = sffn_kernels_isa_table(0);
    if (ck.bench && !ck.list)
        ck_bench_ceilings(&ck);
    for (size_t isa = 0; sffn_kernels_isa_name(isa) != NULL; isa++) {
        if (ck.isa != NULL && strcmp(ck.isa, sffn_kernels_isa_name(isa)) != 0)
            continue;
        if (!sffn_kernels_isa_runs_on(isa, cpu)) {
            if (!ck.json && !ck.list)
                printf("skip %s: this CPU does not run it\n", sffn_kernels_isa_name(isa));
            continue;
        }
        ck.table = sffn_kernels_isa_table(isa);
        check_all();
    }
    if (!ck.json && !ck.list && !ck.bench)
        printf("%zu kernels, %zu comparisons, %zu failed\n", ck.n_kernels, ck.n_comparisons,
               ck.n_failed);
    if (ck.n_kernels == 0) {
        fputs("checkkernel: no kernel matches\n", stderr);
        return 2;
    }
    return ck.n_failed > 0;
}
