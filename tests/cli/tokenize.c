/*
 * tokenize.c  The tokenizer of the sffn program for tests: tokenize MODEL < records.
 * A record is a 32-bit little-endian length and that many bytes of text. For each, two lines: the ids, and in hexadecimal
 * what decoding them gives, first as bytes, then as the stream of valid UTF-8 that `sffn generate` prints.
 */
#include <stdio.h>
#include <stdlib.h>

#include "cli.h"
#include "tokenizer.h"
#include "utf8.h"

static void print_hex(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%02x", (unsigned)(unsigned char)bytes[i]);
}

int main(int argc, char **argv)
{
    sffn_context *ctx = argc == 2 ? cli_context(1, NULL) : NULL;
    sffn_model *model = ctx != NULL ? cli_open_model(ctx, argv[1]) : NULL;
    struct tokenizer *tokenizer = model != NULL ? tokenizer_create(ctx, model) : NULL;
    unsigned char head[4];
    if (tokenizer == NULL)
        return 1;
    while (fread(head, 1, 4, stdin) == 4) {
        size_t n = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        char *text = cli_alloc(n + 1, 1);
        struct ids ids = {NULL, 0, 0};
        struct utf8_stream stream = {{0}, 0};
        if (fread(text, 1, n, stdin) != n)
            return 1;
        tokenizer_encode(tokenizer, text, n, 1, &ids);
        for (size_t i = 0; i < ids.n; i++)
            printf("%s%d", i != 0 ? " " : "", (int)ids.data[i]);
        printf("\n");
        for (size_t i = 0; i < ids.n; i++) {
            const char *bytes;
            size_t n_bytes = tokenizer_decode(tokenizer, ids.data[i], &bytes);
            print_hex(bytes, n_bytes);
        }
        printf(" ");
        for (size_t i = 0; i <= ids.n; i++) {
            const char *bytes = "";
            size_t n_bytes = i < ids.n ? tokenizer_decode(tokenizer, ids.data[i], &bytes) : 0;
            char *out = cli_alloc(3 * (n_bytes + 4), 1);
            print_hex(out, utf8_stream_put(&stream, bytes, n_bytes, i == ids.n, out));
            free(out);
        }
        printf("\n");
        free(ids.data);
        free(text);
    }
    tokenizer_destroy(tokenizer);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return 0;
}
