#include "jsonl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void skip_blanks(const char **at)
{
    *at += strspn(*at, " \t\r\n");
}

/* A string without its quotes; what \u names beyond ASCII becomes '?', for our programs write none. NULL: no string, or no memory. */
static char *read_string(const char **at)
{
    if (**at != '"')
        return NULL;
    const char *p = *at + 1;
    char *text = malloc(strlen(p) + 1);
    size_t n = 0;
    while (text && *p && *p != '"') {
        if (*p != '\\') {
            text[n++] = *p++;
            continue;
        }
        unsigned code = 0;
        p++;
        if (*p == 'u' && sscanf(p + 1, "%4x", &code) == 1 && strlen(p) >= 5) {
            text[n++] = code > 0 && code < 0x80 ? (char)code : '?';
            p += 5;
        } else if (*p) {
            text[n++] = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
            p++;
        }
    }
    if (!text || *p != '"') {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    *at = p + 1;
    return text;
}

static int read_value(const char **at, struct jsonl_value *v)
{
    char *end;
    v->number = (double)NAN;
    if (**at == '"')
        return (v->text = read_string(at)) != NULL;
    if (strncmp(*at, "null", 4) == 0) {
        *at += 4;
        return 1;
    }
    v->number = strtod(*at, &end);
    const int ok = end != *at;
    *at = end;
    return ok;
}

static void row_free(struct jsonl_row *row)
{
    for (size_t i = 0; i < row->n_values; i++) {
        free(row->values[i].key);
        free(row->values[i].text);
    }
    free(row->values);
}

static int read_row(const char *line, struct jsonl_row *row)
{
    skip_blanks(&line);
    if (*line++ != '{')
        return 0;
    for (skip_blanks(&line); *line != '}';) {
        struct jsonl_value *grown = realloc(row->values, (row->n_values + 1) * sizeof *row->values);
        if (!grown)
            return 0;
        row->values = grown;
        struct jsonl_value *v = &row->values[row->n_values++];
        memset(v, 0, sizeof *v);
        v->key = read_string(&line);
        skip_blanks(&line);
        if (!v->key || *line++ != ':')
            return 0;
        skip_blanks(&line);
        if (!read_value(&line, v))
            return 0;
        skip_blanks(&line);
        if (*line == ',') {
            line++;
            skip_blanks(&line);
            if (*line == '}')
                return 0;
        } else if (*line != '}') {
            return 0;
        }
    }
    line++;
    skip_blanks(&line);
    return *line == '\0';
}

static int add_row(struct jsonl *j, const char *line)
{
    struct jsonl_row row = {NULL, 0};
    if (j->n_rows == j->max_rows) {
        const size_t wanted = j->max_rows ? 2 * j->max_rows : 64;
        struct jsonl_row *rows = realloc(j->rows, wanted * sizeof *rows);
        if (!rows)
            return 0;
        j->rows = rows;
        j->max_rows = wanted;
    }
    if (!read_row(line, &row)) {
        row_free(&row);
        return 0;
    }
    j->rows[j->n_rows++] = row;
    return 1;
}

int jsonl_read(struct jsonl *j, const char *command, const char *path)
{
    char *line = NULL;
    size_t size = 0, number = 0;
    int ok = 1;
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(stderr, "%s: cannot open '%s': %s\n", command, path, strerror(errno));
        return 0;
    }
    while (ok && getline(&line, &size, f) > 0) {
        number++;
        if (line[strspn(line, " \t\r\n")] != '\0' && !add_row(j, line)) {
            fprintf(stderr, "%s: '%s', line %zu: expected one flat JSON object\n", command, path,
                    number);
            ok = 0;
        }
    }
    free(line);
    fclose(f);
    return ok;
}

void jsonl_free(struct jsonl *j)
{
    for (size_t i = 0; i < j->n_rows; i++)
        row_free(&j->rows[i]);
    free(j->rows);
    memset(j, 0, sizeof *j);
}

static const struct jsonl_value *find(const struct jsonl_row *row, const char *key)
{
    for (size_t i = 0; i < row->n_values; i++)
        if (strcmp(row->values[i].key, key) == 0)
            return &row->values[i];
    return NULL;
}

const char *jsonl_string(const struct jsonl_row *row, const char *key)
{
    const struct jsonl_value *v = find(row, key);
    return v && v->text ? v->text : "";
}

double jsonl_number(const struct jsonl_row *row, const char *key)
{
    const struct jsonl_value *v = find(row, key);
    return v && !v->text ? v->number : (double)NAN;
}
