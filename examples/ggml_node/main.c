/* main.c  One layer three ways: ggml's own four nodes, and ours as custom nodes on 1 and 2 of ggml's threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"

#include "ffn_node.h"

enum { D_MODEL = 512, D_FF = 2048, N_TOKENS = 2 };

static void must(int is_done, const char *what)
{
    if (!is_done) {
        fprintf(stderr, "failed: %s\n", what);
        exit(1);
    }
}

static void run(struct ggml_context *g, ggml_backend_t cpu, struct ggml_tensor *x,
                struct ggml_tensor *y, const float *in, float *out)
{
    struct ggml_cgraph *graph = ggml_new_graph(g);
    ggml_set_input(x);
    ggml_set_output(y);
    ggml_build_forward_expand(graph, y);
    ggml_gallocr_t alloc = ggml_gallocr_new(ggml_backend_cpu_buffer_type());
    must(ggml_gallocr_alloc_graph(alloc, graph), "allocation of the graph");
    ggml_backend_tensor_set(x, in, 0, ggml_nbytes(x));
    must(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS, "computation");
    ggml_backend_tensor_get(y, out, 0, ggml_nbytes(y));
    ggml_gallocr_free(alloc);
}

int main(void)
{
    static float weights[3][D_FF * D_MODEL], in[N_TOKENS * D_MODEL], y[3][N_TOKENS * D_MODEL];
    srand(1);
    for (int m = 0; m < 3; m++)
        for (int i = 0; i < D_FF * D_MODEL; i++)
            weights[m][i] = ((float)rand() / (float)RAND_MAX - 0.5f) / sqrtf(D_MODEL);
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        in[i] = (float)rand() / (float)RAND_MAX - 0.5f;

    /* The engine: weights as ggml tensors, and llama.cpp's order of nodes. */
    ggml_backend_t cpu = ggml_backend_cpu_init();
    struct ggml_context *g = ggml_init((struct ggml_init_params){1 << 20, NULL, true});
    struct ggml_tensor *w[3] = {ggml_new_tensor_2d(g, GGML_TYPE_F32, D_MODEL, D_FF),
                                ggml_new_tensor_2d(g, GGML_TYPE_F32, D_MODEL, D_FF),
                                ggml_new_tensor_2d(g, GGML_TYPE_F32, D_FF, D_MODEL)};
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(g, cpu);
    for (int i = 0; i < 3; i++)
        ggml_backend_tensor_set(w[i], weights[i], 0, sizeof weights[i]);
    struct ggml_tensor *x = ggml_new_tensor_2d(g, GGML_TYPE_F32, D_MODEL, N_TOKENS);
    struct ggml_tensor *h = ggml_reglu_split(g, ggml_mul_mat(g, w[0], x), ggml_mul_mat(g, w[1], x));
    run(g, cpu, x, ggml_mul_mat(g, w[2], h), in, y[0]);

    /* The same with the library: packed once, when the model is loaded. */
    sffn_context *ctx;
    sffn_ffn *ffn;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    config.d_model = D_MODEL;
    config.d_ff = D_FF;
    config.gate = (sffn_weights){w[0]->data, SFFN_F32, SFFN_LAYOUT_ROWS, 0};
    config.up = (sffn_weights){w[1]->data, SFFN_F32, SFFN_LAYOUT_ROWS, 0};
    config.down = (sffn_weights){w[2]->data, SFFN_F32, SFFN_LAYOUT_COLUMNS, 0};
    must(sffn_context_create(NULL, &ctx) == SFFN_OK, sffn_context_last_error(NULL));
    must(sffn_ffn_create(ctx, &config, &ffn) == SFFN_OK, sffn_context_last_error(ctx));
    must(sffn_ffn_reserve_threads(ctx, ffn, 2) == SFFN_OK, sffn_context_last_error(ctx));
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        struct ffn_node node;
        x = ggml_new_tensor_2d(g, GGML_TYPE_F32, D_MODEL, N_TOKENS);
        struct ggml_tensor *result = ffn_node(g, &node, ctx, ffn, x);
        must(result != NULL, "ffn_node");
        ggml_backend_cpu_set_n_threads(cpu, n_threads);
        run(g, cpu, x, result, in, y[n_threads]);
    }
    float difference = 0, largest = 0;
    for (int i = 0; i < N_TOKENS * D_MODEL; i++) {
        difference = fmaxf(difference, fabsf(y[1][i] - y[0][i]));
        largest = fmaxf(largest, fabsf(y[0][i]));
    }
    const int is_same = memcmp(y[1], y[2], sizeof y[1]) == 0;
    printf("largest difference to ggml's nodes %.1e of %.1e; 1 and 2 threads: %s\n",
           (double)difference, (double)largest, is_same ? "the same bits" : "DIFFERENT");
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    ggml_free(g);
    ggml_backend_buffer_free(buffer);
    ggml_backend_free(cpu);
    return is_same && difference <= 1e-4f * largest ? 0 : 1;
}
