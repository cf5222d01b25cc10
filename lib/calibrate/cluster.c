/* cluster.c  Balanced k-means: experts of exactly equal size.
 *
 * With equal sizes m and fixed rows, the sum of squared distances is sum |x|^2 - sum |S_c|^2 / m, S_c being the sum of expert c's rows. Exchanging
 * x_i of a with x_j of b changes sum |S_c|^2 by 2 (d . (S_a - S_b) + |d|^2), d = x_j - x_i. This is what the rounds below climb. Lloyd's alternation of
 * means and assignments would stop at once in high dimensions: a row's own 1 / m share of its expert's mean outweighs every other similarity. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/context.h"
#include "base/random.h"
#include "calibrate/fit.h"
#include "matmul/linalg.h"

#define TARGETS   8 /* experts that a row tries in a round */
#define SEEDS_MAX 8 /* seeds drawn before distances are updated */

struct ranked {
    double weight;
    uint32_t row;
};

struct clusters {
    sffn_context *ctx;
    const sffn_cluster_config *config;
    size_t n, d, k, m; /* rows, columns, experts, rows of an expert */
    float *x;          /* [n][d] */
    float *sums;       /* [k][d]: the seeds at first */
    float *products;   /* [n][k]: rows times sums */
    double *norm2;     /* [n] */
    double *weight; /* [n]: squared distance to the nearest seed; what a row would gain by moving */
    uint32_t *members;    /* [k][m] */
    uint32_t *expert;     /* [n] */
    uint32_t *slot;       /* [n]: place among the expert's members */
    struct ranked *order; /* [n] */
};

static double dot(const float *a, const float *b, size_t n)
{
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += (double)a[i] * b[i];
        s1 += (double)a[i + 1] * b[i + 1];
        s2 += (double)a[i + 2] * b[i + 2];
        s3 += (double)a[i + 3] * b[i + 3];
    }
    for (; i < n; i++)
        s0 += (double)a[i] * b[i];
    return s0 + s1 + (s2 + s3);
}

static void normalise_rows(struct clusters *c)
{
    for (size_t i = 0; i < c->n; i++) {
        float *row = c->x + i * c->d;
        c->norm2[i] = dot(row, row, c->d);
        if (!c->config->normalize || c->norm2[i] == 0)
            continue;
        const double scale = 1 / sqrt(c->norm2[i]);
        for (size_t j = 0; j < c->d; j++)
            row[j] = (float)(row[j] * scale);
        c->norm2[i] = dot(row, row, c->d);
    }
}

static sffn_status report(const struct clusters *c, uint64_t done)
{
    return sffn_progress_report(c->ctx, c->config->progress, c->config->progress_user, "experts",
                                done, (uint64_t)c->config->max_rounds + 1);
}

/* ---- start ---- */

/* A row with probability in proportion to its weight; the first row of any when all weights are 0. A taken row gets weight -1. */
static size_t draw_row(struct clusters *c, struct sffn_random *random)
{
    double total = 0;
    for (size_t i = 0; i < c->n; i++)
        total += c->weight[i] > 0 ? c->weight[i] : 0;
    double left = sffn_random_uniform(random) * total;
    size_t found = c->n;
    for (size_t i = 0; i < c->n; i++) {
        if (c->weight[i] < 0 || (total > 0 && c->weight[i] == 0))
            continue;
        found = i; /* rounding may leave a rest: the last one then */
        if ((left -= c->weight[i]) < 0 || total == 0)
            break;
    }
    c->weight[found] = -1;
    return found;
}

/* k-means++ (Arthur, Vassilvitskii 2007), up to SEEDS_MAX seeds at a time once there are as many: distances cost a pass over all rows. */
static sffn_status choose_seeds(struct clusters *c)
{
    struct sffn_random random = {c->config->seed};
    for (size_t i = 0; i < c->n; i++)
        c->weight[i] = 1;
    for (size_t done = 0, count; done < c->k; done += count) {
        sffn_status status = report(c, 0);
        count = done < 1 ? 1 : done < SEEDS_MAX ? done : SEEDS_MAX;
        count = count < c->k - done ? count : c->k - done;
        size_t chosen[SEEDS_MAX];
        for (size_t s = 0; s < count; s++) {
            chosen[s] = draw_row(c, &random);
            memcpy(c->sums + (done + s) * c->d, c->x + chosen[s] * c->d, c->d * sizeof(float));
        }
        if (status == SFFN_OK) /* products is free until the assignment */
            status = sffn_gemm_nt(c->ctx, count, c->n, c->d, c->sums + done * c->d, c->d, c->x,
                                  c->d, c->products, c->n);
        if (status != SFFN_OK)
            return status;
        for (size_t s = 0; s < count; s++)
            for (size_t i = 0; i < c->n; i++) {
                const double distance =
                    c->norm2[i] + c->norm2[chosen[s]] - 2 * (double)c->products[s * c->n + i];
                if (c->weight[i] >= 0 && (distance < c->weight[i] || done + s == 0))
                    c->weight[i] = distance > 0 ? distance : 0;
            }
    }
    return SFFN_OK;
}

/* By falling weight, then by index: a strict order, so that any sorting algorithm gives the same. */
static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

static void rank_rows(struct clusters *c)
{
    for (size_t i = 0; i < c->n; i++)
        c->order[i] = (struct ranked){c->weight[i], (uint32_t)i};
    qsort(c->order, c->n, sizeof(*c->order), compare_ranked);
}

/* How near row i is to a seed, whose half squared norm is given: |x - seed|^2 falls as this grows. */
static double nearness(const struct clusters *c, size_t i, size_t e, const double *half_norm)
{
    return (double)c->products[i * c->k + e] - half_norm[e];
}

/* The rows that lose most when they miss their best seed choose first. */
static sffn_status assign_by_regret(struct clusters *c, double *half_norm, uint32_t *room)
{
    const sffn_status status =
        sffn_gemm_nt(c->ctx, c->n, c->k, c->d, c->x, c->d, c->sums, c->d, c->products, c->k);
    if (status != SFFN_OK)
        return status;
    for (size_t e = 0; e < c->k; e++) {
        half_norm[e] = dot(c->sums + e * c->d, c->sums + e * c->d, c->d) / 2;
        room[e] = (uint32_t)c->m;
    }
    for (size_t i = 0; i < c->n; i++) {
        double first = -INFINITY, second = -INFINITY;
        for (size_t e = 0; e < c->k; e++) {
            const double v = nearness(c, i, e, half_norm);
            second = v > first ? first : v > second ? v : second;
            first = v > first ? v : first;
        }
        c->weight[i] = c->k > 1 ? first - second : 0;
    }
    rank_rows(c);
    for (size_t r = 0; r < c->n; r++) {
        const size_t i = c->order[r].row;
        size_t best = c->k;
        double first = -INFINITY;
        for (size_t e = 0; e < c->k; e++)
            if (room[e] > 0 && (best == c->k || nearness(c, i, e, half_norm) > first)) {
                best = e;
                first = nearness(c, i, e, half_norm);
            }
        c->expert[i] = (uint32_t)best;
        c->slot[i] = (uint32_t)c->m - room[best]--;
        c->members[best * c->m + c->slot[i]] = (uint32_t)i;
    }
    return SFFN_OK;
}

static void sum_members(struct clusters *c)
{
    memset(c->sums, 0, c->k * c->d * sizeof(float));
    for (size_t e = 0; e < c->k; e++)
        for (size_t s = 0; s < c->m; s++) {
            const float *row = c->x + (size_t)c->members[e * c->m + s] * c->d;
            for (size_t j = 0; j < c->d; j++)
                c->sums[e * c->d + j] += row[j];
        }
}

/* ---- rounds ---- */

/* products[i][e], without the row's own share in its own expert. */
static double affinity(const struct clusters *c, size_t i, size_t e)
{
    const double p = (double)c->products[i * c->k + e];
    return c->expert[i] == e ? p - c->norm2[i] : p;
}

/* Half of what the exchange adds to sum |S_c|^2, from the sums as they are now. */
static double exchange_gain(const struct clusters *c, size_t i, size_t j)
{
    const float *xi = c->x + i * c->d, *xj = c->x + j * c->d;
    const float *a = c->sums + c->expert[i] * c->d, *b = c->sums + c->expert[j] * c->d;
    double s0 = 0, s1 = 0; /* d . (S_a - S_b + d) in two chains */
    size_t l = 0;
    for (; l + 2 <= c->d; l += 2) {
        const double d0 = (double)xj[l] - xi[l], d1 = (double)xj[l + 1] - xi[l + 1];
        s0 += d0 * ((double)a[l] - b[l] + d0);
        s1 += d1 * ((double)a[l + 1] - b[l + 1] + d1);
    }
    if (l < c->d) {
        const double d0 = (double)xj[l] - xi[l];
        s0 += d0 * ((double)a[l] - b[l] + d0);
    }
    return s0 + s1;
}

static void exchange(struct clusters *c, size_t i, size_t j)
{
    const float *xi = c->x + i * c->d, *xj = c->x + j * c->d;
    const uint32_t a = c->expert[i], b = c->expert[j], slot_i = c->slot[i], slot_j = c->slot[j];
    float *sa = c->sums + a * c->d, *sb = c->sums + b * c->d;
    for (size_t l = 0; l < c->d; l++) {
        const float d = xj[l] - xi[l];
        sa[l] += d;
        sb[l] -= d;
    }
    c->members[a * c->m + slot_i] = (uint32_t)j;
    c->members[b * c->m + slot_j] = (uint32_t)i;
    c->expert[i] = b;
    c->slot[i] = slot_j;
    c->expert[j] = a;
    c->slot[j] = slot_i;
}

/* The experts that row i would rather belong to, best first. */
static size_t preferred(const struct clusters *c, size_t i, size_t *targets)
{
    const double own = affinity(c, i, c->expert[i]);
    size_t n = 0;
    for (size_t e = 0; e < c->k; e++) {
        const double v = (double)c->products[i * c->k + e];
        if (e == c->expert[i] || v <= own ||
            (n == TARGETS && v <= (double)c->products[i * c->k + targets[TARGETS - 1]]))
            continue;
        size_t at = n < TARGETS ? n++ : TARGETS - 1;
        for (; at > 0 && (double)c->products[i * c->k + targets[at - 1]] < v; at--)
            targets[at] = targets[at - 1];
        targets[at] = e;
    }
    return n;
}

/* Tries to move row i: the products, made at the start of the round, propose a partner; the sums as they are now decide. */
static int try_row(struct clusters *c, size_t i)
{
    size_t targets[TARGETS];
    const size_t n = preferred(c, i, targets);
    for (size_t t = 0; t < n; t++) {
        const size_t a = c->expert[i], b = targets[t];
        size_t partner = c->n;
        double best = -INFINITY;
        for (size_t s = 0; s < c->m; s++) {
            const size_t j = c->members[b * c->m + s];
            const double v = affinity(c, j, a) - affinity(c, j, b);
            if (v > best) {
                best = v;
                partner = j;
            }
        }
        if (partner == c->n || best + affinity(c, i, b) - affinity(c, i, a) <= 0)
            continue;
        if (exchange_gain(c, i, partner) > 1e-6 * (c->norm2[i] + c->norm2[partner])) {
            exchange(c, i, partner);
            return 1;
        }
    }
    return 0;
}

static sffn_status improve(struct clusters *c)
{
    for (uint32_t round = 0; round < c->config->max_rounds; round++) {
        sffn_status status = report(c, (uint64_t)round + 1);
        if (status == SFFN_OK)
            status = sffn_gemm_nt(c->ctx, c->n, c->k, c->d, c->x, c->d, c->sums, c->d, c->products,
                                  c->k);
        if (status != SFFN_OK)
            return status;
        for (size_t i = 0; i < c->n; i++) {
            double most = -INFINITY;
            for (size_t e = 0; e < c->k; e++)
                if (e != c->expert[i] && (double)c->products[i * c->k + e] > most)
                    most = (double)c->products[i * c->k + e];
            c->weight[i] = most - affinity(c, i, c->expert[i]);
        }
        rank_rows(c);
        size_t n_moved = 0;
        for (size_t r = 0; r < c->n; r++)
            n_moved += (size_t)try_row(c, c->order[r].row);
        sum_members(c); /* afresh: rounding does not pile up */
        if (n_moved <= c->n / 1000)
            break;
    }
    return SFFN_OK;
}

/* ---- result ---- */

static double total_cost(const struct clusters *c)
{
    double cost = 0;
    for (size_t e = 0; e < c->k; e++)
        for (size_t j = 0; j < c->d; j++) {
            double mean = 0;
            for (size_t s = 0; s < c->m; s++)
                mean += (double)c->x[(size_t)c->members[e * c->m + s] * c->d + j] / (double)c->m;
            for (size_t s = 0; s < c->m; s++) {
                const double v = (double)c->x[(size_t)c->members[e * c->m + s] * c->d + j] - mean;
                cost += v * v;
            }
        }
    return cost;
}

/* Walking through the rows in order meets experts by their first row, and an expert's rows in order. */
static void write_permutation(struct clusters *c, uint32_t *permutation, uint32_t *start)
{
    size_t used = 0;
    for (size_t e = 0; e < c->k; e++)
        start[e] = UINT32_MAX;
    for (size_t i = 0; i < c->n; i++) {
        const uint32_t e = c->expert[i];
        if (start[e] == UINT32_MAX) {
            start[e] = (uint32_t)used;
            used += c->m;
        }
        permutation[start[e]++] = (uint32_t)i;
    }
}

static int layout(struct clusters *c, double **half_norm, uint32_t **room, char *base,
                  size_t *bytes)
{
    const struct {
        void **where;
        size_t count, size;
    } parts[] = {{(void **)&c->sums, c->k * c->d, sizeof(float)},
                 {(void **)&c->products, c->k > SEEDS_MAX ? c->k : SEEDS_MAX, c->n * sizeof(float)},
                 {(void **)&c->norm2, c->n, sizeof(double)},
                 {(void **)&c->weight, c->n, sizeof(double)},
                 {(void **)&c->members, c->n, sizeof(uint32_t)},
                 {(void **)&c->expert, c->n, sizeof(uint32_t)},
                 {(void **)&c->slot, c->n, sizeof(uint32_t)},
                 {(void **)&c->order, c->n, sizeof(struct ranked)},
                 {(void **)half_norm, c->k, sizeof(double)},
                 {(void **)room, c->k, sizeof(uint32_t)}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        size_t part;
        if (base)
            *parts[i].where = base + used;
        if (!sffn_checked_mul(parts[i].count, parts[i].size, &part) ||
            !sffn_checked_round_up(part, 64, &part) || !sffn_checked_add(used, part, &used))
            return 0;
    }
    *bytes = used;
    return 1;
}

static sffn_status cluster(struct clusters *c, uint32_t *permutation, double *cost)
{
    size_t bytes;
    double *half_norm;
    uint32_t *room;
    char *scratch =
        layout(c, &half_norm, &room, NULL, &bytes) ? sffn_mem_alloc(c->ctx, bytes) : NULL;
    if (!scratch)
        return sffn_fail(c->ctx, SFFN_ERR_OUT_OF_MEMORY,
                         "experts: the allocator returned NULL for %zu experts of %zu rows", c->k,
                         c->m);
    layout(c, &half_norm, &room, scratch, &bytes);
    normalise_rows(c);
    sffn_status status = choose_seeds(c);
    if (status == SFFN_OK)
        status = assign_by_regret(c, half_norm, room);
    if (status == SFFN_OK) {
        sum_members(c);
        status = improve(c);
    }
    if (status == SFFN_OK) {
        write_permutation(c, permutation, room);
        if (cost)
            *cost = total_cost(c);
    }
    sffn_mem_free(c->ctx, scratch, bytes);
    return status;
}

sffn_status sffn_cluster_neurons(sffn_context *ctx, const sffn_cluster_config *config,
                                 uint32_t *permutation, double *cost)
{
    if (!ctx || !permutation)
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT, "%s is NULL", ctx ? "permutation" : "ctx");
    sffn_cluster_config own = SFFN_CLUSTER_CONFIG_INIT;
    sffn_status status = sffn_config_copy(ctx, "sffn_cluster_config", &own, sizeof(own), config);
    if (status != SFFN_OK)
        return status;
    if (own.group_size == 0 || (own.normalize & ~1))
        return sffn_fail(ctx, SFFN_ERR_INVALID_ARGUMENT,
                         "experts: group_size is %u, normalize %d; expected at least 1, and 0 or 1",
                         (unsigned)own.group_size, (int)own.normalize);
    if (own.n_rows % own.group_size)
        return sffn_fail(ctx, SFFN_ERR_SHAPE,
                         "experts: group_size is %u, which does not divide n_rows %u",
                         (unsigned)own.group_size, (unsigned)own.n_rows);
    struct clusters c = {.ctx = ctx, .config = &own};
    size_t bytes = 0;
    status =
        sffn_decode_weights(ctx, "experts", &own.weights, own.n_rows, own.n_cols, &c.x, &bytes);
    if (status != SFFN_OK)
        return status;
    c.n = own.n_rows;
    c.d = own.n_cols;
    c.m = own.group_size;
    c.k = c.n / c.m;
    status = cluster(&c, permutation, cost);
    sffn_mem_free(ctx, c.x, bytes);
    return status;
}
