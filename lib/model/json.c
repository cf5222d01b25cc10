#include "model/json.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "model/name_index.h"

/* Length of the UTF-8 sequence at p (n > 0 bytes left), 0 when it is none. */
static size_t utf8_bytes(const uint8_t *p, size_t n)
{
    const uint8_t c = p[0];
    size_t length;
    /* Bounds of the second byte: they shut out overlong forms, surrogates and what lies over
     * U+10FFFF. */
    uint8_t low = 0x80, high = 0xbf;
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf) {
        length = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        length = 3;
        low = c == 0xe0 ? 0xa0 : low;
        high = c == 0xed ? 0x9f : high;
    } else if (c >= 0xf0 && c <= 0xf4) {
        length = 4;
        low = c == 0xf0 ? 0x90 : low;
        high = c == 0xf4 ? 0x8f : high;
    } else {
        return 0;
    }
    if (length > n || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

int sffn_utf8_is_valid(const char *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;
    while (i < bytes) {
        const size_t length = utf8_bytes(p + i, bytes - i);
        if (!length)
            return 0;
        i += length;
    }
    return 1;
}

/* Two passes over the same private text: the first checks everything and counts, the second
 * stores. */
struct parser {
    const struct sffn_json *json;
    const uint8_t *text;
    size_t bytes;
    size_t pos;
    struct sffn_json_node *nodes; /* NULL in the first pass */
    char *plain;
    size_t n_nodes;
    size_t n_plain;
    size_t most_members; /* of an object */
};

static sffn_status fail_at(const struct parser *p, size_t pos, const char *reason)
{
    return sffn_file_fail(p->json->file, SFFN_ERR_FORMAT, p->json->offset + pos, "JSON: %s",
                          reason);
}

static sffn_status fail_expected(const struct parser *p, const char *expected)
{
    if (p->pos == p->bytes)
        return sffn_file_fail(p->json->file, SFFN_ERR_FORMAT, p->json->offset + p->pos,
                              "JSON: expected %s, but the text ends", expected);
    struct sffn_quoted c;
    return sffn_file_fail(p->json->file, SFFN_ERR_FORMAT, p->json->offset + p->pos,
                          "JSON: expected %s, found '%s'", expected,
                          sffn_quote(&c, p->text + p->pos, 1));
}

static void skip_space(struct parser *p)
{
    while (p->pos < p->bytes && (p->text[p->pos] == ' ' || p->text[p->pos] == '\n' ||
                                 p->text[p->pos] == '\r' || p->text[p->pos] == '\t'))
        p->pos++;
}

static size_t add_node(struct parser *p, int kind, size_t at, size_t bytes, int is_plain)
{
    const size_t i = p->n_nodes++;
    if (p->nodes)
        p->nodes[i] = (struct sffn_json_node){(uint8_t)kind, (uint8_t)is_plain, 0,
                                              (uint32_t)at,  (uint32_t)bytes,   (uint32_t)i + 1};
    return i;
}

static int hex4(const struct parser *p, size_t pos, uint32_t *value)
{
    if (p->bytes - pos < 4)
        return 0;
    *value = 0;
    for (size_t i = pos; i < pos + 4; i++) {
        const uint8_t c = p->text[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = c - (uint32_t)'0';
        else if (c >= 'a' && c <= 'f')
            digit = c - (uint32_t)'a' + 10;
        else if (c >= 'A' && c <= 'F')
            digit = c - (uint32_t)'A' + 10;
        else
            return 0;
        *value = *value << 4 | digit;
    }
    return 1;
}

static void put_plain(struct parser *p, size_t *n, uint32_t byte)
{
    if (p->plain)
        p->plain[p->n_plain + *n] = (char)byte;
    ++*n;
}

static void put_code_point(struct parser *p, size_t *n, uint32_t c)
{
    if (c < 0x80) {
        put_plain(p, n, c);
    } else if (c < 0x800) {
        put_plain(p, n, 0xc0 | c >> 6);
        put_plain(p, n, 0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        put_plain(p, n, 0xe0 | c >> 12);
        put_plain(p, n, 0x80 | (c >> 6 & 0x3f));
        put_plain(p, n, 0x80 | (c & 0x3f));
    } else {
        put_plain(p, n, 0xf0 | c >> 18);
        put_plain(p, n, 0x80 | (c >> 12 & 0x3f));
        put_plain(p, n, 0x80 | (c >> 6 & 0x3f));
        put_plain(p, n, 0x80 | (c & 0x3f));
    }
}

/* The escape after a backslash; p->pos stands on the letter. */
static sffn_status parse_escape(struct parser *p, size_t *n)
{
    if (p->pos == p->bytes)
        return fail_expected(p, "the rest of an escape");
    static const char letters[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    const uint8_t c = p->text[p->pos];
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        put_plain(p, n, (uint8_t)meaning[letter - letters]);
        p->pos++;
        return SFFN_OK;
    }
    uint32_t first, second;
    if (c != 'u')
        return fail_expected(p, "an escape");
    if (!hex4(p, p->pos + 1, &first))
        return fail_at(p, p->pos, "\\u wants four hexadecimal digits");
    p->pos += 5;
    if (first >= 0xd800 && first <= 0xdfff) {
        if (first > 0xdbff || p->bytes - p->pos < 6 || p->text[p->pos] != '\\' ||
            p->text[p->pos + 1] != 'u' || !hex4(p, p->pos + 2, &second) || second < 0xdc00 ||
            second > 0xdfff)
            return fail_at(p, p->pos - 6, "half of a surrogate pair");
        p->pos += 6;
        first = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    }
    put_code_point(p, n, first);
    return SFFN_OK;
}

/* p->pos stands on the opening quote. */
static sffn_status parse_string(struct parser *p)
{
    const size_t start = ++p->pos;
    while (p->pos < p->bytes && p->text[p->pos] != '"' && p->text[p->pos] != '\\') {
        const size_t length = utf8_bytes(p->text + p->pos, p->bytes - p->pos);
        if (!length)
            return fail_at(p, p->pos, "invalid UTF-8");
        if (p->text[p->pos] < 0x20)
            return fail_at(p, p->pos, "control character in a string");
        p->pos += length;
    }
    if (p->pos < p->bytes && p->text[p->pos] == '"') {
        add_node(p, SFFN_JSON_STRING, start, p->pos - start, 0);
        p->pos++;
        return SFFN_OK;
    }
    size_t n = p->pos - start; /* unescaped bytes so far; never more than were read */
    if (p->plain)
        memcpy(p->plain + p->n_plain, p->text + start, n);
    while (p->pos < p->bytes && p->text[p->pos] != '"') {
        if (p->text[p->pos] == '\\') {
            p->pos++;
            const sffn_status status = parse_escape(p, &n);
            if (status != SFFN_OK)
                return status;
            continue;
        }
        const size_t length = utf8_bytes(p->text + p->pos, p->bytes - p->pos);
        if (!length)
            return fail_at(p, p->pos, "invalid UTF-8");
        if (p->text[p->pos] < 0x20)
            return fail_at(p, p->pos, "control character in a string");
        for (size_t i = 0; i < length; i++)
            put_plain(p, &n, p->text[p->pos++]);
    }
    if (p->pos == p->bytes)
        return fail_at(p, start - 1, "a string does not end");
    add_node(p, SFFN_JSON_STRING, p->n_plain, n, 1);
    p->n_plain += n;
    p->pos++;
    return SFFN_OK;
}

static size_t skip_digits(struct parser *p)
{
    const size_t start = p->pos;
    while (p->pos < p->bytes && p->text[p->pos] >= '0' && p->text[p->pos] <= '9')
        p->pos++;
    return p->pos - start;
}

static sffn_status parse_number(struct parser *p)
{
    const size_t start = p->pos;
    if (p->text[p->pos] == '-')
        p->pos++;
    const size_t whole = p->pos;
    const size_t n_digits = skip_digits(p);
    if (n_digits == 0)
        return fail_expected(p, "a digit");
    if (n_digits > 1 && p->text[whole] == '0')
        return fail_at(p, whole, "a number starts with 0");
    if (p->pos < p->bytes && p->text[p->pos] == '.') {
        p->pos++;
        if (skip_digits(p) == 0)
            return fail_expected(p, "a digit");
    }
    if (p->pos < p->bytes && (p->text[p->pos] == 'e' || p->text[p->pos] == 'E')) {
        p->pos++;
        if (p->pos < p->bytes && (p->text[p->pos] == '+' || p->text[p->pos] == '-'))
            p->pos++;
        if (skip_digits(p) == 0)
            return fail_expected(p, "a digit");
    }
    add_node(p, SFFN_JSON_NUMBER, start, p->pos - start, 0);
    return SFFN_OK;
}

static sffn_status parse_word(struct parser *p)
{
    static const struct {
        const char *word;
        size_t bytes;
        int kind;
    } words[] = {
        {"null", 4, SFFN_JSON_NULL}, {"false", 5, SFFN_JSON_FALSE}, {"true", 4, SFFN_JSON_TRUE}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (p->bytes - p->pos >= words[i].bytes &&
            memcmp(p->text + p->pos, words[i].word, words[i].bytes) == 0) {
            add_node(p, words[i].kind, p->pos, words[i].bytes, 0);
            p->pos += words[i].bytes;
            return SFFN_OK;
        }
    }
    return fail_expected(p, "a value");
}

static sffn_status parse_key(struct parser *p)
{
    skip_space(p);
    if (p->pos == p->bytes || p->text[p->pos] != '"')
        return fail_expected(p, "a key");
    const sffn_status status = parse_string(p);
    if (status != SFFN_OK)
        return status;
    skip_space(p);
    if (p->pos == p->bytes || p->text[p->pos] != ':')
        return fail_expected(p, "':'");
    p->pos++;
    return SFFN_OK;
}

static sffn_status walk(struct parser *p)
{
    struct {
        size_t node, members;
        int is_object;
    } stack[SFFN_JSON_MAX_DEPTH];
    size_t depth = 0;
    for (;;) {
        /* A value starts here. */
        skip_space(p);
        if (p->pos == p->bytes)
            return fail_expected(p, "a value");
        const uint8_t c = p->text[p->pos];
        sffn_status status = SFFN_OK;
        if (c == '{' || c == '[') {
            if (depth == SFFN_JSON_MAX_DEPTH)
                return fail_at(p, p->pos, "nested too deeply");
            stack[depth].node =
                add_node(p, c == '{' ? SFFN_JSON_OBJECT : SFFN_JSON_ARRAY, p->pos, 0, 0);
            stack[depth].members = 0;
            stack[depth].is_object = c == '{';
            depth++;
            p->pos++;
            skip_space(p);
            if (p->pos == p->bytes || p->text[p->pos] != (c == '{' ? '}' : ']')) {
                if (c == '{')
                    status = parse_key(p);
                if (status != SFFN_OK)
                    return status;
                continue;
            }
            p->pos++;
            depth--; /* empty; its node is already right */
        } else {
            if (c == '"')
                status = parse_string(p);
            else if (c == '-' || (c >= '0' && c <= '9'))
                status = parse_number(p);
            else
                status = parse_word(p);
            if (status != SFFN_OK)
                return status;
        }
        /* A value has ended: go on in its container, or close containers. */
        for (;;) {
            if (depth == 0)
                return SFFN_OK;
            const int is_object = stack[depth - 1].is_object;
            stack[depth - 1].members++;
            skip_space(p);
            if (p->pos < p->bytes && p->text[p->pos] == ',') {
                p->pos++;
                if (is_object && (status = parse_key(p)) != SFFN_OK)
                    return status;
                break;
            }
            if (p->pos == p->bytes || p->text[p->pos] != (is_object ? '}' : ']'))
                return fail_expected(p, is_object ? "',' or '}'" : "',' or ']'");
            p->pos++;
            depth--;
            if (is_object && stack[depth].members > p->most_members)
                p->most_members = stack[depth].members;
            if (p->nodes) {
                p->nodes[stack[depth].node].bytes = (uint32_t)stack[depth].members;
                p->nodes[stack[depth].node].end = (uint32_t)p->n_nodes;
            }
        }
    }
}

static struct sffn_name node_name(const void *items, uint32_t i)
{
    struct sffn_name name;
    name.text = sffn_json_text(items, i, &name.bytes);
    return name;
}

static sffn_status refuse_duplicate_keys(const struct sffn_json *json, size_t most_members)
{
    struct sffn_arena scratch = {json->file->ctx, NULL, 0};
    struct sffn_name_entry *order = sffn_arena_alloc(&scratch, most_members, 2 * sizeof(*order));
    sffn_status status = order ? SFFN_OK : sffn_no_memory(json->file->ctx, json->file->path);
    for (uint32_t i = 0; i < json->n_nodes && status == SFFN_OK; i++) {
        if (json->nodes[i].kind != SFFN_JSON_OBJECT || json->nodes[i].bytes < 2)
            continue;
        size_t n = 0;
        uint32_t twice[2];
        for (uint32_t key = i + 1; key < json->nodes[i].end; key = json->nodes[key + 1].end)
            order[n++].item = key;
        if (sffn_name_sort(json, node_name, order, order + most_members, n, twice)) {
            struct sffn_quoted text;
            const struct sffn_name name = node_name(json, twice[0]);
            status = sffn_file_fail(json->file, SFFN_ERR_FORMAT, sffn_json_offset(json, twice[1]),
                                    "JSON: key '%s' appears twice in one object",
                                    sffn_quote(&text, name.text, name.bytes));
        }
    }
    sffn_arena_free(&scratch);
    return status;
}

sffn_status sffn_json_parse(const struct sffn_file *file, size_t offset, size_t bytes,
                            struct sffn_arena *arena, struct sffn_json *json)
{
    *json = (struct sffn_json){file, offset, NULL, NULL, NULL, 0};
    if (bytes > UINT32_MAX / 2)
        return sffn_file_fail(file, SFFN_ERR_FORMAT, offset, "JSON: %zu bytes are too many", bytes);
    char *text = sffn_arena_text(arena, file->data + offset, bytes);
    if (!text)
        return sffn_no_memory(file->ctx, file->path);
    json->text = text;
    struct parser p = {json, (const uint8_t *)text, bytes, 0, NULL, NULL, 0, 0, 0};
    sffn_status status = walk(&p);
    if (status != SFFN_OK)
        return status;
    skip_space(&p);
    if (p.pos != p.bytes)
        return fail_expected(&p, "the end of the text");

    struct sffn_json_node *nodes = sffn_arena_alloc(arena, p.n_nodes, sizeof(*nodes));
    char *plain = sffn_arena_alloc(arena, p.n_plain, 1);
    if (!nodes || !plain)
        return sffn_no_memory(file->ctx, file->path);
    const size_t most_members = p.most_members;
    p = (struct parser){json, (const uint8_t *)text, bytes, 0, nodes, plain, 0, 0, 0};
    status = walk(&p);
    if (status != SFFN_OK)
        return status;
    json->nodes = nodes;
    json->plain = plain;
    json->n_nodes = (uint32_t)p.n_nodes;
    return refuse_duplicate_keys(json, most_members);
}

uint64_t sffn_json_offset(const struct sffn_json *json, uint32_t node)
{
    /* An unescaped string has lost its place: take that of the next value that has one. */
    while (node < json->n_nodes && json->nodes[node].is_plain)
        node++;
    return json->offset + (node < json->n_nodes ? json->nodes[node].at : 0);
}

const char *sffn_json_text(const struct sffn_json *json, uint32_t node, size_t *bytes)
{
    const struct sffn_json_node *n = &json->nodes[node];
    *bytes = n->bytes;
    return (n->is_plain ? json->plain : json->text) + n->at;
}

int sffn_json_is(const struct sffn_json *json, uint32_t node, const char *text)
{
    size_t bytes;
    if (json->nodes[node].kind != SFFN_JSON_STRING)
        return 0;
    const char *value = sffn_json_text(json, node, &bytes);
    return bytes == strlen(text) && memcmp(value, text, bytes) == 0;
}

uint32_t sffn_json_get(const struct sffn_json *json, uint32_t object, const char *key)
{
    if (json->nodes[object].kind != SFFN_JSON_OBJECT)
        return 0;
    for (uint32_t i = object + 1; i < json->nodes[object].end; i = json->nodes[i + 1].end)
        if (sffn_json_is(json, i, key))
            return i + 1;
    return 0;
}

int sffn_json_u64(const struct sffn_json *json, uint32_t node, uint64_t *value)
{
    if (json->nodes[node].kind != SFFN_JSON_NUMBER)
        return 0;
    size_t bytes;
    const char *text = sffn_json_text(json, node, &bytes);
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9' || !sffn_checked_mul_u64(sum, 10, &sum) ||
            !sffn_checked_add_u64(sum, (uint64_t)(text[i] - '0'), &sum))
            return 0;
    }
    *value = sum;
    return 1;
}

int sffn_json_i64(const struct sffn_json *json, uint32_t node, int64_t *value)
{
    if (json->nodes[node].kind != SFFN_JSON_NUMBER)
        return 0;
    size_t bytes;
    const char *text = sffn_json_text(json, node, &bytes);
    const int is_negative = text[0] == '-';
    uint64_t sum = 0;
    for (size_t i = (size_t)is_negative; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9' || !sffn_checked_mul_u64(sum, 10, &sum) ||
            !sffn_checked_add_u64(sum, (uint64_t)(text[i] - '0'), &sum))
            return 0;
    }
    if (sum > (uint64_t)INT64_MAX + (uint64_t)is_negative)
        return 0;
    *value = is_negative ? (sum ? -(int64_t)(sum - 1) - 1 : 0) : (int64_t)sum;
    return 1;
}

int sffn_json_double(const struct sffn_json *json, uint32_t node, double *value)
{
    if (json->nodes[node].kind != SFFN_JSON_NUMBER)
        return 0;
    size_t bytes, i = 0;
    const char *text = sffn_json_text(json, node, &bytes);
    const int is_negative = text[0] == '-';
    uint64_t mantissa = 0;
    int64_t power = 0; /* value = mantissa * 10^power; a text of < 2^31 bytes cannot overflow it */
    int is_fraction = 0;
    for (i = (size_t)is_negative; i < bytes && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            is_fraction = 1;
            continue;
        }
        /* 19 digits fit; later ones only shift the point */
        if (mantissa < UINT64_C(1000000000000000000)) {
            mantissa = mantissa * 10 + (uint64_t)(text[i] - '0');
            power -= is_fraction;
        } else {
            power += !is_fraction;
        }
    }
    if (i < bytes) {
        const int is_small = text[++i] == '-';
        int64_t exponent = 0;
        for (i += text[i] == '-' || text[i] == '+'; i < bytes; i++)
            if (exponent < 100000)
                exponent = exponent * 10 + (text[i] - '0');
        power += is_small ? -exponent : exponent;
    }
    double result;
    if (mantissa == 0) {
        result = 0.0;
    } else if (power > 400) {
        return 0;
    } else if (power < -400) {
        result = 0.0;
    } else {
        /* Exact (Clinger) when both factors are doubles: mantissa <= 2^53 and 10^|power| with
         * |power| <= 22. */
        static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                      1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                      1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
        const int64_t magnitude = power < 0 ? -power : power;
        if (mantissa <= (UINT64_C(1) << 53) && magnitude <= 22) {
            result =
                power < 0 ? (double)mantissa / tens[magnitude] : (double)mantissa * tens[magnitude];
        } else {
            long double scale = 1.0L, ten = 10.0L;
            for (int64_t bits = magnitude; bits; bits >>= 1, ten *= ten)
                if (bits & 1)
                    scale *= ten;
            result =
                (double)(power < 0 ? (long double)mantissa / scale : (long double)mantissa * scale);
        }
    }
    if (!isfinite(result))
        return 0;
    *value = is_negative ? -result : result;
    return 1;
}
