/* features.h  Capability and tuning bits of a CPU. "Can run" and "should use" are different bits. */
#ifndef SFFN_CPU_FEATURES_H
#define SFFN_CPU_FEATURES_H
#include <stddef.h>
#include <stdint.h>

/* x86-64 */
#define SFFN_CPU_AVX2             (1ull << 0) /* with AVX and OS support of YMM state */
#define SFFN_CPU_FMA              (1ull << 1)
#define SFFN_CPU_F16C             (1ull << 2)
#define SFFN_CPU_AVX512           (1ull << 3) /* F, BW, DQ, VL, CD and OS support of ZMM state */
#define SFFN_CPU_AVX512_VNNI      (1ull << 4)
#define SFFN_CPU_AVX512_VBMI      (1ull << 5)
#define SFFN_CPU_AVX512_BF16      (1ull << 6)
#define SFFN_CPU_AVX512_FP16      (1ull << 7)
#define SFFN_CPU_AVX512_VPOPCNTDQ (1ull << 8)
#define SFFN_CPU_AVX_VNNI         (1ull << 9)
#define SFFN_CPU_AMX_INT8         (1ull << 10) /* with the kernel's permission for tile data */
#define SFFN_CPU_AMX_BF16         (1ull << 11)
/* tuning: 512-bit vectors lower the clock (Skylake-X, Cascade Lake) */
#define SFFN_CPU_SLOW_ZMM         (1ull << 12)
/* tuning: reads one long stream best when no prefetch instruction helps (AMD Zen) */
#define SFFN_CPU_STREAMS          (1ull << 13)
/* AArch64 */
#define SFFN_CPU_NEON             (1ull << 32)
#define SFFN_CPU_DOTPROD          (1ull << 33)
#define SFFN_CPU_I8MM             (1ull << 34)
#define SFFN_CPU_ARM_BF16         (1ull << 35)
#define SFFN_CPU_SVE              (1ull << 36)
#define SFFN_CPU_SVE2             (1ull << 37)

/* Raw CPUID leaves that decide the x86 bits: recorded dumps test sffn_cpu_from_cpuid(). */
struct sffn_cpuid {
    uint32_t max_leaf;
    uint32_t leaf1[4], leaf7_0[4], leaf7_1[4]; /* eax, ebx, ecx, edx */
    char vendor[13];
    uint64_t xcr0;     /* 0 when OSXSAVE is off */
    int amx_permitted; /* the OS granted tile data to this process */
};

/* Pure: the bits for a recorded CPUID. */
uint64_t sffn_cpu_from_cpuid(const struct sffn_cpuid *id);
/* Pure: the bits for AArch64 HWCAP words. */
uint64_t sffn_cpu_from_hwcap(uint64_t hwcap, uint64_t hwcap2);
/* The bits of the CPU this runs on. No side effects besides asking the OS. Thread-safe, not cached. */
uint64_t sffn_cpu_detect(void);
/* Writes the names of the bits, space separated and NUL-terminated; truncates at size. */
void sffn_cpu_describe(uint64_t cpu, char *text, size_t size);

#endif /* SFFN_CPU_FEATURES_H */
