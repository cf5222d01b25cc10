#include "ceilings.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/memory.h"
#include "report.h"

#define LINE        64u
#define MAX_THREADS 512u
#define MAX_AHEAD   16u
#define MAX_RESULTS 256u
#define STREAM_WAYS 4u
#define RECENT      8u /* passes in each way that the median is taken of: two measurements */

/* Prefetch by software how, and how far ahead. Which is best differs: the lines that a core can have on their way into L1 limit a gather to
 * 64 bytes * buffers / latency (10 GB/s on a Zen 4 with 185 ns), into L2 there are more; hardware prefetchers help only long pieces. */
struct way {
    int into_l2;    /* 0: into L1 */
    int is_burst;   /* all lines of a later chunk at once; 0: one line of it per line read */
    unsigned lines; /* pieces are cut into chunks of at most this many lines */
    unsigned ahead; /* chunks; 0: no software prefetch */
    unsigned side;  /* chunks read side by side, with prefetches into L2; 0: none */
};

struct result {
    uint32_t n_threads;
    size_t piece_bytes; /* 0: streaming */
    double density, gbps;
    char how[96];
    struct way way;  /* the best of a gather */
    size_t n_passes; /* of each way */
    /* GB/s of passes: of a stream in each of its ways, of a gather in its best, as the first. */
    double recent[STREAM_WAYS][RECENT];
};

struct ceilings {
    char *data;
    size_t bytes;
    uint64_t seed;
    const char **chunks; /* start of each chunk, MAX_AHEAD more than read */
    size_t max_chunks;
    struct result results[MAX_RESULTS];
    size_t n_results;
    char how[96];
};

/* ---- the loops ---- */

static atomic_ullong sink; /* keeps the loads */

static uint64_t load_line(const char *p)
{
    return *(const volatile uint64_t *)(const volatile void *)p;
}

static void read_stream(const char *p, size_t bytes, size_t ahead_bytes)
{
    uint64_t sum = 0;
    if (ahead_bytes == 0)
        for (size_t i = 0; i < bytes; i += LINE)
            sum ^= load_line(p + i);
    else
        for (size_t i = 0; i < bytes; i += LINE) {
            __builtin_prefetch(p + i + ahead_bytes, 0, 2);
            sum ^= load_line(p + i);
        }
    atomic_fetch_xor_explicit(&sink, sum, memory_order_relaxed);
}

/* Prefetch locality 3 goes into L1, 2 into L2. It must be a constant. */
#define READ_CHUNKS(name, locality)                                                                \
    static void name(const char *const *chunks, size_t n, unsigned lines, unsigned ahead,          \
                     int is_burst)                                                                 \
    {                                                                                              \
        uint64_t sum = 0;                                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            const char *now = chunks[i], *later = chunks[i + ahead];                               \
            for (unsigned l = 0; is_burst && l < lines; l++)                                       \
                __builtin_prefetch(later + l * LINE, 0, locality);                                 \
            if (is_burst || ahead == 0)                                                            \
                for (unsigned l = 0; l < lines; l++)                                               \
                    sum ^= load_line(now + l * LINE);                                              \
            else                                                                                   \
                for (unsigned l = 0; l < lines; l++) {                                             \
                    __builtin_prefetch(later + l * LINE, 0, locality);                             \
                    sum ^= load_line(now + l * LINE);                                              \
                }                                                                                  \
        }                                                                                          \
        atomic_fetch_xor_explicit(&sink, sum, memory_order_relaxed);                               \
    }
READ_CHUNKS(read_chunks_l1, 3)
READ_CHUNKS(read_chunks_l2, 2)

/* A line of each in turn: so hardware prefetchers take fewer of them for streams, whose ends they would run past. */
#define READ_SIDE_BY_SIDE(name, side)                                                              \
    static void name(const char *const *chunks, size_t n, unsigned lines, unsigned ahead)          \
    {                                                                                              \
        uint64_t sum = 0;                                                                          \
        size_t i = 0;                                                                              \
        for (; i + (side) <= n; i += (side))                                                       \
            for (unsigned l = 0; l < lines; l++)                                                   \
                for (size_t s = 0; s < (side); s++) {                                              \
                    __builtin_prefetch(chunks[i + s + ahead] + l * LINE, 0, 2);                    \
                    sum ^= load_line(chunks[i + s] + l * LINE);                                    \
                }                                                                                  \
        for (; i < n; i++)                                                                         \
            for (unsigned l = 0; l < lines; l++)                                                   \
                sum ^= load_line(chunks[i] + l * LINE);                                            \
        atomic_fetch_xor_explicit(&sink, sum, memory_order_relaxed);                               \
    }
READ_SIDE_BY_SIDE(read_4_side_by_side, 4)
READ_SIDE_BY_SIDE(read_8_side_by_side, 8)

/* ---- threads ---- */

struct job {
    struct way way; /* gather; lines is the real chunk length here */
    const char *const *chunks;
    size_t n_chunks;
    const char *stream; /* or a stream */
    size_t bytes, ahead_bytes;
    atomic_uint *arrived;
    uint32_t n_threads;
    double start_ns, end_ns;
};

static void *run_job(void *arg)
{
    struct job *j = arg;
    atomic_fetch_add(j->arrived, 1);
    for (unsigned spins = 0; atomic_load(j->arrived) < j->n_threads; spins++)
        if (spins > 1000)
            sched_yield();
    j->start_ns = now_ns();
    if (j->stream)
        read_stream(j->stream, j->bytes, j->ahead_bytes);
    else if (j->way.side == 4)
        read_4_side_by_side(j->chunks, j->n_chunks, j->way.lines, j->way.ahead);
    else if (j->way.side == 8)
        read_8_side_by_side(j->chunks, j->n_chunks, j->way.lines, j->way.ahead);
    else if (j->way.into_l2)
        read_chunks_l2(j->chunks, j->n_chunks, j->way.lines, j->way.ahead, j->way.is_burst);
    else
        read_chunks_l1(j->chunks, j->n_chunks, j->way.lines, j->way.ahead, j->way.is_burst);
    j->end_ns = now_ns();
    return NULL;
}

/* From the first start to the last end; 0 when a thread can't be had. */
static double run_jobs(struct job *jobs, uint32_t n_threads)
{
    static pthread_t threads[MAX_THREADS];
    atomic_uint arrived = 0;
    uint32_t started = 1;
    int failed = 0;
    for (uint32_t i = 0; i < n_threads; i++) {
        jobs[i].arrived = &arrived;
        jobs[i].n_threads = n_threads;
    }
    for (; started < n_threads; started++)
        if (pthread_create(&threads[started], NULL, run_job, &jobs[started]) != 0) {
            failed = 1;
            atomic_store(&arrived, n_threads); /* lets the others go */
            break;
        }
    if (!failed)
        run_job(&jobs[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(threads[i], NULL);
    if (failed)
        return 0.0;
    double start = jobs[0].start_ns, end = jobs[0].end_ns;
    for (uint32_t i = 1; i < n_threads; i++) {
        start = jobs[i].start_ns < start ? jobs[i].start_ns : start;
        end = jobs[i].end_ns > end ? jobs[i].end_ns : end;
    }
    return end - start;
}

/* ---- results ---- */

static struct result *find_result(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                                  double density)
{
    for (size_t i = 0; i < c->n_results; i++) {
        struct result *r = &c->results[i];
        if (r->n_threads == n_threads && r->piece_bytes == piece_bytes &&
            r->density > density * 0.98 - 1e-9 && r->density < density * 1.02 + 1e-9)
            return r;
    }
    return NULL;
}

static struct result *add_result(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                                 double density)
{
    struct result *r = &c->results[c->n_results < MAX_RESULTS ? c->n_results++ : MAX_RESULTS - 1];
    *r = (struct result){.n_threads = n_threads, .piece_bytes = piece_bytes, .density = density};
    return r;
}

struct ceilings *ceilings_create(size_t bytes, int want_huge)
{
    struct ceilings *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->bytes = bytes / (2u << 20) * (2u << 20);
    c->seed = 88172645463325252u;
    c->max_chunks = c->bytes / (8 * LINE);
    c->data = sffn_pages_alloc(c->bytes, want_huge);
    c->chunks = malloc((c->max_chunks + MAX_AHEAD) * sizeof *c->chunks);
    if (!c->data || !c->chunks) {
        ceilings_destroy(c);
        return NULL;
    }
    memset(c->data, 1,
           c->bytes); /* pages that were never written would all be the same zero page */
    return c;
}

void ceilings_destroy(struct ceilings *c)
{
    if (!c)
        return;
    sffn_pages_free(c->data, c->bytes);
    free(c->chunks);
    free(c);
}

uint64_t ceilings_bytes(const struct ceilings *c)
{
    return c->bytes;
}

uint64_t ceilings_huge_bytes(const struct ceilings *c)
{
    return sffn_pages_huge_bytes(c->data, c->bytes);
}

const char *ceilings_gather_how(const struct ceilings *c)
{
    return c->how;
}

/* ---- streaming ---- */

static double stream_once(struct ceilings *c, uint32_t n_threads, size_t ahead_bytes)
{
    static struct job jobs[MAX_THREADS];
    size_t share = c->bytes / n_threads / LINE * LINE;
    for (uint32_t i = 0; i < n_threads; i++) {
        memset(&jobs[i], 0, sizeof jobs[i]);
        jobs[i].stream = c->data + i * share;
        jobs[i].bytes = share;
        jobs[i].ahead_bytes = ahead_bytes;
    }
    double ns = run_jobs(jobs, n_threads);
    return ns > 0.0 ? (double)(share * n_threads) / ns : 0.0;
}

double ceilings_stream_gbps(struct ceilings *c, uint32_t n_threads)
{
    static const size_t aheads[STREAM_WAYS] = {0, 1024, 2048, 4096};
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return 0.0;
    struct result *r = find_result(c, n_threads, 0, 1.0);
    if (!r)
        r = add_result(c, n_threads, 0, 1.0);
    for (size_t repeat = 0; repeat < RECENT / 2; repeat++, r->n_passes++)
        for (size_t i = 0; i < STREAM_WAYS; i++) {
            double gbps = stream_once(c, n_threads, aheads[i]);
            r->gbps = gbps > r->gbps ? gbps : r->gbps;
            r->recent[i][r->n_passes % RECENT] = gbps;
        }
    return r->gbps;
}

static double recent_median(const struct result *r, size_t way)
{
    double gbps[RECENT];
    const size_t n = r->n_passes < RECENT ? r->n_passes : RECENT;
    struct samples passes = {gbps, n, 0.0};
    memcpy(gbps, r->recent[way], n * sizeof *gbps);
    return n > 0 ? samples_summary(&passes).median : 0.0;
}

double ceilings_stream_median_gbps(struct ceilings *c, uint32_t n_threads)
{
    const struct result *r = find_result(c, n_threads, 0, 1.0);
    double best = 0.0;
    for (size_t i = 0; r && i < STREAM_WAYS; i++) {
        const double median = recent_median(r, i);
        best = median > best ? median : best;
    }
    return best;
}

/* ---- gathering ---- */

static double random_unit(struct ceilings *c)
{
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return (double)(c->seed >> 11) * 0x1p-53;
}

/* One cold pass over freshly drawn pieces. */
static double gather_once(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                          double density, struct way way)
{
    size_t piece_lines = (piece_bytes + LINE - 1) / LINE;
    static struct job jobs[MAX_THREADS];
    size_t per_piece = (piece_lines + way.lines - 1) / way.lines;
    size_t lines = (piece_lines + per_piece - 1) /
                   per_piece; /* equal chunks; the last of a piece may overlap the one before */
    size_t n = 0, n_pieces = c->bytes / (piece_lines * LINE);
    for (size_t p = 0; p < n_pieces && n + per_piece <= c->max_chunks; p++) {
        if (random_unit(c) >= density)
            continue;
        const char *piece = c->data + p * piece_lines * LINE;
        for (size_t k = 0; k < per_piece; k++) {
            size_t first = k * lines < piece_lines - lines ? k * lines : piece_lines - lines;
            c->chunks[n++] = piece + first * LINE;
        }
    }
    size_t share = n / n_threads / per_piece * per_piece;
    if (share == 0)
        return 0.0;
    for (size_t i = 0; i < MAX_AHEAD; i++)
        c->chunks[n + i] = c->chunks[n - 1];
    stream_once(c, n_threads, 0); /* evicts what earlier passes have left in the caches */
    for (uint32_t i = 0; i < n_threads; i++) {
        memset(&jobs[i], 0, sizeof jobs[i]);
        jobs[i].way = way;
        jobs[i].way.lines = (unsigned)lines;
        jobs[i].chunks = c->chunks + i * share;
        jobs[i].n_chunks = share;
    }
    double ns = run_jobs(jobs, n_threads);
    return ns > 0.0 ? (double)(share / per_piece * n_threads * piece_bytes) / ns : 0.0;
}

/* Finds the best way to gather r's pieces: r->gbps, way and how. */
static void find_gather(struct ceilings *c, struct result *r)
{
    static const unsigned chunk_lines[] = {16, 36, 72, 1024}, aheads[] = {1, 2, 4, 8};
    enum { MAX_WAYS = 40, FINALISTS = 3, REPEATS = 5 };
    struct way ways[MAX_WAYS];
    double gbps[MAX_WAYS] = {0.0};
    size_t n_ways = 0, piece_lines = (r->piece_bytes + LINE - 1) / LINE;
    ways[n_ways++] = (struct way){0, 0, 1024, 0, 0};
    for (unsigned side = 4; side <= 8; side += 4)
        for (unsigned groups = 1; groups <= 2; groups++)
            ways[n_ways++] = (struct way){1, 0, 256, side * groups, side};
    for (size_t l = 0; l < sizeof chunk_lines / sizeof chunk_lines[0]; l++)
        for (size_t a = 0; a < sizeof aheads / sizeof aheads[0]; a++) {
            size_t lines = chunk_lines[l] < piece_lines ? chunk_lines[l] : piece_lines;
            if ((l > 0 && chunk_lines[l - 1] >= piece_lines) || lines * aheads[a] > 640 ||
                lines * aheads[a] < 8)
                continue; /* the same as a shorter chunk; more than 40 KiB ahead; too near */
            for (int is_burst = 0; is_burst < 2 && n_ways + 2 <= MAX_WAYS; is_burst++) {
                ways[n_ways++] = (struct way){1, is_burst, chunk_lines[l], aheads[a], 0};
                if (!is_burst && aheads[a] == 2)
                    ways[n_ways++] = (struct way){0, is_burst, chunk_lines[l], aheads[a], 0};
            }
        }
    for (size_t i = 0; i < n_ways; i++)
        gbps[i] = gather_once(c, r->n_threads, r->piece_bytes, r->density, ways[i]);
    for (int f = 0; f < FINALISTS; f++) { /* the best few of the first round are measured again */
        size_t best = 0;
        for (size_t i = 1; i < n_ways; i++)
            best = gbps[i] > gbps[best] ? i : best;
        double top = gbps[best];
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            double once = gather_once(c, r->n_threads, r->piece_bytes, r->density, ways[best]);
            top = once > top ? once : top;
        }
        if (top > r->gbps) {
            const struct way *w = &ways[best];
            r->gbps = top;
            r->way = *w;
            if (w->ahead == 0)
                snprintf(r->how, sizeof r->how, "no software prefetch");
            else if (w->side > 0)
                snprintf(r->how, sizeof r->how, "%u side by side into L2, %u ahead", w->side,
                         w->ahead);
            else
                snprintf(r->how, sizeof r->how, "%s into L%d, chunks of %zu lines, %u ahead",
                         w->is_burst ? "bursts" : "line by line", w->into_l2 ? 2 : 1,
                         w->lines < piece_lines ? (size_t)w->lines : piece_lines, w->ahead);
        }
        gbps[best] = 0.0;
    }
}

double ceilings_gather_gbps(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                            double density)
{
    if (n_threads < 1 || n_threads > MAX_THREADS || piece_bytes == 0 || !(density > 0.0))
        return 0.0;
    if (density > 1.0)
        density = 1.0;
    struct result *r = find_result(c, n_threads, piece_bytes, density);
    if (!r) {
        r = add_result(c, n_threads, piece_bytes, density);
        find_gather(c, r);
    }
    for (size_t repeat = 0; r->gbps > 0.0 && repeat < RECENT / 2; repeat++, r->n_passes++) {
        const double gbps = gather_once(c, n_threads, piece_bytes, density, r->way);
        r->gbps = gbps > r->gbps ? gbps : r->gbps;
        r->recent[0][r->n_passes % RECENT] = gbps;
    }
    memcpy(c->how, r->how, sizeof c->how);
    return r->gbps;
}

double ceilings_gather_median_gbps(struct ceilings *c, uint32_t n_threads, size_t piece_bytes,
                                   double density)
{
    const struct result *r = find_result(c, n_threads, piece_bytes, density < 1.0 ? density : 1.0);
    return r ? recent_median(r, 0) : 0.0;
}
