/* features.c  CPUID and HWCAP words -> bits, and bits -> text. Pure: what reads the machine is in detect_*.c. */
#include "cpu/features.h"
#include <string.h>

enum { EAX, EBX, ECX, EDX };

static int bit(uint32_t word, unsigned index)
{
    return (word >> index & 1u) != 0;
}

uint64_t sffn_cpu_from_cpuid(const struct sffn_cpuid *id)
{
    /* XCR0: 1 SSE, 2 YMM, 5 opmask, 6 upper ZMM0-15, 7 ZMM16-31, 17 tile configuration, 18 tile data */
    const int os_ymm = (id->xcr0 & 0x6u) == 0x6u;
    const int os_zmm = (id->xcr0 & 0xe6u) == 0xe6u;
    const int os_amx = (id->xcr0 & 0x60000u) == 0x60000u && id->amx_permitted;
    uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf7_1_eax = 0;
    uint64_t cpu = 0;

    if (id->max_leaf >= 1)
        leaf1_ecx = id->leaf1[ECX];
    if (id->max_leaf >= 7) {
        leaf7_ebx = id->leaf7_0[EBX];
        leaf7_ecx = id->leaf7_0[ECX];
        leaf7_edx = id->leaf7_0[EDX];
        if (id->leaf7_0[EAX] >= 1) /* the highest subleaf */
            leaf7_1_eax = id->leaf7_1[EAX];
    }
    if (!os_ymm || !bit(leaf1_ecx, 28)) /* AVX */
        return 0;
    if (bit(leaf7_ebx, 5))
        cpu |= SFFN_CPU_AVX2;
    /* Every AMD core with AVX2 but one (Excavator) is a Zen; Hygon's are Zens too. ahead.h has the measurements. */
    if (bit(leaf7_ebx, 5) && (memcmp(id->vendor, "AuthenticAMD", 12) == 0 ||
                              memcmp(id->vendor, "HygonGenuine", 12) == 0))
        cpu |= SFFN_CPU_STREAMS;
    if (bit(leaf1_ecx, 12))
        cpu |= SFFN_CPU_FMA;
    if (bit(leaf1_ecx, 29))
        cpu |= SFFN_CPU_F16C;
    if (bit(leaf7_1_eax, 4))
        cpu |= SFFN_CPU_AVX_VNNI;
    if (os_zmm && bit(leaf7_ebx, 16) && bit(leaf7_ebx, 17) && bit(leaf7_ebx, 28) &&
        bit(leaf7_ebx, 30) && bit(leaf7_ebx, 31)) {
        cpu |= SFFN_CPU_AVX512; /* F, DQ, CD, BW, VL */
        if (bit(leaf7_ecx, 11))
            cpu |= SFFN_CPU_AVX512_VNNI;
        if (bit(leaf7_ecx, 1))
            cpu |= SFFN_CPU_AVX512_VBMI;
        if (bit(leaf7_1_eax, 5))
            cpu |= SFFN_CPU_AVX512_BF16;
        if (bit(leaf7_edx, 23))
            cpu |= SFFN_CPU_AVX512_FP16;
        if (bit(leaf7_ecx, 14))
            cpu |= SFFN_CPU_AVX512_VPOPCNTDQ;
        /* Intel's 14 nm server cores lower the whole core's clock for 512-bit vectors and take milliseconds to raise it again; they are
         * the ones without VBMI. From Ice Lake on, and on AMD, there is no such licence to pay. */
        if (memcmp(id->vendor, "GenuineIntel", 12) == 0 && !bit(leaf7_ecx, 1))
            cpu |= SFFN_CPU_SLOW_ZMM;
    }
    if (os_amx && bit(leaf7_edx, 24)) { /* AMX-TILE */
        if (bit(leaf7_edx, 25))
            cpu |= SFFN_CPU_AMX_INT8;
        if (bit(leaf7_edx, 22))
            cpu |= SFFN_CPU_AMX_BF16;
    }
    return cpu;
}

uint64_t sffn_cpu_from_hwcap(uint64_t hwcap, uint64_t hwcap2)
{
    /* Numbers of the Linux ABI (arch/arm64/include/uapi/asm/hwcap.h); written here so that they can be tested on any host. */
    static const struct {
        unsigned char word, index;
        uint64_t bit;
    } bits[] = {
        {1, 1, SFFN_CPU_NEON},      /* HWCAP_ASIMD */
        {1, 20, SFFN_CPU_DOTPROD},  /* HWCAP_ASIMDDP */
        {1, 22, SFFN_CPU_SVE},      /* HWCAP_SVE */
        {2, 1, SFFN_CPU_SVE2},      /* HWCAP2_SVE2 */
        {2, 13, SFFN_CPU_I8MM},     /* HWCAP2_I8MM */
        {2, 14, SFFN_CPU_ARM_BF16}, /* HWCAP2_BF16 */
    };
    uint64_t cpu = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        if (((bits[i].word == 1 ? hwcap : hwcap2) >> bits[i].index & 1u) != 0)
            cpu |= bits[i].bit;
    return (cpu & SFFN_CPU_NEON) != 0 ? cpu : 0;
}

void sffn_cpu_describe(uint64_t cpu, char *text, size_t size)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } names[] = {
        {SFFN_CPU_AVX2, "avx2"},
        {SFFN_CPU_FMA, "fma"},
        {SFFN_CPU_F16C, "f16c"},
        {SFFN_CPU_AVX512, "avx512"},
        {SFFN_CPU_AVX512_VNNI, "avx512_vnni"},
        {SFFN_CPU_AVX512_VBMI, "avx512_vbmi"},
        {SFFN_CPU_AVX512_BF16, "avx512_bf16"},
        {SFFN_CPU_AVX512_FP16, "avx512_fp16"},
        {SFFN_CPU_AVX512_VPOPCNTDQ, "avx512_vpopcntdq"},
        {SFFN_CPU_AVX_VNNI, "avx_vnni"},
        {SFFN_CPU_AMX_INT8, "amx_int8"},
        {SFFN_CPU_AMX_BF16, "amx_bf16"},
        {SFFN_CPU_SLOW_ZMM, "slow_zmm"},
        {SFFN_CPU_STREAMS, "streams"},
        {SFFN_CPU_NEON, "neon"},
        {SFFN_CPU_DOTPROD, "dotprod"},
        {SFFN_CPU_I8MM, "i8mm"},
        {SFFN_CPU_ARM_BF16, "bf16"},
        {SFFN_CPU_SVE, "sve"},
        {SFFN_CPU_SVE2, "sve2"},
    };
    size_t used = 0;
    if (size == 0)
        return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t length = strlen(names[i].name);
        const size_t space = used > 0;
        if ((cpu & names[i].bit) == 0)
            continue;
        if (used + space + length >= size) /* whole names only */
            break;
        if (space)
            text[used++] = ' ';
        memcpy(text + used, names[i].name, length);
        used += length;
    }
    text[used] = '\0';
}
