/* info.c  What this library can do on this machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "json_out.h"
#include "table.h"

/* 64 MiB of bf16: what huge pages does the system give? */
enum { PROBE_ROWS = 16384, PROBE_COLS = 2048 };

/* Packs an empty matrix, so that the context has weights to count. NULL after an error line. */
static sffn_matmul *make_probe(sffn_context *ctx)
{
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    sffn_matmul *probe = NULL;
    void *zeros = cli_alloc((size_t)PROBE_ROWS * PROBE_COLS, 2);
    sffn_status status;
    config.n_rows = PROBE_ROWS;
    config.n_cols = PROBE_COLS;
    config.weights.data = zeros;
    config.weights.dtype = SFFN_BF16;
    status = sffn_matmul_create(ctx, &config, &probe);
    if (status != SFFN_OK)
        cli_fail_status(ctx, status, NULL);
    free(zeros);
    return probe;
}

/* "rows_dot_q8_0_avx512_vnni" is operation "rows_dot_q8_0" on ISA "avx512_vnni": the longest ISA name at its end. */
static const char *kernel_isa(const char *kernel, size_t *operation_bytes)
{
    const char *found = NULL;
    size_t n = strlen(kernel);
    *operation_bytes = n;
    for (size_t i = 0; sffn_isa_name(i) != NULL; i++) {
        const char *isa = sffn_isa_name(i);
        size_t length = strlen(isa);
        if (length + 1 < n && kernel[n - length - 1] == '_' &&
            strcmp(kernel + n - length, isa) == 0 && n - length - 1 < *operation_bytes) {
            found = isa;
            *operation_bytes = n - length - 1;
        }
    }
    return found;
}

static void print_json(const sffn_context *ctx, const sffn_context_info *info)
{
    struct json json;
    const char *word = info->cpu_features != NULL ? info->cpu_features : "";
    json_begin(&json, stdout);
    json_text(&json, "name", "info");
    json_text(&json, "version", sffn_version_string());
    json_uint(&json, "abi_version", sffn_abi_version());
    json_array_begin(&json, "cpu_features");
    while (*word != '\0') {
        size_t n = strcspn(word, " ");
        if (n != 0)
            json_text_n(&json, NULL, word, n);
        word += n + (word[n] == ' ');
    }
    json_array_end(&json);
    json_text(&json, "isa", info->isa);
    json_array_begin(&json, "isas");
    for (size_t i = 0; sffn_isa_name(i) != NULL; i++) {
        json_object_begin(&json, NULL);
        json_text(&json, "name", sffn_isa_name(i));
        json_bool(&json, "is_supported", sffn_isa_is_supported(i));
        json_object_end(&json);
    }
    json_array_end(&json);
    json_array_begin(&json, "kernels");
    for (size_t i = 0; i < sffn_context_n_kernels(ctx); i++) {
        const char *name = sffn_context_kernel_name(ctx, i);
        size_t n;
        const char *isa = kernel_isa(name, &n);
        json_object_begin(&json, NULL);
        json_text(&json, "name", name);
        json_text_n(&json, "operation", name, n);
        json_text(&json, "isa", isa);
        json_object_end(&json);
    }
    json_array_end(&json);
    json_uint(&json, "n_threads", info->n_threads);
    json_uint(&json, "n_cpus", info->n_cpus);
    json_uint(&json, "n_cores", info->n_cores);
    json_uint(&json, "n_numa_nodes", info->n_numa_nodes);
    json_uint(&json, "l1d_bytes", info->l1d_bytes);
    json_uint(&json, "l2_bytes", info->l2_bytes);
    json_uint(&json, "llc_bytes", info->llc_bytes);
    json_uint(&json, "page_bytes", info->page_bytes);
    json_uint(&json, "huge_page_bytes", info->huge_page_bytes);
    json_uint(&json, "probe_bytes", info->weight_bytes);
    json_uint(&json, "probe_huge_bytes", info->weight_huge_bytes);
    json_bool(&json, "has_hwloc", info->has_hwloc);
    json_bool(&json, "has_onednn", info->has_onednn);
    json_end(&json);
}

static void print_kernels(const sffn_context *ctx)
{
    struct table table;
    table_begin(&table, "ll");
    table_cells(&table, "operation|kernel of ISA");
    for (size_t i = 0; i < sffn_context_n_kernels(ctx); i++) {
        const char *name = sffn_context_kernel_name(ctx, i);
        size_t n;
        const char *isa = kernel_isa(name, &n);
        table_cell(&table, "%.*s", (int)n, name);
        table_cell(&table, "%s", isa != NULL ? isa : "?");
    }
    table_end(&table, stdout, 1);
}

static void print_text(const sffn_context *ctx, const sffn_context_info *info)
{
    char a[32], b[32], c[32];
    printf("version       %s (ABI %u)\n", sffn_version_string(), (unsigned)sffn_abi_version());
    printf("CPU features  %s\n", info->cpu_features != NULL ? info->cpu_features : "");
    printf("ISA           %s, of", info->isa);
    for (size_t i = 0; sffn_isa_name(i) != NULL; i++)
        printf(" %s%s", sffn_isa_name(i), sffn_isa_is_supported(i) ? "" : " (not on this CPU)");
    printf("\ntopology      %u CPUs, %u cores, %u NUMA nodes; %u threads per call\n",
           (unsigned)info->n_cpus, (unsigned)info->n_cores, (unsigned)info->n_numa_nodes,
           (unsigned)info->n_threads);
    printf("data caches   L1 %s, L2 %s, last level %s\n", cli_bytes_text(info->l1d_bytes, a),
           cli_bytes_text(info->l2_bytes, b), cli_bytes_text(info->llc_bytes, c));
    printf("pages         %s; huge pages %s\n", cli_bytes_text(info->page_bytes, a),
           info->huge_page_bytes != 0 ? cli_bytes_text(info->huge_page_bytes, b) : "none");
    if (info->weight_bytes != 0)
        printf("huge pages    obtained for %s of a test block of %s\n",
               cli_bytes_text(info->weight_huge_bytes, a), cli_bytes_text(info->weight_bytes, b));
    printf("hwloc         %s\n", info->has_hwloc ? "yes" : "no");
    printf("oneDNN        %s\n\n", info->has_onednn ? "yes" : "no");
    print_kernels(ctx);
}

int cmd_info(int argc, char **argv)
{
    const char *isa = NULL;
    uint32_t n_threads = 0;
    int json_wanted = 0;
    /* clang-format off */
    const struct arg_option options[] = {
        {"--threads", 't', ARG_UINT, &n_threads, "N", "0: all CPUs (default)", 0, 512},
        {"--isa", 0, ARG_ISA, &isa, "NAME", "show what is chosen when nothing better than this is allowed", 0, 0},
        {"--json", 0, ARG_FLAG, &json_wanted, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct arg_spec spec = {"info [OPTION]...", "Prints version, CPU features, chosen kernels, topology and page sizes.", NULL, NULL,
                                  options, sizeof options / sizeof options[0],
                                  "The test block shows whether packed weights really get huge pages (see\n"
                                  "/sys/kernel/mm/transparent_hugepage/enabled)."};
    /* clang-format on */
    sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    sffn_context *ctx;
    sffn_matmul *probe;
    sffn_status status;
    int parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    config.n_threads = n_threads;
    config.max_isa = isa;
    config.use_onednn = 1; /* whether it could be had */
    ctx = cli_context_of(&config);
    if (ctx == NULL)
        return CLI_FAILED;
    probe = make_probe(ctx);
    status = sffn_context_get_info(ctx, &info);
    if (status != SFFN_OK)
        cli_fail_status(ctx, status, NULL);
    else if (json_wanted)
        print_json(ctx, &info);
    else
        print_text(ctx, &info);
    sffn_matmul_destroy(probe);
    sffn_context_destroy(ctx);
    return status == SFFN_OK && probe != NULL ? CLI_OK : CLI_FAILED;
}
