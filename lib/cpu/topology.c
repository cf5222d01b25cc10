/* topology.c  hwloc where it is built in and answers; the operating system fills every gap it leaves. */
#include "cpu/topology.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef SFFN_HAVE_HWLOC
#include <hwloc.h>
#endif

#define MAX_CPUS  8192 /* Linux' own limit */
#define WORD_BITS (8 * (unsigned)sizeof(unsigned long))

struct cpu_mask {
    unsigned long bits[MAX_CPUS / (8 * sizeof(unsigned long))];
};

static int mask_has(const struct cpu_mask *m, unsigned cpu)
{
    return cpu < MAX_CPUS && (m->bits[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1);
}

static void mask_add(struct cpu_mask *m, unsigned cpu)
{
    if (cpu < MAX_CPUS)
        m->bits[cpu / WORD_BITS] |= 1ul << (cpu % WORD_BITS);
}

static uint32_t mask_count(const struct cpu_mask *m)
{
    uint32_t n = 0;
    for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
        n += (uint32_t)mask_has(m, cpu);
    return n;
}

/* The calling thread's mask; where there is none, as many CPUs as are online. Never empty. */
static void mask_allowed(struct cpu_mask *m)
{
    memset(m, 0, sizeof *m);
#ifdef __linux__
    if (sched_getaffinity(0, sizeof m->bits, (cpu_set_t *)(void *)m->bits) == 0 &&
        mask_count(m) > 0)
        return;
    memset(m, 0, sizeof *m);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    for (long cpu = 0; cpu < (n < 1 ? 1 : n); cpu++)
        mask_add(m, (unsigned)cpu);
}

/* First line of a small system file, without the newline; 0 when there is none. */
static int read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    int ok = fgets(line, (int)size, f) != NULL;
    fclose(f);
    if (ok)
        line[strcspn(line, "\n")] = '\0';
    return ok;
}

/* "0-3,8,10-11" -> mask. Stops at the first character that does not fit. */
static void parse_cpu_list(const char *text, struct cpu_mask *m)
{
    memset(m, 0, sizeof *m);
    for (;;) {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (end == text)
            return;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < MAX_CPUS; cpu++)
            mask_add(m, (unsigned)cpu);
        if (*end != ',')
            return;
        text = end + 1;
    }
}

/* The allowed CPUs that share a core with `cpu`, itself included. */
static void core_of(unsigned cpu, const struct cpu_mask *allowed, struct cpu_mask *core)
{
    char path[128], line[1024];
    memset(core, 0, sizeof *core);
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
    if (read_line(path, line, sizeof line))
        parse_cpu_list(line, core);
    for (size_t i = 0; i < sizeof core->bits / sizeof core->bits[0]; i++)
        core->bits[i] &= allowed->bits[i];
    mask_add(core, cpu);
}

/* Walks the allowed cores; stops at core number `stop` and leaves its CPUs in *core. Returns how many were passed. */
static uint32_t walk_cores(const struct cpu_mask *allowed, uint32_t stop, struct cpu_mask *core)
{
    struct cpu_mask seen;
    uint32_t n = 0;
    memset(&seen, 0, sizeof seen);
    for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!mask_has(allowed, cpu) || mask_has(&seen, cpu))
            continue;
        core_of(cpu, allowed, core);
        if (n == stop)
            return n;
        for (size_t i = 0; i < sizeof seen.bits / sizeof seen.bits[0]; i++)
            seen.bits[i] |= core->bits[i];
        n++;
    }
    return n;
}

/* "32768K" of /sys/.../cache/indexN/size */
static uint64_t parse_cache_size(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 10);
    switch (*end) {
    case 'K':
        return n << 10;
    case 'M':
        return n << 20;
    case 'G':
        return n << 30;
    default:
        return n;
    }
}

static void os_caches(struct sffn_topology *t, const struct cpu_mask *allowed)
{
    unsigned cpu = 0;
    int llc_level = 0;
    while (cpu + 1 < MAX_CPUS && !mask_has(allowed, cpu))
        cpu++;
    for (int index = 0; index < 8; index++) {
        char path[128], line[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cache/index%d/type", cpu, index);
        if (!read_line(path, line, sizeof line))
            break;
        if (strcmp(line, "Data") != 0 && strcmp(line, "Unified") != 0)
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cache/index%d/level", cpu,
                 index);
        if (!read_line(path, line, sizeof line))
            continue;
        int level = atoi(line);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cache/index%d/size", cpu, index);
        if (!read_line(path, line, sizeof line))
            continue;
        uint64_t bytes = parse_cache_size(line);
        if (level == 1)
            t->l1d_bytes = bytes;
        if (level == 2)
            t->l2_bytes = bytes;
        if (level > llc_level && bytes > 0) {
            llc_level = level;
            t->llc_bytes = bytes;
        }
    }
#ifdef _SC_LEVEL1_DCACHE_SIZE
    /* glibc asks the CPU itself on x86, which works where /sys is hidden. */
    const int names[3] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    uint64_t sizes[3];
    for (int i = 0; i < 3; i++) {
        long n = sysconf(names[i]);
        sizes[i] = n > 0 ? (uint64_t)n : 0;
    }
    if (t->l1d_bytes == 0)
        t->l1d_bytes = sizes[0];
    if (t->l2_bytes == 0)
        t->l2_bytes = sizes[1];
    if (t->llc_bytes == 0)
        t->llc_bytes = sizes[2] ? sizes[2] : t->l2_bytes;
#endif
}

static uint32_t os_numa_nodes(const struct cpu_mask *allowed)
{
    uint32_t n = 0;
    char path[128], line[4096];
    struct cpu_mask possible, node;
    if (!read_line("/sys/devices/system/node/online", line, sizeof line))
        return 1;
    parse_cpu_list(line, &possible); /* node numbers have the same form */
    for (unsigned id = 0; id < MAX_CPUS; id++) {
        if (!mask_has(&possible, id))
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/node/node%u/cpulist", id);
        if (!read_line(path, line, sizeof line))
            continue;
        parse_cpu_list(line, &node);
        unsigned long common = 0;
        for (size_t i = 0; i < sizeof node.bits / sizeof node.bits[0]; i++)
            common |= node.bits[i] & allowed->bits[i];
        n += common != 0;
    }
    return n > 0 ? n : 1;
}

static void detect_os(struct sffn_topology *t)
{
    struct cpu_mask allowed, core;
    mask_allowed(&allowed);
    t->n_cpus = mask_count(&allowed);
    t->n_cores = walk_cores(&allowed, UINT32_MAX, &core);
    t->n_numa_nodes = os_numa_nodes(&allowed);
    os_caches(t, &allowed);
}

#ifdef SFFN_HAVE_HWLOC
static uint32_t count_near(hwloc_topology_t topology, hwloc_obj_type_t type,
                           hwloc_const_bitmap_t allowed)
{
    uint32_t n = 0;
    for (hwloc_obj_t obj = hwloc_get_next_obj_by_type(topology, type, NULL); obj;
         obj = hwloc_get_next_obj_by_type(topology, type, obj))
        n += obj->cpuset && hwloc_bitmap_intersects(obj->cpuset, allowed);
    return n;
}

/* Overwrites those fields of *t that hwloc knows. */
static void detect_hwloc(struct sffn_topology *t)
{
    static const hwloc_obj_type_t wanted[] = {HWLOC_OBJ_CORE,    HWLOC_OBJ_L1CACHE,
                                              HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                              HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L5CACHE};
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return;
    hwloc_topology_set_all_types_filter(
        topology, HWLOC_TYPE_FILTER_KEEP_NONE); /* PUs and NUMA nodes always stay */
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        hwloc_topology_set_type_filter(topology, wanted[i], HWLOC_TYPE_FILTER_KEEP_ALL);
#if defined(__linux__) && HWLOC_API_VERSION >= 0x00020100
    /* The x86 component moves the calling thread over all CPUs to read their CPUID; Linux has told us already. */
    hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
#endif
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    if (!allowed || hwloc_topology_load(topology) != 0)
        goto done;
    if (!hwloc_topology_is_thissystem(topology) ||
        hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_copy(allowed, hwloc_topology_get_allowed_cpuset(topology));
    hwloc_bitmap_and(allowed, allowed, hwloc_topology_get_topology_cpuset(topology));
    int n_cpus = hwloc_bitmap_weight(allowed);
    if (n_cpus <= 0)
        goto done;
    uint32_t n_cores = count_near(topology, HWLOC_OBJ_CORE, allowed);
    uint32_t n_nodes = count_near(topology, HWLOC_OBJ_NUMANODE, allowed);
    t->n_cpus = (uint32_t)n_cpus;
    t->n_cores = n_cores > 0 ? n_cores : (uint32_t)n_cpus;
    t->n_numa_nodes = n_nodes > 0 ? n_nodes : 1;
    t->has_hwloc = 1;
    hwloc_obj_t obj = hwloc_get_pu_obj_by_os_index(topology, (unsigned)hwloc_bitmap_first(allowed));
    uint64_t llc_bytes = 0;
    for (; obj; obj = obj->parent) {
        if (!hwloc_obj_type_is_dcache(obj->type) || obj->attr->cache.size == 0)
            continue;
        llc_bytes = obj->attr->cache.size;
        if (obj->attr->cache.depth == 1)
            t->l1d_bytes = llc_bytes;
        if (obj->attr->cache.depth == 2)
            t->l2_bytes = llc_bytes;
    }
    if (llc_bytes > 0)
        t->llc_bytes = llc_bytes;
done:
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
}
#endif

void sffn_topology_detect(struct sffn_topology *t)
{
    memset(t, 0, sizeof *t);
    detect_os(t);
#ifdef SFFN_HAVE_HWLOC
    detect_hwloc(t);
#endif
    /* Bounds that callers rely on, whatever was reported. */
    if (t->n_cpus < 1)
        t->n_cpus = 1;
    if (t->n_cores < 1 || t->n_cores > t->n_cpus)
        t->n_cores = t->n_cpus;
    if (t->n_numa_nodes < 1)
        t->n_numa_nodes = 1;
}

int sffn_topology_bind_thread(uint32_t index)
{
#ifdef __linux__
    struct cpu_mask allowed, core;
    mask_allowed(&allowed);
    uint32_t n_cores = walk_cores(&allowed, UINT32_MAX, &core);
    if (n_cores == 0)
        return 0;
    walk_cores(&allowed, index % n_cores, &core);
    return sched_setaffinity(0, sizeof core.bits, (const cpu_set_t *)(const void *)core.bits) == 0;
#else
    (void)index;
    return 0;
#endif
}
