/* sffn-bench: what the library reaches on this machine, beside what the machine allows. */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "options.h"
#include "sparseffn/version.h"

static const char help[] =
    "Usage: sffn-bench COMMAND [OPTIONS]\n"
    "\n"
    "  ffn       one feed-forward layer: time, bytes, memory limit, dense and oneDNN baselines, "
    "error\n"
    "  stages    where the time of a layer goes: predictor, gate, up, down\n"
    "  kernels   each kernel for each type and ISA, from the cache and from memory\n"
    "  scaling   a layer on 1 to all cores\n"
    "  memory    what the memory gives: streaming, and gathering pieces\n"
    "  trace     a layer with the neurons that a real model had active\n"
    "  compare   the same layer through oneDNN, OpenBLAS, PyTorch and ggml\n"
    "  plot      SVG from the JSON lines of the others\n"
    "  stats     what collecting statistics costs\n"
    "\n"
    "sffn-bench COMMAND --help lists the options of a command. --version prints the version.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"ffn", bench_ffn},         {"stages", bench_stages}, {"kernels", bench_kernels},
        {"scaling", bench_scaling}, {"memory", bench_memory}, {"trace", bench_trace},
        {"compare", bench_compare}, {"plot", bench_plot},     {"stats", bench_stats}};
    if (sffn_abi_version() != SFFN_ABI_VERSION) {
        fprintf(stderr, "sffn-bench: libsparseffn has ABI %u, this program needs %d\n",
                (unsigned)sffn_abi_version(), SFFN_ABI_VERSION);
        return 1;
    }
    if (argc < 2) {
        fputs(help, stderr);
        return EXIT_USAGE;
    }
    int status = -1;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(help, stdout);
        status = 0;
    } else if (strcmp(argv[1], "--version") == 0) {
        printf("sffn-bench %s\n", sffn_version_string());
        status = 0;
    }
    for (size_t i = 0; status < 0 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            status = commands[i].run(argc - 2, argv + 2);
    if (status < 0)
        return usage_error("sffn-bench", "unknown %s \"%s\"; see sffn-bench --help",
                           argv[1][0] == '-' ? "option" : "command", argv[1]);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fputs("sffn-bench: cannot write to standard output\n", stderr);
        return 1;
    }
    return status;
}
