/* threshold_tmpl.h  Body of threshold. Contract: kernels.h. Parameters: ISA, VF_LEN, vf_*, vi_*.
 *
 * vf_not_below(v, t, keep_equal) has a bit per lane that is set unless v < t (v <= t), so also for NaN. vi_store_kept() writes whole
 * vectors: at most i indices lie before it, so i + VF_LEN <= n entries hold it.
 */
KERNEL_INLINE size_t PLAIN_KERNEL(threshold_rule)(uint32_t *rows, const float *v, uint32_t first, size_t n, float t,
                                                  int keep_equal, int use_abs)
{
    const vf limit = vf_set1(t);
    vi index = vi_add(vi_ramp(), vi_set1((int32_t)first));
    size_t count = 0, i = 0;
    for (; i + VF_LEN <= n; i += VF_LEN) {
        vf a = vf_load(v + i);
        if (use_abs)
            a = vf_abs(a);
        count += vi_store_kept(rows + count, index, vf_not_below(a, limit, keep_equal));
        index = vi_add(index, vi_set1(VF_LEN));
    }
    for (; i < n; i++) {
        float a;
        memcpy(&a, v + i, sizeof a); /* any alignment */
        if (use_abs)
            a = a < 0.0f ? -a : a;
        if (!(keep_equal ? a < t : a <= t))
            rows[count++] = first + (uint32_t)i;
    }
    return count;
}

static size_t PLAIN_KERNEL(threshold)(uint32_t *rows, const float *v, uint32_t first, size_t n, float t, int keep_equal,
                                      int use_abs)
{
    if (use_abs)
        return keep_equal ? PLAIN_KERNEL(threshold_rule)(rows, v, first, n, t, 1, 1)
                          : PLAIN_KERNEL(threshold_rule)(rows, v, first, n, t, 0, 1);
    return keep_equal ? PLAIN_KERNEL(threshold_rule)(rows, v, first, n, t, 1, 0)
                      : PLAIN_KERNEL(threshold_rule)(rows, v, first, n, t, 0, 0);
}
