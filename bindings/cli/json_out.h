/* json_out.h  Writes one JSON object per line. Keys are NULL inside arrays. */
#ifndef SFFN_CLI_JSON_OUT_H
#define SFFN_CLI_JSON_OUT_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
    FILE *file;
    int needs_comma;
};
void json_begin(struct json *json, FILE *file); /* opens the outer object */
void json_end(struct json *json);               /* closes it and ends the line */
void json_object_begin(struct json *json, const char *key);
void json_object_end(struct json *json);
void json_array_begin(struct json *json, const char *key);
void json_array_end(struct json *json);
/* NULL gives null; bytes that are no UTF-8 become U+FFFD. */
void json_text(struct json *json, const char *key, const char *text);
void json_text_n(struct json *json, const char *key, const char *text, size_t n);
void json_uint(struct json *json, const char *key, uint64_t value);
void json_int(struct json *json, const char *key, int64_t value);
void json_number(struct json *json, const char *key, double value); /* null when not finite */
void json_bool(struct json *json, const char *key, int value);
#endif /* SFFN_CLI_JSON_OUT_H */
