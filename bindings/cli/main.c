/* main.c  The sffn program: finds the subcommand. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"info", cmd_info, "version, CPU features, chosen kernels, topology, page sizes"},
    {"inspect", cmd_inspect, "layers, shapes, types, activation and sizes of a model file"},
    {"eval", cmd_eval, "density, recall and error per layer, perplexity dense and sparse"},
    {"prepare", cmd_prepare, "convert a model to one GGUF file with neuron-major down rows"},
    {"generate", cmd_generate, "generate text with a llama-architecture model"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out)
{
    fputs(
        "Usage: sffn COMMAND [OPTION]...\n\n"
        "Runs the feed-forward layers of language models, reading only the neurons that matter.\n\n"
        "Commands:\n",
        out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\n'sffn COMMAND --help' explains one command; 'sffn --version' prints the version.\n"
          "Exit status: 0 done, 1 failed, 2 wrong usage.\n",
          out);
}

int main(int argc, char **argv)
{
    if (sffn_abi_version() != SFFN_ABI_VERSION)
        return cli_fail("the library loaded has ABI %u, this program was built for ABI %d",
                        (unsigned)sffn_abi_version(), SFFN_ABI_VERSION);
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return cli_finish_stdout();
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("sffn %s\n", sffn_version_string());
        return cli_finish_stdout();
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            int status;
            cli_command = commands[i].name;
            status = commands[i].run(argc - 1, argv + 1);
            return status == CLI_OK ? cli_finish_stdout() : status;
        }
    }
    cli_fail("unknown command '%s'; expected info, inspect, eval, prepare or generate ('sffn "
             "--help' lists them)",
             argv[1]);
    return CLI_USAGE;
}
