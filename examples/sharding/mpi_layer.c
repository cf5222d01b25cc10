/* mpi_layer.c  A layer's neurons spread over the ranks of MPI: each holds a slice and computes a partial y, one all-reduce adds them.
 *
 *     mpirun -n 2 mpi_layer [MODEL.gguf LAYER INPUTS.f32]
 *
 * MODEL is one that `sffn prepare` wrote. Rank 0 also runs the whole layer, and compares within the bound that is derived in README.md.
 */
#include "../example.h"

#include <mpi.h>
#include <string.h>

/* The largest y by which slices and whole may differ, given the h of one token. */
static void add_bound(const sffn_ffn_config *c, const float *h, int n_ranks, double *bound)
{
    const size_t row_bytes = sffn_dtype_row_bytes(c->down.dtype, c->d_model),
                 block = sffn_dtype_block_size(c->down.dtype);
    float *w = random_floats(c->d_model, 0), scale = 0;
    double largest = 0;
    const double rounding = 2.01 * (c->d_ff + n_ranks + 8) * 0x1p-24;
    for (size_t j = 0; c->down_bias && j < c->d_model; j++)
        bound[j] += rounding * fabs((double)c->down_bias[j]);
    for (int pass = 0; pass < 2; pass++) { /* the largest |h d| first, then the sums */
        for (size_t i = 0; i < c->d_ff; i++) {
            const uint8_t *row = (const uint8_t *)c->down.data + i * row_bytes;
            if (h[i] == 0)
                continue;
            must(NULL, sffn_dtype_to_f32(c->down.dtype, row, c->d_model, w));
            for (size_t j = 0; j < c->d_model; j++) {
                if (block > 1 && j % block == 0) /* a block begins with its scale */
                    must(NULL, sffn_dtype_to_f32(
                                   SFFN_F16, row + j / block * (row_bytes / (c->d_model / block)),
                                   1, &scale));
                if (pass == 0)
                    largest = fmax(largest, fabs((double)h[i] * scale));
                else
                    bound[j] += rounding * fabs((double)h[i] * w[j]) +
                                (scale != 0 ? 2 * 0.51 * largest / 16256 * fabs(w[j] / scale) : 0);
            }
        }
    }
    free(w);
}

int main(int argc, char **argv)
{
    enum { MAX_TOKENS = 64 };
    MPI_Init(&argc, &argv);
    const char *path = argc == 4 ? argv[1] : "examples/models/reglu-33m.gguf";
    const char *inputs = argc == 4 ? argv[3] : "examples/models/layer3_inputs.f32";
    int rank, n_ranks, n_tokens = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);

    /* Every rank maps the file, and packs no rows but its own. Slices start at multiples of 32, which any weight type allows. */
    sffn_context *ctx;
    sffn_model *model;
    sffn_ffn *slice;
    sffn_ffn_config whole = SFFN_FFN_CONFIG_INIT;
    must(NULL, sffn_context_create(NULL, &ctx));
    must(ctx, sffn_model_open(ctx, path, &model));
    must(ctx, sffn_model_layer_config(model, argc == 4 ? (uint32_t)strtoul(argv[2], NULL, 10) : 3,
                                      &whole));
    const uint32_t n_blocks = whole.d_ff / 32,
                   first = (uint32_t)((uint64_t)n_blocks * rank / n_ranks) * 32,
                   end = rank + 1 == n_ranks
                             ? whole.d_ff
                             : (uint32_t)((uint64_t)n_blocks * (rank + 1) / n_ranks) * 32;
    sffn_ffn_config config = whole;
    must(ctx, sffn_ffn_config_slice(ctx, &config, first, end - first));
    must(ctx, sffn_ffn_create(ctx, &config, &slice));

    /* The input is on every rank, as it is in an engine whose layers are all sharded. */
    const size_t d = whole.d_model, f = whole.d_ff;
    float *x = random_floats(MAX_TOKENS * d, 0), *y = random_floats(MAX_TOKENS * d, 0);
    FILE *file = rank == 0 ? fopen(inputs, "rb") : NULL;
    if (file) {
        n_tokens = (int)(fread(x, sizeof *x, MAX_TOKENS * d, file) / d);
        fclose(file);
    }
    MPI_Bcast(&n_tokens, 1, MPI_INT, 0, MPI_COMM_WORLD);
    MPI_Bcast(x, MAX_TOKENS * (int)d, MPI_FLOAT, 0, MPI_COMM_WORLD);

    double us[2] = {0, 0}; /* product, all-reduce */
    uint64_t bytes = 0;
    for (int t = 0; t < n_tokens; t++) {
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = x + t * d, args.y = y + t * d, args.n_tokens = 1, args.stats = &stats;
        const double start = now_us();
        must(ctx, sffn_ffn_forward(ctx, slice, &args));
        const double middle = now_us();
        MPI_Allreduce(MPI_IN_PLACE, y + t * d, (int)d, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        us[0] += middle - start, us[1] += now_us() - middle, bytes += stats.touched_bytes;
    }
    for (int r = 0; r < n_ranks; r++, MPI_Barrier(MPI_COMM_WORLD))
        if (r == rank && n_tokens > 0)
            printf("rank %d of %d: neurons %u to %u, %.0f kB read per token, %.0f us, all-reduce "
                   "%.0f us\n",
                   rank, n_ranks, first, end - 1, (double)bytes / 1e3 / n_tokens, us[0] / n_tokens,
                   us[1] / n_tokens),
                fflush(stdout);

    int is_right = rank != 0 || (n_tokens > 0 && whole.down.layout == SFFN_LAYOUT_ROWS);
    if (rank == 0 && is_right) {
        sffn_ffn *ffn;
        must(ctx, sffn_ffn_create(ctx, &whole, &ffn));
        float *h = random_floats(f, 0), *y_whole = random_floats(d, 0);
        double worst = 0, share = 0, *bound = calloc(d, sizeof *bound);
        for (int t = 0; t < n_tokens; t++, memset(bound, 0, d * sizeof *bound)) {
            sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
            args.x = x + t * d, args.y = y_whole, args.h = h, args.n_tokens = 1;
            must(ctx, sffn_ffn_forward(ctx, ffn, &args));
            add_bound(&whole, h, n_ranks, bound);
            for (size_t j = 0; j < d; j++) {
                const double difference = fabs((double)y[t * d + j] - y_whole[j]);
                is_right &= difference <= bound[j];
                share = fmax(share, bound[j] > 0 ? difference / bound[j] : 0);
            }
            worst = fmax(worst, relative_difference(y + t * d, y_whole, d));
        }
        printf("%d tokens, all-reduce of %zu floats (%zu bytes) per token and layer\n", n_tokens, d,
               d * sizeof(float));
        printf("largest difference from the whole layer: %.1e of y's norm, %.2f of the bound: %s\n",
               worst, share, is_right ? "right" : "WRONG");
        sffn_ffn_destroy(ffn);
        free(h), free(y_whole), free(bound);
    } else if (!is_right) {
        fprintf(stderr,
                "%s has no inputs, or %s no neuron-major down rows: use a file that sffn prepare "
                "wrote\n",
                inputs, path);
    }
    sffn_ffn_destroy(slice);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    free(x), free(y);
    MPI_Finalize();
    return is_right ? 0 : 1;
}
