/* topology.h  What the machine offers this process: CPUs, cores, NUMA nodes, data caches. */
#ifndef SFFN_CPU_TOPOLOGY_H
#define SFFN_CPU_TOPOLOGY_H
#include <stdint.h>

struct sffn_topology {
    uint32_t n_cpus;       /* logical CPUs in the calling thread's affinity mask; >= 1 */
    uint32_t n_cores;      /* physical cores that hold at least one of them; 1..n_cpus */
    uint32_t n_numa_nodes; /* memory nodes near at least one of them; >= 1 */
    uint64_t l1d_bytes;    /* caches of one core; 0 = unknown */
    uint64_t l2_bytes;
    uint64_t llc_bytes; /* one instance of the outermost cache */
    int has_hwloc;      /* 1: hwloc answered, 0: the operating system alone */
};

/* Fills *t. Never fails: what the system hides (containers, odd machines) becomes 1 or 0 = unknown. cgroup CPU quotas are ignored:
 * they limit time, not places. hwloc's own environment variables apply (HWLOC_SYNTHETIC describes another machine). Thread-safe. */
void sffn_topology_detect(struct sffn_topology *t);

/* Binds the calling thread to all allowed CPUs of the core number index % n_cores, counted in the order of their first CPU, of the mask
 * that the thread has now. Threads inherit masks: let new threads bind themselves, not their creator. Returns 1, or 0 when refused. */
int sffn_topology_bind_thread(uint32_t index);

#endif /* SFFN_CPU_TOPOLOGY_H */
