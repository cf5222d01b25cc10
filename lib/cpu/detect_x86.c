/* detect_x86.c  Reads CPUID and XCR0, and asks Linux for AMX tile data. */
#include "cpu/features.h"
#include <string.h>
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
#if defined(_MSC_VER)
    int words[4];
    __cpuidex(words, (int)leaf, (int)subleaf);
    memcpy(out, words, sizeof words);
#else
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
#endif
}

static uint64_t read_xcr0(void)
{
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv"
                     : "=a"(low), "=d"(high)
                     : "c"(0)); /* the intrinsic would need -mxsave for this file */
    return (uint64_t)high << 32 | low;
#endif
}

/* Linux gives tile data only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM, 5.16 and later): their signal frames grow by 8 KiB. */
static int amx_permission(void)
{
#if defined(__linux__) && defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
#else
    return 0;
#endif
}

uint64_t sffn_cpu_detect(void)
{
    struct sffn_cpuid id;
    uint32_t leaf0[4];
    memset(&id, 0, sizeof id);
    cpuid(0, 0, leaf0);
    id.max_leaf = leaf0[0];
    memcpy(id.vendor, &leaf0[1], 4);
    memcpy(id.vendor + 4, &leaf0[3], 4);
    memcpy(id.vendor + 8, &leaf0[2], 4);
    if (id.max_leaf >= 1)
        cpuid(1, 0, id.leaf1);
    if (id.max_leaf >= 7) {
        cpuid(7, 0, id.leaf7_0);
        if (id.leaf7_0[0] >= 1)
            cpuid(7, 1, id.leaf7_1);
    }
    if ((id.leaf1[2] >> 27 & 1u) != 0) /* OSXSAVE */
        id.xcr0 = read_xcr0();
    if ((id.xcr0 & 0x60000u) == 0x60000u && (id.leaf7_0[3] >> 24 & 1u) != 0)
        id.amx_permitted = amx_permission();
    return sffn_cpu_from_cpuid(&id);
}
