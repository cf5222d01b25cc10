/* llama2.h  What 06_llama2_loop.c leaves as it was: a model in llama2.c's first format (github.com/karpathy/llama2.c, export.py, version 0:
 * seven int32, then float32 tensors), and everything but the feed-forward layer.
 */
#ifndef LLAMA2_H
#define LLAMA2_H
#include "example.h"
#include <string.h>

struct model {
    /* vocab < 0: the output matrix is not the embedding */
    struct {
        int32_t dim, hidden, n_layers, n_heads, n_kv_heads, vocab, seq;
    } s;
    /* tensors: where in w */
    size_t d, f, kv, head, n_vocab, seq, embed, rms_att, wq, wk, wv, wo, rms_ffn, w1, w2, w3,
        rms_final, out;
    /* keys and values [n_layers][seq][kv] */
    float *w, *x, *xb, *q, *att, *hb, *hb2, *logits, *keys, *values;
};

/* Finds the tensors of the file; returns how many floats it holds. */
static inline size_t lay_out(struct model *m)
{
    const size_t n = (size_t)m->s.n_layers, d = m->d = (size_t)m->s.dim,
                 f = m->f = (size_t)m->s.hidden;
    m->head = d / (size_t)m->s.n_heads, m->kv = m->head * (size_t)m->s.n_kv_heads;
    m->n_vocab = (size_t)abs(m->s.vocab), m->seq = (size_t)m->s.seq;
    m->rms_att = m->embed + m->n_vocab * d, m->wq = m->rms_att + n * d, m->wk = m->wq + n * d * d,
    m->wv = m->wk + n * m->kv * d;
    m->wo = m->wv + n * m->kv * d, m->rms_ffn = m->wo + n * d * d, m->w1 = m->rms_ffn + n * d,
    m->w2 = m->w1 + n * f * d;
    m->w3 = m->w2 + n * d * f, m->rms_final = m->w3 + n * f * d;
    /* two tables for the rotation, which is computed here */
    const size_t end = m->rms_final + d + m->seq * m->head;
    m->out = m->s.vocab < 0 ? end : m->embed;
    return end + (m->s.vocab < 0 ? m->n_vocab * d : 0);
}

/* A constant first element of every token, times a negative one of every gate, is a bias: it makes about a tenth of the neurons active, as
 * training does in a ReLU-fied model. */
static inline void write_random(FILE *file)
{
    struct model m = {.s = {256, 1024, 4, 8, 4, 512, 64}};
    const size_t n = lay_out(&m);
    float *w = random_floats(n, 1.0f / sqrtf(256));
    for (size_t i = 0; i < n; i++) {
        if (i < m.rms_att)
            w[i] = i % m.d == 0 ? 16.0f : 16.0f * w[i];
        else if (i >= m.w1 && i < m.w2 && (i - m.w1) % m.d == 0)
            w[i] = -0.08f;
        else if (i < m.wq || (i >= m.rms_ffn && i < m.w1) || i >= m.rms_final)
            w[i] = 1;
        else if ((i >= m.wo && i < m.rms_ffn) || (i >= m.w2 && i < m.w3))
            w[i] *= 0.2f;
    }
    fwrite(&m.s, sizeof m.s, 1, file);
    fwrite(w, sizeof *w, n, file);
    rewind(file);
    free(w);
}

static inline void rmsnorm(float *y, const float *x, const float *w, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        y[i] = w[i] * x[i] / sqrtf(sum / (float)n + 1e-5f);
}

static inline void matmul(float *y, const float *x, const float *w, size_t n,
                          size_t d) /* w [d][n] */
{
    for (size_t i = 0; i < d; i++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += w[i * n + j] * x[j];
        y[i] = sum;
    }
}

static inline void rotate(float *v, size_t n, size_t head, size_t pos)
{
    for (size_t i = 0; i < n; i += 2) {
        const float angle = (float)pos * powf(10000.0f, -(float)(i % head) / (float)head),
                    c = cosf(angle), s = sinf(angle), a = v[i];
        v[i] = a * c - v[i + 1] * s, v[i + 1] = a * s + v[i + 1] * c;
    }
}

/* xb -> q, with this token's key and value in the cache */
static inline void attention(struct model *m, size_t l, size_t pos)
{
    const size_t d = m->d, kv = m->kv, n_heads = d / m->head, per_kv = d / kv;
    float *keys = m->keys + l * m->seq * kv, *values = m->values + l * m->seq * kv;
    matmul(m->q, m->xb, m->w + m->wq + l * d * d, d, d);
    matmul(keys + pos * kv, m->xb, m->w + m->wk + l * kv * d, d, kv);
    matmul(values + pos * kv, m->xb, m->w + m->wv + l * kv * d, d, kv);
    rotate(m->q, d, m->head, pos), rotate(keys + pos * kv, kv, m->head, pos);
    for (size_t h = 0; h < n_heads; h++) {
        const size_t at = h / per_kv * m->head;
        float max = -INFINITY, sum = 0, *out = m->xb + h * m->head;
        for (size_t t = 0; t <= pos; t++) {
            matmul(&m->att[t], m->q + h * m->head, keys + t * kv + at, m->head, 1);
            max = fmaxf(max, m->att[t] /= sqrtf((float)m->head));
        }
        for (size_t t = 0; t <= pos; t++)
            sum += m->att[t] = expf(m->att[t] - max);
        for (size_t i = 0; i < m->head; i++)
            for (size_t t = out[i] = 0; t <= pos; t++)
                out[i] += m->att[t] / sum * values[t * kv + at + i];
    }
    matmul(m->q, m->xb, m->w + m->wo + l * d * d, d, d);
}

static inline void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static inline void read_model(struct model *m, FILE *file)
{
    int ok = fread(&m->s, sizeof m->s, 1, file) == 1 && m->s.dim > 0 && m->s.hidden > 0 &&
             m->s.n_layers > 0 && m->s.n_heads > 0 && m->s.n_kv_heads > 0 &&
             m->s.n_heads % m->s.n_kv_heads == 0 && m->s.dim % m->s.n_heads == 0 &&
             m->s.vocab != 0 && m->s.seq > 0;
    const size_t n = ok ? lay_out(m) : 1, cache = ok ? (size_t)m->s.n_layers * m->seq * m->kv : 1;
    m->w = random_floats(n, 0);
    if (!ok || fread(m->w, sizeof(float), n, file) != n) {
        fprintf(stderr, "not a model in llama2.c's first format, or cut off\n");
        exit(1);
    }
    m->x = random_floats(m->d, 0), m->xb = random_floats(m->d, 0), m->q = random_floats(m->d, 0),
    m->att = random_floats(m->seq, 0);
    m->hb = random_floats(m->f, 0), m->hb2 = random_floats(m->f, 0),
    m->logits = random_floats(m->n_vocab, 0);
    m->keys = random_floats(cache, 0), m->values = random_floats(cache, 0);
}
#endif /* LLAMA2_H */
