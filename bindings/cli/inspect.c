/* inspect.c  What a model file holds, and which of its layers run sparse. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "json_out.h"
#include "table.h"

struct layer {
    int is_readable; /* the library can make this layer */
    int is_sparse;
    int has_screen;
    sffn_ffn_config config;
    int has_predictor, has_router, is_permuted;
    sffn_predictor_config predictor;
    sffn_router_config router;
    int32_t plan;   /* enum sffn_select */
    uint64_t bytes; /* gate, up and down in the file */
    const char *gate, *up, *down;
    char reason[512]; /* why sparse, or why not */
};

/* What the file calls them, for what this command prints. */
static const char *const plan_names[] = {"default", "dense", "gate", "predictor", "router"};
static const char *const predictor_names[] = {"screened_gate", "low_rank", "gate_svd",
                                              "sign",          "callback", "cascade"};
static const char *const hidden_names[] = {"none", "relu", "tanh"};
static const char *const input_names[] = {"ffn", "residual", "layer", "layer_norm", "first_layer"};
static const char *const router_names[] = {"sigmoid", "top_k", "mass"};
static const char *const weighting_names[] = {"none", "sigmoid", "softmax", "softmax_selected"};
#define NAME_OF(names, value) name_of(names, sizeof names / sizeof names[0], value)

static const char *name_of(const char *const *names, size_t n, int32_t value)
{
    return value >= 0 && (size_t)value < n ? names[value] : "unknown";
}

static uint64_t matrix_bytes(const sffn_weights *w, uint32_t d_model, uint32_t d_ff)
{
    uint64_t n_rows = w->layout == SFFN_LAYOUT_ROWS ? d_ff : d_model,
             n_cols = w->layout == SFFN_LAYOUT_ROWS ? d_model : d_ff;
    return w->data != NULL ? n_rows * sffn_dtype_row_bytes(w->dtype, n_cols) : 0;
}

/* What the file says of matrix `name` of layer i when the library can't make the layer; NULL: no such tensor. */
static const char *tensor_type(const sffn_model *model, uint32_t i, const char *name,
                               uint64_t *bytes)
{
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s.weight", (unsigned)i, name);
    if (sffn_model_find_tensor(model, full, &t) != SFFN_OK)
        return NULL;
    *bytes += t.bytes;
    return t.type_name;
}

/* 1 when the file has it, 0 when not, or when it is wrong: then that is the reason why the layer cannot run. */
static int is_there(const sffn_context *ctx, struct layer *layer, sffn_status status)
{
    if (status != SFFN_OK && status != SFFN_ERR_NOT_FOUND) {
        layer->is_readable = 0;
        snprintf(layer->reason, sizeof layer->reason, "%s", sffn_context_last_error(ctx));
    }
    return status == SFFN_OK;
}

static void look_at_selectors(const sffn_context *ctx, const sffn_model *model, uint32_t i,
                              struct layer *layer)
{
    static const sffn_predictor_config predictor = SFFN_PREDICTOR_CONFIG_INIT;
    static const sffn_router_config router = SFFN_ROUTER_CONFIG_INIT;
    char name[64];
    sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
    layer->predictor = predictor;
    layer->router = router;
    is_there(ctx, layer, sffn_model_layer_plan(model, i, &layer->plan));
    layer->has_predictor =
        is_there(ctx, layer, sffn_model_layer_predictor_config(model, i, &layer->predictor));
    layer->has_router =
        is_there(ctx, layer, sffn_model_layer_router_config(model, i, &layer->router));
    snprintf(name, sizeof name, "blk.%u.sffn_permutation", (unsigned)i);
    layer->is_permuted = sffn_model_find_tensor(model, name, &t) == SFFN_OK;
}

static void look_at(const sffn_context *ctx, const sffn_model *model, const sffn_model_info *info,
                    uint32_t i, struct layer *layer)
{
    static const sffn_ffn_config defaults = SFFN_FFN_CONFIG_INIT;
    sffn_ffn_config *c = &layer->config;
    int32_t score_dtype;
    *c = defaults;
    layer->is_readable = sffn_model_layer_config(model, i, c) == SFFN_OK;
    if (!layer->is_readable) {
        snprintf(layer->reason, sizeof layer->reason, "%s", sffn_context_last_error(ctx));
        c->d_model = info->d_model;
        c->d_ff = info->d_ff;
        layer->gate = tensor_type(model, i, "ffn_gate", &layer->bytes);
        layer->up = tensor_type(model, i, "ffn_up", &layer->bytes);
        layer->down = tensor_type(model, i, "ffn_down_t", &layer->bytes);
        if (layer->down == NULL)
            layer->down = tensor_type(model, i, "ffn_down", &layer->bytes);
        return;
    }
    layer->gate = c->gate.data != NULL ? sffn_dtype_name(c->gate.dtype) : NULL;
    layer->up = sffn_dtype_name(c->up.dtype);
    layer->down = sffn_dtype_name(c->down.dtype);
    layer->bytes = matrix_bytes(&c->gate, c->d_model, c->d_ff) +
                   matrix_bytes(&c->up, c->d_model, c->d_ff) +
                   matrix_bytes(&c->down, c->d_model, c->d_ff);
    look_at_selectors(ctx, model, i, layer);
    if (!layer->is_readable)
        return;
    if (layer->plan == SFFN_SELECT_DENSE) {
        snprintf(layer->reason, sizeof layer->reason, "the plan is dense");
        return;
    }
    switch (c->activation) {
    case SFFN_ACT_SILU:
    case SFFN_ACT_GELU_ERF:
    case SFFN_ACT_GELU_TANH:
        layer->is_sparse = c->rule != SFFN_RULE_NONE || layer->has_predictor || layer->has_router;
        snprintf(layer->reason, sizeof layer->reason, "%s %s", sffn_activation_name(c->activation),
                 layer->is_sparse ? "with a rule or a selector: approximate"
                                  : "has no exact zeros: runs dense unless a threshold after the "
                                    "gate or a router is given");
        return;
    default:
        layer->is_sparse = 1;
        score_dtype = c->gate.data != NULL ? c->gate.dtype : c->up.dtype;
        layer->has_screen = score_dtype != SFFN_Q4_0 && c->d_model % 32 == 0;
        snprintf(layer->reason, sizeof layer->reason, "%s has exact zeros%s",
                 sffn_activation_name(c->activation),
                 layer->has_screen          ? ""
                 : score_dtype == SFFN_Q4_0 ? "; no screen: the gate has 4 bits already"
                                            : "; no screen: d_model is no multiple of 32");
    }
}

static const char *format_name(int32_t format)
{
    return format == SFFN_FILE_GGUF          ? "gguf"
           : format == SFFN_FILE_SAFETENSORS ? "safetensors"
           : format == SFFN_FILE_HF_FOLDER   ? "hf_folder"
                                             : "unknown";
}

struct type_sum {
    const char *name;
    uint64_t n_tensors, bytes;
};
enum { MAX_TYPES = 64 };

static size_t sum_types(const sffn_model *model, size_t n_tensors, struct type_sum *types)
{
    size_t n = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
        size_t at = 0;
        if (sffn_model_get_tensor(model, i, &t) != SFFN_OK)
            continue;
        while (at < n && strcmp(types[at].name, t.type_name) != 0)
            at++;
        if (at == n && n == MAX_TYPES)
            continue;
        if (at == n) {
            memset(&types[n], 0, sizeof types[n]);
            types[n++].name = t.type_name;
        }
        types[at].n_tensors++;
        types[at].bytes += t.bytes;
    }
    return n;
}

static void json_rule(struct json *json, const sffn_ffn_config *c)
{
    json_object_begin(json, "rule");
    json_text(json, "name", sffn_rule_name(c->rule));
    json_text(json, "tie", c->rule_tie == SFFN_TIE_KEEP ? "keep" : "drop");
    json_number(json, "threshold", (double)c->rule_threshold);
    json_bool(json, "has_thresholds", c->rule_thresholds != NULL);
    json_uint(json, "k", c->rule_k);
    json_uint(json, "m", c->rule_m);
    json_number(json, "sparsity", (double)c->rule_sparsity);
    json_object_end(json);
}

/* Of its matrices in the file; copies of the gate have none. */
static uint64_t predictor_bytes(const sffn_predictor_config *p)
{
    return matrix_bytes(&p->w1, p->d_model, p->rank) + matrix_bytes(&p->w2, p->rank, p->d_ff);
}

static void json_predictor(struct json *json, const struct layer *layer)
{
    const sffn_predictor_config *p = &layer->predictor;
    if (!layer->has_predictor) {
        json_text(json, "predictor", NULL);
        return;
    }
    json_object_begin(json, "predictor");
    json_text(json, "kind", NAME_OF(predictor_names, p->kind));
    json_text(json, "decision", p->decision == SFFN_DECIDE_TOP_K ? "top_k" : "threshold");
    json_text(json, "tie", p->tie == SFFN_TIE_KEEP ? "keep" : "drop");
    json_number(json, "threshold", (double)p->threshold);
    json_bool(json, "has_thresholds", p->thresholds != NULL);
    json_number(json, "margin", (double)p->margin);
    json_uint(json, "top_k", p->top_k);
    json_uint(json, "rank", p->rank);
    json_number(json, "alpha", (double)p->alpha);
    json_uint(json, "bits", p->bits);
    json_uint(json, "step_bits", p->step_bits);
    json_number(json, "column_share", (double)p->column_share);
    json_bool(json, "has_input_mean", p->input_mean != NULL);
    json_text(json, "hidden_activation", NAME_OF(hidden_names, p->hidden_activation));
    json_text(json, "input", NAME_OF(input_names, p->input));
    json_uint(json, "bytes", predictor_bytes(p));
    json_object_end(json);
}

static void json_router(struct json *json, const struct layer *layer)
{
    const sffn_router_config *r = &layer->router;
    if (!layer->has_router) {
        json_text(json, "router", NULL);
        return;
    }
    json_object_begin(json, "router");
    json_text(json, "rule", NAME_OF(router_names, r->rule));
    json_uint(json, "n_experts", r->n_experts);
    json_uint(json, "block_size", r->block_size);
    json_number(json, "threshold", (double)r->threshold);
    json_uint(json, "top_k", r->top_k);
    json_number(json, "mass", (double)r->mass);
    json_uint(json, "n_hidden", r->n_hidden);
    json_text(json, "weighting", NAME_OF(weighting_names, r->weighting));
    json_text(json, "input", NAME_OF(input_names, r->input));
    json_object_end(json);
}

static void json_layer(struct json *json, uint32_t i, const struct layer *layer)
{
    const sffn_ffn_config *c = &layer->config;
    json_object_begin(json, NULL);
    json_uint(json, "layer", i);
    json_uint(json, "d_model", c->d_model);
    json_uint(json, "d_ff", c->d_ff);
    json_text(json, "gate", layer->gate);
    json_text(json, "up", layer->up);
    json_text(json, "down", layer->down);
    json_text(json, "down_layout",
              !layer->is_readable                  ? NULL
              : c->down.layout == SFFN_LAYOUT_ROWS ? "neurons"
                                                   : "columns");
    json_text(json, "activation", layer->is_readable ? sffn_activation_name(c->activation) : NULL);
    json_number(json, "act_threshold", c->act_threshold);
    json_array_begin(json, "select");
    if (layer->is_sparse)
        json_text(json, NULL, "gate");
    if (layer->has_screen)
        json_text(json, NULL, "screen");
    if (layer->has_predictor)
        json_text(json, NULL, "predictor");
    if (layer->has_router)
        json_text(json, NULL, "router");
    json_array_end(json);
    json_text(json, "plan", NAME_OF(plan_names, layer->plan));
    json_rule(json, c);
    json_predictor(json, layer);
    json_router(json, layer);
    json_bool(json, "is_permuted", layer->is_permuted);
    json_uint(json, "bytes", layer->bytes);
    json_bool(json, "runs_sparse", layer->is_sparse);
    json_text(json, "reason", layer->reason);
    json_object_end(json);
}

static void print_json(const char *path, const sffn_model_info *info, const struct layer *layers,
                       const struct type_sum *types, size_t n_types, uint64_t ffn_bytes)
{
    struct json json;
    uint32_t n_sparse = 0;
    for (uint32_t i = 0; i < info->n_layers; i++)
        n_sparse += (uint32_t)layers[i].is_sparse;
    json_begin(&json, stdout);
    json_text(&json, "name", "inspect");
    json_text(&json, "model", path);
    json_text(&json, "model_name", info->name);
    json_text(&json, "format", format_name(info->format));
    json_text(&json, "architecture", info->architecture);
    json_uint(&json, "n_layers", info->n_layers);
    json_uint(&json, "d_model", info->d_model);
    json_uint(&json, "d_ff", info->d_ff);
    json_uint(&json, "n_heads", info->n_heads);
    json_uint(&json, "n_kv_heads", info->n_kv_heads);
    json_uint(&json, "head_dim", info->head_dim);
    json_uint(&json, "n_vocab", info->n_vocab);
    json_uint(&json, "n_context", info->n_context);
    json_number(&json, "rms_norm_eps", (double)info->rms_norm_eps);
    json_number(&json, "rope_theta", (double)info->rope_theta);
    json_text(&json, "activation",
              info->activation >= 0 ? sffn_activation_name(info->activation) : NULL);
    json_number(&json, "act_threshold", (double)info->act_threshold);
    json_text(&json, "act_tie", info->act_tie == SFFN_TIE_KEEP ? "keep" : "drop");
    json_bool(&json, "is_tied", info->is_tied);
    json_bool(&json, "rope_is_permuted", info->rope_is_permuted);
    json_uint(&json, "n_tensors", info->n_tensors);
    json_uint(&json, "file_bytes", info->file_bytes);
    json_uint(&json, "ffn_bytes", ffn_bytes);
    json_uint(&json, "n_sparse_layers", n_sparse);
    json_object_begin(&json, "types");
    for (size_t i = 0; i < n_types; i++) {
        json_object_begin(&json, types[i].name);
        json_uint(&json, "n_tensors", types[i].n_tensors);
        json_uint(&json, "bytes", types[i].bytes);
        json_object_end(&json);
    }
    json_object_end(&json);
    json_array_begin(&json, "layers");
    for (uint32_t i = 0; i < info->n_layers; i++)
        json_layer(&json, i, &layers[i]);
    json_array_end(&json);
    json_end(&json);
}

static void print_rule(struct table *table, const sffn_ffn_config *c)
{
    const char *name = sffn_rule_name(c->rule);
    switch (c->rule) {
    case SFFN_RULE_NONE:
        table_cell(table, "-");
        break;
    case SFFN_RULE_TOP_K_SCORE:
    case SFFN_RULE_TOP_K_H:
        table_cell(table, "%s, %u", name, (unsigned)c->rule_k);
        break;
    case SFFN_RULE_BLOCK_TOP_K_SCORE:
    case SFFN_RULE_BLOCK_TOP_K_H:
        table_cell(table, "%s, %u of %u", name, (unsigned)c->rule_k, (unsigned)c->rule_m);
        break;
    case SFFN_RULE_STATISTICAL_SCORE:
    case SFFN_RULE_STATISTICAL_H:
        table_cell(table, "%s, drops %g", name, (double)c->rule_sparsity);
        break;
    default:
        if (c->rule_thresholds != NULL)
            table_cell(table, "%s, a threshold per neuron", name);
        else
            table_cell(table, "%s %s %g", name, c->rule_tie == SFFN_TIE_KEEP ? ">=" : ">",
                       (double)c->rule_threshold);
    }
}

static void print_predictor(struct table *table, const struct layer *layer)
{
    const sffn_predictor_config *p = &layer->predictor;
    char text[96];
    if (p->decision == SFFN_DECIDE_TOP_K)
        snprintf(text, sizeof text, "top %u", (unsigned)p->top_k);
    else if (p->thresholds != NULL)
        snprintf(text, sizeof text, "a threshold per neuron");
    else
        snprintf(text, sizeof text, "%s %g", p->tie == SFFN_TIE_KEEP ? ">=" : ">",
                 (double)p->threshold);
    if (p->rank != 0)
        table_cell(table, "%s, rank %u, %s", NAME_OF(predictor_names, p->kind), (unsigned)p->rank,
                   text);
    else
        table_cell(table, "%s, %s", NAME_OF(predictor_names, p->kind), text);
}

/* What a call without further arguments does; without a plan or a selector in the file, what may be asked for. */
static const char *way_of(const struct layer *layer)
{
    if (!layer->is_readable)
        return "not at all";
    if (!layer->is_sparse)
        return "dense";
    if (layer->plan == SFFN_SELECT_PREDICTOR ||
        (layer->plan == SFFN_SELECT_DEFAULT && layer->has_predictor))
        return "sparse: predictor";
    if (layer->plan == SFFN_SELECT_ROUTER ||
        (layer->plan == SFFN_SELECT_DEFAULT && layer->has_router))
        return "sparse: router";
    return layer->has_screen && layer->plan == SFFN_SELECT_DEFAULT ? "sparse: gate, screen"
                                                                   : "sparse: gate";
}

/* What a prepared file says of who selects; nothing for others. */
static void print_selectors(const sffn_model_info *info, const struct layer *layers)
{
    struct table table;
    int has_any = 0;
    for (uint32_t i = 0; i < info->n_layers; i++)
        has_any |= layers[i].has_predictor || layers[i].has_router || layers[i].is_permuted ||
                   layers[i].plan != SFFN_SELECT_DEFAULT || layers[i].config.rule != SFFN_RULE_NONE;
    if (!has_any)
        return;
    printf("\n");
    table_begin(&table, "rlllll");
    table_cells(&table, "layer|plan|rule|predictor|router|neurons");
    for (uint32_t i = 0; i < info->n_layers; i++) {
        const struct layer *layer = &layers[i];
        const sffn_ffn_config *c = &layer->config;
        table_cell(&table, "%u", (unsigned)i);
        table_cell(&table, "%s", NAME_OF(plan_names, layer->plan));
        print_rule(&table, c);
        if (layer->has_predictor)
            print_predictor(&table, layer);
        else
            table_cell(&table, "-");
        if (layer->has_router)
            table_cell(&table, "%s, %u experts of %u", NAME_OF(router_names, layer->router.rule),
                       (unsigned)layer->router.n_experts, (unsigned)layer->router.block_size);
        else
            table_cell(&table, "-");
        table_cell(&table, "%s", layer->is_permuted ? "reordered" : "as they were");
    }
    table_end(&table, stdout, 1);
}

static void print_layers(const sffn_model_info *info, const struct layer *layers)
{
    struct table table;
    char bytes[32];
    table_begin(&table, "rrrllllrl");
    table_cells(&table, "layer|d_model|d_ff|gate|up|down|activation|bytes|runs");
    for (uint32_t i = 0; i < info->n_layers; i++) {
        const struct layer *layer = &layers[i];
        table_cell(&table, "%u", (unsigned)i);
        table_cell(&table, "%u", (unsigned)layer->config.d_model);
        table_cell(&table, "%u", (unsigned)layer->config.d_ff);
        table_cell(&table, "%s", layer->gate != NULL ? layer->gate : "-");
        table_cell(&table, "%s", layer->up != NULL ? layer->up : "-");
        table_cell(&table, "%s%s", layer->down != NULL ? layer->down : "-",
                   layer->is_readable && layer->config.down.layout == SFFN_LAYOUT_COLUMNS
                       ? " (columns)"
                       : "");
        table_cell(&table, "%s",
                   layer->is_readable ? sffn_activation_name(layer->config.activation) : "-");
        table_cell(&table, "%s", cli_bytes_text(layer->bytes, bytes));
        table_cell(&table, "%s", way_of(layer));
    }
    table_end(&table, stdout, 1);
    print_selectors(info, layers);
    /* Most models have the same reason in all layers: say it once per run of layers. */
    for (uint32_t i = 0, end; i < info->n_layers; i = end) {
        for (end = i + 1;
             end < info->n_layers && strcmp(layers[i].reason, layers[end].reason) == 0;)
            end++;
        if (end - i == 1)
            printf("layer %u: %s\n", (unsigned)i, layers[i].reason);
        else
            printf("layers %u to %u: %s\n", (unsigned)i, (unsigned)end - 1, layers[i].reason);
    }
}

static void print_text(const char *path, const sffn_model_info *info, const struct layer *layers,
                       const struct type_sum *types, size_t n_types, uint64_t ffn_bytes)
{
    char a[32], b[32];
    printf("model         %s (%s)\n", path, format_name(info->format));
    printf("name          %s\n", info->name != NULL ? info->name : "");
    printf("architecture  %s\n", info->architecture != NULL && info->architecture[0] != '\0'
                                     ? info->architecture
                                     : "unknown");
    printf("shape         %u layer%s, d_model %u, d_ff %u, %u heads, %u key-value heads of %u\n",
           (unsigned)info->n_layers, info->n_layers == 1 ? "" : "s", (unsigned)info->d_model,
           (unsigned)info->d_ff, (unsigned)info->n_heads, (unsigned)info->n_kv_heads,
           (unsigned)info->head_dim);
    printf("text          %u tokens in the vocabulary, context %u, output %s\n",
           (unsigned)info->n_vocab, (unsigned)info->n_context,
           info->is_tied ? "tied to the embedding" : "of its own");
    printf("activation    %s",
           info->activation >= 0 ? sffn_activation_name(info->activation) : "not said");
    if (info->activation == SFFN_ACT_FATRELU || info->activation == SFFN_ACT_SHIFTED_RELU)
        printf(", threshold %g, at equality %s", (double)info->act_threshold,
               info->act_tie == SFFN_TIE_KEEP ? "kept" : "dropped");
    printf("\nsize          %s, of these %s in FFN layers\n", cli_bytes_text(info->file_bytes, a),
           cli_bytes_text(ffn_bytes, b));
    for (size_t i = 0; i < n_types; i++)
        printf("%-13s %s: %" PRIu64 " tensors, %s\n", i == 0 ? "types" : "", types[i].name,
               types[i].n_tensors, cli_bytes_text(types[i].bytes, a));
    printf("\n");
    if (info->n_layers == 0)
        printf("The file does not say how many layers it has: --tensors lists what it holds.\n");
    else
        print_layers(info, layers);
    printf("Attention, embedding and output always run dense.\n");
}

static void print_tensors(const sffn_model *model, size_t n_tensors)
{
    struct table table;
    char bytes[32];
    table_begin(&table, "llrrl");
    table_cells(&table, "tensor|type|shape|bytes|name in the file");
    for (size_t i = 0; i < n_tensors; i++) {
        sffn_tensor_info t = SFFN_TENSOR_INFO_INIT;
        char shape[128] = "";
        if (sffn_model_get_tensor(model, i, &t) != SFFN_OK)
            continue;
        for (uint32_t j = 0; j < t.n_dims && j < 4; j++)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%" PRIu64,
                     j != 0 ? " x " : "", t.dims[j]);
        table_cell(&table, "%s", t.name);
        table_cell(&table, "%s", t.type_name);
        table_cell(&table, "%s", shape);
        table_cell(&table, "%s", cli_bytes_text(t.bytes, bytes));
        table_cell(&table, "%s",
                   t.file_name != NULL && strcmp(t.file_name, t.name) != 0 ? t.file_name : "");
    }
    printf("\n");
    table_end(&table, stdout, 1);
}

static void print_value(const sffn_model *model, const char *key, int32_t kind, size_t index)
{
    const char *text = NULL;
    size_t n_bytes = 0;
    int64_t integer = 0;
    double number = 0.0;
    if (kind == SFFN_META_STRING &&
        sffn_model_get_string(model, key, index, &text, &n_bytes) == SFFN_OK) {
        printf("\"");
        for (size_t i = 0; i < n_bytes && i < 60; i++)
            putchar((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '.' : text[i]);
        printf(n_bytes > 60 ? "...\"" : "\"");
    } else if (kind == SFFN_META_FLOAT &&
               sffn_model_get_float(model, key, index, &number) == SFFN_OK) {
        printf("%g", number);
    } else if (kind == SFFN_META_BOOL &&
               sffn_model_get_int(model, key, index, &integer) == SFFN_OK) {
        printf("%s", integer ? "true" : "false");
    } else if (kind == SFFN_META_INT &&
               sffn_model_get_int(model, key, index, &integer) == SFFN_OK) {
        printf("%" PRId64, integer);
    } else {
        printf("?");
    }
}

static void print_metadata(const sffn_model *model)
{
    const char *key;
    int32_t kind, element_kind;
    uint64_t n;
    printf("\n");
    for (size_t i = 0; sffn_model_get_meta(model, i, &key, &kind, &element_kind, &n) == SFFN_OK;
         i++) {
        printf("%s = ", key);
        if (kind == SFFN_META_ARRAY) {
            printf("[");
            for (size_t j = 0; j < n && j < 5; j++) {
                printf(j != 0 ? ", " : "");
                print_value(model, key, element_kind, j);
            }
            printf(n > 5 ? ", ... %" PRIu64 " in all]" : "]", n);
        } else {
            print_value(model, key, kind, 0);
        }
        printf("\n");
    }
}

int cmd_inspect(int argc, char **argv)
{
    const char *path = NULL;
    int json_wanted = 0, tensors_wanted = 0, metadata_wanted = 0;
    /* clang-format off */
    const struct arg_option options[] = {
        {"--tensors", 0, ARG_FLAG, &tensors_wanted, NULL, "list all tensors too", 0, 0},
        {"--metadata", 0, ARG_FLAG, &metadata_wanted, NULL, "list all metadata too", 0, 0},
        {"--json", 0, ARG_FLAG, &json_wanted, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct arg_spec spec = {"inspect MODEL [OPTION]...",
                                  "Shows what a GGUF file, a safetensors file or a Hugging Face folder holds and which layers run sparse.",
                                  "MODEL", &path, options, sizeof options / sizeof options[0],
                                  "'columns' means that down is stored column by column, as engines do: it is transposed when a layer is made;\n"
                                  "'sffn prepare' does that once."};
    /* clang-format on */
    sffn_model_info info = SFFN_MODEL_INFO_INIT;
    struct type_sum types[MAX_TYPES];
    struct layer *layers;
    sffn_context *ctx;
    sffn_model *model;
    uint64_t ffn_bytes = 0;
    size_t n_types;
    int parsed = args_parse(&spec, argc, argv);
    if (parsed != ARGS_RUN)
        return parsed == ARGS_HELP ? CLI_OK : CLI_USAGE;
    if (json_wanted && (tensors_wanted || metadata_wanted))
        return args_wrong("--tensors and --metadata print text, expected them without --json");
    ctx = cli_context(1, NULL);
    model = ctx != NULL ? cli_open_model(ctx, path) : NULL;
    if (model == NULL) {
        sffn_context_destroy(ctx);
        return CLI_FAILED;
    }
    sffn_model_get_info(model, &info);
    if (info.n_layers > info.n_tensors) {
        cli_fail("the file names %u layers but has %zu tensors only", (unsigned)info.n_layers,
                 info.n_tensors);
        sffn_model_close(model);
        sffn_context_destroy(ctx);
        return CLI_FAILED;
    }
    layers = cli_alloc(info.n_layers, sizeof *layers);
    for (uint32_t i = 0; i < info.n_layers; i++) {
        look_at(ctx, model, &info, i, &layers[i]);
        ffn_bytes += layers[i].bytes;
    }
    n_types = sum_types(model, info.n_tensors, types);
    if (json_wanted)
        print_json(path, &info, layers, types, n_types, ffn_bytes);
    else
        print_text(path, &info, layers, types, n_types, ffn_bytes);
    if (tensors_wanted)
        print_tensors(model, info.n_tensors);
    if (metadata_wanted)
        print_metadata(model);
    free(layers);
    sffn_model_close(model);
    sffn_context_destroy(ctx);
    return CLI_OK;
}
