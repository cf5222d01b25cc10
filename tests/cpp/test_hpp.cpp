/* sparseffn.hpp: results equal the C API's bit for bit, errors name argument and value in both forms, empty handles are safe. Compiled with and without
 * exceptions, as C++17 and C++20. */
#include <sparseffn/sparseffn.hpp>

#include <array>
#include <cstdio>
#include <cstring>
#include <vector>
#if __cplusplus >= 202002L
#include <span>
#endif

namespace sf = sparseffn;

static int n_checks, n_failed;
#define CHECK(condition) check(__LINE__, (condition), #condition)
static void check(int line, bool holds, const char *what)
{
    n_checks++;
    n_failed += !holds;
    if (!holds)
        std::fprintf(stderr, "test_hpp.cpp:%d: %s\n", line, what);
}

/* The error has this status and all these words. */
static void check_error(int line, const sf::error &e, sffn_status status,
                        const std::vector<const char *> &words)
{
    check(line, e.status() == status, e.what());
    check(line, std::strstr(e.what(), sffn_status_name(status)) == e.what(), e.what());
    for (const char *word : words)
        check(line, std::strstr(e.what(), word) != nullptr, word);
}
#define FAILS(call, status, ...)                                                                   \
    do {                                                                                           \
        const auto outcome = call;                                                                 \
        CHECK(!outcome.has_value() && !outcome);                                                   \
        if (!outcome)                                                                              \
            check_error(__LINE__, outcome.error(), status, {__VA_ARGS__});                         \
    } while (0)

/* The value, or the end of the test. */
template <class T> static T take(sf::result<T> outcome)
{
    if (!outcome) {
        std::fprintf(stderr, "%s\n", outcome.error().what());
        std::exit(1);
    }
    return *std::move(outcome);
}

template <class T>
constexpr bool moves_only =
    std::is_nothrow_move_constructible_v<T> &&std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T> &&
    std::is_nothrow_default_constructible_v<T>;
static_assert(moves_only<sf::context> && moves_only<sf::active_set> && moves_only<sf::matmul> &&
              moves_only<sf::predictor> && moves_only<sf::router> && moves_only<sf::model> &&
              moves_only<sf::ffn>);
static_assert(!std::is_constructible_v<sf::span<float>, const std::vector<float> &> &&
              !std::is_constructible_v<sf::span<float>, int>);

static std::vector<float> numbers(std::size_t n)
{
    static unsigned state = 1;
    std::vector<float> v(n);
    for (float &f : v) {
        state = state * 1664525u + 1013904223u;
        f = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
    return v;
}

static bool same(sf::span<const float> a, sf::span<const float> b)
{
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

enum { D = 64, F = 96, T = 3 };

/* Weights of a layer, and its config. */
struct layer {
    std::vector<float> gate = numbers(F * D), up = numbers(F * D), down = numbers(D * F),
                       x = numbers(T * D);
    sf::ffn_config config;
    layer()
    {
        config.d_model = D;
        config.d_ff = F;
        config.gate.data = gate.data();
        config.up.data = up.data();
        config.down.data = down.data();
        config.down.layout = SFFN_LAYOUT_COLUMNS;
        config.name = "blk.3";
    }
};

static void spans()
{
    float array[3] = {1, 2, 3};
    const float constant[2] = {4, 5};
    std::vector<float> vector(5);
    const std::array<float, 4> fixed = {};
    sf::span<float> s = array;
    sf::span<const float> c = s, d = constant, e = vector, f = fixed, none;
    CHECK(s.size() == 3 && c.data() == array && d[1] == 5 && e.size() == 5 && f.size() == 4 &&
          none.empty());
    float sum = 0;
    for (float v : c)
        sum += v;
    CHECK(sum == 6);
#if __cplusplus >= 202002L
    std::span<float> standard(vector);
    sf::span<float> of_standard = standard;
    CHECK(of_standard.data() == vector.data() && of_standard.size() == 5);
#endif
}

/* Every form of forward, and the stages. */
static void layers(sf::context &ctx)
{
    layer l;
    sf::ffn ffn = take(sf::ffn::try_create(ctx, l.config));
    sffn_ffn *c_ffn = nullptr;
    CHECK(sffn_ffn_create(ctx.get(), &l.config, &c_ffn) == SFFN_OK);
    std::vector<float> y(T * D), c_y(T * D), h(T * F), c_h(T * F);
    sf::active_set_config set_config;
    set_config.n_blocks = F;
    set_config.max_tokens = T;
    sf::active_set out = take(sf::active_set::try_create(ctx, set_config)),
                   c_out = take(sf::active_set::try_create(ctx, set_config));
    sf::ffn_stats stats, c_stats;
    sf::forward_options options;
    options.h = h;
    options.active_out = &out;
    options.stats = &stats;
    CHECK(ffn.try_forward(ctx, l.x, y, options).has_value());
    sffn_ffn_args args = SFFN_FFN_ARGS_INIT;
    args.x = l.x.data();
    args.y = c_y.data();
    args.n_tokens = T;
    args.h = c_h.data();
    args.active_out = c_out.get();
    args.stats = &c_stats;
    CHECK(sffn_ffn_forward(ctx.get(), c_ffn, &args) == SFFN_OK);
    CHECK(same(y, c_y) && same(h, c_h) && stats.touched_bytes == c_stats.touched_bytes &&
          stats.n_active == c_stats.n_active);
    CHECK(stats.path == SFFN_PATH_SPARSE && stats.select == SFFN_SELECT_GATE &&
          stats.n_active > 0 && stats.n_active < T * F);
    for (std::size_t t = 0; t < T; t++) {
        const sf::span<const std::uint32_t> a = out.indices(t), b = c_out.indices(t);
        CHECK(a.size() == b.size() && a.size() > 0 &&
              std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
    }
    /* a set handed in, as its size tells the tokens */
    options = sf::forward_options();
    options.active = &out;
    std::vector<float> z(T * D);
    CHECK(ffn.try_forward(ctx, l.x, z, options).has_value() && same(z, y));
    CHECK(ffn.try_forward(ctx, {l.x.data(), D}, {z.data(), D}).has_value());
    CHECK(same({z.data(), D}, {y.data(), D}));
    /* phases and SPMD */
    sf::ffn_args a;
    a.x = l.x.data();
    a.y = z.data();
    a.n_tokens = T;
    z.assign(z.size(), 0);
    const std::uint32_t n_phases = ffn.n_phases(a);
    CHECK(n_phases > 1 && n_phases == sffn_ffn_n_phases(c_ffn, &a));
    for (std::uint32_t phase = 0; phase < n_phases; phase++)
        CHECK(ffn.try_forward_phase(ctx, a, phase, 0, 1).has_value());
    CHECK(same(z, y));
    z.assign(z.size(), 0);
    int n_waits = 0;
    auto barrier = [&n_waits] { n_waits++; };
    CHECK(ffn.try_forward_spmd(ctx, a, 0, 1, barrier).has_value() && same(z, y));
    /* stages alone */
    std::vector<float> s(T * F);
    CHECK(ffn.try_gate(ctx, l.x, s, nullptr, &out).has_value() &&
          ffn.try_up(ctx, l.x, s, h, &out).has_value() &&
          ffn.try_down(ctx, h, z, &out).has_value());
    CHECK(same(h, c_h) && same(z, y));
    const sf::ffn_info info = take(ffn.try_info());
    CHECK(info.d_model == D && info.d_ff == F && ffn.d_model() == D && ffn.d_ff() == F &&
          info.dense_reason == SFFN_DENSE_NOT);
    CHECK(ffn.query_scratch(ctx) == sffn_ffn_query_scratch(ctx.get(), c_ffn) &&
          ffn.query_scratch(ctx) > 0);
    CHECK(ffn.try_reserve(ctx).has_value() && ffn.try_reserve_threads(ctx, 4).has_value());
    FAILS(ffn.try_reserve_threads(ctx, 9999), SFFN_ERR_INVALID_ARGUMENT, "max_threads", "9999");

    /* errors name the argument, its value and what was expected */
    FAILS(ffn.try_forward(ctx, {l.x.data(), D + 1}, {y.data(), D + 1}), SFFN_ERR_SHAPE, "x has 65",
          "d_model = 64");
    FAILS(ffn.try_forward(ctx, l.x, {y.data(), D}), SFFN_ERR_SHAPE, "y has 64", "192");
    options = sf::forward_options();
    options.h = {h.data(), 7};
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_SHAPE, "options.h has 7", "288");
    options = sf::forward_options();
    options.select = 77;
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_INVALID_ARGUMENT, "blk.3",
          "select is 77");
    options.select = SFFN_SELECT_ROUTER;
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_UNSUPPORTED, "blk.3", "router");
    options = sf::forward_options();
    options.select_x = {l.x.data(), 4};
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_SHAPE, "select_x has 4", "n_tokens = 3");
    FAILS(ffn.try_gate(ctx, l.x, {s.data(), 5}), SFFN_ERR_SHAPE, "s has 5", "288");
    FAILS(ffn.try_up(ctx, l.x, {s.data(), 5}, h), SFFN_ERR_SHAPE, "s has 5", "288");
    FAILS(ffn.try_down(ctx, {h.data(), 5}, z), SFFN_ERR_SHAPE, "h has 5", "96");
    FAILS(ffn.try_select(ctx, l.x, T, out), SFFN_ERR_UNSUPPORTED, "predictor");
    sf::ffn_config bad = l.config;
    bad.max_density = 2;
    FAILS(sf::ffn::try_create(ctx, bad), SFFN_ERR_INVALID_ARGUMENT, "blk.3", "max_density is 2");
    FAILS(ffn.try_stats(ctx), SFFN_ERR_UNSUPPORTED, "collect_stats");
    CHECK(std::strstr(ctx.last_error(), "collect_stats"));

    /* a moved-from handle is empty, and says so; the other one goes on */
    sf::ffn moved = std::move(ffn);
    CHECK(!ffn && ffn.get() == nullptr && moved && ffn.n_phases(a) == 0);
    FAILS(ffn.try_forward(ctx, l.x, y), SFFN_ERR_INVALID_ARGUMENT, "ffn is an empty handle");
    FAILS(ffn.try_forward(ctx, a), SFFN_ERR_INVALID_ARGUMENT, "ffn is NULL");
    FAILS(ffn.try_gate(ctx, l.x, s), SFFN_ERR_INVALID_ARGUMENT, "ffn is an empty handle");
    FAILS(ffn.try_info(), SFFN_ERR_INVALID_ARGUMENT, "ffn is NULL");
    CHECK(moved.try_forward(ctx, l.x, z).has_value() && same(z, y));
    ffn = std::move(moved);
    ffn = std::move(*&ffn);
    CHECK(ffn && ffn.try_forward(ctx, l.x, z).has_value());
    sf::active_set gone = std::move(out);
    options = sf::forward_options();
    options.active = &out;
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_INVALID_ARGUMENT,
          "options.active is an empty handle");
    options = sf::forward_options();
    options.active_out = &out;
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_INVALID_ARGUMENT,
          "options.active_out is an empty handle");
    CHECK(out.n_blocks() == 0 && out.indices(0).empty() && !out.contains(0, 0) &&
          out.weights(0).empty() && !out.has_weights());
    FAILS(out.try_clear(1), SFFN_ERR_INVALID_ARGUMENT, "set is NULL");
    sffn_ffn *raw = ffn.release();
    CHECK(!ffn && raw);
    sffn_ffn_destroy(raw);
    std::vector<sf::ffn> many;
    for (int i = 0; i < 3; i++)
        many.push_back(take(sf::ffn::try_create(ctx, l.config)));
    many.erase(many.begin());
    CHECK(many[1].try_forward(ctx, l.x, z).has_value() && same(z, y));
    sffn_ffn_destroy(c_ffn);
}

static void sets(sf::context &ctx)
{
    sf::active_set_config config;
    config.n_blocks = 10;
    config.max_tokens = 2;
    config.has_weights = 1;
    sf::active_set set = take(sf::active_set::try_create(ctx, config)),
                   other = take(sf::active_set::try_create(ctx, config));
    CHECK(set.n_blocks() == 10 && set.block_size() == 1 && set.max_tokens() == 2 &&
          set.n_tokens() == 0 && set.has_weights());
    CHECK(set.try_clear(2).has_value() && other.try_clear(2).has_value());
    const std::uint32_t indices[] = {7, 2, 4};
    CHECK(set.try_set_indices(0, indices).has_value());
    CHECK(set.indices(0).size() == 3 && set.indices(0)[0] == 2 && set.contains(0, 7) &&
          !set.contains(1, 7));
    const std::uint8_t bitmap[2] = {0x14, 0x02};
    CHECK(set.try_set_bitmap(1, bitmap).has_value() && set.indices(1).size() == 3 &&
          set.contains(1, 9));
    std::uint8_t got[2] = {0xFF, 0xFF};
    CHECK(set.try_get_bitmap(1, got).has_value() && got[0] == 0x14 && got[1] == 0x02);
    FAILS(set.try_get_bitmap(1, {got, 1}), SFFN_ERR_SHAPE, "bitmap has 1", "= 2");
    std::vector<std::uint8_t> mask(10);
    mask[4] = 1;
    CHECK(other.try_set_mask(0, mask).has_value() && other.indices(0).size() == 1 &&
          other.try_set_all(1).has_value());
    CHECK(set.union_count() == 4 && set.density() == 0.3);
    CHECK(take(other.try_recall(set, 0)) == 1.0 / 3.0);
    sf::value_rule rule;
    rule.kind = SFFN_VALUE_TOP_K;
    rule.k = 2;
    const std::vector<float> values = {0, 1, -9, 3, 0, 0, 0, 0, 0, 4};
    CHECK(set.try_set_values(0, values, rule).has_value() && set.contains(0, 2) &&
          set.contains(0, 9) && set.indices(0).size() == 2);
    CHECK(set.try_set_weights(1, values).has_value() && set.weights(1)[3] == 3);
    config.n_blocks = 4;
    sf::active_set part = take(sf::active_set::try_create(ctx, config));
    CHECK(part.try_set_slice(set, 6).has_value() && part.contains(0, 3) && part.weights(1)[3] == 4);
    const std::uint32_t too_large[] = {10};
    FAILS(set.try_set_indices(0, too_large), SFFN_ERR_INVALID_ARGUMENT, "blocks[0] is 10");
    FAILS(set.try_set_indices(2, indices), SFFN_ERR_INVALID_ARGUMENT, "token is 2");
    FAILS(set.try_set_bitmap(0, {bitmap, 1}), SFFN_ERR_SHAPE, "bitmap has 1", "= 2");
    FAILS(set.try_set_mask(0, {mask.data(), 9}), SFFN_ERR_SHAPE, "mask has 9", "n_blocks = 10");
    FAILS(set.try_set_weights(0, {values.data(), 3}), SFFN_ERR_SHAPE, "weights has 3",
          "n_blocks = 10");
    FAILS(set.try_clear(3), SFFN_ERR_SHAPE, "n_tokens is 3");
    config.n_blocks = 0;
    FAILS(sf::active_set::try_create(ctx, config), SFFN_ERR_INVALID_ARGUMENT, "n_blocks 0");
}

static void matrices(sf::context &ctx)
{
    const std::vector<float> w = numbers(F * D), x = numbers(T * D), h = numbers(T * F);
    sf::matmul_config config;
    config.n_rows = F;
    config.n_cols = D;
    config.weights.data = w.data();
    config.dtype = SFFN_Q8_0;
    sf::matmul m = take(sf::matmul::try_create(ctx, config));
    std::vector<float> out(T * F), c_out(T * F), y(T * D), c_y(T * D), row(D), c_row(D);
    CHECK(m.try_rows_dot(ctx, x, out).has_value() && m.try_rows_axpy(ctx, h, y).has_value() &&
          m.try_get_row(5, row).has_value());
    CHECK(sffn_matmul_rows_dot(ctx.get(), m.get(), x.data(), D, T, nullptr, c_out.data(), F) ==
          SFFN_OK);
    CHECK(sffn_matmul_rows_axpy(ctx.get(), m.get(), h.data(), F, T, nullptr, c_y.data(), D) ==
          SFFN_OK);
    CHECK(sffn_matmul_get_row(m.get(), 5, c_row.data()) == SFFN_OK);
    CHECK(same(out, c_out) && same(y, c_y) && same(row, c_row));
    sf::active_set_config set_config;
    set_config.n_blocks = F;
    set_config.max_tokens = T;
    sf::active_set set = take(sf::active_set::try_create(ctx, set_config));
    const std::uint32_t only[] = {3};
    CHECK(set.try_clear(T).has_value() && set.try_set_indices(1, only).has_value());
    CHECK(m.try_rows_dot(ctx, x, out, &set).has_value() && out[F + 3] == c_out[F + 3] &&
          out[F + 4] == 0 && out[3] == 0);
    CHECK(take(m.try_info()).dtype == SFFN_Q8_0);
    FAILS(m.try_rows_dot(ctx, {x.data(), 65}, out), SFFN_ERR_SHAPE, "x has 65", "64");
    FAILS(m.try_rows_dot(ctx, x, {out.data(), F}), SFFN_ERR_SHAPE, "output has 96", "288");
    FAILS(m.try_rows_axpy(ctx, {h.data(), 1}, y), SFFN_ERR_SHAPE, "h has 1", "96");
    FAILS(m.try_get_row(F, row), SFFN_ERR_SHAPE, "row is 96");
    FAILS(m.try_get_row(0, out), SFFN_ERR_SHAPE, "out has 288", "n_cols = 64");
    sf::matmul moved = std::move(m);
    FAILS(m.try_rows_dot(ctx, x, out), SFFN_ERR_INVALID_ARGUMENT, "matmul is NULL");
    FAILS(m.try_info(), SFFN_ERR_INVALID_ARGUMENT, "matmul is NULL");
    sf::active_set elsewhere = std::move(set);
    FAILS(moved.try_rows_dot(ctx, x, out, &set), SFFN_ERR_INVALID_ARGUMENT,
          "active is an empty handle");
    config.n_cols = 33;
    FAILS(sf::matmul::try_create(ctx, config), SFFN_ERR_SHAPE, "33");
}

static void selectors(sf::context &ctx)
{
    layer l;
    sf::active_set_config set_config;
    set_config.n_blocks = F;
    set_config.max_tokens = T;
    sf::active_set set = take(sf::active_set::try_create(ctx, set_config)),
                   c_set = take(sf::active_set::try_create(ctx, set_config));
    sf::predictor_config pc;
    pc.d_model = D;
    pc.d_ff = F;
    pc.gate = l.config.gate;
    sf::predictor p = take(sf::predictor::try_create(ctx, pc));
    std::vector<float> scores(T * F), c_scores(T * F);
    CHECK(p.try_predict(ctx, l.x, scores, &set).has_value());
    CHECK(sffn_predictor_predict(ctx.get(), p.get(), l.x.data(), D, T, c_scores.data(), F,
                                 c_set.get()) == SFFN_OK);
    CHECK(same(scores, c_scores) && set.indices(2).size() == c_set.indices(2).size() &&
          set.union_count() > 0);
    CHECK(p.try_predict(ctx, l.x, {}, &set).has_value() &&
          p.try_predict(ctx, l.x, scores, nullptr).has_value());
    sffn_active_set *const one[] = {c_set.get()};
    CHECK(p.try_predict_layers(ctx, l.x, one).has_value() &&
          c_set.union_count() == set.union_count());
    CHECK(take(p.try_info()).kind == SFFN_PREDICTOR_SCREENED_GATE);
    CHECK(take(p.try_count_bytes(ctx, l.x)) == T * take(p.try_info()).weight_bytes);
    FAILS(p.try_count_bytes(ctx, {l.x.data(), 63}), SFFN_ERR_SHAPE, "x has 63", "d_model = 64");
    FAILS(p.try_predict(ctx, {l.x.data(), 63}, {}, &set), SFFN_ERR_SHAPE, "x has 63",
          "d_model = 64");
    FAILS(p.try_predict(ctx, l.x, {scores.data(), 2}, &set), SFFN_ERR_SHAPE, "scores has 2", "288");
    FAILS(p.try_predict_layers(ctx, l.x, {}), SFFN_ERR_SHAPE, "active has 0", "n_layers = 1");
    /* with a layer */
    sf::ffn_config config = l.config;
    config.predictor = p.get();
    sf::ffn ffn = take(sf::ffn::try_create(ctx, config));
    std::vector<float> y(T * D), z(T * D);
    sf::ffn_stats stats;
    sf::forward_options options;
    options.stats = &stats;
    options.select_x = l.x;
    CHECK(ffn.try_forward(ctx, l.x, y, options).has_value() &&
          stats.select == SFFN_SELECT_PREDICTOR);
    CHECK(ffn.try_select(ctx, l.x, T, c_set).has_value() &&
          c_set.union_count() == set.union_count());
    options.select_x = {l.x.data(), T * 8};
    FAILS(ffn.try_forward(ctx, l.x, y, options), SFFN_ERR_SHAPE, "select_x_stride is 8", "64");

    const std::vector<float> w = numbers(3 * D);
    sf::router_config rc;
    rc.d_model = D;
    rc.n_experts = 3;
    rc.weights.data = w.data();
    sf::router r = take(sf::router::try_create(ctx, rc));
    set_config.n_blocks = 3;
    set_config.block_size = 32;
    sf::active_set experts = take(sf::active_set::try_create(ctx, set_config)),
                   c_experts = take(sf::active_set::try_create(ctx, set_config));
    std::vector<float> r_scores(T * 3), c_r_scores(T * 3);
    CHECK(r.try_select(ctx, l.x, r_scores, &experts).has_value());
    CHECK(sffn_router_select(ctx.get(), r.get(), l.x.data(), D, T, c_r_scores.data(), 3,
                             c_experts.get()) == SFFN_OK);
    CHECK(same(r_scores, c_r_scores) && experts.density() == c_experts.density());
    CHECK(take(r.try_info()).n_experts == 3);
    FAILS(r.try_select(ctx, l.x, {r_scores.data(), 2}, &experts), SFFN_ERR_SHAPE, "scores has 2",
          "9");
    FAILS(r.try_select(ctx, l.x, {}, &set), SFFN_ERR_SHAPE, "active");
    config.predictor = nullptr;
    config.router = r.get();
    sf::ffn routed = take(sf::ffn::try_create(ctx, config));
    CHECK(routed.try_forward(ctx, l.x, y).has_value());
    options = sf::forward_options();
    options.active = &experts;
    CHECK(routed.try_forward(ctx, l.x, z, options).has_value() && same(y, z));
    rc.threshold = 3;
    FAILS(sf::router::try_create(ctx, rc), SFFN_ERR_INVALID_ARGUMENT, "threshold", "3");
    pc.kind = 99;
    FAILS(sf::predictor::try_create(ctx, pc), SFFN_ERR_INVALID_ARGUMENT, "kind is 99");
    sf::predictor p_gone = std::move(p);
    sf::router r_gone = std::move(r);
    FAILS(p.try_predict(ctx, l.x, {}, &set), SFFN_ERR_INVALID_ARGUMENT,
          "predictor is an empty handle");
    FAILS(r.try_select(ctx, l.x, {}, &experts), SFFN_ERR_INVALID_ARGUMENT,
          "router is an empty handle");
    CHECK(l.config.try_slice(32, 64).has_value() && l.config.d_ff == 64);
    CHECK(l.config.gate.data == l.gate.data() + 32 * D && l.config.down.data == l.down.data() + 32);
    CHECK(take(sf::ffn::try_create(ctx, l.config)).d_ff() == 64);
    FAILS(l.config.try_slice(60, 5), SFFN_ERR_INVALID_ARGUMENT, "blk.3",
          "first is 60, n_neurons 5");
    pc.kind = SFFN_PREDICTOR_SCREENED_GATE;
    rc.threshold = 0.5f;
    CHECK(pc.try_slice(32, 64).has_value() && pc.d_ff == 64 && rc.try_slice(32, 64).has_value() &&
          rc.n_experts == 2);
    FAILS(rc.try_slice(1, 32), SFFN_ERR_SHAPE, "first is 1", "block_size = 32");
    FAILS(pc.try_slice(0, 65), SFFN_ERR_INVALID_ARGUMENT, "n_neurons 65");
}

static void files(sf::context &ctx, const char *path)
{
    sf::model file = take(sf::model::try_open(ctx, path));
    const sf::model_info info = take(file.try_info());
    CHECK(info.n_layers > 0 && info.d_ff > 0 && info.n_tensors > 0);
    const sf::tensor_info tensor = take(file.try_tensor(0));
    CHECK(take(file.try_find_tensor(tensor.name)).data == tensor.data);
    CHECK(take(file.try_get_string("general.architecture")) == info.architecture &&
          file.meta_count("general.architecture") == 1);
    CHECK(take(file.try_get_int(info.architecture + std::string(".block_count"))) ==
          (std::int64_t)info.n_layers);
    CHECK(take(file.try_get_float(info.architecture +
                                  std::string(".attention.layer_norm_rms_epsilon"))) > 0);
    sf::ffn_config config = take(file.try_layer_config(1));
    CHECK(config.d_ff == info.d_ff && config.gate.data != nullptr);
    sf::ffn ffn = take(sf::ffn::try_from_model(ctx, file, 1)),
            own = take(sf::ffn::try_create(ctx, config));
    const std::vector<float> x = numbers(2 * config.d_model);
    std::vector<float> y(x.size()), z(x.size());
    CHECK(ffn.try_forward(ctx, x, y).has_value() && own.try_forward(ctx, x, z).has_value());
    CHECK(take(file.try_layer_plan(1)) != SFFN_SELECT_DEFAULT || same(y, z));
    CHECK(take(file.try_meta(0)).key != nullptr && take(file.try_meta(0)).n > 0);
    FAILS(file.try_meta(99999), SFFN_ERR_NOT_FOUND, "99999");
    FAILS(file.try_layer_config(9999), SFFN_ERR_NOT_FOUND, "9999");
    FAILS(file.try_find_tensor("no such"), SFFN_ERR_NOT_FOUND, "no such");
    FAILS(file.try_get_int("no.such.key"), SFFN_ERR_NOT_FOUND, "no.such.key");
    FAILS(file.try_layer_router_config(1), SFFN_ERR_NOT_FOUND, "router");
    std::vector<std::uint32_t> permutation(3);
    FAILS(file.try_layer_permutation(1, permutation), SFFN_ERR_SHAPE, "permutation has 3");
    FAILS(sf::model::try_open(ctx, "/nonexistent.gguf"), SFFN_ERR_IO, "/nonexistent.gguf");
    FAILS(sf::ffn::try_from_model(ctx, file, 9999), SFFN_ERR_NOT_FOUND, "9999");
    sf::model gone = std::move(file);
    FAILS(file.try_info(), SFFN_ERR_INVALID_ARGUMENT, "model is NULL");
    FAILS(sf::ffn::try_from_model(ctx, file, 1), SFFN_ERR_INVALID_ARGUMENT, "model");
}

static void contexts()
{
    sf::context_config config;
    config.max_isa = "nonsense";
    FAILS(sf::context::try_create(config), SFFN_ERR_INVALID_ARGUMENT, "max_isa is \"nonsense\"");
    config.max_isa = nullptr;
    config.n_threads = 3;
    config.collect_stats = 1;
    sf::context ctx = take(sf::context::try_create(config));
    CHECK(take(ctx.try_info()).n_threads == 3);
    CHECK(ctx.n_kernels() > 0 && ctx.kernel_name(0) == sffn_context_kernel_name(ctx.get(), 0) &&
          !ctx.kernel_name(ctx.n_kernels()));
    layer l;
    sf::ffn ffn = take(sf::ffn::try_create(ctx, l.config));
    std::vector<float> y(T * D);
    sf::forward_options dense;
    dense.select = SFFN_SELECT_DENSE;
    CHECK(ffn.try_forward(ctx, l.x, y, dense).has_value());
    const sf::layer_stats stats = take(ffn.try_stats(ctx));
    CHECK(stats.calls_dense == 1 && stats.dense_asked == 1 && stats.n_tokens == T);
    const std::string text = take(ctx.try_stats_text(SFFN_STATS_JSON));
    CHECK(text.find("\"name\":\"blk.3\"") != std::string::npos && text.back() == '\n' &&
          text.find('\0') == std::string::npos);
    CHECK(ctx.try_reset_stats().has_value() && take(ffn.try_stats(ctx)).n_tokens == 0);
    FAILS(ctx.try_stats_text(7), SFFN_ERR_INVALID_ARGUMENT, "format is 7");
    /* a layer runs in another context, once that has scratch for it */
    sf::context other = take(sf::context::try_create());
    std::vector<float> z(T * D);
    FAILS(ffn.try_forward(other, l.x, z), SFFN_ERR_NOT_RESERVED, "blk.3", "scratch");
    CHECK(ffn.try_reserve(other).has_value() && ffn.try_forward(other, l.x, z, dense).has_value() &&
          same(y, z));
    sf::context gone = std::move(other), never;
    CHECK(!other && !never);
    FAILS(ffn.try_forward(other, l.x, z), SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    FAILS(sf::ffn::try_create(never, l.config), SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    FAILS(never.try_info(), SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
    FAILS(never.try_stats_text(SFFN_STATS_JSON), SFFN_ERR_INVALID_ARGUMENT, "ctx is NULL");
}

#if SFFN_HAS_EXCEPTIONS
#define THROWS(call, expected, ...)                                                                \
    do {                                                                                           \
        bool has_thrown = false;                                                                   \
        try {                                                                                      \
            call;                                                                                  \
        } catch (const sf::error &e) {                                                             \
            has_thrown = true;                                                                     \
            check_error(__LINE__, e, expected, {__VA_ARGS__});                                     \
        }                                                                                          \
        CHECK(has_thrown);                                                                         \
    } while (0)

/* The throwing forms do the same. */
static void exceptions(const char *path)
{
    sf::context ctx{sf::context_config()};
    layer l;
    const sf::ffn ffn(ctx, l.config);
    std::vector<float> y(T * D), z(T * D), s(T * F), h(T * F);
    ffn.forward(ctx, l.x, y);
    CHECK(ffn.try_forward(ctx, l.x, z).has_value() && same(y, z));
    sf::ffn_args args;
    args.x = l.x.data();
    args.y = z.data();
    args.n_tokens = T;
    z.assign(z.size(), 0);
    ffn.forward(ctx, args);
    CHECK(same(y, z) && ffn.info().d_ff == F && ctx.info().n_threads == 1);
    auto barrier = [] {};
    ffn.forward_spmd(ctx, args, 0, 1, barrier);
    ffn.gate(ctx, l.x, s);
    ffn.up(ctx, l.x, s, h);
    ffn.down(ctx, h, z);
    ffn.reserve(ctx);
    sf::model file(ctx, path);
    const sf::ffn of_file = sf::ffn::from_model(ctx, file, 0);
    CHECK(of_file.d_ff() == file.info().d_ff && file.layer_config(0).d_ff == of_file.d_ff());
    sf::matmul_config mc;
    mc.n_rows = F;
    mc.n_cols = D;
    mc.weights.data = l.gate.data();
    const sf::matmul m(ctx, mc);
    m.rows_dot(ctx, l.x, h);
    m.rows_axpy(ctx, h, z);
    sf::active_set_config ac;
    ac.n_blocks = F;
    sf::active_set set(ctx, ac);
    set.clear(1);
    set.set_all(0);
    CHECK(set.density() == 1 && set.recall(set, 0) == 1);
    sf::predictor_config pc;
    pc.d_model = D;
    pc.d_ff = F;
    pc.gate = l.config.gate;
    sf::predictor(ctx, pc).predict(ctx, {l.x.data(), D}, {}, &set);
    THROWS(ffn.forward(ctx, {l.x.data(), 5}, y), SFFN_ERR_SHAPE, "x has 5", "d_model = 64");
    THROWS(sf::model(ctx, "/nonexistent.gguf"), SFFN_ERR_IO, "/nonexistent.gguf");
    THROWS(set.set_mask(0, {}), SFFN_ERR_SHAPE, "mask has 0", "96");
    THROWS(ffn.stats(ctx), SFFN_ERR_UNSUPPORTED, "collect_stats");
    mc.n_rows = 0;
    THROWS(sf::matmul(ctx, mc), SFFN_ERR_INVALID_ARGUMENT, "n_rows");
    sf::router_config rc;
    THROWS(sf::router(ctx, rc), SFFN_ERR_INVALID_ARGUMENT, "router");
    sf::context_config cc;
    cc.n_threads = 100000;
    THROWS(sf::context{cc}, SFFN_ERR_INVALID_ARGUMENT, "n_threads", "100000");
    THROWS((void)file.try_layer_config(9999).value(), SFFN_ERR_NOT_FOUND, "9999");
    try {
        (void)file.get_int("no.such.key");
        CHECK(false);
    } catch (const std::exception &e) { /* who knows no sparseffn::error gets the words, too */
        CHECK(std::strstr(e.what(), "no.such.key"));
    }
}
#else
static void exceptions(const char *)
{
}
#endif

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    {
        sf::context ctx = take(sf::context::try_create());
        spans();
        layers(ctx);
        sets(ctx);
        matrices(ctx);
        selectors(ctx);
        files(ctx, argv[1]);
    }
    contexts();
    exceptions(argv[1]);
    std::printf("%d checks, %d failed, %s exceptions\n", n_checks, n_failed,
                SFFN_HAS_EXCEPTIONS ? "with" : "without");
    return n_failed ? 1 : 0;
}
