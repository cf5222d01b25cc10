/* quantize_x_tmpl.h  Body of quantize_x. Contract: kernels.h. Parameters: ISA, VF_LEN (divides 32), vf_*, vi_*.
 *
 * |x| is compared as an integer: its order is that of the floats, with infinity above them and NaN above infinity, so one maximum answers
 * all three questions.
 */
static void PLAIN_KERNEL(quantize_x)(int8_t *q, float *d, int32_t *sum, const float *x, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, x += 32, q += 32) {
        vi max = vi_zero(), total = vi_zero();
        int32_t bits;
        float amax;
        for (size_t j = 0; j < 32; j += VF_LEN)
            max = vi_max(max, vi_abs_bits(vf_load(x + j)));
        bits = vi_max_all(max);
        memcpy(&amax, &bits, sizeof amax);
        if (bits >= 0x7f800000 || amax < 0x1p-100f) {
            const int32_t scale = bits >= 0x7f800000 ? 0x7fc00000 : 0;
            memcpy(d + b, &scale, sizeof scale);
            memset(q, 0, 32);
            sum[b] = 0;
            continue;
        }
        d[b] = amax / 127.0f;
        for (size_t j = 0; j < 32; j += VF_LEN) {
            const vi rounded = vi_from_vf(vf_mul(vf_load(x + j), vf_set1(127.0f / amax)));
            vi_store_i8(q + j, rounded);
            total = vi_add(total, rounded);
        }
        sum[b] = vi_sum(total);
    }
}
