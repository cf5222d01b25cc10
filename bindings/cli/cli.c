#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *cli_command;

/* One line without control characters, whatever a file's names hold. */
static void print_error(const char *format, va_list args)
{
    char line[2048];
    vsnprintf(line, sizeof line, format, args);
    for (char *c = line; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    fflush(stdout);
    fprintf(stderr, "sffn%s%s: %s\n", cli_command != NULL ? " " : "",
            cli_command != NULL ? cli_command : "", line);
}

int cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_error(format, args);
    va_end(args);
    return CLI_FAILED;
}

int cli_fail_status(const sffn_context *ctx, sffn_status status, const char *what)
{
    const char *text = sffn_context_last_error(ctx);
    if (status == SFFN_ERR_INTERRUPTED)
        return CLI_FAILED; /* the user knows; the command says what is kept */
    if (text == NULL || text[0] == '\0')
        text = sffn_status_name(status);
    return what != NULL ? cli_fail("%s: %s", what, text) : cli_fail("%s", text);
}

void *cli_alloc(size_t n, size_t element_bytes)
{
    void *memory = calloc(n != 0 ? n : 1, element_bytes);
    if (memory == NULL) {
        cli_fail("out of memory: no room for %zu elements of %zu bytes", n, element_bytes);
        exit(CLI_FAILED);
    }
    return memory;
}

void cli_grow(void *array, size_t *capacity, size_t n, size_t element_bytes)
{
    void *memory;
    size_t larger = *capacity;
    if (n < *capacity)
        return;
    while (larger <= n)
        larger = larger < 64 ? 64 : larger * 2;
    memcpy(&memory, array, sizeof memory);
    memory = larger > SIZE_MAX / element_bytes ? NULL : realloc(memory, larger * element_bytes);
    if (memory == NULL) {
        cli_fail("out of memory: no room for %zu elements of %zu bytes", larger, element_bytes);
        exit(CLI_FAILED);
    }
    memcpy(array, &memory, sizeof memory);
    *capacity = larger;
}

static void log_warning(void *user, int32_t level, const char *text)
{
    (void)user;
    /* Errors come back as a status, and not all of them are the user's business. */
    if (level == SFFN_LOG_WARNING)
        fprintf(stderr, "sffn: warning: %s\n", text);
}

sffn_context *cli_context(uint32_t n_threads, const char *max_isa)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = n_threads;
    config.max_isa = max_isa;
    config.log = log_warning;
    return cli_context_of(&config);
}

sffn_context *cli_context_of(const sffn_context_config *config)
{
    sffn_context *ctx = NULL;
    sffn_status status = sffn_context_create(config, &ctx);
    if (status != SFFN_OK) {
        cli_fail_status(NULL, status, NULL);
        return NULL;
    }
    return ctx;
}

sffn_model *cli_open_model(sffn_context *ctx, const char *path)
{
    sffn_model *model = NULL;
    sffn_status status = sffn_model_open(ctx, path, &model);
    if (status != SFFN_OK) {
        cli_fail_status(ctx, status, NULL);
        return NULL;
    }
    return model;
}

uint64_t cli_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void cli_catch_interrupt(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = (int)SA_RESETHAND; /* a second Ctrl-C ends the program at once */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int cli_interrupted(void)
{
    return interrupted != 0;
}

char *cli_bytes_text(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024.0 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024.0;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

char *cli_read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t n = 0, capacity = 0, got;
    if (file == NULL) {
        cli_fail("cannot open '%s': %s", path, strerror(errno));
        return NULL;
    }
    do {
        cli_grow(&text, &capacity, n + 65536, 1);
        got = fread(text + n, 1, 65536, file);
        n += got;
    } while (got != 0);
    if (ferror(file)) {
        cli_fail("cannot read '%s': %s", path, strerror(errno));
        fclose(file);
        free(text);
        return NULL;
    }
    fclose(file);
    text[n] = '\0';
    *bytes = n;
    return text;
}

char *cli_read_text(const char *path, size_t *bytes)
{
    char *text = cli_read_file(path, bytes);
    const size_t length = text != NULL ? strlen(text) : 0;
    if (text == NULL || length == *bytes)
        return text;
    cli_fail("'%s' is not text: byte %zu is 0", path, length);
    free(text);
    return NULL;
}

int cli_finish_stdout(void)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return cli_fail("cannot write to standard output: %s", strerror(errno));
    return CLI_OK;
}
