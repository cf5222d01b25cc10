/* The same program as consumer.c with the C++ header. */
#include <cstdio>
#include <sparseffn/sparseffn.hpp>

int main()
{
    static const float gate[] = {1, 0, -1, 0, 0, 0.5f}, up[] = {1, 1, 2, 0, -1, 1},
                       down[] = {1, 0, 5, 5, 100, 0};
    const float x[] = {1, 2};
    float y[2];
    try {
        sparseffn::context ctx{sparseffn::context_config()};
        sparseffn::ffn_config config;
        config.d_model = 2;
        config.d_ff = 3;
        config.gate.data = gate;
        config.up.data = up;
        config.down.data = down;
        sparseffn::ffn ffn(ctx, config);
        ffn.forward(ctx, x, y);
    } catch (const sparseffn::error &e) {
        std::printf("failed: %s\n", e.what());
        return 1;
    }
    std::printf("%g %g with sparseffn %s\n", (double)y[0], (double)y[1], sffn_version_string());
    return y[0] == 103.0f && y[1] == 0.0f ? 0 : 1;
}
