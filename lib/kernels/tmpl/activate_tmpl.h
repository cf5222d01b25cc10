/* activate_tmpl.h  Body of activate. Contract: kernels.h. Parameters: ISA, VF_LEN, vf_*, vi_*.
 *
 * vf_min(a, b) and vf_max(a, b) return b when it is NaN; vf_scale(a, n) is a * 2^n for |n| <= 200, overflow and underflow included.
 */
#include "sparseffn/ffn.h"

/* e^x: the nearest multiple of ln 2 is taken off in two parts, and the rest goes through the polynomial of Cephes' expf (Moshier). At 128 the result is
 * infinite, at -128 it vanishes beside 1. */
KERNEL_INLINE vf PLAIN_KERNEL(exp)(vf x)
{
    x = vf_max(vf_set1(-128.0f), vf_min(vf_set1(128.0f), x));
    const vi n = vi_from_vf(vf_mul(x, vf_set1(1.44269504f)));
    const vf whole = vf_from_vi(n);
    const vf r = vf_fma(whole, vf_set1(2.12194440e-4f), vf_fma(whole, vf_set1(-0.693359375f), x));
    vf p = vf_fma(r, vf_set1(1.9875691500e-4f), vf_set1(1.3981999507e-3f));
    p = vf_fma(r, p, vf_set1(8.3334519073e-3f));
    p = vf_fma(r, p, vf_set1(4.1665795894e-2f));
    p = vf_fma(r, p, vf_set1(1.6666665459e-1f));
    p = vf_fma(r, p, vf_set1(5.0000001201e-1f));
    p = vf_fma(vf_mul(r, r), p, r);
    return vf_scale(vf_add(p, vf_set1(1.0f)), n);
}

/* g times the normal distribution function, whose tail h is 0.5 erfc(|g| / sqrt(2)) as in Abramowitz and Stegun, 7.1.26, to 0.75e-7. */
KERNEL_INLINE vf PLAIN_KERNEL(gelu_erf)(vf g)
{
    const vf one = vf_set1(1.0f), t = vf_div(one, vf_fma(vf_abs(g), vf_set1(0.231641888f), one)); /* 0.3275911 sqrt(1/2) */
    vf p = vf_fma(t, vf_set1(0.5307027145f), vf_set1(-0.7265760135f));
    p = vf_fma(t, p, vf_set1(0.7107068705f));
    p = vf_fma(t, p, vf_set1(-0.142248368f));
    p = vf_mul(t, vf_fma(t, p, vf_set1(0.127414796f)));
    const vf h = vf_mul(p, PLAIN_KERNEL(exp)(vf_mul(vf_mul(g, g), vf_set1(-0.5f))));
    /* 1 above zero, else 0; what lies between is so small that h = 1 - h. NaN stays. */
    const vf is_above = vf_min(one, vf_max(vf_zero(), vf_mul(g, vf_set1(0x1p100f))));
    return vf_mul(g, vf_fma(is_above, vf_fma(h, vf_set1(-2.0f), one), h));
}

KERNEL_INLINE vf PLAIN_KERNEL(activate_one)(vf g, int32_t activation)
{
    if (activation == SFFN_ACT_GELU_ERF)
        return PLAIN_KERNEL(gelu_erf)(g);
    /* -z */
    const vf factor = activation == SFFN_ACT_GELU_TANH ? vf_fma(vf_mul(g, g), vf_set1(-0.0713548162726f), vf_set1(-1.59576912160573f)) : vf_set1(-1.0f);
    return vf_div(g, vf_add(vf_set1(1.0f), PLAIN_KERNEL(exp)(vf_mul(g, factor))));
}

KERNEL_INLINE void PLAIN_KERNEL(activate_all)(float *s, size_t n, const int32_t activation)
{
    size_t i = 0;
    for (; i + VF_LEN <= n; i += VF_LEN)
        vf_store(s + i, PLAIN_KERNEL(activate_one)(vf_load(s + i), activation));
    if (i < n)
        vf_store_part(s + i, PLAIN_KERNEL(activate_one)(vf_load_part(s + i, n - i), activation), n - i);
}

static void PLAIN_KERNEL(activate)(float *s, size_t n, int32_t activation)
{
    if (activation == SFFN_ACT_GELU_ERF)
        PLAIN_KERNEL(activate_all)(s, n, SFFN_ACT_GELU_ERF);
    else if (activation == SFFN_ACT_GELU_TANH)
        PLAIN_KERNEL(activate_all)(s, n, SFFN_ACT_GELU_TANH);
    else
        PLAIN_KERNEL(activate_all)(s, n, SFFN_ACT_SILU);
}
