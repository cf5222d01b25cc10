/* args.h  Command line options: one table per subcommand, which also prints its help. */
#ifndef SFFN_CLI_ARGS_H
#define SFFN_CLI_ARGS_H
#include <stddef.h>

enum arg_kind {
    ARG_FLAG,   /* value: int *, set to 1 */
    ARG_TEXT,   /* value: const char ** */
    ARG_UINT,   /* value: uint32_t *, min..max */
    ARG_UINT64, /* value: uint64_t * */
    ARG_NUMBER, /* value: double *, min..max, finite */
    ARG_ISA,    /* value: const char **, a name of sffn_isa_name() */
    ARG_CHOICE, /* value: const char **, one of the words of `operand`, separated by '|' */
    ARG_LIST    /* value: struct arg_list *, one more entry each time the option is given */
};

enum { ARG_LIST_MAX = 16 };
struct arg_list {
    const char *items[ARG_LIST_MAX];
    size_t n;
};

struct arg_option {
    const char *name; /* "--threads" */
    char letter;      /* 'n' for -n, 0: none */
    int kind;
    void *value;         /* holds the default when parsing starts */
    const char *operand; /* "N", "FILE", "dense|sparse"; NULL for flags */
    const char *help;
    double min, max;
};

struct arg_spec {
    const char *usage;   /* "generate MODEL --prompt TEXT [OPTION]..." */
    const char *about;   /* a sentence or two under the usage line, or NULL */
    const char *operand; /* name of the one positional argument, "MODEL", or NULL: none */
    const char **operand_value;
    const struct arg_option *options;
    size_t n_options;
    const char *notes; /* printed at the end of the help, or NULL */
};

enum args_result { ARGS_RUN, ARGS_HELP, ARGS_WRONG };
/* argv[0] is the subcommand. ARGS_HELP: the help was printed; ARGS_WRONG: an error line with a hint was printed. */
int args_parse(const struct arg_spec *spec, int argc, char **argv);
/* For a wrong combination of options: prints the line and the hint, returns CLI_USAGE. */
int args_wrong(const char *format, ...);
#endif /* SFFN_CLI_ARGS_H */
