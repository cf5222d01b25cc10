#include "selection.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"

const char selection_own_help[] =
    "  gate                 the full gate, exact for activations with true zeros\n"
    "  plan                 what the file says of each layer; gate where it says nothing\n"
    "  predictor, router    the file's own, which every layer must have\n";

const char selection_help[] =
    "  screen[,margin=M]    a 4-bit copy of the gate first, then the gate among those let through; "
    "M in standard\n"
    "                       deviations of the copy's error (1.5)\n"
    "  cascade[,bits=B][,step=S][,columns=C][,margin=M]\n"
    "                       bit planes of the gate, B in all (3) and S at a time (2), each for the "
    "neurons still in\n"
    "                       doubt; before them, with C, a copy in 2 bits of which only the share C "
    "of the columns is\n"
    "                       read, where |x| is largest, and B may be 0. 'sffn prepare' also stores "
    "the mean input,\n"
    "                       which makes it more exact\n"
    "  sign[,alpha=A]       the signs of the gate and of x vote, and A (1.03) times the votes for "
    "count\n"
    "  svd,rank=R[,bits=B]  the gate's best approximation of rank R in B bits, 4, 8 (default), 16 "
    "or "
    "32\n"
    "With density=X, screen, sign and svd let the best X of the neurons through for each token; "
    "with "
    "threshold=T, svd lets\n"
    "those through whose score exceeds T (0). A value may be a list, margin=0:1:2, which gives one "
    "result per value.";

const char selection_fitted_help[] =
    "  low_rank,rank=R      two matrices of rank R, trained on the sample; mlp,rank=R with a ReLU "
    "between them\n"
    "  router[,size=N]      experts of N (32) neurons by balanced k-means, and a linear router, "
    "trained on the sample\n"
    "  These read the FFN's own input; with input=residual the residual stream before the FFN's "
    "norm, with layer what enters\n"
    "  the layer, with layer_norm the same behind its norm\n"
    "svd is weighted by the sample here. recall=R (0.99) sets the threshold, of screen the margin, "
    "by the share of the\n"
    "active neurons of the sample that is let through.";

static const struct kind {
    const char *name, *keys;     /* words with blanks between */
    const char *curve;           /* the knob and its usual values; NULL: none */
    const char *needed;          /* a key that must be there; NULL: none */
    int is_fitted, is_predictor; /* made from activations; made at all */
} kinds[] = {
    {"gate", "", NULL, NULL, 0, 0},
    {"plan", "", NULL, NULL, 0, 0},
    {"predictor", "", NULL, NULL, 0, 0},
    {"screen", "margin density recall", "margin=0:0.5:1:2:3", NULL, 0, 1},
    {"cascade", "bits step margin columns", "margin=0.5:1:1.5:2:3", NULL, 0, 1},
    {"sign", "alpha density recall", "alpha=0.9:0.95:1:1.05:1.1:1.2:1.4", NULL, 0, 1},
    {"svd", "rank bits density threshold recall", "density=0.05:0.1:0.2:0.3:0.5:0.7", "rank", 0, 1},
    {"low_rank", "rank bits recall input", NULL, "rank", 1, 1},
    {"mlp", "rank bits recall input", NULL, "rank", 1, 1},
    {"router", "size recall input", NULL, NULL, 1, 1},
};

static const struct key {
    const char *name;
    size_t offset; /* of a double in struct selection */
    double min, max;
    int is_whole;
} keys[] = {
    {"margin", offsetof(struct selection, margin), 0.0, 100.0, 0},
    {"alpha", offsetof(struct selection, alpha), 0.001, 1000.0, 0},
    {"density", offsetof(struct selection, density), 0.0, 1.0, 0},
    {"threshold", offsetof(struct selection, threshold), -1e30, 1e30, 0},
    {"rank", offsetof(struct selection, rank), 1.0, 65536.0, 1},
    {"bits", offsetof(struct selection, bits), 0.0, 32.0, 1},
    {"step", offsetof(struct selection, step), 1.0, 4.0, 1},
    {"recall", offsetof(struct selection, recall), 0.01, 1.0, 0},
    {"size", offsetof(struct selection, size), 1.0, 65536.0, 1},
    {"columns", offsetof(struct selection, columns), 0.0, 1.0, 0},
    {"input", offsetof(struct selection, input), 0.0, 0.0, 0}, /* a word */
};

/* In the order of enum sffn_selector_input; what is not collected has no name. */
static const char *const input_names[] = {"ffn", "residual", "layer", "layer_norm"};
enum { N_INPUTS = sizeof input_names / sizeof input_names[0] };

enum { N_KINDS = sizeof kinds / sizeof kinds[0], N_KEYS = sizeof keys / sizeof keys[0] };

static int has_word(const char *words, const char *word, size_t n)
{
    while (*words != '\0') {
        size_t length = strcspn(words, " ");
        if (length == n && memcmp(words, word, n) == 0)
            return 1;
        words += length + (words[length] == ' ');
    }
    return 0;
}

static char *copy_text(const char *text, size_t n)
{
    char *copy = cli_alloc(n + 1, 1);
    memcpy(copy, text, n);
    return copy;
}

/* One value of a key, n bytes. */
static int set_key(struct selection *s, const struct key *key, const char *value, size_t n,
                   const char *text)
{
    char number[32], *end;
    double parsed;
    /* bits: planes of a cascade, else of a type of weights */
    int is_bits = strcmp(key->name, "bits") == 0, is_cascade = strcmp(s->kind, "cascade") == 0;
    snprintf(number, sizeof number, "%.*s", (int)(n < 31 ? n : 31), value);
    if (strcmp(key->name, "input") == 0) {
        int i = 0;
        while (i < N_INPUTS && strcmp(input_names[i], number) != 0)
            i++;
        if (i == N_INPUTS)
            return args_wrong("'%s': input is '%s', expected ffn, residual, layer or layer_norm: "
                              "nothing else is collected",
                              text, number);
        s->input = i;
        return CLI_OK;
    }
    parsed = strtod(number, &end);
    if (number[0] == '\0' || *end != '\0' || !(parsed >= key->min && parsed <= key->max) ||
        (key->is_whole && parsed != floor(parsed)) ||
        (is_bits &&
         (is_cascade ? parsed > 4.0
                     : parsed != 4.0 && parsed != 8.0 && parsed != 16.0 && parsed != 32.0)))
        return is_bits ? args_wrong("'%s': bits is '%s', expected %s", text, number,
                                    is_cascade ? "0, 1, 2, 3 or 4" : "4, 8, 16 or 32")
                       : args_wrong("'%s': %s is '%s', expected a %snumber from %g to %g", text,
                                    key->name, number, key->is_whole ? "whole " : "", key->min,
                                    key->max);
    memcpy((char *)s + key->offset, &parsed, sizeof parsed);
    return CLI_OK;
}

static const struct key *find_key(const char *name, size_t n)
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (strlen(keys[i].name) == n && memcmp(keys[i].name, name, n) == 0)
            return &keys[i];
    return NULL;
}

static double value_of(const struct selection *s, const struct key *key)
{
    double value;
    memcpy(&value, (const char *)s + key->offset, sizeof value);
    return value;
}

static int same_point(const struct selection *a, const struct selection *b)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        double x = value_of(a, &keys[i]), y = value_of(b, &keys[i]);
        if (x != y && !(isnan(x) && isnan(y)))
            return 0;
    }
    return 1;
}

/* Takes it over, and looks whether its numbers make sense together. */
static int add(struct selections *all, const struct selection *s)
{
    cli_grow(&all->data, &all->capacity, all->n, sizeof *all->data);
    all->data[all->n++] = *s;
    if (strcmp(s->kind, "cascade") != 0)
        return CLI_OK;
    if (s->bits == 0.0 && !(s->columns > 0.0)) /* bits that are not said are NaN */
        return args_wrong("'%s': bits is 0, expected columns above 0 with that", s->text);
    return CLI_OK;
}

/* Adds `base` with key = each of the values "v:v:v". */
static int add_list(struct selections *all, const struct selection *base, const struct key *key,
                    const char *values, size_t n, const char *text)
{
    for (size_t at = 0; at <= n;) {
        size_t length = 0;
        struct selection s = *base;
        char name[64];
        int is_known = 0;
        while (at + length < n && values[at + length] != ':')
            length++;
        if (set_key(&s, key, values + at, length, text) != CLI_OK)
            return CLI_USAGE;
        snprintf(name, sizeof name, "%s=%.*s", key->name, (int)(length < 31 ? length : 31),
                 values + at);
        for (size_t i = 0; i < all->n; i++)
            is_known |= all->data[i].series == s.series && same_point(&all->data[i], &s);
        if (!is_known) {
            size_t n_text = strlen(base->text) + strlen(name) + 2;
            s.point_text = copy_text(name, strlen(name));
            s.text = cli_alloc(n_text, 1);
            snprintf(s.text, n_text, "%s,%s", base->text, name);
            if (add(all, &s) != CLI_OK)
                return CLI_USAGE;
        }
        at += length + 1;
    }
    return CLI_OK;
}

/* The words of `keys`, for an error line; without activations not those that need them. */
static const char *words_of_keys(const char *words, int is_for_prepare, char *out, size_t size)
{
    out[0] = '\0';
    while (*words != '\0') {
        size_t n = strcspn(words, " "), used = strlen(out);
        if (is_for_prepare || !has_word("recall input size", words, n))
            snprintf(out + used, size - used, "%s%.*s", used != 0 ? " " : "", (int)n, words);
        words += n + (words[n] == ' ');
    }
    return out[0] != '\0' ? out : "it has none";
}

int selections_add(struct selections *all, const char *text, int with_curve, int is_for_prepare)
{
    struct selection s;
    const struct kind *kind = NULL;
    const struct key *list_key = NULL;
    const char *list = NULL;
    size_t n = strcspn(text, ","), n_list = 0, n_known = 0;
    int status = CLI_OK;
    char known[256] = "", single[256], words[128];
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < N_KINDS; i++) {
        if (strlen(kinds[i].name) == n && memcmp(kinds[i].name, text, n) == 0)
            kind = &kinds[i];
        if (is_for_prepare ? kinds[i].is_predictor
                           : !kinds[i].is_fitted || strcmp(kinds[i].name, "router") == 0)
            n_known += (size_t)snprintf(known + n_known, sizeof known - n_known, "%s%s",
                                        n_known != 0 ? "|" : "", kinds[i].name);
    }
    if (kind == NULL)
        return args_wrong("selection '%s', expected %s", text, known);
    s.kind = kind->name;
    s.series = all->n != 0 ? all->data[all->n - 1].series + 1 : 0;
    for (size_t i = 0; i < N_KEYS; i++) {
        double none = NAN;
        memcpy((char *)&s + keys[i].offset, &none, sizeof none);
    }
    snprintf(single, sizeof single, "%s", kind->name);
    while (text[n] == ',') {
        const char *pair = text + n + 1;
        size_t length = strcspn(pair, ","), n_name = strcspn(pair, "=,");
        const struct key *key = find_key(pair, n_name);
        if (key == NULL || pair[n_name] != '=' || !has_word(kind->keys, pair, n_name))
            return args_wrong("'%s': '%.*s', expected KEY=VALUE with a key of %s: %s", text,
                              (int)length, pair, kind->name,
                              words_of_keys(kind->keys, is_for_prepare, words, sizeof words));
        if (memchr(pair, ':', length) != NULL) {
            if (list != NULL)
                return args_wrong("'%s' has two lists of values, expected one at most", text);
            list_key = key;
            list = pair + n_name + 1;
            n_list = length - n_name - 1;
        } else {
            size_t used = strlen(single);
            if (set_key(&s, key, pair + n_name + 1, length - n_name - 1, text) != CLI_OK)
                return CLI_USAGE;
            snprintf(single + used, sizeof single - used, ",%.*s", (int)length, pair);
        }
        n += 1 + length;
    }
    if (kind->needed != NULL && list_key != find_key(kind->needed, strlen(kind->needed)) &&
        isnan(value_of(&s, find_key(kind->needed, strlen(kind->needed)))))
        return args_wrong("'%s' needs a %s: %s,%s=...", text, kind->needed, kind->name,
                          kind->needed);
    s.text = copy_text(single, strlen(single));
    s.point_text = copy_text("", 0);
    if (list != NULL) {
        status = add_list(all, &s, list_key, list, n_list, text);
        free(s.text);
        free(s.point_text);
        return status;
    }
    status = add(all, &s);
    if (status == CLI_OK && with_curve && kind->curve != NULL && isnan(s.density)) {
        struct selection curve = s;
        size_t n_name = strcspn(kind->curve, "=");
        curve.is_curve = 1;
        status = add_list(all, &curve, find_key(kind->curve, n_name), kind->curve + n_name + 1,
                          strlen(kind->curve + n_name + 1), text);
    }
    return status;
}

void selections_free(struct selections *all)
{
    for (size_t i = 0; i < all->n; i++) {
        free(all->data[i].text);
        free(all->data[i].point_text);
    }
    free(all->data);
}

/* ---------------------------------------------------------------- at run time */

static const struct kind *kind_of(const struct selection *selection)
{
    size_t i = 0;
    while (strcmp(kinds[i].name, selection->kind) != 0) /* it is one of them */
        i++;
    return &kinds[i];
}

int selection_is_predictor(const struct selection *selection)
{
    return kind_of(selection)->is_predictor;
}

int selection_is_own(const struct selection *selection, int32_t *select)
{
    if (strcmp(selection->kind, "router") == 0) {
        *select = SFFN_SELECT_ROUTER;
        return isnan(selection->size) && isnan(selection->recall) && isnan(selection->input);
    }
    *select = strcmp(selection->kind, "plan") == 0        ? SFFN_SELECT_DEFAULT
              : strcmp(selection->kind, "predictor") == 0 ? SFFN_SELECT_PREDICTOR
                                                          : SFFN_SELECT_GATE;
    return !selection_is_predictor(selection);
}

int selection_check_own(const struct selection *selection, uint32_t layer, const sffn_ffn *ffn)
{
    sffn_ffn_info info = SFFN_FFN_INFO_INIT;
    int32_t select;
    sffn_ffn_get_info(ffn, &info);
    if (!selection_is_own(selection, &select) ||
        !((select == SFFN_SELECT_PREDICTOR && !info.has_predictor) ||
          (select == SFFN_SELECT_ROUTER && !info.has_router)))
        return CLI_OK;
    return cli_fail("layer %u of the file has no %s, expected one for --select %s", (unsigned)layer,
                    selection->kind, selection->text);
}

int selection_is_fitted(const struct selection *selection)
{
    return kind_of(selection)->is_fitted || !isnan(selection->recall);
}

int32_t selection_input(const struct selection *selection)
{
    return isnan(selection->input) ? SFFN_INPUT_FFN : (int32_t)selection->input;
}

int32_t selection_dtype(const struct selection *selection)
{
    double bits = selection->bits;
    return bits == 4.0 ? SFFN_Q4_0 : bits == 16.0 ? SFFN_F16 : bits == 32.0 ? SFFN_F32 : SFFN_Q8_0;
}

void selection_decide(const struct selection *selection, sffn_predictor_config *config)
{
    if (!isnan(selection->threshold))
        config->threshold = (float)selection->threshold;
    if (!isnan(selection->density)) {
        double k = ceil(selection->density * config->d_ff);
        config->decision = SFFN_DECIDE_TOP_K;
        config->top_k = k < 1.0 ? 1 : k > config->d_ff ? config->d_ff : (uint32_t)k;
    }
}

int selection_predictor_config(const struct selection *selection, uint32_t layer,
                               const sffn_ffn_config *ffn, sffn_predictor_config *config)
{
    static const sffn_predictor_config defaults = SFFN_PREDICTOR_CONFIG_INIT;
    int is_gated = ffn->gate.data != NULL;
    if (ffn->rule == SFFN_RULE_NONE &&
        (ffn->activation == SFFN_ACT_SILU || ffn->activation == SFFN_ACT_GELU_ERF ||
         ffn->activation == SFFN_ACT_GELU_TANH))
        return cli_fail("layer %u has activation %s, expected one with exact zeros for --select %s",
                        (unsigned)layer, sffn_activation_name(ffn->activation), selection->kind);
    *config = defaults;
    config->d_model = ffn->d_model;
    config->d_ff = ffn->d_ff;
    config->gate = is_gated ? ffn->gate : ffn->up;
    config->gate_bias = is_gated ? ffn->gate_bias : ffn->up_bias;
    config->threshold = ffn->act_threshold;
    if (strcmp(selection->kind, "cascade") == 0) {
        config->kind = SFFN_PREDICTOR_CASCADE;
        if (!isnan(selection->bits))
            config->bits = (uint32_t)selection->bits;
        if (!isnan(selection->step))
            config->step_bits = (uint32_t)selection->step;
        if (!isnan(selection->columns))
            config->column_share = (float)selection->columns;
    } else if (strcmp(selection->kind, "sign") == 0) {
        config->kind = SFFN_PREDICTOR_SIGN;
        config->threshold = 0.0f; /* of votes, not of the gate */
        if (!isnan(selection->alpha))
            config->alpha = (float)selection->alpha;
    } else if (strcmp(selection->kind, "svd") == 0) {
        config->kind = SFFN_PREDICTOR_GATE_SVD;
        config->rank = (uint32_t)selection->rank;
        config->dtype = selection_dtype(selection);
    }
    if (!isnan(selection->margin))
        config->margin = (float)selection->margin;
    selection_decide(selection, config);
    return CLI_OK;
}

sffn_predictor *selection_predictor(sffn_context *ctx, const struct selection *selection,
                                    uint32_t layer, const sffn_ffn_config *ffn)
{
    sffn_predictor_config config;
    sffn_predictor *predictor = NULL;
    sffn_status status;
    char what[64];
    if (selection_predictor_config(selection, layer, ffn, &config) != CLI_OK)
        return NULL;
    status = sffn_predictor_create(ctx, &config, &predictor);
    snprintf(what, sizeof what, "layer %u, --select %s", (unsigned)layer, selection->kind);
    if (status != SFFN_OK)
        cli_fail_status(ctx, status, what);
    return predictor;
}

int selectors_create(sffn_context *ctx, const struct selection *selection,
                     const sffn_ffn_config *const *layers, uint32_t n_layers, uint32_t max_tokens,
                     struct selectors *out)
{
    memset(out, 0, sizeof *out);
    out->n_layers = n_layers;
    out->d_model = n_layers != 0 ? layers[0]->d_model : 0;
    out->layers = cli_alloc(n_layers, sizeof *out->layers);
    for (uint32_t i = 0; i < n_layers; i++) {
        struct selector *selector = &out->layers[i];
        if (selection_is_own(selection, &selector->select))
            continue;
        selector->select = SFFN_SELECT_ACTIVE;
        selector->predictor = selection_predictor(ctx, selection, i, layers[i]);
        if (selector->predictor == NULL)
            return CLI_FAILED;
        if (out->set == NULL) {
            sffn_active_set_config config = SFFN_ACTIVE_SET_CONFIG_INIT;
            sffn_status status;
            config.n_blocks = layers[i]->d_ff;
            config.max_tokens = max_tokens;
            status = sffn_active_set_create(ctx, &config, &out->set);
            if (status != SFFN_OK)
                return cli_fail_status(ctx, status, NULL);
        }
    }
    return CLI_OK;
}

void selectors_free(struct selectors *selectors)
{
    for (uint32_t i = 0; selectors->layers != NULL && i < selectors->n_layers; i++)
        sffn_predictor_destroy(selectors->layers[i].predictor);
    sffn_active_set_destroy(selectors->set);
    free(selectors->layers);
    memset(selectors, 0, sizeof *selectors);
}

sffn_status selector_run(sffn_context *ctx, const struct selectors *selectors, uint32_t layer,
                         sffn_ffn_args *args)
{
    const struct selector *selector = &selectors->layers[layer];
    args->select = selector->select;
    if (selector->predictor == NULL)
        return SFFN_OK;
    args->active = selectors->set;
    return sffn_predictor_predict(ctx, selector->predictor, args->x, selectors->d_model,
                                  args->n_tokens, NULL, 0, selectors->set);
}

uint64_t selector_bytes(const struct selector *selector)
{
    return selector->predictor != NULL ? sffn_predictor_weight_bytes(selector->predictor) : 0;
}
