/* llama.c  Runs the layers. run_ffn() is the part that an engine would copy. */
#include "llama.h"

#include <math.h>
#include <string.h>

#include "cli.h"

/* Attention's inner loops once per level of x86-64, chosen when the program is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) &&                              \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CLI_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLI_CLONES
#endif

void llama_reset(struct llama *m)
{
    m->n_past = 0;
}

/* Sixteen sums in a fixed order, as a vector: compilers may not reorder additions by themselves. */
CLI_CLONES static float dot(const float *a, const float *b, uint32_t n)
{
    typedef float vec __attribute__((vector_size(64)));
    vec sums = {0};
    float sum[16];
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vec va, vb;
        memcpy(&va, a + i, sizeof va);
        memcpy(&vb, b + i, sizeof vb);
        sums += va * vb;
    }
    memcpy(sum, &sums, sizeof sum);
    for (uint32_t j = 0; i < n; i++, j++)
        sum[j] += a[i] * b[i];
    for (uint32_t width = 8; width != 0; width /= 2)
        for (uint32_t j = 0; j < width; j++)
            sum[j] += sum[j + width];
    return sum[0];
}

/* x_norm = the rows of x, scaled to root mean square 1, times weight. */
static void rms_norm(struct llama *m, size_t n, const float *weight)
{
    uint32_t d = m->info.d_model;
    for (size_t t = 0; t < n; t++) {
        const float *x = m->x + t * d;
        float scale = 1.0f / sqrtf(dot(x, x, d) / (float)d + m->info.rms_norm_eps);
        for (uint32_t i = 0; i < d; i++)
            m->x_norm[t * d + i] = x[i] * scale * weight[i];
    }
}

/* x += y: what attention and FFN add to the residual stream. */
static void add_residual(struct llama *m, size_t n)
{
    for (size_t i = 0; i < n * m->info.d_model; i++)
        m->x[i] += m->y[i];
}

/* Rotates the pairs of each head: neighbours in GGUF's order, halves in Hugging Face's. */
static void rope(const struct llama *m, float *x, uint32_t n_heads, uint32_t position)
{
    uint32_t half = m->info.head_dim / 2, step = m->info.rope_is_permuted ? 2 : 1;
    uint32_t other = m->info.rope_is_permuted ? 1 : half;
    const float *c = m->rope_cos + (size_t)position * half,
                *s = m->rope_sin + (size_t)position * half;
    for (uint32_t head = 0; head < n_heads; head++, x += m->info.head_dim)
        for (uint32_t i = 0; i < half; i++) {
            float a = x[i * step], b = x[i * step + other];
            x[i * step] = a * c[i] - b * s[i];
            x[i * step + other] = b * c[i] + a * s[i];
        }
}

/* sum += weight * x */
CLI_CLONES static void add_scaled(float *sum, const float *x, float weight, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        sum[i] += weight * x[i];
}

/* One token, all heads: out = softmax(q k / sqrt(head_dim)) v over positions 0 .. position. */
static void attend(const struct llama *m, const float *q, const float *k, const float *v,
                   uint32_t position, float *out)
{
    uint32_t dim = m->info.head_dim;
    float scale = 1.0f / sqrtf((float)dim);
    memset(out, 0, m->q_dim * sizeof *out);
    for (uint32_t head = 0; head < m->info.n_heads; head++, q += dim, out += dim) {
        size_t offset = (size_t)(head / m->group) * dim;
        float max = -INFINITY, sum = 0.0f;
        for (uint32_t p = 0; p <= position; p++) {
            m->scores[p] = dot(q, k + (size_t)p * m->kv_dim + offset, dim) * scale;
            max = m->scores[p] > max ? m->scores[p] : max;
        }
        for (uint32_t p = 0; p <= position; p++) {
            m->scores[p] = expf(m->scores[p] - max);
            sum += m->scores[p];
        }
        for (uint32_t p = 0; p <= position; p++)
            add_scaled(out, v + (size_t)p * m->kv_dim + offset, m->scores[p] / sum, dim);
    }
}

/* Keeps what layer i's selector wants of this moment, `now`, for when its FFN runs. */
static void keep_for_selector(struct llama *m, uint32_t i, int32_t now, const float *x, size_t n)
{
    if (m->layers[i].select_input == now)
        memcpy(m->select_x, x, n * m->info.d_model * sizeof(float));
}

/* The selector's own input; NULL: the FFN's. */
static const float *select_input(const struct llama *m, uint32_t i)
{
    const int32_t input = m->layers[i].select_input;
    return input == SFFN_INPUT_FFN ? NULL : input == SFFN_INPUT_RESIDUAL ? m->x : m->select_x;
}

/* The feed-forward layer of n tokens: one call, x_norm -> y. */
static sffn_status run_ffn(struct llama *m, uint32_t i, size_t n)
{
    sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    struct llama_layer_stats *sum = &m->stats[i];
    uint64_t start_ns = cli_now_ns(), ns;
    sffn_status status = SFFN_OK;
    args.x = m->x_norm;
    args.y = m->y;
    args.n_tokens = n;
    args.select = m->select;
    args.select_x = select_input(m, i);
    args.stats = &stats;
    if (m->before_ffn != NULL)
        status = m->before_ffn(m->before_ffn_user, i, &args);
    if (status == SFFN_OK)
        status = sffn_ffn_forward(m->ctx, m->layers[i].ffn, &args);
    ns = cli_now_ns() - start_ns;
    m->ffn_ns += ns;
    sum->ns += ns;
    sum->n_tokens += stats.n_tokens;
    sum->n_selected += stats.n_selected;
    sum->n_active += stats.n_active;
    sum->n_nonzero += stats.n_nonzero;
    sum->touched_bytes += stats.touched_bytes;
    if (stats.path != SFFN_PATH_SPARSE) {
        sum->n_dense += stats.n_tokens;
        sum->dense_reason = stats.dense_reason;
    }
    if (status == SFFN_OK && m->on_ffn != NULL)
        status = m->on_ffn(m->on_ffn_user, i, &args);
    return status;
}

static sffn_status run_attention(struct llama *m, uint32_t i, size_t n)
{
    struct llama_layer *layer = &m->layers[i];
    uint32_t d = m->info.d_model;
    float *k = m->k_cache + (size_t)i * m->n_positions * m->kv_dim,
          *v = m->v_cache + (k - m->k_cache);
    float *new_k = k + (size_t)m->n_past * m->kv_dim, *new_v = v + (size_t)m->n_past * m->kv_dim;
    sffn_status status =
        sffn_matmul_rows_dot(m->ctx, layer->q, m->x_norm, d, n, NULL, m->q, m->q_dim);
    if (status == SFFN_OK)
        status = sffn_matmul_rows_dot(m->ctx, layer->k, m->x_norm, d, n, NULL, new_k, m->kv_dim);
    if (status == SFFN_OK)
        status = sffn_matmul_rows_dot(m->ctx, layer->v, m->x_norm, d, n, NULL, new_v, m->kv_dim);
    if (status != SFFN_OK)
        return status;
    for (size_t t = 0; t < n; t++) {
        uint32_t position = m->n_past + (uint32_t)t;
        rope(m, m->q + t * m->q_dim, m->info.n_heads, position);
        rope(m, new_k + t * m->kv_dim, m->info.n_kv_heads, position);
        attend(m, m->q + t * m->q_dim, k, v, position, m->attention + t * m->q_dim);
    }
    return sffn_matmul_rows_dot(m->ctx, layer->o, m->attention, m->q_dim, n, NULL, m->y, d);
}

/* n <= LLAMA_MAX_BATCH tokens. */
static int eval_batch(struct llama *m, const int32_t *tokens, size_t n, size_t n_logits,
                      float *logits)
{
    uint32_t d = m->info.d_model;
    sffn_status status = SFFN_OK;
    for (size_t t = 0; status == SFFN_OK && t < n; t++)
        status = sffn_matmul_get_row(m->embedding, (uint32_t)tokens[t], m->x + t * d);
    for (uint32_t i = 0; status == SFFN_OK && i < m->info.n_layers; i++) {
        keep_for_selector(m, i, SFFN_INPUT_LAYER, m->x, n);
        rms_norm(m, n, m->layers[i].attn_norm);
        keep_for_selector(m, i, SFFN_INPUT_LAYER_NORM, m->x_norm, n);
        status = run_attention(m, i, n);
        if (status != SFFN_OK)
            break;
        add_residual(m, n);
        rms_norm(m, n, m->layers[i].ffn_norm);
        status = run_ffn(m, i, n);
        add_residual(m, n);
    }
    if (status == SFFN_OK && n_logits != 0) {
        rms_norm(m, n, m->norm);
        status = sffn_matmul_rows_dot(m->ctx, m->output, m->x_norm + (n - n_logits) * d, d,
                                      n_logits, NULL, logits, m->info.n_vocab);
    }
    if (status != SFFN_OK)
        return cli_fail_status(m->ctx, status, NULL);
    m->n_past += (uint32_t)n;
    return CLI_OK;
}

int llama_eval(struct llama *m, const int32_t *tokens, size_t n, size_t n_logits, float *logits)
{
    if (n > m->n_positions - m->n_past)
        return cli_fail("%zu tokens after %u do not fit into %u positions", n, (unsigned)m->n_past,
                        (unsigned)m->n_positions);
    for (size_t done = 0; done < n;) {
        size_t batch = n - done < LLAMA_MAX_BATCH ? n - done : LLAMA_MAX_BATCH;
        size_t left = n - done - batch; /* tokens after this batch */
        size_t want = n_logits > left ? n_logits - left : 0;
        if (want > batch)
            want = batch;
        if (eval_batch(m, tokens + done, batch, want, logits) != CLI_OK)
            return CLI_FAILED;
        if (want != 0)
            logits += want * m->info.n_vocab;
        done += batch;
    }
    return CLI_OK;
}
