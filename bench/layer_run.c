#include "layer_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planted.h"

#define MAX_INPUTS  8
#define MAX_COPIES  2048.0 /* of tiny layers */
#define TILE_TOKENS 8      /* tokens for which the library reads a row once */

static const int32_t select_values[N_SELECTS] = {
    SFFN_SELECT_DENSE,     SFFN_SELECT_GATE,      SFFN_SELECT_PREDICTOR, SFFN_SELECT_PREDICTOR,
    SFFN_SELECT_PREDICTOR, SFFN_SELECT_PREDICTOR, SFFN_SELECT_ACTIVE,    SFFN_SELECT_ROUTER};

static const char *command_of(const struct layer_run *run)
{
    return run->w->o->command;
}

static int no_memory(const struct layer_run *run)
{
    progress(NULL);
    fprintf(stderr, "%s: no memory\n", command_of(run));
    return 0;
}

int layer_run_fail(const struct layer_run *run, const char *what, sffn_status status)
{
    const char *owner = sffn_context_last_error(run->owner);
    progress(NULL);
    fprintf(stderr, "%s: %s: %s: %s\n", command_of(run), what, sffn_status_name(status),
            owner[0] ? owner : sffn_context_last_error(run->ctx));
    return 0;
}

void layer_run_info(const struct layer_run *run, sffn_context_info *info)
{
    sffn_context_get_info(run->owner, info);
    /* The library knows only of pages that it took itself. */
    info->weight_bytes = rotation_bytes(run->rotation);
    info->weight_huge_bytes = rotation_huge_bytes(run->rotation);
}

/* ---- what rows share ---- */

/* Four times the last-level cache, and more than virtual machines hide. */
static uint64_t cold_bytes_here(void)
{
    static uint64_t bytes = 0;
    const uint64_t least = (uint64_t)512 << 20;
    if (bytes == 0) {
        sffn_context *ctx;
        sffn_context_info info = SFFN_CONTEXT_INFO_INIT;
        if (sffn_context_create(NULL, &ctx) == SFFN_OK) {
            sffn_context_get_info(ctx, &info);
            sffn_context_destroy(ctx);
        }
        bytes = info.llc_bytes * 4 > least ? info.llc_bytes * 4 : least;
    }
    return bytes;
}

int workbench_create(struct workbench *w, const struct layer_options *o)
{
    memset(w, 0, sizeof *w);
    w->o = o;
    if (o->trace && !mask_trace_read(&w->trace, o->command, o->trace))
        return 0;
    if (o->trace && w->trace.d_ff > o->d_ff) {
        fprintf(
            stderr,
            "%s: the masks are of layers of %u neurons; --shape has %u, expected as many or more\n",
            o->command, w->trace.d_ff, o->d_ff);
        return 0;
    }
    uint64_t bytes = o->cold_bytes ? o->cold_bytes : cold_bytes_here(),
             most = available_memory_bytes() / 8;
    w->ceilings = ceilings_create((size_t)(bytes < most ? bytes : most), 1);
    if (!w->ceilings)
        fprintf(stderr, "%s: no memory to measure the ceilings with\n", o->command);
    return w->ceilings != NULL;
}

void workbench_destroy(struct workbench *w)
{
    if (w->has_layer)
        layer_destroy(&w->layer);
    free(w->w1);
    free(w->w2);
    ceilings_destroy(w->ceilings);
    mask_trace_free(&w->trace);
    memset(w, 0, sizeof *w);
}

int workbench_use_layer(struct workbench *w, int32_t dtype, int for_router)
{
    const struct layer_options *o = w->o;
    sffn_context *ctx = NULL;
    if (w->has_layer && w->layer.dtype == dtype && w->layer_for_router == for_router)
        return 1;
    if (w->has_layer)
        layer_destroy(&w->layer);
    w->has_layer = 0;
    if (o->planted && sffn_context_create(NULL, &ctx) != SFFN_OK) {
        fprintf(stderr, "%s: %s\n", o->command, sffn_context_last_error(NULL));
        return 0;
    }
    w->has_layer =
        o->planted ? planted_layer_create(&w->layer, ctx, o->planted, o->d_model, o->d_ff, dtype)
                   : layer_create(&w->layer, o->d_model, o->d_ff, dtype, for_router);
    w->layer_for_router = for_router;
    sffn_context_destroy(ctx);
    return w->has_layer;
}

uint64_t workbench_cold_bytes(const struct workbench *w)
{
    return w->o->is_warm ? 0 : w->o->cold_bytes ? w->o->cold_bytes : cold_bytes_here();
}

/* ---- making a run ---- */

/* Copies needed so that no byte is read again before cold_bytes others were. Gathered bytes differ from input to input, streamed ones
 * don't, and the neurons of a trace are often the same. */
static size_t copies_wanted(const struct layer_run *run)
{
    const struct layer *l = &run->w->layer;
    const struct layer_options *o = run->w->o;
    const uint64_t cold = workbench_cold_bytes(run->w);
    if (cold == 0)
        return 1;
    const double dense = (double)l->weight_bytes, gathered = dense * run->density,
                 selector =
                     run->predictor ? (double)sffn_predictor_weight_bytes(run->predictor) : 0.0;
    double per_round; /* bytes between two reads of the same byte, per copy */
    if (run->select == SELECT_ORACLE)
        per_round = o->trace ? gathered : gathered * (double)run->n_sets;
    else if (run->select == SELECT_ROUTER)
        per_round = gathered * (double)run->n_sets;
    else if (run->select == SELECT_GATE)
        per_round = dense / 3.0 + gathered * 2.0 / 3.0;
    else if (run->predictor)
        per_round = selector + gathered;
    else
        per_round = dense;
    per_round = per_round < dense ? per_round : dense;
    const double needed = ceil((double)cold / per_round),
                 wanted = needed < MAX_COPIES ? needed : MAX_COPIES,
                 possible = floor(0.8 * (double)available_memory_bytes() /
                                  (double)(rotation_bytes(run->rotation) + 1)) +
                            1.0;
    if (possible < wanted || wanted < needed)
        fprintf(stderr, "%s: %.0f copies of the layer are used where cold weights need %.0f\n",
                o->command, fmin(possible, wanted), needed);
    return (size_t)fmin(possible, wanted);
}

static sffn_status make_predictor(struct layer_run *run, float threshold)
{
    const struct layer *l = &run->w->layer;
    const struct layer_options *o = run->w->o;
    sffn_predictor_config config = SFFN_PREDICTOR_CONFIG_INIT;
    config.d_model = l->d_model;
    config.d_ff = l->d_ff;
    config.gate.data = l->gate;
    config.gate.dtype = l->dtype;
    config.bits = o->bits;
    config.step_bits = o->step_bits;
    config.column_share = o->columns;
    config.margin = o->margin;
    config.alpha = o->alpha;
    config.threshold = threshold;
    switch (run->select) {
    case SELECT_SCREEN:
        config.kind = SFFN_PREDICTOR_SCREENED_GATE;
        config.gate_bias = run->inputs.gate_bias;
        break;
    case SELECT_CASCADE:
        config.kind = SFFN_PREDICTOR_CASCADE;
        config.gate_bias = run->inputs.gate_bias;
        config.input_mean = run->inputs.mean;
        break;
    case SELECT_SIGN:
        config.kind = SFFN_PREDICTOR_SIGN;
        break;
    default:
        config.kind = SFFN_PREDICTOR_LOW_RANK;
        config.rank = o->rank;
        config.w1.data = run->w->w1;
        config.w2.data = run->w->w2;
        config.b2 = run->inputs.gate_bias;
        config.dtype = SFFN_Q8_0;
        break;
    }
    sffn_predictor_destroy(run->predictor);
    return sffn_predictor_create(run->owner, &config, &run->predictor);
}

static int32_t show_svd(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    progress("decomposing the gate: %s %.0f %%", what,
             total ? 100.0 * (double)done / (double)total : 0.0);
    return 0;
}

/* The factors of the gate, with all threads; slow, so once. */
static int make_factors(struct layer_run *run)
{
    struct workbench *w = run->w;
    const struct layer_options *o = w->o;
    sffn_context_config context = SFFN_CONTEXT_CONFIG_INIT;
    sffn_svd_config config = SFFN_SVD_CONFIG_INIT;
    sffn_context *ctx = NULL;
    if (w->w1)
        return 1;
    w->w1 = malloc((size_t)o->rank * o->d_model * sizeof *w->w1);
    w->w2 = malloc((size_t)o->rank * o->d_ff * sizeof *w->w2);
    context.n_threads = 0;
    config.weights.data = w->layer.gate;
    config.weights.dtype = w->layer.dtype;
    config.n_rows = o->d_ff;
    config.n_cols = o->d_model;
    config.rank = o->rank;
    config.progress = show_svd;
    sffn_status status =
        w->w1 && w->w2 ? sffn_context_create(&context, &ctx) : SFFN_ERR_OUT_OF_MEMORY;
    if (status == SFFN_OK)
        status = sffn_fit_svd(ctx, &config, w->w1, w->w2, NULL);
    progress(NULL);
    if (status != SFFN_OK) {
        fprintf(stderr, "%s: decomposing the gate: %s: %s\n", o->command, sffn_status_name(status),
                sffn_context_last_error(ctx));
        free(w->w1);
        free(w->w2);
        w->w1 = w->w2 = NULL;
    }
    sffn_context_destroy(ctx);
    return status == SFFN_OK;
}

static sffn_status create_set(struct layer_run *run, uint32_t block_size, sffn_active_set **set)
{
    sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
    config.n_blocks = run->w->layer.d_ff / block_size;
    config.block_size = block_size;
    config.max_tokens = (uint32_t)run->n_tokens;
    return sffn_active_set_create(run->ctx, &config, set);
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The threshold of the scores that lets the wanted share of the active neurons through, over all inputs of the run. The layer, which knows
 * who is active, is made of the gate alone: any up and down rows will do. */
static sffn_status find_threshold(struct layer_run *run, float *threshold)
{
    const struct layer *l = &run->w->layer;
    const size_t n_inputs = run->inputs.n_sets * run->n_tokens;
    sffn_matmul_config config = SFFN_MATMUL_CONFIG_INIT;
    sffn_matmul *gate = NULL;
    size_t n_active = 0;
    config.n_rows = l->d_ff;
    config.n_cols = l->d_model;
    config.weights.data = l->gate;
    config.weights.dtype = l->dtype;
    config.storage = SFFN_STORAGE_BORROW;
    float *g = malloc(l->d_ff * sizeof *g), *scores = malloc(l->d_ff * sizeof *scores),
          *of_active = malloc(n_inputs * l->d_ff * sizeof *of_active);
    sffn_status status = g && scores && of_active ? sffn_matmul_create(run->ctx, &config, &gate)
                                                  : SFFN_ERR_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_inputs && status == SFFN_OK; i++) {
        const float *x = run->inputs.x + i * l->d_model;
        status = sffn_matmul_rows_dot(run->ctx, gate, x, l->d_model, 1, NULL, g, l->d_ff);
        if (status == SFFN_OK)
            status = sffn_predictor_predict(run->ctx, run->predictor, x, l->d_model, 1, scores,
                                            l->d_ff, NULL);
        for (size_t r = 0; r < l->d_ff && status == SFFN_OK; r++)
            if (g[r] + (run->inputs.gate_bias ? run->inputs.gate_bias[r] : 0.0f) > 0.0f)
                of_active[n_active++] = scores[r];
    }
    if (status == SFFN_OK && n_active > 0) {
        qsort(of_active, n_active, sizeof *of_active, compare_floats);
        const size_t rank = (size_t)((1.0 - run->w->o->recall) * (double)n_active);
        /* Just below the score: "greater" passes it. */
        *threshold = nextafterf(of_active[rank < n_active ? rank : n_active - 1], -INFINITY);
    }
    sffn_matmul_destroy(gate);
    free(g);
    free(scores);
    free(of_active);
    return status;
}

static int create_selector(struct layer_run *run)
{
    const struct layer *l = &run->w->layer;
    if (run->select == SELECT_LOW_RANK && !make_factors(run))
        return 0;
    if (select_has_predictor(run->select)) {
        float threshold = 0.0f;
        progress("making the predictor");
        sffn_status status = make_predictor(run, 0.0f);
        if (status == SFFN_OK && (run->select == SELECT_SIGN || run->select == SELECT_LOW_RANK)) {
            status = find_threshold(run, &threshold);
            if (status == SFFN_OK)
                status = make_predictor(run, threshold);
        }
        if (status != SFFN_OK)
            return layer_run_fail(run, "making the predictor", status);
    }
    if (run->select == SELECT_ROUTER) {
        sffn_router_config config = SFFN_ROUTER_CONFIG_INIT;
        config.d_model = l->d_model;
        config.n_experts = l->d_ff / EXPERT_NEURONS;
        config.block_size = EXPERT_NEURONS;
        config.weights.data = l->router;
        config.weights.dtype = l->router_dtype;
        config.bias = run->inputs.router_bias;
        sffn_status status = sffn_router_create(run->owner, &config, &run->router);
        if (status != SFFN_OK)
            return layer_run_fail(run, "making the router", status);
    }
    return 1;
}

static int create_ffn(struct layer_run *run)
{
    const struct layer *l = &run->w->layer;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    progress("packing the layer");
    config.d_model = l->d_model;
    config.d_ff = l->d_ff;
    config.gate.data = l->gate;
    config.up.data = l->up;
    config.down.data = l->down;
    config.gate.dtype = config.up.dtype = config.down.dtype = l->dtype;
    config.down.layout = l->down_is_columns ? SFFN_LAYOUT_COLUMNS : SFFN_LAYOUT_ROWS;
    config.gate_bias = run->inputs.gate_bias;
    config.activation = run->select == SELECT_ROUTER ? SFFN_ACT_SILU : SFFN_ACT_RELU;
    config.block_size = l->down_is_columns && sffn_dtype_block_size(l->dtype) == EXPERT_NEURONS
                            ? EXPERT_NEURONS
                            : 1;
    config.predictor = run->predictor;
    config.router = run->router;
    config.dense_tokens = run->w->o->dense_tokens;
    config.name = "bench";
    sffn_status status = sffn_ffn_create(run->owner, &config, &run->ffn);
    if (status == SFFN_OK)
        status = sffn_ffn_reserve(run->ctx, run->ffn);
    return status == SFFN_OK ? 1 : layer_run_fail(run, "making the layer", status);
}

/* Who is active, to be handed in: as the gate finds it, or as it was recorded. */
static int create_active(struct layer_run *run)
{
    const struct mask_trace *trace = &run->w->trace;
    const uint32_t d_ff = run->w->layer.d_ff;
    uint8_t *bitmap = malloc(((size_t)d_ff + 7) / 8);
    sffn_status status = bitmap ? SFFN_OK : SFFN_ERR_OUT_OF_MEMORY;
    double density = 0.0;
    for (size_t s = 0; s < run->n_sets && status == SFFN_OK; s++) {
        status = create_set(run, 1, &run->active[s]);
        if (status == SFFN_OK && !run->w->o->trace)
            status = layer_run_forward(run, s, SELECT_GATE, run->y, run->active[s], NULL);
        else if (status == SFFN_OK)
            status = sffn_active_set_clear(run->active[s], run->n_tokens);
        for (size_t t = 0; run->w->o->trace && t < run->n_tokens && status == SFFN_OK; t++) {
            const uint64_t token = trace->n_tokens * s / run->n_sets + t; /* all over the text */
            mask_trace_fill(trace, run->trace_layer, token, d_ff, bitmap);
            status = sffn_active_set_set_bitmap(run->active[s], t, bitmap);
        }
        if (status == SFFN_OK)
            density += sffn_active_set_density(run->active[s]) / (double)run->n_sets;
    }
    free(bitmap);
    if (run->w->o->trace)
        run->density = density;
    return status == SFFN_OK ? 1 : layer_run_fail(run, "finding the active neurons", status);
}

static int create_contexts(struct layer_run *run, int collect_stats)
{
    sffn_context_config config = SFFN_CONTEXT_CONFIG_INIT;
    config.n_threads = run->n_threads;
    config.collect_stats = collect_stats;
    config.use_onednn =
        run->n_tokens > 1 && run->w->o->dense_tokens > 0; /* the library's long prompts */
    sffn_status status = sffn_context_create(&config, &run->ctx);
    sffn_context_config owner = SFFN_CONTEXT_CONFIG_INIT;
    if (run->rotation)
        owner.allocator = rotation_allocator(run->rotation);
    if (status == SFFN_OK)
        status = run->rotation ? sffn_context_create(&owner, &run->owner) : SFFN_ERR_OUT_OF_MEMORY;
    if (status == SFFN_OK)
        return 1;
    fprintf(stderr, "%s: %s: %s\n", command_of(run), sffn_status_name(status),
            sffn_context_last_error(NULL));
    return 0;
}

int layer_run_create(struct layer_run *run, struct workbench *w, enum select select, double density,
                     uint32_t trace_layer, size_t n_tokens, uint32_t n_threads, int collect_stats)
{
    const struct layer_options *o = w->o;
    memset(run, 0, sizeof *run);
    run->w = w;
    run->select = select;
    run->trace_layer = trace_layer;
    run->n_tokens = n_tokens;
    run->n_threads = n_threads;
    run->rotation = rotation_create();
    if (!create_contexts(run, collect_stats))
        return 0;
    size_t n_sets = o->is_warm ? 1 : (size_t)(1.0 / density);
    n_sets = n_sets < 1 ? 1 : n_sets > MAX_INPUTS ? MAX_INPUTS : n_sets;
    if (o->planted ? !planted_inputs_create(&run->inputs, run->ctx, o->planted, &w->layer,
                                            o->is_warm ? 1 : MAX_INPUTS, n_tokens)
                   : !inputs_create(&run->inputs, run->ctx, &w->layer, o->trace ? 1.0 : density,
                                    n_sets, n_tokens, select == SELECT_ROUTER))
        return 0;
    run->density = run->inputs.density;
    run->n_sets = run->inputs.n_sets;
    if (o->trace && select == SELECT_ORACLE && !o->is_warm)
        run->n_sets = w->trace.n_tokens / n_tokens < MAX_SETS
                          ? (size_t)(w->trace.n_tokens / n_tokens)
                          : MAX_SETS;
    run->n_sets = run->n_sets < 1 ? 1 : run->n_sets;
    run->y = calloc(n_tokens * w->layer.d_model, sizeof *run->y);
    run->y_dense = calloc(n_tokens * w->layer.d_model, sizeof *run->y_dense);
    if (!run->y || !run->y_dense)
        return no_memory(run);
    if (!create_selector(run) || !create_ffn(run) ||
        (select == SELECT_ORACLE && !create_active(run)))
        return 0;
    const size_t copies = copies_wanted(run);
    progress("copying the weights %zu times", copies - 1);
    if (!rotation_copy(run->rotation, copies))
        return no_memory(run);
    progress(NULL);
    return 1;
}

void layer_run_destroy(struct layer_run *run)
{
    sffn_ffn_destroy(run->ffn);
    sffn_predictor_destroy(run->predictor);
    sffn_router_destroy(run->router);
    for (size_t s = 0; s < MAX_SETS; s++)
        sffn_active_set_destroy(run->active[s]);
    inputs_destroy(&run->inputs);
    sffn_context_destroy(run->ctx);
    sffn_context_destroy(run->owner);
    rotation_destroy(run->rotation);
    free(run->y);
    free(run->y_dense);
    memset(run, 0, sizeof *run);
}

/* ---- measuring ---- */

sffn_status layer_run_forward(struct layer_run *run, size_t set, enum select select, float *y,
                              sffn_active_set *active_out, sffn_ffn_stats *stats)
{
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = run->inputs.x + set % run->inputs.n_sets * run->n_tokens * run->w->layer.d_model;
    args.n_tokens = run->n_tokens;
    args.y = y;
    args.select = select_values[select];
    args.active = select == SELECT_ORACLE ? run->active[set] : NULL;
    args.active_out = active_out;
    args.stats = stats;
    return sffn_ffn_forward(run->ctx, run->ffn, &args);
}

sffn_status layer_run_sample(struct layer_run *run, enum select select, struct samples *samples,
                             sffn_ffn_stats *stats)
{
    const size_t set = run->turn++ / rotation_n_copies(run->rotation) % run->n_sets;
    if (!rotation_next(run->rotation)) {
        fprintf(stderr, "%s: the system does not move pages (mremap)\n", command_of(run));
        exit(1); /* the objects are lost */
    }
    const double start = now_ns();
    const sffn_status status = layer_run_forward(run, set, select, run->y, NULL, stats);
    samples_add(samples, now_ns() - start);
    return status;
}

int layer_run_traffic(struct layer_run *run, struct traffic *t)
{
    const struct layer *l = &run->w->layer;
    const double n_sets = (double)run->n_sets, n_tokens = (double)run->n_tokens,
                 tiles = (double)((run->n_tokens + TILE_TOKENS - 1) / TILE_TOKENS);
    const double gate_bytes = (double)l->row_bytes * l->d_ff;
    double rows = 0.0;
    memset(t, 0, sizeof *t);
    t->is_sparse = run->select != SELECT_DENSE;
    for (size_t s = 0; s < run->n_sets; s++) {
        sffn_ffn_stats stats = SFFN_FFN_STATS_INIT;
        sffn_status status = layer_run_forward(run, s, run->select, run->y, NULL, &stats);
        if (status != SFFN_OK)
            return layer_run_fail(run, "running the layer", status);
        t->touched += (double)stats.touched_bytes / n_sets;
        t->active += (double)stats.n_active / n_sets / n_tokens / l->d_ff;
        t->let_through += (double)stats.n_selected / n_sets / n_tokens / l->d_ff;
        rows += (double)stats.union_active / n_sets;
        t->is_sparse &= stats.path == SFFN_PATH_SPARSE;
    }
    if (!t->is_sparse) {
        t->streamed = t->touched;
        return 1;
    }
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    sffn_ffn_get_info(run->ffn, &info);
    if (run->select == SELECT_GATE)
        t->streamed = gate_bytes * tiles;
    else if (run->select != SELECT_ORACLE)
        t->streamed = t->selector = (double)info.selector_bytes * tiles;
    t->active_gathered = rows * 2.0 * (double)l->row_bytes;
    if (run->select == SELECT_CASCADE && run->n_tokens == 1) /* later planes: half of all lines */
        t->streamed = t->selector = t->touched - t->active_gathered - t->let_through * gate_bytes;
    t->gate_gathered = t->touched - t->streamed - t->active_gathered;
    if (t->gate_gathered < 0.001 * t->touched) {
        if (t->gate_gathered < -0.001 * t->touched)
            fprintf(stderr, "%s: the library counts %.0f bytes, %.0f were expected\n",
                    command_of(run), t->touched, t->touched - t->gate_gathered);
        t->gate_gathered = 0.0;
    }
    t->gate_density = t->gate_gathered / (gate_bytes * tiles);
    t->active_density = rows / (l->d_ff * tiles);
    if (!run->w->o->trace && (run->select == SELECT_GATE || run->select == SELECT_ORACLE) &&
        fabs(t->active - run->inputs.density) > 0.001)
        fprintf(stderr, "%s: density %.4g was planted, but %.4g of the neurons are active\n",
                command_of(run), run->inputs.density, t->active);
    return 1;
}

static size_t neurons_per_piece(const struct layer_run *run)
{
    return run->select == SELECT_ROUTER ? EXPERT_NEURONS : 1;
}

/* The rate at which single rows, or experts, are gathered at this density; 0 when a call gathers no bytes. */
static double gather_gbps(struct layer_run *run, double bytes, double density)
{
    if (!(bytes > 0.0))
        return 0.0;
    progress("measuring the memory");
    const double gbps =
        ceilings_gather_gbps(run->w->ceilings, run->n_threads,
                             run->w->layer.row_bytes * neurons_per_piece(run), density);
    progress(NULL);
    return gbps;
}

void layer_run_options(const struct layer_run *run, char *text, size_t size)
{
    const struct layer_options *o = run->w->o;
    text[0] = '\0';
    if (run->select == SELECT_CASCADE && o->columns > 0)
        snprintf(text, size, " columns %.3g bits %u", (double)o->columns, (unsigned)o->bits);
}

double layer_run_gate_gbps(struct layer_run *run, const struct traffic *t)
{
    return gather_gbps(run, t->gate_gathered, t->gate_density);
}

double layer_run_active_gbps(struct layer_run *run, const struct traffic *t)
{
    return gather_gbps(run, t->active_gathered, t->active_density);
}

static double time_at(double bytes, double gbps)
{
    return bytes > 0.0 ? bytes / gbps : 0.0;
}

static double gather_median_gbps(const struct layer_run *run, double density)
{
    return ceilings_gather_median_gbps(run->w->ceilings, run->n_threads,
                                       run->w->layer.row_bytes * neurons_per_piece(run), density);
}

struct gather_times layer_run_gather_times(struct layer_run *run, const struct traffic *t)
{
    struct gather_times times;
    /* A mask has one density for all rows: one measurement is enough. */
    const int are_alike = t->gate_gathered > 0.0 && t->active_gathered > 0.0 &&
                          fabs(t->gate_density - t->active_density) < 0.01 * t->active_density;
    const double gate = layer_run_gate_gbps(run, t),
                 active = are_alike ? gate : layer_run_active_gbps(run, t);
    times.ns = time_at(t->gate_gathered, gate) + time_at(t->active_gathered, active);
    times.median_ns = time_at(t->gate_gathered, gather_median_gbps(run, t->gate_density)) +
                      time_at(t->active_gathered, gather_median_gbps(run, t->active_density));
    return times;
}

/* ---- errors ---- */

/* The share of the truly active neurons that the selection kept, over all inputs. */
static sffn_status measure_recall(struct layer_run *run, double *recall)
{
    sffn_active_set *truth = NULL, *kept = NULL;
    double sum = 0.0;
    sffn_status status = create_set(run, 1, &truth);
    if (status == SFFN_OK)
        status = create_set(run, 1, &kept);
    for (size_t s = 0; s < run->n_sets && status == SFFN_OK; s++) {
        status = layer_run_forward(run, s, SELECT_GATE, run->y, truth, NULL);
        if (status == SFFN_OK)
            status = layer_run_forward(run, s, run->select, run->y, kept, NULL);
        for (size_t t = 0; t < run->n_tokens && status == SFFN_OK; t++) {
            double of_token = 0.0;
            status = sffn_active_set_recall(kept, truth, t, &of_token);
            sum += of_token;
        }
    }
    *recall = sum / (double)(run->n_sets * run->n_tokens);
    sffn_active_set_destroy(truth);
    sffn_active_set_destroy(kept);
    return status;
}

int layer_run_errors(struct layer_run *run, struct errors *e)
{
    const struct layer *l = &run->w->layer;
    const size_t n_checked = run->n_tokens < 4 ? run->n_tokens : 4, n = n_checked * l->d_model;
    const int is_masked = run->w->o->trace && run->select == SELECT_ORACLE;
    sffn_active_set *experts = NULL;
    sffn_status status = SFFN_OK;
    e->recall = (double)NAN;
    if (run->select == SELECT_ROUTER) {
        status = create_set(run, EXPERT_NEURONS, &experts);
        if (status == SFFN_OK)
            status = sffn_router_select(run->ctx, run->router, run->inputs.x, l->d_model,
                                        run->n_tokens, NULL, 0, experts);
    }
    if (status == SFFN_OK && select_has_predictor(run->select))
        status = measure_recall(run, &e->recall);
    if (status == SFFN_OK)
        status = layer_run_forward(run, 0, SELECT_DENSE, run->y_dense, NULL, NULL);
    if (status == SFFN_OK)
        status = layer_run_forward(run, 0, run->select, run->y, NULL, NULL);
    if (status != SFFN_OK) {
        sffn_active_set_destroy(experts);
        return layer_run_fail(run, "running the layer", status);
    }
    double *reference = malloc(n * sizeof *reference);
    const int ok = reference &&
                   layer_reference(l, &run->inputs, n_checked, is_masked ? run->active[0] : experts,
                                   run->select == SELECT_ROUTER, reference);
    sffn_active_set_destroy(experts);
    if (ok) {
        e->reference = relative_error(run->y, reference, n);
        for (size_t i = 0; i < n; i++)
            reference[i] = (double)run->y_dense[i];
        e->dense = run->select == SELECT_ROUTER || is_masked ? (double)NAN
                                                             : relative_error(run->y, reference, n);
        if ((run->select == SELECT_GATE || (run->select == SELECT_ORACLE && !is_masked)) &&
            !(e->dense < 1e-5))
            fprintf(stderr, "%s: select %s must equal the dense path, but differs by %.3g\n",
                    command_of(run), select_names[run->select], e->dense);
    }
    free(reference);
    return ok ? 1 : no_memory(run);
}
