#include "json_out.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "utf8.h"

static void quoted(FILE *file, const char *text, size_t n)
{
    size_t at = 0;
    fputc('"', file);
    while (at < n) {
        uint32_t code = 0;
        int length = utf8_next(text + at, n - at, &code);
        if (length <= 0) {
            fputs("\\ufffd", file);
            at += length < 0 ? (size_t)-length : n - at;
        } else {
            if (code == '"' || code == '\\')
                fprintf(file, "\\%c", (char)code);
            else if (code == '\n')
                fputs("\\n", file);
            else if (code == '\t')
                fputs("\\t", file);
            else if (code < 0x20 || code == 0x7f)
                fprintf(file, "\\u%04x", (unsigned)code);
            else
                fwrite(text + at, 1, (size_t)length, file);
            at += (size_t)length;
        }
    }
    fputc('"', file);
}

static void start(struct json *json, const char *key)
{
    if (json->needs_comma)
        fputs(", ", json->file);
    if (key != NULL) {
        quoted(json->file, key, strlen(key));
        fputs(": ", json->file);
    }
    json->needs_comma = 1;
}

static void open_with(struct json *json, const char *key, char bracket)
{
    start(json, key);
    fputc(bracket, json->file);
    json->needs_comma = 0;
}

static void close_with(struct json *json, char bracket)
{
    fputc(bracket, json->file);
    json->needs_comma = 1;
}

void json_begin(struct json *json, FILE *file)
{
    json->file = file;
    json->needs_comma = 0;
    open_with(json, NULL, '{');
}

void json_end(struct json *json)
{
    fputs("}\n", json->file);
}

void json_object_begin(struct json *json, const char *key)
{
    open_with(json, key, '{');
}

void json_object_end(struct json *json)
{
    close_with(json, '}');
}

void json_array_begin(struct json *json, const char *key)
{
    open_with(json, key, '[');
}

void json_array_end(struct json *json)
{
    close_with(json, ']');
}

void json_text_n(struct json *json, const char *key, const char *text, size_t n)
{
    start(json, key);
    if (text == NULL)
        fputs("null", json->file);
    else
        quoted(json->file, text, n);
}

void json_text(struct json *json, const char *key, const char *text)
{
    json_text_n(json, key, text, text != NULL ? strlen(text) : 0);
}

void json_uint(struct json *json, const char *key, uint64_t value)
{
    start(json, key);
    fprintf(json->file, "%" PRIu64, value);
}

void json_int(struct json *json, const char *key, int64_t value)
{
    start(json, key);
    fprintf(json->file, "%" PRId64, value);
}

void json_number(struct json *json, const char *key, double value)
{
    start(json, key);
    if (isfinite(value))
        fprintf(json->file, "%.10g", value);
    else
        fputs("null", json->file);
}

void json_bool(struct json *json, const char *key, int value)
{
    start(json, key);
    fputs(value ? "true" : "false", json->file);
}
