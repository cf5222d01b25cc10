/* signs_tmpl.h  Bodies of pack_signs and count_signs. Contract: kernels.h. Parameters: ISA, VF_LEN, VI_BYTES, vf_*, vi_*.
 *
 * vf_below_zero(v) has a bit per lane that is set when v < 0. vi_add_differing(acc, a, b) adds to 64-bit lanes how many of the VI_BYTES * 8
 * bits at a and b differ; vi_sum64() adds the lanes; differing64() is the same for 8 bytes.
 */
static void PLAIN_KERNEL(pack_signs)(uint8_t *bits, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VF_LEN <= n; i += VF_LEN) {
        const unsigned mask = vf_below_zero(vf_load(x + i));
        memcpy(bits + i / 8, &mask, VF_LEN / 8); /* little-endian, like every ISA that includes this */
    }
    for (; i < n; i++) {
        float a;
        memcpy(&a, x + i, sizeof a); /* any alignment */
        if (i % 8 == 0)
            bits[i / 8] = 0;
        bits[i / 8] |= (uint8_t)((a < 0.0f) << i % 8);
    }
}

static void PLAIN_KERNEL(count_signs)(uint32_t *out, const uint8_t *w, size_t n_rows, const uint8_t *x, size_t n_tokens,
                                      size_t n_bytes)
{
    for (size_t r = 0; r < n_rows; r++) {
        const uint8_t *row = w + r * n_bytes;
        for (size_t t = 0; t < n_tokens; t++) {
            const uint8_t *token = x + t * n_bytes;
            vi acc = vi_zero();
            uint64_t count = 0;
            size_t i = 0;
            for (; i + VI_BYTES <= n_bytes; i += VI_BYTES)
                acc = vi_add_differing(acc, row + i, token + i);
            for (; i < n_bytes; i += 8)
                count += differing64(row + i, token + i);
            out[r * n_tokens + t] = (uint32_t)(count + vi_sum64(acc));
        }
    }
}
