#include "mask_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { HEAD_BYTES = 32, VERSION = 1 };

static void put_u32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static int write_failed(const struct mask_file *m)
{
    return cli_fail("cannot write '%s': %s", m->part_path, strerror(errno));
}

static int write_head(struct mask_file *m)
{
    uint8_t head[HEAD_BYTES] = "SFFNMASK";
    put_u32(head + 8, VERSION);
    put_u32(head + 12, m->n_layers);
    put_u32(head + 16, m->d_ff);
    put_u32(head + 24, (uint32_t)m->n_tokens);
    put_u32(head + 28, (uint32_t)(m->n_tokens >> 32));
    return fwrite(head, 1, sizeof head, m->file) == sizeof head ? CLI_OK : write_failed(m);
}

int mask_file_create(struct mask_file *m, const char *path, uint32_t n_layers, uint32_t d_ff,
                     uint32_t max_tokens)
{
    size_t n = strlen(path);
    memset(m, 0, sizeof *m);
    m->n_layers = n_layers;
    m->d_ff = d_ff;
    m->max_tokens = max_tokens;
    m->path = cli_alloc(n + 1, 1);
    memcpy(m->path, path, n);
    m->part_path = cli_alloc(n + 6, 1);
    snprintf(m->part_path, n + 6, "%s.part", path);
    m->batch = cli_alloc((size_t)max_tokens * n_layers, (d_ff + 7) / 8);
    m->file = fopen(m->part_path, "wb");
    return m->file != NULL ? write_head(m) : write_failed(m);
}

int mask_file_add(struct mask_file *m, uint32_t layer, const sffn_active_set *active)
{
    size_t n = sffn_active_set_n_tokens(active), row = (m->d_ff + 7) / 8;
    for (size_t t = 0; t < n; t++) {
        sffn_status status =
            sffn_active_set_get_bitmap(active, t, m->batch + (t * m->n_layers + layer) * row);
        if (status != SFFN_OK)
            return cli_fail_status(NULL, status, "activation masks");
    }
    if (layer + 1 < m->n_layers)
        return CLI_OK;
    m->n_tokens += n;
    row *= m->n_layers;
    return fwrite(m->batch, row, n, m->file) == n ? CLI_OK : write_failed(m);
}

int mask_file_finish(struct mask_file *m)
{
    int failed = fseek(m->file, 0, SEEK_SET) != 0 || write_head(m) != CLI_OK;
    failed |= fclose(m->file) != 0;
    m->file = NULL;
    if (!failed)
        failed = rename(m->part_path, m->path) != 0;
    if (failed) {
        write_failed(m);
        remove(m->part_path);
    }
    return failed ? CLI_FAILED : CLI_OK;
}

void mask_file_free(struct mask_file *m)
{
    if (m->file != NULL) {
        fclose(m->file);
        remove(m->part_path);
    }
    free(m->path);
    free(m->part_path);
    free(m->batch);
    memset(m, 0, sizeof *m);
}
