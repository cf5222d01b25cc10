/* cli.h  What the subcommands of sffn share: exit codes, error lines, memory that is never NULL, a context, a clock. */
#ifndef SFFN_CLI_H
#define SFFN_CLI_H
#include <stddef.h>
#include <stdint.h>
#include "sparseffn/sparseffn.h"

#if defined(__GNUC__)
#define CLI_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define CLI_PRINTF(fmt, args)
#endif

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

int cmd_info(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_prepare(int argc, char **argv);
int cmd_generate(int argc, char **argv);

/* Prints "sffn COMMAND: text" as one line on standard error. Returns CLI_FAILED, so that `return cli_fail(...)` reads well. */
int cli_fail(const char *format, ...) CLI_PRINTF(1, 2);
/* The same for a failed library call: the context's last error, or the status name when it has none. `what` may be NULL. No line for an interruption. */
int cli_fail_status(const sffn_context *ctx, sffn_status status, const char *what);
/* Name of the running subcommand, for messages; NULL before one was recognised. */
extern const char *cli_command;

/* Zeroed memory for n elements. Ends the program with an error line when there is none: free() takes it back. */
void *cli_alloc(size_t n, size_t element_bytes);
/* Grows *array, which holds n elements, so that one more fits. */
void cli_grow(void *array, size_t *capacity, size_t n, size_t element_bytes);

/* A context with n_threads threads (0: all CPUs) and an optional ISA cap; its warnings go to standard error. NULL after an error line. */
sffn_context *cli_context(uint32_t n_threads, const char *max_isa);
sffn_context *cli_context_of(const sffn_context_config *config);
/* Opens a model, or prints the error and returns NULL. */
sffn_model *cli_open_model(sffn_context *ctx, const char *path);

uint64_t cli_now_ns(void);
/* From now on Ctrl-C only sets a flag, the first time. */
void cli_catch_interrupt(void);
int cli_interrupted(void);

/* "1.5 MiB" in `out`, which is returned. */
char *cli_bytes_text(uint64_t bytes, char out[32]);
/* A whole file, with a NUL after it. NULL after an error line. */
char *cli_read_file(const char *path, size_t *bytes);
/* The same for text: a file with a zero byte is an error, too. */
char *cli_read_text(const char *path, size_t *bytes);
/* Flushes standard output; CLI_FAILED when something could not be written. */
int cli_finish_stdout(void);
#endif /* SFFN_CLI_H */
