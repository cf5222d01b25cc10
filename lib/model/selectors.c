#include "model/selectors.h"

#include <math.h>
#include <string.h>

#include "model/gguf.h"

static const char *const plan_names[] = {"default", "dense", "gate", "predictor", "router", NULL};
static const char *const tie_names[] = {"drop", "keep", NULL};
static const char *const rule_names[] = {"none",
                                         "score",
                                         "abs_score",
                                         "abs_h",
                                         "top_k_score",
                                         "top_k_h",
                                         "block_top_k_score",
                                         "block_top_k_h",
                                         "statistical_score",
                                         "statistical_h",
                                         NULL};
/* "": a value that no file has, a callback. */
static const char *const predictor_names[] = {"screened_gate", "low_rank", "gate_svd", "sign", "",
                                              "cascade",       NULL};
static const char *const decision_names[] = {"threshold", "top_k", NULL};
static const char *const hidden_names[] = {"none", "relu", "tanh", NULL};
static const char *const dtype_names[] = {"keep", "f32", "f16", "bf16", "q8_0", "q4_0", NULL};
static const char *const input_names[] = {"ffn",        "residual",    "layer",
                                          "layer_norm", "first_layer", NULL};
static const char *const router_names[] = {"sigmoid", "top_k", "mass", NULL};
static const char *const weighting_names[] = {"none", "sigmoid", "softmax", "softmax_selected",
                                              NULL};

#define NAME(type, field, key, names, first)                                                       \
    {                                                                                              \
        key, SFFN_FIELD_NAME, offsetof(type, field), names, first                                  \
    }
#define U32(type, field, key)                                                                      \
    {                                                                                              \
        key, SFFN_FIELD_U32, offsetof(type, field), NULL, 0                                        \
    }
#define F32(type, field, key)                                                                      \
    {                                                                                              \
        key, SFFN_FIELD_F32, offsetof(type, field), NULL, 0                                        \
    }
#define FIELDS(rows)                                                                               \
    {                                                                                              \
        rows, sizeof(rows) / sizeof((rows)[0])                                                     \
    }

const struct sffn_field sffn_plan_field = {"sffn.plan", SFFN_FIELD_NAME, 0, plan_names,
                                           SFFN_SELECT_DEFAULT};

static const struct sffn_field rule_rows[] = {
    NAME(sffn_ffn_config, rule, "sffn.rule", rule_names, SFFN_RULE_NONE),
    NAME(sffn_ffn_config, rule_tie, "sffn.rule_tie", tie_names, SFFN_TIE_DROP),
    F32(sffn_ffn_config, rule_threshold, "sffn.rule_threshold"),
    U32(sffn_ffn_config, rule_k, "sffn.rule_k"),
    U32(sffn_ffn_config, rule_m, "sffn.rule_m"),
    F32(sffn_ffn_config, rule_sparsity, "sffn.rule_sparsity"),
};
const struct sffn_fields sffn_rule_fields = FIELDS(rule_rows);

static const struct sffn_field predictor_rows[] = {
    NAME(sffn_predictor_config, kind, "sffn.predictor.kind", predictor_names,
         SFFN_PREDICTOR_SCREENED_GATE),
    NAME(sffn_predictor_config, decision, "sffn.predictor.decision", decision_names,
         SFFN_DECIDE_THRESHOLD),
    NAME(sffn_predictor_config, tie, "sffn.predictor.tie", tie_names, SFFN_TIE_DROP),
    F32(sffn_predictor_config, threshold, "sffn.predictor.threshold"),
    F32(sffn_predictor_config, margin, "sffn.predictor.margin"),
    U32(sffn_predictor_config, top_k, "sffn.predictor.top_k"),
    U32(sffn_predictor_config, top_k_multiple, "sffn.predictor.top_k_multiple"),
    U32(sffn_predictor_config, rank, "sffn.predictor.rank"),
    NAME(sffn_predictor_config, hidden_activation, "sffn.predictor.hidden_activation", hidden_names,
         SFFN_HIDDEN_NONE),
    NAME(sffn_predictor_config, dtype, "sffn.predictor.dtype", dtype_names, -1),
    F32(sffn_predictor_config, alpha, "sffn.predictor.alpha"),
    U32(sffn_predictor_config, bits, "sffn.predictor.bits"),
    U32(sffn_predictor_config, step_bits, "sffn.predictor.step_bits"),
    F32(sffn_predictor_config, column_share, "sffn.predictor.column_share"),
    NAME(sffn_predictor_config, input, "sffn.predictor.input", input_names, SFFN_INPUT_FFN),
};
const struct sffn_fields sffn_predictor_fields = FIELDS(predictor_rows);

static const struct sffn_field router_rows[] = {
    NAME(sffn_router_config, rule, "sffn.router.rule", router_names, SFFN_ROUTER_SIGMOID),
    F32(sffn_router_config, threshold, "sffn.router.threshold"),
    U32(sffn_router_config, block_size, "sffn.router.block_size"),
    U32(sffn_router_config, top_k, "sffn.router.top_k"),
    F32(sffn_router_config, mass, "sffn.router.mass"),
    U32(sffn_router_config, normalize_input, "sffn.router.normalize_input"),
    NAME(sffn_router_config, weighting, "sffn.router.weighting", weighting_names,
         SFFN_WEIGHTING_NONE),
    NAME(sffn_router_config, input, "sffn.router.input", input_names, SFFN_INPUT_FFN),
};
const struct sffn_fields sffn_router_fields = FIELDS(router_rows);

const char *sffn_field_name(const struct sffn_field *field, int32_t value)
{
    for (int32_t i = 0; field->names[i]; i++)
        if (field->first + i == value)
            return field->names[i][0] ? field->names[i] : NULL;
    return NULL;
}

static sffn_status read_name(const struct sffn_meta *meta, const struct sffn_field *field,
                             uint32_t layer, void *config, int *is_there)
{
    const char *text;
    size_t bytes;
    struct sffn_quoted quoted;
    const size_t at = (size_t)meta->strings[layer];
    if (!sffn_gguf_string(meta->file, at, &text, &bytes))
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, at,
                              "the file changed while it was open");
    const int is_first = field == sffn_predictor_fields.rows || field == sffn_router_fields.rows;
    if (is_first && bytes == strlen(SFFN_FIELD_NO_SELECTOR) &&
        memcmp(text, SFFN_FIELD_NO_SELECTOR, bytes) == 0) {
        *is_there = 0;
        return SFFN_OK;
    }
    for (int32_t i = 0; field->names[i]; i++) {
        if (bytes == 0 || strlen(field->names[i]) != bytes ||
            memcmp(field->names[i], text, bytes) != 0)
            continue;
        const int32_t value = field->first + i;
        memcpy((char *)config + field->offset, &value, sizeof(value));
        return SFFN_OK;
    }
    return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, at,
                          "%s of layer %u is '%s', which is unknown", field->key, (unsigned)layer,
                          sffn_quote(&quoted, text, bytes));
}

static sffn_status read_u32(const struct sffn_meta *meta, const struct sffn_field *field,
                            uint32_t layer, size_t at, void *config)
{
    int is_too_large = 0;
    const int64_t value = sffn_gguf_load_int(meta->file, meta->element_type, at, &is_too_large);
    if (is_too_large || value < 0 || value > UINT32_MAX)
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, at,
                              "%s of layer %u is no number from 0 to 2^32 - 1", field->key,
                              (unsigned)layer);
    const uint32_t narrow = (uint32_t)value;
    memcpy((char *)config + field->offset, &narrow, sizeof(narrow));
    return SFFN_OK;
}

static sffn_status read_f32(const struct sffn_meta *meta, const struct sffn_field *field,
                            uint32_t layer, size_t at, void *config)
{
    const float value = (float)sffn_gguf_load_float(meta->file, meta->element_type, at);
    if (isnan(value))
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, at, "%s of layer %u is NaN", field->key,
                              (unsigned)layer);
    memcpy((char *)config + field->offset, &value, sizeof(value));
    return SFFN_OK;
}

sffn_status sffn_field_read(const sffn_model *model, const struct sffn_field *field, uint32_t layer,
                            void *config, int *is_there)
{
    static const struct {
        int32_t kind;
        const char *name;
    } kinds[] = {[SFFN_FIELD_NAME] = {SFFN_META_STRING, "strings"},
                 [SFFN_FIELD_U32] = {SFFN_META_INT, "integers"},
                 [SFFN_FIELD_F32] = {SFFN_META_FLOAT, "floats"}};
    const struct sffn_meta *meta =
        model->info.format == SFFN_FILE_GGUF ? sffn_model_meta(model, field->key) : NULL;
    int ignored;
    is_there = is_there ? is_there : &ignored;
    *is_there = meta != NULL;
    if (!meta)
        return SFFN_OK;
    if (meta->kind != SFFN_META_ARRAY || meta->n != model->info.n_layers ||
        meta->element_kind != kinds[field->kind].kind)
        return sffn_file_fail(meta->file, SFFN_ERR_FORMAT, meta->raw,
                              "key '%s' is no array of %u %s, one per layer", field->key,
                              (unsigned)model->info.n_layers, kinds[field->kind].name);
    const size_t at = meta->at + layer * sffn_gguf_kind_bytes(meta->element_type);
    if (field->kind == SFFN_FIELD_NAME)
        return read_name(meta, field, layer, config, is_there);
    return field->kind == SFFN_FIELD_U32 ? read_u32(meta, field, layer, at, config)
                                         : read_f32(meta, field, layer, at, config);
}

sffn_status sffn_fields_read(const sffn_model *model, const struct sffn_fields *fields,
                             uint32_t layer, void *config, int *is_there)
{
    sffn_status status = sffn_field_read(model, &fields->rows[0], layer, config, is_there);
    for (size_t i = 1; i < fields->n && status == SFFN_OK && *is_there; i++)
        status = sffn_field_read(model, &fields->rows[i], layer, config, NULL);
    return status;
}
