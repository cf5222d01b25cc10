#include "plot.h"

#include <math.h>
#include <string.h>

#include "utf8.h"

enum {
    WIDTH = 560,
    PLOT_HEIGHT = 260, /* of the area between the axes; the legend comes on top */
    LEFT = 76,
    RIGHT = 18,
    BOTTOM = 48,
    TITLE = 30,
    LEGEND_ROW = 20,
    N_COLOURS = 8,
    MAX_TICKS = 32
};

void plot_write_text(FILE *out, const char *text)
{
    size_t n = strlen(text);
    for (size_t at = 0; at < n;) {
        uint32_t code = 0;
        int length = utf8_next(text + at, n - at, &code);
        if (length <= 0 || code < 0x20 || code == 0x7f)
            fputs("\xef\xbf\xbd", out);
        else if (code == '<')
            fputs("&lt;", out);
        else if (code == '>')
            fputs("&gt;", out);
        else if (code == '&')
            fputs("&amp;", out);
        else if (code == '"')
            fputs("&quot;", out);
        else
            fwrite(text + at, 1, (size_t)length, out);
        at += length > 0 ? (size_t)length : length < 0 ? (size_t)-length : n - at;
    }
}

void plot_write_css(FILE *out)
{
    /* Okabe and Ito's colours, which most people with a colour vision deficiency tell apart; darker on white, lighter on black. */
    static const char *const light[N_COLOURS] = {"#0072b2", "#c44e00", "#007a5a", "#a63d7e",
                                                 "#8a6d00", "#2b9bd0", "#5b5b5b", "#b00020"};
    static const char *const dark[N_COLOURS] = {"#56a8e8", "#f08a3c", "#2fc496", "#e08cc0",
                                                "#e0c341", "#8fd3ff", "#b5b5b5", "#ff7a85"};
    fputs(":root{color-scheme:light "
          "dark;--page:#ffffff;--ink:#1b1f24;--dim:#57606a;--grid:#d8dee4",
          out);
    for (int i = 0; i < N_COLOURS; i++)
        fprintf(out, ";--c%d:%s", i, light[i]);
    fputs("}\n@media (prefers-color-scheme:dark){:root{--page:#14181d;--ink:#e6edf3;--dim:#9aa5b1;"
          "--grid:#333b45",
          out);
    for (int i = 0; i < N_COLOURS; i++)
        fprintf(out, ";--c%d:%s", i, dark[i]);
    fputs("}}\n"
          "svg.plot{font:12px system-ui,sans-serif;max-width:100%;height:auto}\n"
          "svg.plot text{fill:var(--ink)}\n"
          "svg.plot .title{font-size:14px;font-weight:600}\n"
          "svg.plot .tick{fill:var(--dim)}\n"
          "svg.plot .grid{stroke:var(--grid);stroke-width:1}\n"
          "svg.plot .axis{stroke:var(--dim);stroke-width:1;fill:none}\n"
          "svg.plot .line{fill:none;stroke-width:1.8;stroke-linejoin:round}\n",
          out);
    for (int i = 0; i < N_COLOURS; i++)
        fprintf(out,
                "svg.plot .m%d{fill:var(--c%d);stroke:none}svg.plot .m%d.big{stroke:var(--ink);"
                "stroke-width:1.2}svg.plot .l%d{stroke:var(--c%d)}\n",
                i, i, i, i, i);
}

/* ---------------------------------------------------------------- scales */

struct scale {
    double min, max; /* of the value, or of its logarithm */
    double from, to; /* pixels */
    int is_log;
    double floor;
};

/* NAN: not drawn. */
static double value_of(const struct scale *s, double value)
{
    if (!s->is_log)
        return isfinite(value) ? value : NAN;
    if (s->floor > 0.0 && value < s->floor)
        value = s->floor;
    return value > 0.0 && isfinite(value) ? log10(value) : NAN;
}

static double pixel_of(const struct scale *s, double value)
{
    return s->from + (value_of(s, value) - s->min) / (s->max - s->min) * (s->to - s->from);
}

/* 1, 2 or 5 times a power of ten, at least `step`. */
static double round_step(double step)
{
    double power = pow(10.0, floor(log10(step)));
    double digits = step / power;
    return power * (digits <= 1.0 + 1e-9 ? 1.0 : digits <= 2.0 ? 2.0 : digits <= 5.0 ? 5.0 : 10.0);
}

/* Range of the points that are drawn: `axis` 0 of x, 1 of y. */
static void fit(const struct plot *plot, int axis, struct scale *s)
{
    const struct plot_axis *a = axis == 0 ? &plot->x : &plot->y;
    struct scale other;
    s->is_log = a->is_log;
    s->floor = a->floor;
    s->min = INFINITY;
    s->max = -INFINITY;
    other.is_log = axis == 0 ? plot->y.is_log : plot->x.is_log;
    other.floor = axis == 0 ? plot->y.floor : plot->x.floor;
    for (size_t i = 0; i < plot->n_series; i++)
        for (size_t j = 0; j < plot->series[i].n; j++) {
            const struct plot_series *series = &plot->series[i];
            double v = value_of(s, axis == 0 ? series->x[j] : series->y[j]);
            if (isnan(v) || isnan(value_of(&other, axis == 0 ? series->y[j] : series->x[j])))
                continue;
            s->min = fmin(s->min, v);
            s->max = fmax(s->max, v);
        }
    if (a->min != 0.0 || a->max != 0.0) {
        s->min = value_of(s, a->min);
        s->max = value_of(s, a->max);
    }
    if (!(s->max >= s->min)) {
        s->min = 0.0;
        s->max = 1.0;
    } else if (a->min == 0.0 && a->max == 0.0) {
        double spread = s->max - s->min;
        double margin = spread > 0.0 ? spread * 0.06 : s->is_log ? 0.15 : 0.5 * fabs(s->max) + 1e-9;
        s->min -= margin;
        s->max += margin;
    }
}

/* Values at which the axis has a label; returns how many. */
static size_t ticks_of(const struct scale *s, double ticks[MAX_TICKS])
{
    size_t n = 0;
    if (!s->is_log) {
        double step = round_step((s->max - s->min) / 7.0);
        for (double i = ceil(s->min / step - 1e-9); i * step <= s->max + 1e-9 * step; i += 1.0)
            if (n < MAX_TICKS)
                ticks[n++] = i == 0.0 ? 0.0 : i * step;
        return n;
    }
    /* Powers of ten, with 2 and 5 between them where there is room, and every n-th where there is none. */
    static const double digits[3] = {1.0, 2.0, 5.0};
    double decades = s->max - s->min, every = decades > 8.0 ? ceil(decades / 8.0) : 1.0;
    size_t per_decade = decades <= 2.5 ? 3 : 1;
    for (double e = floor(s->min); e <= s->max; e += 1.0)
        for (size_t d = 0; d < per_decade; d++) {
            double v = e + log10(digits[d]);
            if (v >= s->min - 1e-9 && v <= s->max + 1e-9 && fmod(fabs(e), every) == 0.0 &&
                n < MAX_TICKS)
                ticks[n++] = digits[d] * pow(10.0, e);
        }
    return n;
}

/* "0.25", "1e-5"; "<= 1e-4" on a floor. */
static void tick_text(const struct scale *s, double value, char out[32])
{
    char number[24];
    snprintf(number, sizeof number, "%.6g", value);
    if (value != 0.0 && (fabs(value) < 1e-4 || fabs(value) >= 1e6))
        snprintf(number, sizeof number, "%.0e", value);
    /* C writes at least two digits of exponent. */
    char *e = strchr(number, 'e');
    if (e != NULL && e[2] == '0' && e[3] != '\0')
        memmove(e + 2, e + 3, strlen(e + 3) + 1);
    snprintf(out, 32, "%s%s",
             s->is_log && s->floor > 0.0 && value <= s->floor * (1.0 + 1e-9) ? "\xe2\x89\xa4 " : "",
             number);
}

/* ---------------------------------------------------------------- drawing */

static void marker(FILE *out, int colour, double x, double y, int is_big)
{
    double r = is_big ? 5.5 : 3.2;
    const char *big = is_big ? " big" : "";
    int c = colour % N_COLOURS;
    switch (c % 4) {
    case 0:
        fprintf(out, "<circle class=\"m%d%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"", c, big, x, y, r);
        break;
    case 1:
        fprintf(out, "<rect class=\"m%d%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"",
                c, big, x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
        break;
    case 2:
        fprintf(out, "<path class=\"m%d%s\" d=\"M%.1f %.1fL%.1f %.1fL%.1f %.1fZ\"", c, big, x,
                y - r * 1.2, x + r * 1.15, y + r * 0.9, x - r * 1.15, y + r * 0.9);
        break;
    default:
        fprintf(out, "<path class=\"m%d%s\" d=\"M%.1f %.1fL%.1f %.1fL%.1f %.1fL%.1f %.1fZ\"", c,
                big, x, y - r * 1.3, x + r * 1.3, y, x, y + r * 1.3, x - r * 1.3, y);
        break;
    }
}

/* Where each entry of the legend goes, filled from the left; returns the number of rows. */
static size_t place_legend(const struct plot *plot, FILE *out, double top)
{
    double x = LEFT;
    size_t rows = 0;
    for (size_t i = 0; i < plot->n_series; i++) {
        const struct plot_series *s = &plot->series[i];
        double width;
        if (s->label == NULL)
            continue;
        width = 34.0 + 7.0 * (double)strlen(s->label);
        if (rows == 0)
            rows = 1;
        if (x > LEFT && x + width > WIDTH - RIGHT) {
            x = LEFT;
            rows++;
        }
        if (out != NULL) {
            double y = top + (double)(rows - 1) * LEGEND_ROW;
            if (s->has_line)
                fprintf(out, "<path class=\"line l%d\" d=\"M%.1f %.1fL%.1f %.1f\"/>",
                        s->colour % N_COLOURS, x - 2.0, y, x + 14.0, y);
            marker(out, s->colour, x + 6.0, y, s->is_big);
            fprintf(out, "/>\n<text x=\"%.1f\" y=\"%.1f\">", x + 20.0, y + 4.0);
            plot_write_text(out, s->label);
            fputs("</text>\n", out);
        }
        x += width;
    }
    return rows;
}

static void draw_axes(FILE *out, const struct plot *plot, const struct scale *sx,
                      const struct scale *sy)
{
    double ticks[MAX_TICKS];
    char text[32];
    size_t n = ticks_of(sx, ticks);
    for (size_t i = 0; i < n; i++) {
        double x = pixel_of(sx, ticks[i]);
        tick_text(sx, ticks[i], text);
        fprintf(out,
                "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text class=\"tick\" x=\"%.1f\" "
                "y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
                x, sy->to, sy->from, x, sy->from + 17.0, text);
    }
    n = ticks_of(sy, ticks);
    for (size_t i = 0; i < n; i++) {
        double y = pixel_of(sy, ticks[i]);
        tick_text(sy, ticks[i], text);
        fprintf(out,
                "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick\" x=\"%.1f\" "
                "y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                sx->from, y, sx->to, sx->from - 7.0, y + 4.0, text);
    }
    fprintf(out, "<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", sx->from, sy->to, sy->from,
            sx->to);
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", (sx->from + sx->to) / 2.0,
            sy->from + 38.0);
    plot_write_text(out, plot->x.label);
    fprintf(out,
            "</text>\n<text transform=\"translate(15 %.1f) rotate(-90)\" text-anchor=\"middle\">",
            (sy->from + sy->to) / 2.0);
    plot_write_text(out, plot->y.label);
    fputs("</text>\n", out);
}

static void draw_series(FILE *out, const struct plot_series *s, const struct scale *sx,
                        const struct scale *sy)
{
    int is_open = 0, c = s->colour % N_COLOURS;
    for (size_t i = 0; s->has_line && i < s->n; i++) {
        double x = pixel_of(sx, s->x[i]), y = pixel_of(sy, s->y[i]);
        if (isnan(x) || isnan(y))
            continue;
        if (!is_open)
            fprintf(out, "<path class=\"line l%d\" d=\"M%.1f %.1f", c, x, y);
        else
            fprintf(out, "L%.1f %.1f", x, y);
        is_open = 1;
    }
    if (is_open)
        fputs("\"/>\n", out);
    for (size_t i = 0; i < s->n; i++) {
        double x = pixel_of(sx, s->x[i]), y = pixel_of(sy, s->y[i]);
        if (isnan(x) || isnan(y))
            continue;
        marker(out, s->colour, x, y, s->is_big);
        fputs("><title>", out);
        if (s->notes != NULL)
            plot_write_text(out, s->notes[i]);
        else
            fprintf(out, "%.4g, %.4g", s->x[i], s->y[i]);
        fprintf(out, "</title></%s>\n", c % 4 == 0 ? "circle" : c % 4 == 1 ? "rect" : "path");
    }
}

void plot_write_svg(FILE *out, const struct plot *plot, int is_file)
{
    struct scale sx, sy;
    size_t legend_rows = place_legend(plot, NULL, 0.0);
    double top = TITLE + 6.0 + (double)legend_rows * LEGEND_ROW,
           height = top + PLOT_HEIGHT + BOTTOM;
    fit(plot, 0, &sx);
    fit(plot, 1, &sy);
    sx.from = LEFT;
    sx.to = WIDTH - RIGHT;
    sy.from = top + PLOT_HEIGHT;
    sy.to = top;
    fprintf(out,
            "<svg class=\"plot\"%s viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\" "
            "role=\"img\">\n",
            is_file ? " xmlns=\"http://www.w3.org/2000/svg\"" : "", WIDTH, height, WIDTH, height);
    if (is_file) {
        fputs("<style>", out);
        plot_write_css(out);
        fputs("</style><rect width=\"100%\" height=\"100%\" style=\"fill:var(--page)\"/>\n", out);
    }
    fprintf(out, "<text class=\"title\" x=\"%d\" y=\"18\">", LEFT);
    plot_write_text(out, plot->title);
    fputs("</text>\n", out);
    place_legend(plot, out, TITLE + 8.0);
    draw_axes(out, plot, &sx, &sy);
    for (size_t i = 0; i < plot->n_series; i++)
        draw_series(out, &plot->series[i], &sx, &sy);
    fputs("</svg>\n", out);
}
