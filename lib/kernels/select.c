/* select.c  The only dispatcher: overlays the tables of the ISAs that a CPU runs, weakest to strongest. */
#include "kernels/kernels.h"
#include "cpu/features.h"

#define SFFN_ISA(name, needs, unless) extern const struct sffn_kernels sffn_kernels_##name;
#include "kernels/isa/isa_list.inc"

static const struct {
    const char *name;
    uint64_t needs, unless;
    const struct sffn_kernels *kernels;
} isas[] = {
#define SFFN_ISA(name, needs, unless) { #name, needs, unless, &sffn_kernels_##name },
#include "kernels/isa/isa_list.inc"
};

enum { N_ISAS = sizeof isas / sizeof *isas };

/* A NULL entry means "I have nothing better". */
static void overlay(struct sffn_kernels *out, const struct sffn_kernels *isa)
{
#define SFFN_WEIGHT_OP(op)                             \
    for (size_t t = 0; t < SFFN_N_WTYPES; t++)         \
        if (isa->op[t].fn != NULL)                     \
            out->op[t] = isa->op[t];
#include "kernels/weight_ops.inc"
#define SFFN_PLAIN_OP(op)       \
    if (isa->op.fn != NULL)     \
        out->op = isa->op;
#include "kernels/plain_ops.inc"
}

size_t sffn_kernels_select(struct sffn_kernels *out, uint64_t cpu, size_t max_isa)
{
    size_t strongest = 0;
    *out = *isas[0].kernels; /* scalar is complete */
    out->streams = (cpu & SFFN_CPU_STREAMS) != 0;
    for (size_t i = 1; i < N_ISAS && i <= max_isa; i++) {
        if (sffn_kernels_isa_runs_on(i, cpu)) {
            overlay(out, isas[i].kernels);
            strongest = i;
        }
    }
    return strongest;
}

const char *sffn_kernels_isa_name(size_t index)
{
    return index < N_ISAS ? isas[index].name : NULL;
}

int sffn_kernels_isa_runs_on(size_t index, uint64_t cpu)
{
    return index < N_ISAS && (isas[index].needs & ~cpu) == 0 && (isas[index].unless & cpu) == 0;
}

const struct sffn_kernels *sffn_kernels_isa_table(size_t index)
{
    return index < N_ISAS ? isas[index].kernels : NULL;
}

const char *sffn_kernels_entry_name(const struct sffn_kernels *k, size_t index)
{
#define SFFN_WEIGHT_OP(op)                             \
    for (size_t t = 0; t < SFFN_N_WTYPES; t++)         \
        if (k->op[t].fn != NULL && index-- == 0)       \
            return k->op[t].name;
#include "kernels/weight_ops.inc"
#define SFFN_PLAIN_OP(op)                      \
    if (k->op.fn != NULL && index-- == 0)      \
        return k->op.name;
#include "kernels/plain_ops.inc"
    return NULL;
}
