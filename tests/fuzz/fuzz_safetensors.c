/* An input that starts with a brace is a header, up to the first zero byte, and data: the length
 * word is put before it, so that changes reach what is behind it. Other inputs are files as they
 * are; GGUF has its own target. */
#include <string.h>

#include "fuzz.h"

static int open_and_walk(const uint8_t *data, size_t size);

#define LLVMFuzzerTestOneInput open_and_walk
#define IS_OURS(data, size)    (!((size) >= 4 && ((data)[0] == 'G' || (data)[0] == 'P')))
#include "fuzz_model.inc"
#undef LLVMFuzzerTestOneInput

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || data[0] != '{')
        return open_and_walk(data, size);
    const uint8_t *zero = memchr(data, 0, size);
    const size_t header = zero ? (size_t)(zero - data) : size, rest = zero ? size - header - 1 : 0;
    uint8_t *file = malloc(8 + header + rest);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header >> (8 * i));
    memcpy(file + 8, data, header);
    if (rest)
        memcpy(file + 8 + header, zero + 1, rest);
    open_and_walk(file, 8 + header + rest);
    free(file);
    return 0;
}
