#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const char *command, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

int options_parse(const char *command, int argc, char **argv, struct option_def *defs,
                  size_t n_defs)
{
    for (int i = 0; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        struct option_def *def = NULL;
        for (size_t d = 0; d < n_defs && !def; d++)
            if (strlen(defs[d].name) == length && strncmp(defs[d].name, argv[i], length) == 0)
                def = &defs[d];
        if (!def)
            return usage_error(command, "unknown %s \"%s\"; see %s --help",
                               argv[i][0] == '-' ? "option" : "argument", argv[i], command);
        if (def->value)
            return usage_error(command, "%s is given twice", def->name);
        if (!def->takes_value) {
            if (equals)
                return usage_error(command, "%s takes no value", def->name);
            def->value = "";
        } else if (equals) {
            def->value = equals + 1;
        } else if (i + 1 < argc) {
            def->value = argv[++i];
        } else {
            return usage_error(command, "%s needs a value", def->name);
        }
        if (def->takes_value && def->value[0] == '\0')
            return usage_error(command, "%s is empty", def->name);
    }
    return 0;
}

const char *option_value(const struct option_def *defs, size_t n_defs, const char *name)
{
    for (size_t d = 0; d < n_defs; d++)
        if (strcmp(defs[d].name, name) == 0)
            return defs[d].value;
    return NULL;
}

int parse_uint(const char *command, const char *option, const char *text, uint64_t min,
               uint64_t max, uint64_t *out)
{
    char *end = NULL;
    unsigned long long value = 0;
    int is_number = text[0] >= '0' && text[0] <= '9'; /* strtoull takes signs and blanks too */
    if (is_number) {
        errno = 0;
        value = strtoull(text, &end, 10);
        is_number = *end == '\0' && errno == 0;
    }
    if (!is_number || value < min || value > max)
        return usage_error(command, "%s is \"%s\"; expected a whole number in %llu..%llu", option,
                           text, (unsigned long long)min, (unsigned long long)max);
    *out = value;
    return 0;
}

int parse_double(const char *command, const char *option, const char *text, double min, double max,
                 double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < min || value > max)
        return usage_error(command, "%s is \"%s\"; expected a number in %g..%g", option, text, min,
                           max);
    *out = value;
    return 0;
}

int next_item(const char **list, char *item, size_t size)
{
    if (!*list)
        return 0;
    size_t length = strcspn(*list, ",");
    snprintf(item, size, "%.*s", (int)length, *list);
    *list = (*list)[length] == ',' ? *list + length + 1 : NULL;
    return 1;
}
