/*
 * plot.h  Line and point plots as SVG: axes, ticks, legend, linear and log scales. Plain text out, no library, no script.
 * Colours follow the reader's light or dark setting; series differ in marker as well as colour.
 */
#ifndef SFFN_COMMON_PLOT_H
#define SFFN_COMMON_PLOT_H
#include <stddef.h>
#include <stdio.h>

struct plot_axis {
    const char *label; /* with its unit */
    int is_log;
    double min, max; /* both 0: from the data */
    /* log: smaller values are drawn here and the tick says "<="; 0: they are left out */
    double floor;
};

struct plot_series {
    const char *label;        /* NULL: not in the legend */
    const double *x, *y;      /* [n]; points that are not finite are left out */
    const char *const *notes; /* [n] shown when the mouse rests on a point; NULL: x and y */
    size_t n;
    int colour;   /* 0.. ; equal numbers look equal. Eight differ */
    int has_line; /* 1: neighbouring points are joined */
    int is_big;   /* 1: a larger marker with an edge, for the points that matter */
};

struct plot {
    const char *title;
    struct plot_axis x, y;
    const struct plot_series *series;
    size_t n_series;
};

/* The <style> rules that the plots need, for the head of a page; pages add their own after it. */
void plot_write_css(FILE *out);
/* One <svg> element. is_file: with namespace and style, so that it can stand alone in a file. */
void plot_write_svg(FILE *out, const struct plot *plot, int is_file);
/* Text with the characters of markup escaped; what is not UTF-8, or a control character, becomes U+FFFD. */
void plot_write_text(FILE *out, const char *text);
#endif /* SFFN_COMMON_PLOT_H */
