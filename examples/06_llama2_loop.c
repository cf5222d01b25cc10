/* 06_llama2_loop.c  A decoder loop in the style of llama2.c: its three feed-forward products, and one call in their place.
 *
 *     06_llama2_loop [MODEL.bin [relu|silu [f32|bf16|q8_0|q4_0]]]
 *
 * Without MODEL.bin a file of random weights is written and read back. llama2.h has the rest of the loop.
 */
#include "llama2.h"

enum way { THREE_PRODUCTS, ONE_CALL_DENSE, ONE_CALL, N_WAYS };
struct engine {
    struct model m;
    int32_t activation;
    sffn_context *ctx;
    sffn_ffn **layers;    /* what replaces w1, w2 and w3 */
    double ffn_us, bytes; /* of all tokens of a run */
    int32_t dense_reason; /* of the last call */
};

static void make_layers(struct engine *e, int32_t dtype)
{
    const struct model *m = &e->m;
    must(NULL, sffn_context_create(NULL, &e->ctx));
    e->layers = calloc((size_t)m->s.n_layers, sizeof *e->layers);
    for (size_t l = 0; l < (size_t)m->s.n_layers; l++) {
        sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
        config.d_model = (uint32_t)m->d, config.d_ff = (uint32_t)m->f;
        config.gate.data = m->w + m->w1 + l * m->f * m->d;
        config.up.data = m->w + m->w3 + l * m->f * m->d;
        config.down.data = m->w + m->w2 + l * m->d * m->f;
        config.down.layout = SFFN_LAYOUT_COLUMNS;
        config.activation = e->activation;
        config.dtype = dtype;
        must(e->ctx, sffn_ffn_create(e->ctx, &config, &e->layers[l]));
    }
}

/* xb -> q */
static void feed_forward(struct engine *e, size_t l, enum way way)
{
    struct model *m = &e->m;
    if (way == THREE_PRODUCTS) { /* before */
        matmul(m->hb, m->xb, m->w + m->w1 + l * m->f * m->d, m->d, m->f);
        matmul(m->hb2, m->xb, m->w + m->w3 + l * m->f * m->d, m->d, m->f);
        for (size_t i = 0; i < m->f; i++)
            m->hb[i] = (e->activation == SFFN_ACT_RELU ? fmaxf(m->hb[i], 0)
                                                       : m->hb[i] / (1 + expf(-m->hb[i]))) *
                       m->hb2[i];
        matmul(m->q, m->hb, m->w + m->w2 + l * m->d * m->f, m->f, m->d);
        e->bytes += 3.0 * (double)(m->d * m->f * sizeof(float));
    } else { /* after */
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
        args.x = m->xb, args.y = m->q, args.n_tokens = 1, args.stats = &stats;
        args.select = way == ONE_CALL_DENSE ? SFFN_SELECT_DENSE : SFFN_SELECT_DEFAULT;
        must(e->ctx, sffn_ffn_forward(e->ctx, e->layers[l], &args));
        e->bytes += (double)stats.touched_bytes;
        e->dense_reason = stats.dense_reason;
    }
}

/* One token -> logits; returns the likeliest next one. */
static size_t forward(struct engine *e, size_t token, size_t pos, enum way way)
{
    struct model *m = &e->m;
    size_t best = 0;
    memcpy(m->x, m->w + m->embed + token * m->d, m->d * sizeof(float));
    for (size_t l = 0; l < (size_t)m->s.n_layers; l++) {
        rmsnorm(m->xb, m->x, m->w + m->rms_att + l * m->d, m->d);
        attention(m, l, pos);
        add(m->x, m->q, m->d);
        rmsnorm(m->xb, m->x, m->w + m->rms_ffn + l * m->d, m->d);
        const double start = now_us();
        feed_forward(e, l, way);
        e->ffn_us += now_us() - start;
        add(m->x, m->q, m->d);
    }
    rmsnorm(m->x, m->x, m->w + m->rms_final, m->d);
    matmul(m->logits, m->x, m->w + m->out, m->d, m->n_vocab);
    for (size_t i = 1; i < m->n_vocab; i++)
        best = m->logits[i] > m->logits[best] ? i : best;
    return best;
}

int main(int argc, char **argv)
{
    static const char *const names[N_WAYS] = {"three products", "one call, dense", "one call"};
    struct engine e = {.activation = sffn_activation_from_name(argc > 2   ? argv[2]
                                                               : argc > 1 ? "silu"
                                                                          : "relu")};
    const int32_t dtype = sffn_dtype_from_name(argc > 3 ? argv[3] : "f32");
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : tmpfile();
    if (!file || (e.activation != SFFN_ACT_RELU && e.activation != SFFN_ACT_SILU) || dtype < 0) {
        fprintf(stderr, "usage: %s [MODEL.bin [relu|silu [f32|bf16|q8_0|q4_0]]]\n", argv[0]);
        return 2;
    }
    if (argc == 1)
        write_random(file);
    read_model(&e.m, file);
    fclose(file);
    make_layers(&e, dtype);
    const size_t n_tokens = e.m.seq < 64 ? e.m.seq : 64, n = e.m.n_vocab;
    float *first = random_floats(n_tokens * n, 0);
    double worst = 0;
    printf("%-16s  %10s  %12s  %12s  %-16s  %s\n", "feed-forward", "tokens/s", "us per token",
           "kB per token", "logits differ by", "ran dense");
    for (int way = 0; way < N_WAYS; way++) {
        double difference = 0;
        e.ffn_us = e.bytes = 0;
        const double start = now_us();
        for (size_t pos = 0, token = 1 % n, next; pos < n_tokens; pos++, token = next) {
            next = forward(&e, token, pos, (enum way)way);
            if (way == THREE_PRODUCTS)
                memcpy(first + pos * n, e.m.logits, n * sizeof(float));
            difference = fmax(difference, relative_difference(e.m.logits, first + pos * n, n));
        }
        printf("%-16s  %10.0f  %12.1f  %12.1f  %-16.1e  %s\n", names[way],
               (double)n_tokens * 1e6 / (now_us() - start), e.ffn_us / (double)n_tokens,
               e.bytes / 1e3 / (double)n_tokens, difference,
               way == THREE_PRODUCTS ? "" : sffn_dense_reason_name(e.dense_reason));
        worst = fmax(worst, difference);
    }
    for (size_t l = 0; l < (size_t)e.m.s.n_layers; l++)
        sffn_ffn_destroy(e.layers[l]);
    sffn_context_destroy(e.ctx);
    float *const all[] = {first,  e.m.w,   e.m.x,      e.m.xb,   e.m.q,     e.m.att,
                          e.m.hb, e.m.hb2, e.m.logits, e.m.keys, e.m.values};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(e.layers);
    return dtype != SFFN_F32 || worst < 1e-4 ? 0 : 1;
}
