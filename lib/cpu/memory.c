/* memory.c */
#include "cpu/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include "base/checked.h"

#define HUGE_ALIGN ((size_t)2 << 20)

uint64_t sffn_page_bytes(void)
{
    long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (uint64_t)n : 4096;
}

uint64_t sffn_huge_page_bytes(void)
{
#ifdef __linux__
    char line[128];
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!f)
        return 0;
    int usable = fgets(line, sizeof line, f) != NULL && strstr(line, "[never]") == NULL;
    fclose(f);
    if (!usable)
        return 0;
    unsigned long long n = 0;
    f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
    if (f) {
        if (fgets(line, sizeof line, f))
            n = strtoull(line, NULL, 10);
        fclose(f);
    }
    return n > 0 ? n : HUGE_ALIGN;
#else
    return 0;
#endif
}

/* What is mapped for `bytes`: whole huge pages from 2 MiB on, huge or not, so that free needs no flag. Their untouched tail costs nothing. */
static int mapped_bytes(size_t bytes, size_t *out)
{
    return bytes > 0 &&
           sffn_checked_round_up(bytes,
                                 bytes >= HUGE_ALIGN ? HUGE_ALIGN : (size_t)sffn_page_bytes(), out);
}

void *sffn_pages_alloc(size_t bytes, int want_huge)
{
    size_t length, reserved;
    if (!mapped_bytes(bytes, &length))
        return NULL;
    int huge = want_huge && bytes >= HUGE_ALIGN;
    if (!sffn_checked_add(length, huge ? HUGE_ALIGN : 0, &reserved))
        return NULL;
    char *base = mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (!huge)
        return base;
    size_t head = (HUGE_ALIGN - ((uintptr_t)base & (HUGE_ALIGN - 1))) & (HUGE_ALIGN - 1);
    size_t tail = reserved - head - length;
    if (head > 0)
        munmap(base, head);
    if (tail > 0)
        munmap(base + head + length, tail);
#ifdef MADV_HUGEPAGE
    madvise(base + head, length, MADV_HUGEPAGE); /* refused without THP support: small pages then */
#endif
    return base + head;
}

void sffn_pages_free(void *ptr, size_t bytes)
{
    size_t length;
    if (ptr && mapped_bytes(bytes, &length))
        munmap(ptr, length);
}

uint64_t sffn_pages_huge_bytes(const void *ptr, size_t bytes)
{
    uint64_t total = 0;
#ifdef __linux__
    uint64_t begin = (uintptr_t)ptr, end = begin + bytes;
    if (bytes >= HUGE_ALIGN && begin % HUGE_ALIGN == 0)
        end = (end + HUGE_ALIGN - 1) / HUGE_ALIGN *
              HUGE_ALIGN; /* the mapping's end, see mapped_bytes() */
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f)
        return 0;
    char line[512];
    uint64_t map_bytes = 0, common = 0;
    while (fgets(line, sizeof line, f)) {
        unsigned long long first, last, kib;
        if (sscanf(line, "%llx-%llx ", &first, &last) ==
            2) { /* no field name is a hexadecimal number before a '-' */
            if (first >= end)
                break;
            uint64_t a = first > begin ? first : begin, b = last < end ? last : end;
            map_bytes = last - first;
            common = b > a ? b - a : 0;
        } else if (common > 0 && sscanf(line, "AnonHugePages: %llu kB", &kib) == 1) {
            uint64_t huge = (uint64_t)kib << 10;
            if (common < map_bytes)
                huge = (uint64_t)((double)huge * ((double)common / (double)map_bytes));
            total += huge < common ? huge : common;
        }
    }
    fclose(f);
#else
    (void)ptr;
    (void)bytes;
#endif
    return total < bytes ? total : bytes;
}

void sffn_pages_bind(void *ptr, size_t bytes, uint32_t node)
{
#if defined(__linux__) && defined(SYS_mbind)
    enum { PREFERRED = 1, MOVE = 1 << 1 }; /* linux/mempolicy.h's MPOL_PREFERRED, MPOL_MF_MOVE */
    unsigned long nodes[16] = {0};
    const uint32_t word_bits = 8 * (uint32_t)sizeof nodes[0];
    if (!ptr || bytes == 0 || node >= word_bits * 16)
        return;
    nodes[node / word_bits] = 1ul << (node % word_bits);
    uintptr_t page = (uintptr_t)sffn_page_bytes(), begin = (uintptr_t)ptr & ~(page - 1);
    /* The kernel reads one bit less than it is told. */
    syscall(SYS_mbind, begin, (uintptr_t)ptr + bytes - begin, PREFERRED, nodes,
            (unsigned long)word_bits * 16 + 1, MOVE);
#else
    (void)ptr;
    (void)bytes;
    (void)node;
#endif
}
