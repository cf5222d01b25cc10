/* utf8.h  UTF-8 one code point at a time, and a stream that only lets whole ones out. */
#ifndef SFFN_COMMON_UTF8_H
#define SFFN_COMMON_UTF8_H
#include <stddef.h>
#include <stdint.h>

/*
 * Reads the code point at text[0], n > 0 bytes left. Returns its length 1..4; 0 when the n bytes are the beginning of a
 * valid one; -k when the first k bytes can't be part of any (Unicode's "maximal subpart", replaced by one U+FFFD).
 */
int utf8_next(const char *text, size_t n, uint32_t *code);
/* Writes a code point below 0x110000; returns its length. */
size_t utf8_put(uint32_t code, char out[4]);

/* Bytes that arrive in pieces, e.g. from tokens that end inside a character. */
struct utf8_stream {
    char pending[4];
    size_t n_pending;
};
/*
 * Appends to `out` (at least 3 * (n + 4) bytes) what is complete after n more bytes, with U+FFFD for what can't become
 * valid; returns the number of bytes written. is_end lets an incomplete rest out as U+FFFD.
 */
size_t utf8_stream_put(struct utf8_stream *stream, const char *bytes, size_t n, int is_end,
                       char *out);
#endif /* SFFN_COMMON_UTF8_H */
