#include "args.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

int args_wrong(const char *format, ...)
{
    va_list args;
    char line[512];
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    cli_fail("%s ('sffn %s --help' lists the options)", line, cli_command);
    return CLI_USAGE;
}

static void print_help(const struct arg_spec *spec)
{
    printf("Usage: sffn %s\n", spec->usage);
    if (spec->about != NULL)
        printf("\n%s\n", spec->about);
    printf("\nOptions:\n");
    for (size_t i = 0; i <= spec->n_options; i++) {
        static const struct arg_option help = {"--help",          'h', ARG_FLAG, NULL, NULL,
                                               "print this text", 0,   0};
        const struct arg_option *o = i < spec->n_options ? &spec->options[i] : &help;
        char letter[8] = "    ";
        int n_left;
        const char *text = o->help;
        if (o->letter != 0)
            snprintf(letter, sizeof letter, o->name[0] != '\0' ? "-%c, " : "-%c", o->letter);
        n_left = printf("  %s%s%s", letter, o->name, o->operand != NULL ? " " : "");
        for (const char *operand = o->operand != NULL ? o->operand : ""; *operand != '\0';) {
            size_t n = strcspn(operand, "|") + (strchr(operand, '|') != NULL);
            if (n_left + (int)n > 110) /* many choices */
                n_left = printf("\n%10s", "");
            n_left += printf("%.*s", (int)n, operand);
            operand += n;
        }
        if (n_left > 32)
            printf("\n%33s", "");
        else
            printf("%*s", 33 - n_left, "");
        for (; *text != '\0'; text++) {
            putchar(*text);
            if (*text == '\n')
                printf("%33s", "");
        }
        putchar('\n');
    }
    if (spec->notes != NULL)
        printf("\n%s\n", spec->notes);
}

/* Edit distance of short names, for "did you mean". */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n + 1 > sizeof row / sizeof row[0])
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

static const struct arg_option *find_option(const struct arg_spec *spec, const char *arg,
                                            size_t name_bytes)
{
    for (size_t i = 0; i < spec->n_options; i++) {
        const struct arg_option *o = &spec->options[i];
        if (o->name[0] != '\0' && strlen(o->name) == name_bytes &&
            memcmp(arg, o->name, name_bytes) == 0)
            return o;
        if (o->letter != 0 && name_bytes == 2 && arg[0] == '-' && arg[1] == o->letter)
            return o;
    }
    return NULL;
}

static int unknown_option(const struct arg_spec *spec, const char *arg, size_t name_bytes)
{
    char name[64];
    const char *nearest = NULL;
    size_t best;
    snprintf(name, sizeof name, "%.*s", (int)(name_bytes < 60 ? name_bytes : 60), arg);
    best = 1 + strlen(name) / 3; /* a third of the letters may be wrong */
    for (size_t i = 0; i < spec->n_options; i++) {
        size_t d = distance(name, spec->options[i].name);
        if (d < best) {
            best = d;
            nearest = spec->options[i].name;
        }
    }
    if (nearest != NULL)
        args_wrong("unknown option '%s'; did you mean '%s'?", name, nearest);
    else
        args_wrong("unknown option '%s'", name);
    return ARGS_WRONG;
}

static int is_isa(const char *name)
{
    for (size_t i = 0; sffn_isa_name(i) != NULL; i++)
        if (strcmp(sffn_isa_name(i), name) == 0)
            return 1;
    return 0;
}

static int is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    while (n != 0) {
        size_t word = strcspn(choices, "|");
        if (word == n && memcmp(choices, value, n) == 0)
            return 1;
        if (choices[word] == '\0')
            return 0;
        choices += word + 1;
    }
    return 0;
}

static int set_value(const struct arg_option *o, const char *name, const char *value)
{
    char *end;
    errno = 0;
    if (o->kind == ARG_TEXT) {
        *(const char **)o->value = value;
    } else if (o->kind == ARG_LIST) {
        struct arg_list *list = o->value;
        if (list->n == ARG_LIST_MAX) {
            args_wrong("%s is given more than %d times", name, ARG_LIST_MAX);
            return ARGS_WRONG;
        }
        list->items[list->n++] = value;
    } else if (o->kind == ARG_CHOICE) {
        if (!is_choice(o->operand, value)) {
            args_wrong("%s is '%s', expected %s", name, value, o->operand);
            return ARGS_WRONG;
        }
        *(const char **)o->value = value;
    } else if (o->kind == ARG_ISA) {
        if (!is_isa(value)) {
            args_wrong(
                "%s is '%s', which is no instruction set of this build: 'sffn info' lists them",
                name, value);
            return ARGS_WRONG;
        }
        *(const char **)o->value = value;
    } else if (o->kind == ARG_NUMBER) {
        double number = strtod(value, &end);
        if (*value == '\0' || *end != '\0' || !isfinite(number) || number < o->min ||
            number > o->max) {
            args_wrong("%s is '%s', expected a number from %g to %g", name, value, o->min, o->max);
            return ARGS_WRONG;
        }
        *(double *)o->value = number;
    } else {
        unsigned long long number = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 ||
            (o->kind == ARG_UINT && ((double)number < o->min || (double)number > o->max))) {
            if (o->kind == ARG_UINT64)
                args_wrong("%s is '%s', expected a whole number up to %llu", name, value,
                           (unsigned long long)UINT64_MAX);
            else
                args_wrong("%s is '%s', expected a whole number from %.0f to %.0f", name, value,
                           o->min, o->max);
            return ARGS_WRONG;
        }
        if (o->kind == ARG_UINT64)
            *(uint64_t *)o->value = number;
        else
            *(uint32_t *)o->value = (uint32_t)number;
    }
    return ARGS_RUN;
}

int args_parse(const struct arg_spec *spec, int argc, char **argv)
{
    int options_end = 0;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *equals = NULL, *value;
        const struct arg_option *o;
        size_t name_bytes;
        if (options_end || arg[0] != '-' || arg[1] == '\0') {
            if (spec->operand == NULL || *spec->operand_value != NULL) {
                args_wrong("unexpected argument '%s'; expected %s", arg,
                           spec->operand != NULL ? "one model only" : "options only");
                return ARGS_WRONG;
            }
            *spec->operand_value = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            options_end = 1;
            continue;
        }
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(spec);
            return ARGS_HELP;
        }
        if (arg[1] == '-')
            equals = strchr(arg, '=');
        name_bytes = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
        o = find_option(spec, arg, name_bytes);
        if (o == NULL)
            return unknown_option(spec, arg, name_bytes);
        if (o->kind == ARG_FLAG) {
            if (equals != NULL) {
                args_wrong("%s takes no value", o->name);
                return ARGS_WRONG;
            }
            *(int *)o->value = 1;
            continue;
        }
        if (equals != NULL) {
            value = equals + 1;
        } else if (i + 1 >= argc) {
            args_wrong("%s needs a value: %s", arg, o->operand);
            return ARGS_WRONG;
        } else {
            value = argv[++i];
            /* Almost surely a forgotten value; who means it writes --prompt=--json. */
            if (value[0] == '-' && find_option(spec, value, strlen(value)) != NULL) {
                args_wrong("%s needs a value (%s) before %s; write %s=%s if that is the value", arg,
                           o->operand, value, o->name, value);
                return ARGS_WRONG;
            }
        }
        if (set_value(o, equals != NULL ? o->name : arg, value) != ARGS_RUN)
            return ARGS_WRONG;
    }
    if (spec->operand != NULL && *spec->operand_value == NULL) {
        args_wrong("%s is missing; expected 'sffn %s'", spec->operand, spec->usage);
        return ARGS_WRONG;
    }
    return ARGS_RUN;
}
