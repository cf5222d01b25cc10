/* selectors.h  How selectors, rules and plans are written in a GGUF file: one key per config field, an
 * array with one element per layer. Reader (layers.c) and writer (prepare/selectors.c) share these tables; a
 * new config field is one row. */
#ifndef SFFN_MODEL_SELECTORS_H
#define SFFN_MODEL_SELECTORS_H
#include "model/model.h"

enum sffn_field_kind {
    SFFN_FIELD_NAME, /* int32_t, written as a string */
    SFFN_FIELD_U32,  /* uint32_t, or an int32_t that is 0 or 1 */
    SFFN_FIELD_F32
};

struct sffn_field {
    const char *key;
    int32_t kind;             /* enum sffn_field_kind */
    size_t offset;            /* in the config struct */
    const char *const *names; /* SFFN_FIELD_NAME: of value `first` and up; NULL ends */
    int32_t first;
};
struct sffn_fields {
    const struct sffn_field *rows;
    size_t n;
};

extern const struct sffn_field sffn_plan_field;   /* of an int32_t: enum sffn_select */
extern const struct sffn_fields sffn_rule_fields; /* of sffn_ffn_config */
extern const struct sffn_fields
    sffn_predictor_fields; /* of sffn_predictor_config; the first row says whether there is one */
extern const struct sffn_fields sffn_router_fields; /* of sffn_router_config; likewise */

#define SFFN_FIELD_NO_SELECTOR "none"

/* The name of a value, or NULL. */
const char *sffn_field_name(const struct sffn_field *field, int32_t value);
/* Reads the layer's element of a field's key into `config`. SFFN_OK without the key too, then config is left alone and
 * *is_there (which may be NULL) is 0. The element SFFN_FIELD_NO_SELECTOR of a first row counts as not there. */
sffn_status sffn_field_read(const sffn_model *model, const struct sffn_field *field, uint32_t layer,
                            void *config, int *is_there);
sffn_status sffn_fields_read(const sffn_model *model, const struct sffn_fields *fields,
                             uint32_t layer, void *config, int *is_there);

#endif /* SFFN_MODEL_SELECTORS_H */
