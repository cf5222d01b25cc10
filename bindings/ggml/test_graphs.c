/* test_graphs.c  Feed-forward layers as ggml graphs have them: taken over or left alone by the backend, and right in both cases.
 *
 * Arguments: the backend's shared object, and one built for another ggml, which must be refused. Each case runs through ggml's scheduler with the backend and with the CPU alone, and is computed in double.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

enum { D_MODEL = 256, D_FF = 512, N_EXPERTS = 4, N_USED = 2, MAX_TOKENS = 16 };

enum form {
    REGLU_SPLIT,   /* reglu(gate, up) */
    REGLU_JOINED,  /* reglu of one matrix with the rows of both */
    RELU_MUL,      /* relu(gate) * up */
    RELU2_MUL,     /* relu(gate)^2 * up */
    DRELU,         /* relu(gate) * relu(up) */
    RELU_UNGATED,  /* relu(up) */
    RELU2_UNGATED, /* relu(up)^2 */
    SWIGLU         /* swiglu(gate, up) */
};

struct test {
    const char *name;
    enum form form;
    enum ggml_type type;
    int n_tokens;
    int has_bias, has_lora, has_experts,
        is_shown;       /* is_shown: the result of the activation is an output of the graph, too */
    int is_sparse;      /* what the backend should do */
    const char *reason; /* part of its words when it should not */
};

static const struct test tests[] = {
    {"reglu f32", REGLU_SPLIT, GGML_TYPE_F32, 1, 0, 0, 0, 0, 1, ""},
    {"reglu f16", REGLU_SPLIT, GGML_TYPE_F16, 1, 0, 0, 0, 0, 1, ""},
    {"reglu bf16", REGLU_SPLIT, GGML_TYPE_BF16, 1, 0, 0, 0, 0, 1, ""},
    {"reglu q8_0", REGLU_SPLIT, GGML_TYPE_Q8_0, 1, 0, 0, 0, 0, 1, ""},
    {"reglu q4_0", REGLU_SPLIT, GGML_TYPE_Q4_0, 1, 0, 0, 0, 0, 1, ""},
    {"reglu q4_1, converted", REGLU_SPLIT, GGML_TYPE_Q4_1, 1, 0, 0, 0, 0, 1, ""},
    {"reglu q4_k, converted", REGLU_SPLIT, GGML_TYPE_Q4_K, 1, 0, 0, 0, 0, 1, ""},
    {"reglu, 5 tokens", REGLU_SPLIT, GGML_TYPE_Q8_0, 5, 0, 0, 0, 0, 1, ""},
    {"reglu joined", REGLU_JOINED, GGML_TYPE_Q8_0, 2, 0, 0, 0, 0, 1, ""},
    {"reglu joined, biases", REGLU_JOINED, GGML_TYPE_F32, 2, 1, 0, 0, 0, 1, ""},
    {"relu, mul", RELU_MUL, GGML_TYPE_Q8_0, 1, 0, 0, 0, 0, 1, ""},
    {"relu, mul, biases", RELU_MUL, GGML_TYPE_F32, 3, 1, 0, 0, 0, 1, ""},
    {"relu2, mul", RELU2_MUL, GGML_TYPE_F32, 1, 0, 0, 0, 0, 1, ""},
    {"drelu", DRELU, GGML_TYPE_F32, 1, 0, 0, 0, 0, 1, ""},
    {"ungated relu, biases", RELU_UNGATED, GGML_TYPE_F16, 1, 1, 0, 0, 0, 1, ""},
    {"ungated relu2", RELU2_UNGATED, GGML_TYPE_Q8_0, 2, 0, 0, 0, 0, 1, ""},
    {"experts, reglu", REGLU_SPLIT, GGML_TYPE_Q8_0, 3, 0, 0, 1, 0, 1, ""},
    {"experts, reglu f32", REGLU_SPLIT, GGML_TYPE_F32, 1, 0, 0, 1, 0, 1, ""},
    {"16 tokens", REGLU_SPLIT, GGML_TYPE_Q8_0, 16, 0, 0, 0, 0, 0, NULL},
    {"swiglu", SWIGLU, GGML_TYPE_Q8_0, 1, 0, 0, 0, 0, 0, "no zeros"},
    {"LoRA", REGLU_SPLIT, GGML_TYPE_Q8_0, 1, 0, 1, 0, 0, 0, "LoRA"},
    {"activation shown", REGLU_SPLIT, GGML_TYPE_Q8_0, 1, 0, 0, 0, 1, 0, "before the down product"},
};

struct model {
    struct ggml_context *ctx;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *gate, *up, *down, *gate_bias, *up_bias, *lora_a, *lora_b;
};

static uint32_t state = 1;
static float next_float(void)
{
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) / 8388608.0f - 1.0f);
}

static void fill(struct ggml_tensor *t, float scale)
{
    if (!t)
        return;
    const int64_t n = ggml_nelements(t), n_per_row = t->ne[0];
    float *floats = malloc((size_t)n * sizeof *floats);
    char *bytes = malloc(ggml_nbytes(t));
    for (int64_t i = 0; i < n; i++)
        floats[i] = scale * next_float();
    ggml_quantize_chunk(t->type, floats, bytes, 0, n / n_per_row, n_per_row, NULL);
    ggml_backend_tensor_set(t, t->type == GGML_TYPE_F32 ? (void *)floats : bytes, 0,
                            ggml_nbytes(t));
    free(floats);
    free(bytes);
}

static struct model make_model(const struct test *t)
{
    const int64_t n_experts = t->has_experts ? N_EXPERTS : 1,
                  rows = t->form == REGLU_JOINED ? 2 * D_FF : D_FF;
    const int is_gated =
        t->form != RELU_UNGATED && t->form != RELU2_UNGATED && t->form != REGLU_JOINED;
    struct model m = {0};
    m.ctx = ggml_init((struct ggml_init_params){16 * ggml_tensor_overhead(), NULL, true});
    m.up = ggml_new_tensor_3d(m.ctx, t->type, D_MODEL, rows, n_experts);
    m.down = ggml_new_tensor_3d(m.ctx, t->type, D_FF, D_MODEL, n_experts);
    ggml_set_name(m.up, "blk.0.ffn_up.weight");
    ggml_set_name(m.down, "blk.0.ffn_down.weight");
    if (is_gated)
        m.gate = ggml_new_tensor_3d(m.ctx, t->type, D_MODEL, rows, n_experts);
    if (t->has_bias)
        m.up_bias = ggml_new_tensor_1d(m.ctx, GGML_TYPE_F32, rows);
    if (t->has_bias && is_gated)
        m.gate_bias = ggml_new_tensor_1d(m.ctx, GGML_TYPE_F32, rows);
    if (t->has_lora) {
        m.lora_a = ggml_new_tensor_2d(m.ctx, GGML_TYPE_F32, D_MODEL, 8);
        m.lora_b = ggml_new_tensor_2d(m.ctx, GGML_TYPE_F32, 8, rows);
    }
    m.buffer = ggml_backend_alloc_ctx_tensors_from_buft(m.ctx, ggml_backend_cpu_buffer_type());
    ggml_backend_buffer_set_usage(m.buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    fill(m.gate, 0.1f), fill(m.up, 0.1f), fill(m.down, 0.1f);
    fill(m.gate_bias, 0.3f), fill(m.up_bias, 0.3f), fill(m.lora_a, 0.1f), fill(m.lora_b, 0.1f);
    return m;
}

struct graph {
    struct ggml_context *ctx;
    struct ggml_cgraph *nodes;
    struct ggml_tensor *in, *ids, *x, *out, *shown;
};

static struct ggml_tensor *product(const struct graph *g, struct ggml_tensor *w,
                                   struct ggml_tensor *x)
{
    return g->ids ? ggml_mul_mat_id(g->ctx, w, x, g->ids) : ggml_mul_mat(g->ctx, w, x);
}

static struct ggml_tensor *plus(const struct graph *g, struct ggml_tensor *t,
                                struct ggml_tensor *bias)
{
    return bias ? ggml_add(g->ctx, t, bias) : t;
}

static struct ggml_tensor *act(const struct graph *g, const struct test *t,
                               struct ggml_tensor *gate, struct ggml_tensor *up)
{
    struct ggml_context *c = g->ctx;
    switch (t->form) {
    case REGLU_SPLIT:
        return ggml_reglu_split(c, gate, up);
    case REGLU_JOINED:
        return ggml_reglu(c, up);
    case RELU_MUL:
        return ggml_mul(c, ggml_relu(c, gate), up);
    case RELU2_MUL:
        return ggml_mul(c, ggml_sqr(c, ggml_relu(c, gate)), up);
    case DRELU:
        return ggml_mul(c, ggml_relu(c, gate), ggml_relu(c, up));
    case RELU_UNGATED:
        return ggml_relu(c, up);
    case RELU2_UNGATED:
        return ggml_sqr(c, ggml_relu(c, up));
    default:
        return ggml_swiglu_split(c, gate, up);
    }
}

/* As an engine has it: x is computed before, and the result is added to something. */
static struct graph make_graph(const struct test *t, const struct model *m)
{
    struct graph g = {0};
    g.ctx = ggml_init(
        (struct ggml_init_params){64 * ggml_tensor_overhead() + ggml_graph_overhead(), NULL, true});
    struct ggml_context *c = g.ctx;
    g.in = ggml_new_tensor_2d(c, GGML_TYPE_F32, D_MODEL, t->n_tokens);
    ggml_set_input(g.in);
    g.x = ggml_rms_norm(c, g.in, 1e-6f);
    struct ggml_tensor *x = g.x;
    if (t->has_experts) {
        g.ids = ggml_new_tensor_2d(c, GGML_TYPE_I32, N_USED, t->n_tokens);
        ggml_set_input(g.ids);
        x = ggml_reshape_3d(c, x, D_MODEL, 1, t->n_tokens);
    }
    struct ggml_tensor *up = plus(&g, product(&g, m->up, x), m->up_bias);
    if (m->lora_a)
        up = ggml_add(
            c, up, ggml_scale(c, ggml_mul_mat(c, m->lora_b, ggml_mul_mat(c, m->lora_a, x)), 0.5f));
    struct ggml_tensor *gate = m->gate ? plus(&g, product(&g, m->gate, x), m->gate_bias) : NULL;
    struct ggml_tensor *h = act(&g, t, gate, up);
    if (t->is_shown)
        ggml_set_output(g.shown = h);
    g.out = ggml_scale(c, product(&g, m->down, h), 0.5f);
    ggml_set_output(g.out);
    g.nodes = ggml_new_graph(c);
    ggml_build_forward_expand(g.nodes, g.out);
    return g;
}

static void set_threads(ggml_backend_t backend, int n)
{
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    ggml_backend_set_n_threads_t set =
        (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(
            reg, "ggml_backend_set_n_threads");
    set(backend, n);
}

static void compute(const struct test *t, const struct model *m, ggml_backend_t *backends,
                    int n_backends, const float *in, float *out)
{
    static const int32_t experts[MAX_TOKENS][N_USED] = {{1, 3}, {0, 1}, {3, 2}};
    struct graph g = make_graph(t, m);
    ggml_backend_sched_t sched =
        ggml_backend_sched_new(backends, NULL, n_backends, 64, false, false);
    if (!ggml_backend_sched_reserve(sched,
                                    g.nodes)) /* as llama.cpp does: the graph is split twice */
        exit(2);
    ggml_backend_sched_reset(sched);
    if (!ggml_backend_sched_alloc_graph(sched, g.nodes))
        exit(2);
    ggml_backend_tensor_set(g.in, in, 0, ggml_nbytes(g.in));
    if (g.ids)
        ggml_backend_tensor_set(g.ids, experts, 0, ggml_nbytes(g.ids));
    if (ggml_backend_sched_graph_compute(sched, g.nodes) != GGML_STATUS_SUCCESS)
        exit(2);
    ggml_backend_tensor_get(g.out, out, 0, ggml_nbytes(g.out));
    ggml_backend_sched_free(sched);
    ggml_free(g.ctx);
}

/* Relative error of the CPU's and of our result: same weights, everything else in double. */
static double *decode(const struct ggml_tensor *t)
{
    const int64_t n = ggml_nelements(t);
    double *d = malloc((size_t)n * sizeof *d);
    float *floats = malloc((size_t)n * sizeof *floats);
    if (t->type == GGML_TYPE_F32)
        memcpy(floats, t->data, (size_t)n * sizeof *floats);
    else
        ggml_get_type_traits(t->type)->to_float(t->data, floats, n);
    for (int64_t i = 0; i < n; i++)
        d[i] = floats[i];
    free(floats);
    return d;
}

static double relu(double v)
{
    return v > 0 ? v : 0;
}

static double h_of(const struct test *t, double g, double u)
{
    switch (t->form) {
    case RELU2_MUL:
        return relu(g) * relu(g) * u;
    case DRELU:
        return relu(g) * relu(u);
    case RELU_UNGATED:
        return relu(u);
    case RELU2_UNGATED:
        return relu(u) * relu(u);
    default:
        return relu(g) * u;
    }
}

static void reference(const struct test *t, const struct model *m, const float *in, double *out)
{
    static const int experts[][N_USED] = {{1, 3}, {0, 1}, {3, 2}};
    double *gate = m->gate ? decode(m->gate) : NULL, *up = decode(m->up), *down = decode(m->down);
    const float *gate_bias = m->gate_bias ? m->gate_bias->data : NULL,
                *up_bias = m->up_bias ? m->up_bias->data : NULL;
    const int n_used = t->has_experts ? N_USED : 1, is_joined = t->form == REGLU_JOINED;
    for (int call = 0; call < t->n_tokens * n_used; call++) {
        const int token = call / n_used;
        const size_t e = t->has_experts ? (size_t)experts[token][call % n_used] : 0;
        double x[D_MODEL], norm = 0, *y = out + (size_t)call * D_MODEL;
        for (int i = 0; i < D_MODEL; i++)
            norm += (double)in[token * D_MODEL + i] * in[token * D_MODEL + i] / D_MODEL;
        for (int i = 0; i < D_MODEL; i++)
            x[i] = in[token * D_MODEL + i] / sqrt(norm + 1e-6), y[i] = 0;
        for (size_t n = 0; n < D_FF; n++) {
            const double *g_row = is_joined ? up + n * D_MODEL
                                  : gate    ? gate + (e * D_FF + n) * D_MODEL
                                            : NULL;
            const double *u_row =
                is_joined ? up + (D_FF + n) * D_MODEL : up + (e * D_FF + n) * D_MODEL;
            double g = is_joined && up_bias ? up_bias[n] : gate_bias ? gate_bias[n] : 0;
            double u = up_bias ? up_bias[is_joined ? D_FF + n : n] : 0;
            for (int i = 0; i < D_MODEL; i++) {
                g += g_row ? g_row[i] * x[i] : 0;
                u += u_row[i] * x[i];
            }
            const double h = h_of(t, g, u);
            for (size_t j = 0; j < D_MODEL; j++)
                y[j] += 0.5 * h * down[(e * D_MODEL + j) * D_FF + n];
        }
    }
    free(gate), free(up), free(down);
}

static double error_of(const float *y, const double *exact, size_t n)
{
    double difference = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (y[i] - exact[i]) * (y[i] - exact[i]);
        sum += exact[i] * exact[i];
    }
    return sqrt(difference / sum);
}

/* Float weights: sums of D_MODEL and D_FF products in float. Blocks of int8: x, the turned down matrix and h are rounded to 1/254 of the largest of 32 values, which is
 * some two times their rms, three roundings in a row. ggml's f16 and bf16 products also round x. */
static double bound_of(enum ggml_type type)
{
    return type == GGML_TYPE_F32 ? 1e-5 : ggml_is_quantized(type) ? 0.02 : 1e-3;
}

/* The last layer of the report: its path and reason. */
static int says(size_t (*report)(char *, size_t), const struct test *t)
{
    static char text[65536];
    if (report(text, sizeof text) >= sizeof text)
        return 0;
    const char *last = NULL;
    for (const char *at = text; (at = strstr(at, "\"path\"")) != NULL; at++)
        last = at;
    if (!last || strncmp(last, t->is_sparse ? "\"path\": \"sparse\"" : "\"path\": \"dense\"",
                         t->is_sparse ? 16 : 15) != 0)
        return 0;
    return t->is_sparse ? strstr(last, "\"n_calls\": 0,") == NULL : strstr(last, t->reason) != NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int n_failed = ggml_backend_load(argv[2]) != NULL;
    printf("%s 1 - a backend for another ggml is refused\n", n_failed ? "not ok" : "ok");
    ggml_backend_reg_t reg = ggml_backend_load(argv[1]);
    if (!reg)
        return 1;
    size_t (*report)(char *, size_t) =
        (size_t(*)(char *, size_t))ggml_backend_reg_get_proc_address(reg, "sffn_ggml_report");
    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    ggml_backend_t ours = ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), NULL);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            const struct test *t = &tests[i];
            const size_t n = (size_t)t->n_tokens * (t->has_experts ? N_USED : 1) * D_MODEL;
            float *in = malloc((size_t)t->n_tokens * D_MODEL * sizeof *in),
                  *y = malloc(n * sizeof *y), *y_cpu = malloc(n * sizeof *y_cpu);
            double *exact = malloc(n * sizeof *exact);
            struct model m = make_model(t);
            for (int k = 0; k < t->n_tokens * D_MODEL; k++)
                in[k] = next_float();
            set_threads(cpu, n_threads);
            set_threads(ours, n_threads);
            compute(t, &m, &cpu, 1, in, y_cpu);
            compute(t, &m, (ggml_backend_t[]){ours, cpu}, 2, in, y);
            reference(t, &m, in, exact);
            const int is_same = memcmp(y, y_cpu, n * sizeof *y) == 0;
            const double error = error_of(y, exact, n), cpu_error = error_of(y_cpu, exact, n);
            const int is_right = t->is_sparse ? error <= bound_of(t->type) && !is_same : is_same;
            const int is_said = t->reason ? says(report, t) : 1;
            printf("%s %zu - %s, %d threads: %s, error %.1e, CPU %.1e%s\n",
                   is_right && is_said ? "ok" : "not ok", 2 * i + (size_t)n_threads / 2 + 2,
                   t->name, n_threads, is_same ? "the CPU's bits" : "sparse", error, cpu_error,
                   is_said ? "" : ", and the report is wrong");
            n_failed += !is_right || !is_said;
            ggml_backend_buffer_free(m.buffer);
            ggml_free(m.ctx);
            free(in), free(y), free(y_cpu), free(exact);
        }
    printf("1..%zu\n", 2 * (sizeof tests / sizeof *tests) + 1);
    ggml_backend_free(ours);
    ggml_backend_free(cpu);
    return n_failed > 0;
}
