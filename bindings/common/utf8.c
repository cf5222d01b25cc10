#include "utf8.h"

#include <string.h>

int utf8_next(const char *text, size_t n, uint32_t *code)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned lead = s[0], low = 0x80, high = 0xbf; /* allowed range of the second byte */
    int length;
    uint32_t value;
    if (lead < 0x80) {
        *code = lead;
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4)
        return -1;
    length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead == 0xe0)
        low = 0xa0; /* shorter form exists */
    else if (lead == 0xed)
        high = 0x9f; /* surrogates */
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f; /* beyond 0x10ffff */
    value = lead & (0x7fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n)
            return 0;
        if (s[i] < low || s[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
        value = value << 6 | (s[i] & 0x3f);
    }
    *code = value;
    return length;
}

size_t utf8_put(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

size_t utf8_stream_put(struct utf8_stream *stream, const char *bytes, size_t n, int is_end,
                       char *out)
{
    size_t written = 0, at = 0;
    while (stream->n_pending != 0 || at < n) {
        uint32_t code;
        int length;
        /* The pending bytes are the valid beginning of one code point: add bytes until it is decided. */
        if (stream->n_pending < sizeof stream->pending && at < n)
            stream->pending[stream->n_pending++] = bytes[at++];
        length = utf8_next(stream->pending, stream->n_pending, &code);
        if (length == 0 && at < n)
            continue;
        if (length == 0 && !is_end)
            break;
        if (length > 0) {
            memcpy(out + written, stream->pending, (size_t)length);
            written += (size_t)length;
        } else {
            memcpy(out + written, "\xef\xbf\xbd", 3);
            written += 3;
            length = length == 0 ? (int)stream->n_pending : -length;
        }
        stream->n_pending -= (size_t)length;
        memmove(stream->pending, stream->pending + length, stream->n_pending);
    }
    return written;
}
