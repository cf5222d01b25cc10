/* status.h and version.h. */
#include <stdio.h>

#include "check.h"

static void names(void **state)
{
    (void)state;
#define NAMED(value) { value, #value }
    static const struct {
        sffn_status value;
        const char *name;
    } table[] = {
        NAMED(SFFN_OK),
        NAMED(SFFN_ERR_INVALID_ARGUMENT),
        NAMED(SFFN_ERR_SHAPE),
        NAMED(SFFN_ERR_DTYPE),
        NAMED(SFFN_ERR_UNSUPPORTED),
        NAMED(SFFN_ERR_OUT_OF_MEMORY),
        NAMED(SFFN_ERR_THREAD),
        NAMED(SFFN_ERR_BUSY),
        NAMED(SFFN_ERR_NOT_RESERVED),
        NAMED(SFFN_ERR_IO),
        NAMED(SFFN_ERR_FORMAT),
        NAMED(SFFN_ERR_NOT_FOUND),
        NAMED(SFFN_ERR_INTERRUPTED),
        NAMED(SFFN_ERR_INTERNAL),
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK_TEXT(sffn_status_name(table[i].value), table[i].name);
}

static void values_are_abi(void **state)
{
    (void)state;
    static const int pinned[] = {0, 10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 40, 50};
    static const sffn_status values[] = {
        SFFN_OK,         SFFN_ERR_INVALID_ARGUMENT, SFFN_ERR_SHAPE,        SFFN_ERR_DTYPE,  SFFN_ERR_UNSUPPORTED,
        SFFN_ERR_OUT_OF_MEMORY, SFFN_ERR_THREAD,    SFFN_ERR_BUSY,         SFFN_ERR_NOT_RESERVED, SFFN_ERR_IO,
        SFFN_ERR_FORMAT, SFFN_ERR_NOT_FOUND,        SFFN_ERR_INTERRUPTED,  SFFN_ERR_INTERNAL};
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++)
        CHECK((int)values[i] == pinned[i]);
    /* every other value up to 100 is unknown */
    size_t known = 0;
    for (int v = -5; v <= 100; v++)
        known += strcmp(sffn_status_name((sffn_status)v), "SFFN_ERR_UNKNOWN") != 0;
    CHECK(known == sizeof pinned / sizeof pinned[0]);
    CHECK_TEXT(sffn_status_name(SFFN_STATUS_MAX_), "SFFN_ERR_UNKNOWN");
}

static void version(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", SFFN_VERSION_MAJOR, SFFN_VERSION_MINOR, SFFN_VERSION_PATCH);
    CHECK_TEXT(sffn_version_string(), text);
    CHECK(sffn_version() == SFFN_VERSION_MAJOR * 10000 + SFFN_VERSION_MINOR * 100 + SFFN_VERSION_PATCH);
    CHECK(sffn_abi_version() == SFFN_ABI_VERSION);
}

int main(void)
{
    struct cases cases = {0};
    CASE(&cases, names);
    CASE(&cases, values_are_abi);
    CASE(&cases, version);
    return cases_run(&cases, "status");
}
