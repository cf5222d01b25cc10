/* alternate.c  Builds of the library side by side in one process. A shared machine drifts by tens of per cent from minute to minute; turns of single
 * calls show differences of one or two.
 *
 *   ninja -C build bench/alternate
 *   build/bench/alternate [-t TYPE] [-s D_MODEL,D_FF] [-d DENSITY] [-n TOKENS] [-j THREADS] [-r ROUNDS] [-a NUMBER]
 *                         [-p MICROSECONDS] [-w CALLS] [-o dense,gate,mask] OLD.so NEW.so...
 *
 * Each library gets copies of a random gated layer, more bytes than caches hold, and calls take turns: library after library, copy after copy,
 * from scratch memory in several places. -a: of enum sffn_activation. Lines: the median of all calls in ms, that of each stage in us (dense: gate and up are one), GB/s of
 * the bytes read, and the median over rounds of the first library's time divided by this one's (above 1: this one is faster), with the middle
 * half of these ratios. Give the same build twice to see what a difference means.
 *
 * Every context has a pool of its own, whose threads have slept since its last turn, as they have in an engine that does something else between two
 * layers. -p: a pause before each turn, in which those of the one before fall asleep, too; -w: so many calls after it that don't count, so that
 * what counts finds its threads awake. With 16 threads on 16 cores two libraries in one process are in each other's way (of two same builds the first was
 * up to 2.5 times as fast): there, run each alone, in turns, several times.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sparseffn/sparseffn.h"

#define COLD_BYTES ((size_t)768 << 20)
#define MAX_LIBS   8
#define MAX_COPIES 64
#define N_INPUTS   8
#define N_CONTEXTS 5

/* The functions that are taken from each library. */
#define EACH_CALL(op)                                                                              \
    op(sffn_context_create) op(sffn_context_last_error) op(sffn_active_set_create)                 \
        op(sffn_ffn_create) op(sffn_ffn_reserve) op(sffn_ffn_forward) op(sffn_normal_quantile)

struct lib {
    const char *path;
#define DECLARE(name) __typeof__(&name) name;
    EACH_CALL(DECLARE)
#undef DECLARE
    /* Scratch lies in several places: its place alone changes times by up to 5 %. */
    sffn_context *ctx, *runs[N_CONTEXTS];
    sffn_ffn *ffn[MAX_COPIES];
    sffn_active_set *sets[N_INPUTS]; /* who is active */
    double *ns[5];                   /* [round]: whole call, gate, up, down, bytes */
};

static uint32_t d_model = 4096, d_ff = 11008, n_tokens = 1;
static double density = 0.107;
static uint64_t state = 88172645463325252ull;

static double uniform(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile of v[0 .. n-1], which is left as it is. */
static double quantile(const double *v, size_t n, double q)
{
    double *sorted = malloc(n * sizeof *sorted);
    memcpy(sorted, v, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    const double x = sorted[(size_t)(q * (double)(n - 1) + 0.5)];
    free(sorted);
    return x;
}

static void check(const struct lib *l, const sffn_context *ctx, sffn_status status,
                  const char *what)
{
    if (status == SFFN_OK)
        return;
    fprintf(stderr, "alternate: %s: %s: status %d: %s\n", l->path, what, (int)status,
            l->sffn_context_last_error(ctx));
    exit(1);
}

/* *function = the library's function of that name. */
static void find(const struct lib *l, void *so, const char *name, void *function)
{
    void *const symbol = dlsym(so, name);
    if (!symbol) {
        fprintf(stderr, "alternate: %s has no %s\n", l->path, name);
        exit(2);
    }
    memcpy(function, &symbol, sizeof symbol);
}

static void load(struct lib *l, const char *path, uint32_t n_threads)
{
    void *const so = dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_LOCAL);
    if (!so) {
        fprintf(stderr, "alternate: %s (a library is named by a path: ./NAME)\n", dlerror());
        exit(2);
    }
    l->path = path;
#define FIND(name) find(l, so, #name, &l->name);
    EACH_CALL(FIND)
#undef FIND
    sffn_context_config c = SFFN_CONTEXT_CONFIG_INIT;
    c.n_threads = n_threads;
    c.collect_stats = 1;
    check(l, NULL, l->sffn_context_create(&c, &l->ctx), "context");
    for (int i = 0; i < N_CONTEXTS; i++)
        check(l, NULL, l->sffn_context_create(&c, &l->runs[i]), "context");
}

int main(int argc, char **argv)
{
    const char *types[] = {"f32", "f16", "bf16", "q8_0", "q4_0"}, *type = "q4_0",
               *ops = "dense,gate,mask";
    const int32_t values[] = {SFFN_F32, SFFN_F16, SFFN_BF16, SFFN_Q8_0, SFFN_Q4_0};
    const double bytes_per_weight[] = {4, 2, 2, 34.0 / 32, 18.0 / 32};
    static struct lib libs[MAX_LIBS];
    int option, activation = SFFN_ACT_RELU, n_rounds = 200, n_threads = 1, dtype = -1, pause_us = 0,
                n_warm = 0;
    while ((option = getopt(argc, argv, "t:s:d:n:j:r:o:a:p:w:")) != -1) {
        if (option == 't')
            type = optarg;
        else if (option == 's')
            sscanf(optarg, "%u,%u", &d_model, &d_ff);
        else if (option == 'd')
            density = atof(optarg);
        else if (option == 'n')
            n_tokens = (uint32_t)atoi(optarg);
        else if (option == 'j')
            n_threads = atoi(optarg);
        else if (option == 'r')
            n_rounds = atoi(optarg);
        else if (option == 'a')
            activation = atoi(optarg);
        else if (option == 'p')
            pause_us = atoi(optarg);
        else if (option == 'w')
            n_warm = atoi(optarg);
        else if (option == 'o')
            ops = optarg;
        else
            return 2;
    }
    for (int i = 0; i < 5; i++)
        if (strcmp(types[i], type) == 0)
            dtype = i;
    const int n_libs = argc - optind;
    if (dtype < 0 || n_libs < 1 || n_libs > MAX_LIBS || n_rounds < 1) {
        fprintf(stderr, "alternate: expected libraries, and a TYPE of f32, f16, bf16, q8_0, q4_0; "
                        "see the head of bench/research/alternate.c\n");
        return 2;
    }
    const size_t n = (size_t)d_model * d_ff;
    float *w = malloc(n * sizeof *w),
          *x = malloc((size_t)N_INPUTS * n_tokens * d_model * sizeof *x),
          *y = malloc((size_t)n_tokens * d_model * sizeof *y);
    float *bias = malloc(d_ff * sizeof *bias);
    for (size_t i = 0; i < n; i++)
        w[i] = (float)((2 * uniform() - 1) / sqrt(d_model));
    for (size_t i = 0; i < (size_t)N_INPUTS * n_tokens * d_model; i++)
        x[i] = (float)(2 * uniform() - 1);
    const size_t layer_bytes = (size_t)(3.0 * (double)n * bytes_per_weight[dtype]);
    size_t n_copies = COLD_BYTES / layer_bytes + 2;
    n_copies = n_copies < MAX_COPIES ? n_copies : MAX_COPIES;
    for (int i = 0; i < n_libs; i++)
        load(&libs[i], argv[optind + i], (uint32_t)n_threads);
    for (uint32_t r = 0; r < d_ff; r++)
        bias[r] = (float)(-libs[0].sffn_normal_quantile(1 - density) / 3);
    for (size_t c = 0; c < n_copies; c++) {
        for (int i = 0; i < n_libs; i++) {
            struct lib *l = &libs[i];
            sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
            config.d_model = d_model;
            config.d_ff = d_ff;
            config.gate.data = config.up.data = config.down.data = w;
            config.gate_bias = bias;
            config.dtype = values[dtype];
            config.activation = activation;
            check(l, l->ctx, l->sffn_ffn_create(l->ctx, &config, &l->ffn[c]), "layer");
            for (int k = 0; c == 0 && k < N_CONTEXTS; k++) {
                check(l, l->runs[k], l->sffn_ffn_reserve(l->runs[k], l->ffn[c]), "scratch");
                if (!malloc(1000 +
                            (size_t)(uniform() * 100000))) /* never freed: moves what follows */
                    return 1;
            }
        }
    }
    for (int i = 0; i < n_libs; i++) {
        struct lib *l = &libs[i];
        sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
        config.n_blocks = d_ff;
        config.max_tokens = n_tokens;
        for (size_t k = 0; k < N_INPUTS; k++) {
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            check(l, l->ctx, l->sffn_active_set_create(l->ctx, &config, &l->sets[k]), "set");
            args.x = x + k * n_tokens * d_model;
            args.y = y;
            args.n_tokens = n_tokens;
            args.select = SFFN_SELECT_GATE;
            args.active_out = l->sets[k];
            check(l, l->ctx, l->sffn_ffn_forward(l->ctx, l->ffn[0], &args), "who is active");
        }
        for (int k = 0; k < 5; k++)
            l->ns[k] = malloc((size_t)n_rounds * sizeof(double));
    }
    printf("%s %u x %u, %u tokens, %d threads, density %.3f, %zu copies, %d rounds\n", type,
           d_model, d_ff, n_tokens, n_threads, density, n_copies, n_rounds);
    for (char *list = strdup(ops), *op = strtok(list, ","); op; op = strtok(NULL, ",")) {
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        args.y = y;
        args.n_tokens = n_tokens;
        args.stats = &stats;
        args.select = op[0] == 'd'   ? SFFN_SELECT_DENSE
                      : op[0] == 'g' ? SFFN_SELECT_GATE
                                     : SFFN_SELECT_ACTIVE;
        for (int round = 0; round < n_rounds; round++) {
            const size_t input = (size_t)round % N_INPUTS;
            args.x = x + input * n_tokens * d_model;
            for (int turn = 0; turn < n_libs; turn++) {
                struct lib *l = &libs[(turn + round) % n_libs];
                args.active = op[0] == 'm' ? l->sets[input] : NULL;
                double start = 0, end = 0;
                if (pause_us > 0)
                    usleep((useconds_t)pause_us);
                for (int call = -n_warm; call <= 0; call++) {
                    /* what does not count reads copies whose turn is long over, or the counted one would be warm */
                    const size_t copy =
                        ((size_t)(round + round / 8) + (n_copies - 1) * (size_t)-call) % n_copies;
                    start = now_ns();
                    check(l, l->runs[round % N_CONTEXTS],
                          l->sffn_ffn_forward(l->runs[round % N_CONTEXTS], l->ffn[copy], &args),
                          op);
                    end = now_ns();
                }
                const double v[5] = {end - start, (double)stats.gate_ns, (double)stats.up_ns,
                                     (double)stats.down_ns, (double)stats.touched_bytes};
                for (int k = 0; k < 5; k++)
                    l->ns[k][round] = v[k];
            }
        }
        for (int i = 0; i < n_libs; i++) {
            double m[5], *ratio = malloc((size_t)n_rounds * sizeof *ratio);
            for (int k = 0; k < 5; k++)
                m[k] = quantile(libs[i].ns[k], (size_t)n_rounds, 0.5);
            for (int r = 0; r < n_rounds; r++)
                ratio[r] = libs[0].ns[0][r] / libs[i].ns[0][r];
            printf("%-6s %-24s %8.3f ms  gate %7.1f up %7.1f down %7.1f us  %5.1f GB/s  x%.3f "
                   "(%.3f to %.3f)\n",
                   op, libs[i].path, m[0] / 1e6, m[1] / 1e3, m[2] / 1e3, m[3] / 1e3, m[4] / m[0],
                   quantile(ratio, (size_t)n_rounds, 0.5), quantile(ratio, (size_t)n_rounds, 0.25),
                   quantile(ratio, (size_t)n_rounds, 0.75));
            fflush(stdout);
            free(ratio);
        }
    }
    return 0;
}
