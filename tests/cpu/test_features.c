/* test_features.c  CPUID and HWCAP words -> feature bits -> the kernels that are chosen.
 *
 * "Zen 4" is a dump of a real guest (AMD EPYC under KVM). The others are put together from public knowledge (the vendors' manuals and
 * published CPUID dumps): in the words below every bit that the library reads should be as on that machine, other bits may differ.
 * Whoever has one of these machines is welcome to replace the words by a real dump.
 */
#include "cpu/features.h"
#include "kernels/kernels.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define HASWELL_BITS   (SFFN_CPU_AVX2 | SFFN_CPU_FMA | SFFN_CPU_F16C)
#define SKYLAKE_X_BITS (HASWELL_BITS | SFFN_CPU_AVX512 | SFFN_CPU_SLOW_ZMM)
#define ICE_LAKE_BITS                                                                              \
    (HASWELL_BITS | SFFN_CPU_AVX512 | SFFN_CPU_AVX512_VNNI | SFFN_CPU_AVX512_VBMI |                \
     SFFN_CPU_AVX512_VPOPCNTDQ)
#define SAPPHIRE_RAPIDS_BITS                                                                       \
    (ICE_LAKE_BITS | SFFN_CPU_AVX512_BF16 | SFFN_CPU_AVX512_FP16 | SFFN_CPU_AVX_VNNI)

#define XCR0_AVX    0x7u
#define XCR0_AVX512 0xe7u
#define XCR0_PKU    0x200u
#define XCR0_AMX    0x60000u

/* clang-format off */
static const struct machine {
    const char *name;
    struct sffn_cpuid id;
    uint64_t bits;
    const char *isa; /* the strongest row of the ISA table */
} machines[] = {
    { "Nehalem",
      { 11, { 0x000106a5, 0, 0x009ce3bd, 0xbfebfbff }, { 0 }, { 0 }, "GenuineIntel", 0, 0 },
      0, "scalar" },
    { "Haswell",
      { 13, { 0x000306c3, 0, 0x7ffafbff, 0xbfebfbff }, { 0, 0x000027ab, 0, 0x9c000600 }, { 0 }, "GenuineIntel", XCR0_AVX, 0 },
      HASWELL_BITS, "avx2" },
    { "Skylake-X",
      { 22, { 0x00050654, 0, 0x7ffefbff, 0xbfebfbff }, { 0, 0xd39ffffb, 0x00000008, 0x9c000600 }, { 0 }, "GenuineIntel",
        XCR0_AVX512 | XCR0_PKU, 0 },
      SKYLAKE_X_BITS, "avx2" },
    { "Cascade Lake",
      { 22, { 0x00050657, 0, 0x7ffefbff, 0xbfebfbff }, { 0, 0xd39ffffb, 0x00000808, 0xbc000600 }, { 0 }, "GenuineIntel",
        XCR0_AVX512 | XCR0_PKU, 0 },
      SKYLAKE_X_BITS | SFFN_CPU_AVX512_VNNI, "avx512vl_vnni" },
    { "Ice Lake",
      { 27, { 0x000606a6, 0, 0x7ffefbff, 0xbfebfbff }, { 0, 0xf3bfbfef, 0x40417f5e, 0xbc040412 }, { 0 }, "GenuineIntel",
        XCR0_AVX512 | XCR0_PKU, 0 },
      ICE_LAKE_BITS, "avx512_vnni" },
    { "Sapphire Rapids",
      { 32, { 0x000806f8, 0, 0x7ffefbff, 0xbfebfbff }, { 2, 0xf3bfbfef, 0xfb417ffe, 0xffdd4432 }, { 0x00001c30, 0, 0, 0 }, "GenuineIntel",
        XCR0_AVX512 | XCR0_PKU | XCR0_AMX, 1 },
      SAPPHIRE_RAPIDS_BITS | SFFN_CPU_AMX_INT8 | SFFN_CPU_AMX_BF16, "avx512_vnni" },
    { "Sapphire Rapids, no permission for tile data",
      { 32, { 0x000806f8, 0, 0x7ffefbff, 0xbfebfbff }, { 2, 0xf3bfbfef, 0xfb417ffe, 0xffdd4432 }, { 0x00001c30, 0, 0, 0 }, "GenuineIntel",
        XCR0_AVX512 | XCR0_PKU | XCR0_AMX, 0 },
      SAPPHIRE_RAPIDS_BITS, "avx512_vnni" },
    { "Sapphire Rapids, an OS that keeps YMM state only",
      { 32, { 0x000806f8, 0, 0x7ffefbff, 0xbfebfbff }, { 2, 0xf3bfbfef, 0xfb417ffe, 0xffdd4432 }, { 0x00001c30, 0, 0, 0 }, "GenuineIntel",
        XCR0_AVX, 0 },
      HASWELL_BITS | SFFN_CPU_AVX_VNNI, "avx_vnni" },
    { "Sapphire Rapids, an OS that keeps SSE state only",
      { 32, { 0x000806f8, 0, 0x7ffefbff, 0xbfebfbff }, { 2, 0xf3bfbfef, 0xfb417ffe, 0xffdd4432 }, { 0x00001c30, 0, 0, 0 }, "GenuineIntel",
        0x3u, 0 },
      0, "scalar" },
    { "Alder Lake",
      { 32, { 0x00090672, 0, 0x7ffafbff, 0xbfebfbff }, { 2, 0x239c27eb, 0x98c027bc, 0xfc1cc410 }, { 0x00401c10, 0, 0, 0 }, "GenuineIntel",
        XCR0_AVX | XCR0_PKU, 0 },
      HASWELL_BITS | SFFN_CPU_AVX_VNNI, "avx_vnni" },
    { "Haswell, leaves above 6 hidden by a hypervisor",
      { 6, { 0x000306c3, 0, 0x7ffafbff, 0xbfebfbff }, { 0, 0x000027ab, 0, 0x9c000600 }, { 0 }, "GenuineIntel", XCR0_AVX, 0 },
      SFFN_CPU_FMA | SFFN_CPU_F16C, "scalar" },
    { "Zen 2",
      { 16, { 0x00830f10, 0, 0x7ed8320b, 0x178bfbff }, { 0, 0x219c91a9, 0x00400004, 0 }, { 0 }, "AuthenticAMD", XCR0_AVX, 0 },
      HASWELL_BITS | SFFN_CPU_STREAMS, "avx2" },
    { "Zen 4",
      { 28, { 0x00a10f11, 0x01020800, 0xfffa3203, 0x178bfbff }, { 1, 0xf1bf07ab, 0x00405fc6, 0x00000010 }, { 0x00000020, 0, 0, 0 },
        "AuthenticAMD", XCR0_AVX512, 0 },
      ICE_LAKE_BITS | SFFN_CPU_AVX512_BF16 | SFFN_CPU_STREAMS, "avx512_vnni" },
    { "Zen 5",
      { 16, { 0x00b00f21, 0, 0x7efa320b, 0x178bfbff }, { 1, 0xf1bf97a9, 0x18405fce, 0x10000110 }, { 0x00000030, 0, 0, 0 }, "AuthenticAMD",
        XCR0_AVX512 | XCR0_PKU, 0 },
      ICE_LAKE_BITS | SFFN_CPU_AVX512_BF16 | SFFN_CPU_AVX_VNNI | SFFN_CPU_STREAMS, "avx512_vnni" },
};
/* clang-format on */

enum { N_MACHINES = sizeof machines / sizeof *machines };

static void bits_from_cpuid(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MACHINES; i++) {
        const uint64_t bits = sffn_cpu_from_cpuid(&machines[i].id);
        if (bits != machines[i].bits) {
            char got[512], expected[512];
            sffn_cpu_describe(bits, got, sizeof got);
            sffn_cpu_describe(machines[i].bits, expected, sizeof expected);
            fail_msg("%s: got '%s', expected '%s'", machines[i].name, got, expected);
        }
    }
}

/* Index of a row of the ISA table, or -1 when this build lacks it. */
static int isa_index(const char *name)
{
    for (size_t i = 0; sffn_kernels_isa_name(i) != NULL; i++)
        if (strcmp(sffn_kernels_isa_name(i), name) == 0)
            return (int)i;
    return -1;
}

/* clang-format off */
/* What each machine must get: float ops from the best float ISA, integer ops from the best with integer dot products. */
static const struct {
    const char *isa;
    const char *names[32];
} tables[] = {
    { "scalar",
      { "rows_dot_f32_scalar", "rows_dot_f16_scalar", "rows_dot_bf16_scalar", "rows_dot_q8_0_scalar", "rows_dot_q4_0_scalar",
        "rows_dot_q4_0_apart_scalar",
        "rows_axpy_f32_scalar", "rows_axpy_f16_scalar", "rows_axpy_bf16_scalar", "batch_axpy_f32_scalar", "batch_axpy_f16_scalar", "batch_axpy_bf16_scalar",
        "rows_axpy_int_q8_0_scalar", "rows_axpy_int_q4_0_scalar",
        "rows_axpy_int_q4_0_apart_scalar",
        "batch_axpy_int_q8_0_scalar", "batch_axpy_int_q4_0_scalar", "batch_axpy_int_q4_0_apart_scalar",
        "blocks_axpy_q8_0_scalar", "blocks_axpy_q4_0_scalar", "quantize_x_scalar", "threshold_scalar", "activate_scalar", "pack_signs_scalar",
        "count_signs_scalar", "plane_dot_scalar", "columns_axpy_scalar", NULL } },
    { "avx2",
      { "rows_dot_f32_avx2", "rows_dot_f16_avx2", "rows_dot_bf16_avx2", "rows_dot_q8_0_avx2", "rows_dot_q4_0_avx2", "rows_dot_q4_0_apart_avx2",
        "rows_axpy_f32_avx2", "rows_axpy_f16_avx2", "rows_axpy_bf16_avx2", "batch_axpy_f32_avx2", "batch_axpy_f16_avx2", "batch_axpy_bf16_avx2",
        "rows_axpy_int_q8_0_avx2", "rows_axpy_int_q4_0_avx2", "rows_axpy_int_q4_0_apart_avx2", "batch_axpy_int_q8_0_avx2",
        "batch_axpy_int_q4_0_avx2", "batch_axpy_int_q4_0_apart_avx2", "blocks_axpy_q8_0_avx2", "blocks_axpy_q4_0_avx2", "quantize_x_avx2",
        "threshold_avx2", "activate_avx2", "pack_signs_avx2", "count_signs_avx2", "plane_dot_avx2", "columns_axpy_avx2", NULL } },
    { "avx_vnni",
      { "rows_dot_f32_avx2", "rows_dot_f16_avx2", "rows_dot_bf16_avx2", "rows_dot_q8_0_avx_vnni", "rows_dot_q4_0_avx_vnni",
        "rows_dot_q4_0_apart_avx_vnni", "rows_axpy_f32_avx2", "rows_axpy_f16_avx2", "rows_axpy_bf16_avx2", "batch_axpy_f32_avx2",
        "batch_axpy_f16_avx2", "batch_axpy_bf16_avx2", "rows_axpy_int_q8_0_avx_vnni", "rows_axpy_int_q4_0_avx_vnni",
        "rows_axpy_int_q4_0_apart_avx_vnni", "batch_axpy_int_q8_0_avx_vnni", "batch_axpy_int_q4_0_avx_vnni",
        "batch_axpy_int_q4_0_apart_avx_vnni", "blocks_axpy_q8_0_avx_vnni", "blocks_axpy_q4_0_avx_vnni", "quantize_x_avx2", "threshold_avx2",
        "activate_avx2", "pack_signs_avx2", "count_signs_avx2", "plane_dot_avx_vnni", "columns_axpy_avx_vnni", NULL } },
    { "avx512vl_vnni",
      { "rows_dot_f32_avx2", "rows_dot_f16_avx2", "rows_dot_bf16_avx2", "rows_dot_q8_0_avx512vl_vnni", "rows_dot_q4_0_avx512vl_vnni",
        "rows_dot_q4_0_apart_avx512vl_vnni", "rows_axpy_f32_avx2", "rows_axpy_f16_avx2", "rows_axpy_bf16_avx2", "batch_axpy_f32_avx2",
        "batch_axpy_f16_avx2", "batch_axpy_bf16_avx2", "rows_axpy_int_q8_0_avx512vl_vnni", "rows_axpy_int_q4_0_avx512vl_vnni",
        "rows_axpy_int_q4_0_apart_avx512vl_vnni", "batch_axpy_int_q8_0_avx512vl_vnni", "batch_axpy_int_q4_0_avx512vl_vnni",
        "batch_axpy_int_q4_0_apart_avx512vl_vnni", "blocks_axpy_q8_0_avx512vl_vnni", "blocks_axpy_q4_0_avx512vl_vnni", "quantize_x_avx2", "threshold_avx2",
        "activate_avx2", "pack_signs_avx2", "count_signs_avx2", "plane_dot_avx512vl_vnni", "columns_axpy_avx512vl_vnni", NULL } },
    { "avx512_vnni",
      { "rows_dot_f32_avx512", "rows_dot_f16_avx512", "rows_dot_bf16_avx512", "rows_dot_q8_0_avx512_vnni", "rows_dot_q4_0_avx512_vnni",
        "rows_dot_q4_0_apart_avx512_vnni",
        "rows_axpy_f32_avx512", "rows_axpy_f16_avx512", "rows_axpy_bf16_avx512", "batch_axpy_f32_avx512", "batch_axpy_f16_avx512", "batch_axpy_bf16_avx512",
        "rows_axpy_int_q8_0_avx512_vnni",
        "rows_axpy_int_q4_0_avx512_vnni", "rows_axpy_int_q4_0_apart_avx512_vnni",
        "batch_axpy_int_q8_0_avx512_vnni", "batch_axpy_int_q4_0_avx512_vnni", "batch_axpy_int_q4_0_apart_avx512_vnni", "blocks_axpy_q8_0_avx512_vnni", "blocks_axpy_q4_0_avx512_vnni",
        "quantize_x_avx512",
        "threshold_avx512", "activate_avx512", "pack_signs_avx512", "count_signs_avx512", "plane_dot_avx512_vnni",
        "columns_axpy_avx512_vnni", NULL } },
};
/* clang-format on */

static void kernels_of_each_machine(void **state)
{
    (void)state;
    if (isa_index("avx2") < 0 || isa_index("avx_vnni") < 0 || isa_index("avx512vl_vnni") < 0 ||
        isa_index("avx512") < 0 || isa_index("avx512_vnni") < 0)
        skip(); /* built for another CPU family, with -Disas, or by a compiler that lacks one */
    for (size_t i = 0; i < N_MACHINES; i++) {
        struct sffn_kernels k;
        const size_t row = sffn_kernels_select(&k, machines[i].bits, SIZE_MAX);
        size_t t = 0, n = 0;
        if (strcmp(sffn_kernels_isa_name(row), machines[i].isa) != 0)
            fail_msg("%s runs %s, expected %s", machines[i].name, sffn_kernels_isa_name(row),
                     machines[i].isa);
        while (strcmp(tables[t].isa, machines[i].isa) != 0)
            t++;
        for (; tables[t].names[n] != NULL; n++) {
            assert_non_null(sffn_kernels_entry_name(&k, n));
            if (strcmp(sffn_kernels_entry_name(&k, n), tables[t].names[n]) != 0)
                fail_msg("%s got %s, expected %s", machines[i].name, sffn_kernels_entry_name(&k, n),
                         tables[t].names[n]);
        }
        assert_null(sffn_kernels_entry_name(&k, n));
    }
}

/* A cap on the rows of the table is kept, and what a row lacks comes from the rows below it. */
static void cap(void **state)
{
    struct sffn_kernels k;
    (void)state;
    for (size_t max = 0; sffn_kernels_isa_name(max) != NULL; max++) {
        const size_t row = sffn_kernels_select(&k, ~(uint64_t)SFFN_CPU_SLOW_ZMM, max);
        assert_int_equal(row, max);
        for (size_t i = 0; sffn_kernels_entry_name(&k, i) != NULL; i++) {
            const char *name = sffn_kernels_entry_name(&k, i);
            int from = -1;
            for (size_t isa = 0; isa <= max; isa++) {
                const size_t length = strlen(sffn_kernels_isa_name(isa));
                if (strlen(name) > length &&
                    strcmp(name + strlen(name) - length, sffn_kernels_isa_name(isa)) == 0)
                    from = (int)isa;
            }
            assert_true(from >= 0);
        }
    }
    assert_int_equal(sffn_kernels_select(&k, 0, SIZE_MAX), 0);
    assert_null(sffn_kernels_isa_table(1000));
    assert_null(sffn_kernels_isa_name(1000));
    assert_false(sffn_kernels_isa_runs_on(1000, ~(uint64_t)0));
    assert_true(sffn_kernels_isa_runs_on(0, 0));
}

static void bits_from_hwcap(void **state)
{
    static const struct {
        const char *name;
        uint64_t hwcap, hwcap2, bits;
    } cores[] = {
        /* fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid */
        {"Cortex-A53", 0x8ff, 0, SFFN_CPU_NEON},
        /* + atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp ssbs */
        {"Neoverse N1", 0x10119fff, 0, SFFN_CPU_NEON | SFFN_CPU_DOTPROD},
        /* + sve; i8mm bf16 in the second word, no SVE2 */
        {"Neoverse V1", 0xffffffff & ~(1u << 18), (1u << 0) | (1u << 13) | (1u << 14),
         SFFN_CPU_NEON | SFFN_CPU_DOTPROD | SFFN_CPU_SVE | SFFN_CPU_I8MM | SFFN_CPU_ARM_BF16},
        {"Neoverse V2", 0xffffffff, (1u << 1) | (1u << 13) | (1u << 14),
         SFFN_CPU_NEON | SFFN_CPU_DOTPROD | SFFN_CPU_SVE | SFFN_CPU_SVE2 | SFFN_CPU_I8MM |
             SFFN_CPU_ARM_BF16},
        {"no SIMD", 0x1, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cores / sizeof *cores; i++)
        if (sffn_cpu_from_hwcap(cores[i].hwcap, cores[i].hwcap2) != cores[i].bits)
            fail_msg("%s: got %#llx", cores[i].name,
                     (unsigned long long)sffn_cpu_from_hwcap(cores[i].hwcap, cores[i].hwcap2));
}

static void names_of_bits(void **state)
{
    char text[64];
    (void)state;
    sffn_cpu_describe(SFFN_CPU_AVX2 | SFFN_CPU_FMA | SFFN_CPU_AVX512_VNNI, text, sizeof text);
    assert_string_equal(text, "avx2 fma avx512_vnni");
    sffn_cpu_describe(0, text, sizeof text);
    assert_string_equal(text, "");
    /* Whole names only, and never a byte past size. */
    for (size_t size = 0; size < 24; size++) {
        memset(text, 'x', sizeof text);
        sffn_cpu_describe(SFFN_CPU_AVX2 | SFFN_CPU_FMA | SFFN_CPU_AVX512_VNNI, text, size);
        if (size == 0)
            assert_int_equal(text[0], 'x');
        else
            assert_string_equal(text, size < 5    ? ""
                                      : size < 9  ? "avx2"
                                      : size < 21 ? "avx2 fma"
                                                  : "avx2 fma avx512_vnni");
        assert_int_equal(text[size], 'x');
    }
}

/* The machine under the test: no bit without the ones it builds on, and the same answer twice. */
static void this_machine(void **state)
{
    const uint64_t cpu = sffn_cpu_detect();
    char text[512];
    (void)state;
    assert_true(cpu == sffn_cpu_detect());
    if ((cpu & (SFFN_CPU_AVX512_VNNI | SFFN_CPU_AVX512_BF16 | SFFN_CPU_AVX512_VBMI |
                SFFN_CPU_SLOW_ZMM)) != 0)
        assert_true((cpu & SFFN_CPU_AVX512) != 0);
    if ((cpu & (SFFN_CPU_DOTPROD | SFFN_CPU_SVE)) != 0)
        assert_true((cpu & SFFN_CPU_NEON) != 0);
    sffn_cpu_describe(cpu, text, sizeof text);
    print_message("this CPU: %s\n", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_from_cpuid),
        cmocka_unit_test(kernels_of_each_machine),
        cmocka_unit_test(cap),
        cmocka_unit_test(bits_from_hwcap),
        cmocka_unit_test(names_of_bits),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
