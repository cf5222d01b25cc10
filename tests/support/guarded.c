#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

#define CANARY 0xC5

struct guarded_block {
    struct guarded_block *next;
    unsigned char *map, *data;
    size_t map_bytes, data_bytes, page;
};

void *guarded_alloc(struct guarded *memory, size_t bytes, size_t tail)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inner = (bytes + tail + page - 1) / page * page;
    struct guarded_block *block = malloc(sizeof *block);
    CHECK(block != NULL);
    block->page = page;
    block->map_bytes = inner + 2 * page;
    block->map = mmap(NULL, block->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(block->map != MAP_FAILED);
    CHECK(inner == 0 || mprotect(block->map + page, inner, PROT_READ | PROT_WRITE) == 0);
    CHECK(!getenv("SFFN_TEST_EMULATED") ||
          mprotect(block->map + page + inner, page, PROT_READ) == 0);
    block->data = block->map + page + inner - tail - bytes;
    block->data_bytes = bytes;
    memset(block->map + page, CANARY, inner);
    memset(block->data, 0, bytes);
    block->next = memory->blocks;
    memory->blocks = block;
    return block->data;
}

void guarded_check(const struct guarded *memory)
{
    for (const struct guarded_block *block = memory->blocks; block; block = block->next) {
        const unsigned char *end = block->map + block->map_bytes - block->page;
        for (const unsigned char *p = block->map + block->page; p < end; p++) {
            if (p == block->data)
                p += block->data_bytes;
            if (p < end && *p != CANARY)
                CHECK_SAYS(0, "a byte %td behind the start of a block of %zu was overwritten",
                           p - block->data, block->data_bytes);
        }
    }
    CHECK(1);
}

void guarded_free(struct guarded *memory)
{
    guarded_check(memory);
    while (memory->blocks) {
        struct guarded_block *block = memory->blocks;
        memory->blocks = block->next;
        munmap(block->map, block->map_bytes);
        free(block);
    }
}
