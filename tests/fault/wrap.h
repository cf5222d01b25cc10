/* wrap.h  The C library's allocators and pthread_create(), wrapped by the linker (--wrap): counted,
 * and made to fail on demand. Only calls between wrap_begin() and wrap_end() count. */
#ifndef TEST_WRAP_H
#define TEST_WRAP_H
#include <stddef.h>

enum wrapped {
    WRAP_MALLOC,
    WRAP_MMAP,
    WRAP_THREAD,
    WRAP_COUNT
}; /* malloc and its kin are one kind */

/* Starts counting; call number fail_at of `kind` fails (and with `fails_on` all later ones),
 * SIZE_MAX: none. */
void wrap_begin(enum wrapped kind, size_t fail_at, int fails_on);
/* Stops. Returns how many calls of this kind were made to fail. */
size_t wrap_end(void);
size_t wrap_calls(enum wrapped kind);

#endif /* TEST_WRAP_H */
