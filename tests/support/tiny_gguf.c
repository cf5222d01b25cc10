#include "tiny_gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GGUF_UINT32 = 4, GGUF_STRING = 8, GGML_F32 = 0, ALIGNMENT = 32 };

static void put_u32(FILE *f, uint32_t v)
{
    fwrite(&v, sizeof v, 1, f);
}

static void put_u64(FILE *f, uint64_t v)
{
    fwrite(&v, sizeof v, 1, f);
}

static void put_text(FILE *f, const char *text)
{
    put_u64(f, strlen(text));
    fwrite(text, 1, strlen(text), f);
}

static void put_string_key(FILE *f, const char *key, const char *value)
{
    put_text(f, key);
    put_u32(f, GGUF_STRING);
    put_text(f, value);
}

static void put_u32_key(FILE *f, const char *key, uint32_t value)
{
    put_text(f, key);
    put_u32(f, GGUF_UINT32);
    put_u32(f, value);
}

/* ne is the format's order: the fastest dimension first. */
static void put_tensor(FILE *f, const char *name, uint32_t ne0, uint32_t ne1, uint64_t offset)
{
    put_text(f, name);
    put_u32(f, 2);
    put_u64(f, ne0);
    put_u64(f, ne1);
    put_u32(f, GGML_F32);
    put_u64(f, offset);
}

int tiny_gguf_write(char *path, uint32_t d_model, uint32_t d_ff)
{
    const char *directory = getenv("TMPDIR");
    snprintf(path, 64, "%s/sffn-tiny-XXXXXX",
             directory && strlen(directory) < 40 ? directory : "/tmp");
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!f)
        return 0;
    const uint64_t bytes =
        ((uint64_t)d_model * d_ff * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    fwrite("GGUF", 1, 4, f);
    put_u32(f, 3); /* version */
    put_u64(f, 3); /* tensors */
    put_u64(f, 6); /* keys */
    put_string_key(f, "general.architecture", "llama");
    put_string_key(f, "general.name", "tiny");
    put_u32_key(f, "llama.block_count", 1);
    put_u32_key(f, "llama.embedding_length", d_model);
    put_u32_key(f, "llama.feed_forward_length", d_ff);
    put_u32_key(f, "llama.attention.head_count", 1);
    put_tensor(f, "blk.0.ffn_gate.weight", d_model, d_ff, 0);
    put_tensor(f, "blk.0.ffn_up.weight", d_model, d_ff, bytes);
    put_tensor(f, "blk.0.ffn_down.weight", d_ff, d_model, 2 * bytes);
    while (ftell(f) % ALIGNMENT != 0)
        fputc(0, f);
    for (uint64_t i = 0; i < 3 * bytes / sizeof(float); i++) {
        float value = (float)(i % 17) / 16.0f - 0.5f;
        fwrite(&value, sizeof value, 1, f);
    }
    int failed = ferror(f);
    return fclose(f) == 0 && !failed;
}
