/* A program of somebody else's, built against an installed libsparseffn. Also valid C++98. */
#include <stdio.h>
#include <sparseffn/sparseffn.h>

int main(void)
{
    static const float gate[] = {1, 0, -1, 0, 0, 0.5f}, up[] = {1, 1, 2, 0, -1, 1},
                       down[] = {1, 0, 5, 5, 100, 0};
    static const float x[] = {1, 2};
    float y[2];
    sffn_context *ctx = NULL;
    sffn_ffn *ffn = NULL;
    sffn_ffn_config config = SFFN_FFN_CONFIG_INIT;
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    config.d_model = 2;
    config.d_ff = 3;
    config.gate.data = gate;
    config.up.data = up;
    config.down.data = down;
    args.x = x;
    args.y = y;
    args.n_tokens = 1;
    if (sffn_abi_version() != SFFN_ABI_VERSION || sffn_context_create(NULL, &ctx) != SFFN_OK ||
        sffn_ffn_create(ctx, &config, &ffn) != SFFN_OK ||
        sffn_ffn_forward(ctx, ffn, &args) != SFFN_OK) {
        printf("failed: %s\n", sffn_context_last_error(ctx));
        return 1;
    }
    printf("%g %g with sparseffn %s\n", (double)y[0], (double)y[1], sffn_version_string());
    sffn_ffn_destroy(ffn);
    sffn_context_destroy(ctx);
    return y[0] == 103.0f && y[1] == 0.0f ? 0 : 1;
}
