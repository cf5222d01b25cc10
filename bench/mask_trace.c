#include "mask_trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES 32u
#define VERSION    1u

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* NULL, or what is wrong. The head is checked against the length of the file before any memory is taken. */
static const char *read_file(struct mask_trace *m, FILE *f)
{
    uint8_t head[HEAD_BYTES];
    if (fread(head, 1, sizeof head, f) != sizeof head || memcmp(head, "SFFNMASK", 8) != 0)
        return "is no file of activation masks (sffn eval --record writes them)";
    if (get_u32(head + 8) != VERSION)
        return "has another version than 1";
    m->n_layers = get_u32(head + 12);
    m->d_ff = get_u32(head + 16);
    m->n_tokens = (uint64_t)get_u32(head + 24) | (uint64_t)get_u32(head + 28) << 32;
    if (m->n_layers == 0 || m->d_ff == 0 || m->n_tokens == 0)
        return "holds no masks";
    if (fseek(f, 0, SEEK_END) != 0)
        return strerror(errno);
    const long length = ftell(f);
    const uint64_t token_bytes = (uint64_t)m->n_layers * (((uint64_t)m->d_ff + 7) / 8);
    if (length < (long)HEAD_BYTES || m->n_tokens != ((uint64_t)length - HEAD_BYTES) / token_bytes ||
        ((uint64_t)length - HEAD_BYTES) % token_bytes != 0)
        return "is shorter or longer than its head says";
    const size_t bytes = (size_t)length - HEAD_BYTES;
    m->masks = malloc(bytes);
    if (!m->masks)
        return "does not fit into memory";
    if (fseek(f, (long)HEAD_BYTES, SEEK_SET) != 0 || fread(m->masks, 1, bytes, f) != bytes)
        return "cannot be read to its end";
    return NULL;
}

int mask_trace_read(struct mask_trace *m, const char *command, const char *path)
{
    memset(m, 0, sizeof *m);
    FILE *f = fopen(path, "rbe");
    if (!f) {
        fprintf(stderr, "%s: cannot open '%s': %s\n", command, path, strerror(errno));
        return 0;
    }
    const char *problem = read_file(m, f);
    fclose(f);
    if (!problem)
        return 1;
    fprintf(stderr, "%s: '%s' %s\n", command, path, problem);
    mask_trace_free(m);
    return 0;
}

void mask_trace_free(struct mask_trace *m)
{
    free(m->masks);
    memset(m, 0, sizeof *m);
}

void mask_trace_fill(const struct mask_trace *m, uint32_t layer, uint64_t token, uint32_t d_ff,
                     uint8_t *bitmap)
{
    const size_t row = ((size_t)m->d_ff + 7) / 8;
    memset(bitmap, 0, ((size_t)d_ff + 7) / 8);
    for (uint32_t i = 0; i < d_ff; i++) {
        const uint32_t neuron = i % m->d_ff;
        const uint64_t from = (token + i / m->d_ff) % m->n_tokens;
        const uint8_t *mask = m->masks + ((size_t)from * m->n_layers + layer) * row;
        if (mask[neuron / 8] >> neuron % 8 & 1)
            bitmap[i / 8] |= (uint8_t)(1u << i % 8);
    }
}
