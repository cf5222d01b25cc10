/* The JSON reader: what it takes, what it refuses and where, numbers, memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "build.h"
#include "model/json.h"

struct fixture {
    struct heap heap;
    sffn_context *ctx;
    struct sffn_arena arena;
    struct sffn_file file;
    struct sffn_json json;
    char *copy;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->ctx = heap_context(&f->heap, 1);
    f->arena.ctx = f->ctx;
    *state = f;
    return 0;
}

static void clear(struct fixture *f)
{
    sffn_arena_free(&f->arena);
    free(f->copy);
    f->copy = NULL;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    clear(f);
    sffn_context_destroy(f->ctx);
    assert_int_equal(f->heap.live, 0);
    free(f);
    return 0;
}

/* An exact copy on the heap, so that a look beyond the text is seen by the sanitizer. */
static sffn_status parse_bytes(struct fixture *f, const char *text, size_t n)
{
    clear(f);
    f->copy = malloc(n ? n : 1);
    memcpy(f->copy, text, n);
    f->file = (struct sffn_file){f->ctx, "t.json", (const uint8_t *)f->copy, n, SFFN_FILE_BORROWED};
    return sffn_json_parse(&f->file, 0, n, &f->arena, &f->json);
}

static sffn_status parse(struct fixture *f, const char *text)
{
    return parse_bytes(f, text, strlen(text));
}

static void accepts(void **state)
{
    static const char *const good[] = {
        "{}",
        "[]",
        " \t\r\n{ } \n",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "12",
        "-1.5e+10",
        "1E-7",
        "\"\"",
        "[[],{}]",
        "{\"a\":[1,2,{\"b\":null}],\"c\":\"d\"}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"",
        "\"\\ud83d\\ude00\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "{\"\":0}",
        "{\"a\":1,\"A\":1}",
        "[\"\xc2\x80\",\"\xe0\xa0\x80\",\"\xf4\x8f\xbf\xbf\"]",
        "{\"a\\u0000b\":1,\"a\":2}",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (parse(*state, good[i]) != SFFN_OK)
            fail_msg("'%s': %s", good[i], sffn_context_last_error(((struct fixture *)*state)->ctx));
}

static void refuses(void **state)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "offset 0: JSON: expected a value, but the text ends"},
        {"  ", "offset 2: JSON: expected a value"},
        {"{", "offset 1: JSON: expected a key"},
        {"[", "offset 1: JSON: expected a value"},
        {"[1", "offset 2: JSON: expected ',' or ']'"},
        {"[1,", "offset 3: JSON: expected a value"},
        {"[1,]", "offset 3: JSON: expected a value"},
        {"[,1]", "offset 1: JSON: expected a value"},
        {"[1 2]", "offset 3: JSON: expected ',' or ']', found '2'"},
        {"[1}", "offset 2: JSON: expected ',' or ']'"},
        {"{\"a\"}", "offset 4: JSON: expected ':'"},
        {"{\"a\":}", "offset 5: JSON: expected a value"},
        {"{\"a\":1,}", "offset 7: JSON: expected a key"},
        {"{a:1}", "offset 1: JSON: expected a key"},
        {"{1:1}", "offset 1: JSON: expected a key"},
        {"{\"a\":1]", "offset 6: JSON: expected ',' or '}'"},
        {"{} {}", "offset 3: JSON: expected the end"},
        {"1 x", "offset 2: JSON: expected the end"},
        {"nul", "expected a value"},
        {"True", "expected a value"},
        {"NaN", "expected a value"},
        {"Infinity", "expected a value"},
        {"'a'", "expected a value"},
        {"/* */ 1", "expected a value"},
        {"\xef\xbb\xbf{}", "offset 0: JSON: expected a value, found '?'"},
        {"01", "offset 0: JSON: a number starts with 0"},
        {"-", "offset 1: JSON: expected a digit"},
        {"-x", "expected a digit"},
        {"+1", "expected a value"},
        {".5", "expected a value"},
        {"1.", "expected a digit"},
        {"1.e5", "expected a digit"},
        {"1e", "expected a digit"},
        {"1e+", "expected a digit"},
        {"0x10", "expected the end"},
        {"\"a", "offset 0: JSON: a string does not end"},
        {"\"a\\", "offset 3: JSON: expected the rest of an escape"},
        {"\"\\", "expected the rest of an escape"},
        {"\"\\x\"", "offset 2: JSON: expected an escape"},
        {"\"\\u12\"", "four hexadecimal digits"},
        {"\"\\u12g4\"", "four hexadecimal digits"},
        {"\"\\ud83d\"", "half of a surrogate pair"},
        {"\"\\ud83dx\"", "half of a surrogate pair"},
        {"\"\\ud83d\\u0041\"", "half of a surrogate pair"},
        {"\"\\ude00\"", "half of a surrogate pair"},
        {"\"a\nb\"", "offset 2: JSON: control character"},
        {"\"\\n\x01\"", "offset 3: JSON: control character"},
        {"\"\x80\"", "offset 1: JSON: invalid UTF-8"},
        {"\"\xc0\xaf\"", "invalid UTF-8"},
        {"\"\xe0\x80\xaf\"", "invalid UTF-8"},
        {"\"\xed\xa0\x80\"", "invalid UTF-8"},
        {"\"\xf4\x90\x80\x80\"", "invalid UTF-8"},
        {"\"\xf8\x88\x80\x80\x80\"", "invalid UTF-8"},
        {"\"\xe2\x82\"", "invalid UTF-8"},
        {"\"\\t\xe2\x82\"", "offset 3: JSON: invalid UTF-8"},
        {"\"\xe2", "invalid UTF-8"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "key 'a' appears twice"},
        {"{\"a\":1,\"\\u0061\":3}", "key 'a' appears twice"},
        {"[{\"x\":{\"k\":1,\"k\":1}}]", "key 'k' appears twice"},
        {"{\"\":1,\"\":2}", "key '' appears twice"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const sffn_status status = parse(f, bad[i].text);
        const char *error = sffn_context_last_error(f->ctx);
        if (status != SFFN_ERR_FORMAT || !strstr(error, bad[i].words) ||
            strncmp(error, "t.json: offset ", 15) != 0)
            fail_msg("'%s': %s: %s, expected \"%s\"", bad[i].text, sffn_status_name(status), error,
                     bad[i].words);
    }
    assert_int_equal(parse_bytes(f, "\"a\0b\"", 5), SFFN_ERR_FORMAT);
    assert_non_null(strstr(sffn_context_last_error(f->ctx), "control character"));
}

static void limits_depth(void **state)
{
    struct fixture *f = *state;
    char text[4096];
    for (int is_object = 0; is_object < 2; is_object++) {
        for (int depth = SFFN_JSON_MAX_DEPTH; depth <= SFFN_JSON_MAX_DEPTH + 1; depth++) {
            size_t n = 0;
            for (int i = 0; i < depth; i++)
                n += (size_t)snprintf(text + n, sizeof(text) - n, is_object && i ? "%s" : "[",
                                      "{\"a\":");
            text[n++] = '1';
            for (int i = depth; i > 0; i--)
                text[n++] = is_object && i > 1 ? '}' : ']';
            text[n] = '\0';
            assert_int_equal(parse(f, text),
                             depth <= SFFN_JSON_MAX_DEPTH ? SFFN_OK : SFFN_ERR_FORMAT);
        }
    }
    assert_non_null(strstr(sffn_context_last_error(f->ctx), "nested too deeply"));
    /* A million brackets: no recursion, an early end. */
    char *many = malloc(1000000);
    memset(many, '[', 1000000);
    assert_int_equal(parse_bytes(f, many, 1000000), SFFN_ERR_FORMAT);
    free(many);
}

static void navigates(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(
        parse(f, "{\"a\":[10,[20,21],{\"x\":\"y\"},\"z\"],\"b\\u0062\":true,\"c\":{\"d\":{}}}"),
        SFFN_OK);
    const struct sffn_json *json = &f->json;
    const uint32_t a = sffn_json_get(json, 0, "a"), b = sffn_json_get(json, 0, "bb"),
                   c = sffn_json_get(json, 0, "c");
    assert_int_equal(json->nodes[0].bytes, 3);
    assert_int_equal(json->nodes[a].kind, SFFN_JSON_ARRAY);
    assert_int_equal(json->nodes[a].bytes, 4);
    assert_int_equal(json->nodes[b].kind, SFFN_JSON_TRUE);
    assert_int_equal(json->nodes[sffn_json_get(json, c, "d")].kind, SFFN_JSON_OBJECT);
    assert_int_equal(sffn_json_get(json, 0, "x"), 0);
    assert_int_equal(sffn_json_get(json, a, "x"), 0);
    uint32_t element = a + 1;
    uint64_t value;
    assert_true(sffn_json_u64(json, element, &value) && value == 10);
    element = json->nodes[element].end;
    assert_int_equal(json->nodes[element].bytes, 2);
    element = json->nodes[element].end;
    assert_true(sffn_json_is(json, sffn_json_get(json, element, "x"), "y"));
    element = json->nodes[element].end;
    assert_true(sffn_json_is(json, element, "z"));
    assert_false(sffn_json_is(json, element, "zz"));
    assert_int_equal(json->nodes[element].end, json->nodes[a].end);

    size_t bytes;
    assert_int_equal(parse(f, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20ac\\ud83d\\ude00x\""),
                     SFFN_OK);
    const char *text = sffn_json_text(json, 0, &bytes);
    static const char expected[] = "\"\\/\b\f\n\r\tA\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x";
    assert_int_equal(bytes, sizeof(expected) - 1);
    assert_memory_equal(text, expected, bytes);
}

static void reads_numbers(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        int is_u64, is_i64;
        uint64_t u;
        int64_t i;
    } integers[] = {
        {"0", 1, 1, 0, 0},
        {"-0", 0, 1, 0, 0},
        {"9223372036854775807", 1, 1, INT64_MAX, INT64_MAX},
        {"9223372036854775808", 1, 0, (uint64_t)INT64_MAX + 1, 0},
        {"18446744073709551615", 1, 0, UINT64_MAX, 0},
        {"18446744073709551616", 0, 0, 0, 0},
        {"99999999999999999999999999", 0, 0, 0, 0},
        {"-1", 0, 1, 0, -1},
        {"-9223372036854775808", 0, 1, 0, INT64_MIN},
        {"-9223372036854775809", 0, 0, 0, 0},
        {"1.0", 0, 0, 0, 0},
        {"1e3", 0, 0, 0, 0},
        {"\"1\"", 0, 0, 0, 0},
    };
    for (size_t k = 0; k < sizeof(integers) / sizeof(integers[0]); k++) {
        uint64_t u = 0;
        int64_t i = 0;
        assert_int_equal(parse(f, integers[k].text), SFFN_OK);
        assert_int_equal(sffn_json_u64(&f->json, 0, &u), integers[k].is_u64);
        assert_int_equal(sffn_json_i64(&f->json, 0, &i), integers[k].is_i64);
        assert_true(u == integers[k].u && i == integers[k].i);
    }
    static const char *const numbers[] = {
        "0",
        "-0.0",
        "1",
        "0.1",
        "1e-05",
        "10000.0",
        "0.01",
        "3.4028234663852886e38",
        "1.7976931348623157e308",
        "5e-324",
        "2.2250738585072014e-308",
        "123456789012345678901234567890",
        "0.000000000000000000000000000000000001",
        "9007199254740993",
        "1e22",
        "1e23",
        "-1.5E+3",
        "0.30000000000000004",
        "100000000000000000000000000000000000000000e-40",
        "1e-400",
        "0e99999999999999999999",
        ("0.0000000000000000000000000000000000000000"
         "00000000000000000000000000000000000000000000001e80"),
    };
    for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++) {
        double value = 0.0;
        const double expected = strtod(numbers[k], NULL);
        assert_int_equal(parse(f, numbers[k]), SFFN_OK);
        assert_true(sffn_json_double(&f->json, 0, &value));
        if (!(value == expected ||
              fabs(value - expected) <= fabs(nextafter(expected, INFINITY) - expected)))
            fail_msg("%s: %.17g, expected %.17g", numbers[k], value, expected);
    }
    /* Up to 15 digits and small powers the result is exact. */
    for (int k = 0; k < 2000; k++) {
        char text[64];
        double value = 0.0;
        snprintf(text, sizeof(text), "%d%05d.%06de%d", rand() % 1000, rand() % 100000,
                 rand() % 1000000, rand() % 20 - 10);
        assert_int_equal(parse(f, text[0] == '0' ? text + 0 : text),
                         text[0] == '0' ? SFFN_ERR_FORMAT : SFFN_OK);
        if (text[0] != '0') {
            assert_true(sffn_json_double(&f->json, 0, &value));
            assert_true(value == strtod(text, NULL));
        }
    }
    static const char *const huge[] = {"1e400", "1e309", "-1e99999999999999999999", "[1]"};
    for (size_t k = 0; k < sizeof(huge) / sizeof(huge[0]); k++) {
        double value;
        assert_int_equal(parse(f, huge[k]), SFFN_OK);
        assert_false(sffn_json_double(&f->json, 0, &value));
    }
}

/* Every prefix of a text that uses everything: an error, never a crash. */
static void survives_truncation(void **state)
{
    static const char text[] = "{\"a\":[1,-2.5e+3,true,false,null],\"b\\ud83d\\ude00\":"
                               "\"\xc3\xa4\\n\",\"c\":{\"d\":[[],{}]}}";
    for (size_t n = 0; n < sizeof(text) - 1; n++)
        assert_int_equal(parse_bytes(*state, text, n), SFFN_ERR_FORMAT);
    assert_int_equal(parse_bytes(*state, text, sizeof(text) - 1), SFFN_OK);
}

static void fails_without_memory(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "{\"a\":[1,2,3],\"b\":\"\\n\",\"c\":{\"d\":1,\"e\":2}}";
    for (size_t k = 1;; k++) {
        clear(f);
        heap_mark(&f->heap);
        f->heap.fail_at = k;
        const size_t before = f->heap.live;
        const sffn_status status = parse(f, text);
        f->heap.fail_at = 0;
        if (status == SFFN_OK) {
            assert_true(k > 2);
            break;
        }
        assert_int_equal(status, SFFN_ERR_OUT_OF_MEMORY);
        sffn_arena_free(&f->arena);
        assert_int_equal(f->heap.live, before);
    }
}

/* Ten thousand keys in one object: sorted, not compared each with each. */
static void large_objects(void **state)
{
    struct fixture *f = *state;
    const size_t n = 200000;
    char *text = malloc(n * 16 + 64);
    size_t at = (size_t)sprintf(text, "{");
    for (size_t i = 0; i < n; i++)
        at += (size_t)sprintf(text + at, "\"k%zu\":%zu,", i, i);
    sprintf(text + at, "\"end\":0}");
    assert_int_equal(parse(f, text), SFFN_OK);
    assert_int_equal(f->json.nodes[0].bytes, n + 1);
    sprintf(text + at, "\"k77\":0}");
    assert_int_equal(parse(f, text), SFFN_ERR_FORMAT);
    assert_non_null(strstr(sffn_context_last_error(f->ctx), "key 'k77' appears twice"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(accepts),
        TEST(refuses),
        TEST(limits_depth),
        TEST(navigates),
        TEST(reads_numbers),
        TEST(survives_truncation),
        TEST(fails_without_memory),
        TEST(large_objects),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
