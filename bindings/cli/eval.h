/* eval.h  Results of `sffn eval`, and the ways to print them. */
#ifndef SFFN_CLI_EVAL_H
#define SFFN_CLI_EVAL_H
#include "heldout.h"
#include "measure.h"

/* One selection in all layers. */
struct eval_point {
    const struct selection *selection;
    struct selectors selectors;
    struct measure_sums *sums;    /* per layer */
    struct measure_row *rows;     /* per layer, when all is measured */
    struct measure_row mean;      /* of the layers; bytes and times are sums */
    struct perplexity perplexity; /* n_predicted 0: not measured */
};

struct eval {
    struct llama *llama;
    struct selections selections;
    struct eval_point *points; /* one per selection */
    struct perplexity dense;
    double *dense_ns; /* per layer; NAN: not measured */
    const char *model_path, *text_path;
    uint32_t window, n_timed;
    size_t n_tokens;
};

void eval_print_table(const struct eval *eval);
/* One object per selection that was asked for. */
void eval_print_json(const struct eval *eval);
/* Writes DIR/index.html. CLI_FAILED after an error line. */
int eval_write_report(const struct eval *eval, const char *folder, int argc, char **argv);
#endif /* SFFN_CLI_EVAL_H */
