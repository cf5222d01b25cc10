/* memory.c  sffn-bench memory: the ceilings alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "ceilings.h"
#include "options.h"
#include "report.h"
#include "sparseffn/sparseffn.h"

#define COMMAND "sffn-bench memory"

static const char help[] =
    "Usage: " COMMAND " [OPTIONS]\n"
    "\n"
    "Measures what the memory of this machine gives at best: reading it in one stream, and "
    "gathering a random share of\n"
    "equal pieces in order of address, cold. Best of several repeats of several ways to prefetch.\n"
    "\n"
    "  --threads LIST    numbers of threads; default 1 and all cores\n"
    "  --pages LIST      huge, small; default both\n"
    "  --piece LIST      bytes of a piece; default 2304,4352,8192 (rows of 4096 in q4_0, "
    "q8_0, f16)\n"
    "  --density LIST    shares of the pieces to gather, in (0, 1]; default 0.107\n"
    "  --size MIB        size of the buffer; default four times the last-level cache, at least "
    "512\n"
    "  --json            one JSON object per line instead of a table\n"
    "  --help            this text\n"
    "\n"
    "Lists are separated by commas. JSON keys: name, kind, pages, n_threads, piece_bytes, density, "
    "gbps, buffer_bytes,\n"
    "huge_bytes, how.\n";

#define MAX_LIST 32

struct lists {
    uint64_t threads[MAX_LIST], pieces[MAX_LIST];
    double densities[MAX_LIST];
    int huge[2];
    size_t n_threads, n_pieces, n_densities, n_huge;
};

static int parse_uints(const char *option, const char *list, uint64_t min, uint64_t max,
                       uint64_t *out, size_t *n)
{
    char item[64];
    *n = 0;
    while (next_item(&list, item, sizeof item)) {
        if (*n == MAX_LIST)
            return usage_error(COMMAND, "%s has more than %d items", option, MAX_LIST);
        if (parse_uint(COMMAND, option, item, min, max, &out[*n]))
            return EXIT_USAGE;
        ++*n;
    }
    return 0;
}

static int parse_lists(struct lists *l, const struct option_def *defs, size_t n_defs)
{
    char item[64];
    const char *list = option_value(defs, n_defs, "--threads");
    if (list && parse_uints("--threads", list, 1, 512, l->threads, &l->n_threads))
        return EXIT_USAGE;
    list = option_value(defs, n_defs, "--piece");
    if (parse_uints("--piece", list ? list : "2304,4352,8192", 64, 16u << 20, l->pieces,
                    &l->n_pieces))
        return EXIT_USAGE;
    list = option_value(defs, n_defs, "--density");
    if (!list)
        list = "0.107";
    while (next_item(&list, item, sizeof item)) {
        if (l->n_densities == MAX_LIST)
            return usage_error(COMMAND, "--density has more than %d items", MAX_LIST);
        if (parse_double(COMMAND, "--density", item, 0.001, 1.0, &l->densities[l->n_densities++]))
            return EXIT_USAGE;
    }
    list = option_value(defs, n_defs, "--pages");
    if (!list)
        list = "huge,small";
    while (next_item(&list, item, sizeof item)) {
        int is_huge = strcmp(item, "huge") == 0;
        if ((!is_huge && strcmp(item, "small") != 0) || l->n_huge == 2 ||
            (l->n_huge == 1 && l->huge[0] == is_huge))
            return usage_error(COMMAND, "--pages has \"%s\"; expected huge, small or both once",
                               item);
        l->huge[l->n_huge++] = is_huge;
    }
    return 0;
}

static void print_row(int as_json, const struct ceilings *c, const char *pages, uint32_t n_threads,
                      uint64_t piece_bytes, double density, double gbps, const char *how)
{
    if (as_json) {
        struct json j;
        char name[96];
        if (piece_bytes == 0)
            snprintf(name, sizeof name, "stream %s pages", pages);
        else
            snprintf(name, sizeof name, "gather %llu bytes at %g, %s pages",
                     (unsigned long long)piece_bytes, density, pages);
        json_begin(&j);
        json_string(&j, "name", name);
        json_string(&j, "kind", piece_bytes == 0 ? "stream" : "gather");
        json_string(&j, "pages", pages);
        json_uint(&j, "n_threads", n_threads);
        json_uint(&j, "piece_bytes", piece_bytes);
        json_number(&j, "density", density);
        json_number(&j, "gbps", gbps);
        json_uint(&j, "buffer_bytes", ceilings_bytes(c));
        json_uint(&j, "huge_bytes", ceilings_huge_bytes(c));
        json_string(&j, "how", how);
        json_end(&j);
        return;
    }
    if (piece_bytes == 0)
        printf("%-6s  %-5s  %7u  %9s  %7s  %8.1f\n", "stream", pages, n_threads, "-", "1", gbps);
    else
        printf("%-6s  %-5s  %7u  %9llu  %7.3g  %8.1f  %s\n", "gather", pages, n_threads,
               (unsigned long long)piece_bytes, density, gbps, how);
    fflush(stdout);
}

int bench_memory(int argc, char **argv)
{
    struct option_def defs[] = {{"--threads", 1, NULL}, {"--pages", 1, NULL}, {"--piece", 1, NULL},
                                {"--density", 1, NULL}, {"--size", 1, NULL},  {"--json", 0, NULL},
                                {"--help", 0, NULL}};
    const size_t n_defs = sizeof defs / sizeof defs[0];
    struct lists lists = {0};
    uint64_t size_mib = 0;
    if (options_parse(COMMAND, argc, argv, defs, n_defs))
        return EXIT_USAGE;
    if (option_value(defs, n_defs, "--help")) {
        fputs(help, stdout);
        return 0;
    }
    const char *size_text = option_value(defs, n_defs, "--size");
    if (parse_lists(&lists, defs, n_defs) ||
        (size_text && parse_uint(COMMAND, "--size", size_text, 16, 1u << 20, &size_mib)))
        return EXIT_USAGE;
    const int as_json = option_value(defs, n_defs, "--json") != NULL;

    sffn_context *ctx;
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    if (sffn_context_create(NULL, &ctx) != SFFN_OK ||
        sffn_context_get_info(ctx, &info) != SFFN_OK) {
        fprintf(stderr, COMMAND ": %s\n", sffn_context_last_error(NULL));
        return 1;
    }
    warn_when_busy(COMMAND, info.n_cpus);
    if (!as_json) {
        print_machine(stdout, &info);
        printf("\n\n%-6s  %-5s  %7s  %9s  %7s  %8s  %s\n", "", "pages", "threads", "piece",
               "density", "GB/s", "best way to prefetch");
    }
    if (lists.n_threads == 0) {
        lists.threads[lists.n_threads++] = 1;
        if (info.n_cores > 1)
            lists.threads[lists.n_threads++] = info.n_cores;
    }
    uint64_t bytes = size_mib << 20;
    if (bytes == 0) {
        bytes = info.llc_bytes * 4 > (uint64_t)512 << 20 ? info.llc_bytes * 4 : (uint64_t)512 << 20;
        uint64_t most = available_memory_bytes() / 2;
        bytes = bytes < most ? bytes : most;
    }
    sffn_context_destroy(ctx);

    for (size_t p = 0; p < lists.n_huge; p++) {
        const char *pages = lists.huge[p] ? "huge" : "small";
        struct ceilings *c = ceilings_create(bytes, lists.huge[p]);
        if (!c) {
            fprintf(stderr, COMMAND ": no memory for a buffer of %llu MiB\n",
                    (unsigned long long)(bytes >> 20));
            return 1;
        }
        if (lists.huge[p] && ceilings_huge_bytes(c) < ceilings_bytes(c) / 2)
            fprintf(stderr, COMMAND ": the system gave huge pages for only %.0f %% of the buffer\n",
                    100.0 * (double)ceilings_huge_bytes(c) / (double)ceilings_bytes(c));
        for (size_t t = 0; t < lists.n_threads; t++) {
            uint32_t n_threads = (uint32_t)lists.threads[t];
            progress("streaming, %s pages, %u threads", pages, n_threads);
            double gbps = ceilings_stream_gbps(c, n_threads);
            progress(NULL);
            if (gbps <= 0.0) {
                fprintf(stderr, COMMAND ": the system refused %u threads\n", n_threads);
                ceilings_destroy(c);
                return 1;
            }
            print_row(as_json, c, pages, n_threads, 0, 1.0, gbps, "");
            for (size_t s = 0; s < lists.n_pieces; s++)
                for (size_t d = 0; d < lists.n_densities; d++) {
                    progress("gathering %llu bytes, %s pages, %u threads",
                             (unsigned long long)lists.pieces[s], pages, n_threads);
                    gbps = ceilings_gather_gbps(c, n_threads, (size_t)lists.pieces[s],
                                                lists.densities[d]);
                    progress(NULL);
                    print_row(as_json, c, pages, n_threads, lists.pieces[s], lists.densities[d],
                              gbps, ceilings_gather_how(c));
                }
        }
        ceilings_destroy(c);
    }
    return 0;
}
