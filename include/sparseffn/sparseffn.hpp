/**
 * @file sparseffn.hpp  The C API for C++17: handles that own their object, spans, errors as exceptions or as values. Nothing to link but the C library.
 *
 * The contracts (shapes, units, threads, who lives how long) are those of the C headers; a C++ call does what the C call of the same name does, bit for bit.
 *
 * Errors: name(...) throws sparseffn::error, try_name(...) returns a sparseffn::result with the value or the error. Both carry the status and the library's
 * words. With -fno-exceptions only the try_ forms exist. A call that succeeds takes memory only for what it returns: forward takes none.
 * Handles: move-only. One that was default-constructed or moved from is empty: get() is nullptr, calls with it fail with SFFN_ERR_INVALID_ARGUMENT.
 * Lifetimes: a context is declared before, and so destroyed after, what was made with it; predictor, router and a model that is read in place outlive the layer.
 * Spans: tightly packed [n_tokens][...] floats; the number of tokens follows from the span's size. Strided rows: the forms that take sffn_ffn_args.
 * What has no C++ form (calibration, preparation) takes get().
 */
#ifndef SFFN_SPARSEFFN_HPP
#define SFFN_SPARSEFFN_HPP
#include "sparseffn/sparseffn.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#if !defined(SFFN_HAS_EXCEPTIONS)
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define SFFN_HAS_EXCEPTIONS 1 /**< set to 0 before the first inclusion to have the try_ forms only */
#else
#define SFFN_HAS_EXCEPTIONS 0
#endif
#endif

namespace sparseffn {

/* ---- errors ---- */

/** A failed call. what() is "SFFN_ERR_SHAPE: blk.3: args.x_stride is 7; a row has 64 elements". */
class error : public std::runtime_error {
public:
    error(sffn_status status, const std::string &words) : std::runtime_error(sffn_status_name(status) + (": " + words)), status_(status) {}
    sffn_status status() const noexcept { return status_; }

private:
    sffn_status status_;
};

/** A value or an error, with the names of std::expected. operator* and error() must only be used on what is there. */
template <class T> class [[nodiscard]] result {
public:
    result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    result(sparseffn::error e) : content_(std::in_place_index<1>, std::move(e)) {}
    bool has_value() const noexcept { return content_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    T &operator*() & noexcept { return *std::get_if<0>(&content_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&content_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&content_)); }
    T *operator->() noexcept { return std::get_if<0>(&content_); }
    const T *operator->() const noexcept { return std::get_if<0>(&content_); }
    const sparseffn::error &error() const noexcept { return *std::get_if<1>(&content_); }
#if SFFN_HAS_EXCEPTIONS
    T value() && { return has_value() ? std::move(**this) : throw error(); }
    const T &value() const & { return has_value() ? **this : throw error(); }
#endif

private:
    std::variant<T, sparseffn::error> content_;
};

template <> class [[nodiscard]] result<void> {
public:
    result() noexcept = default;
    result(sparseffn::error e) : error_(std::move(e)) {}
    bool has_value() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return has_value(); }
    const sparseffn::error &error() const noexcept { return *error_; }
#if SFFN_HAS_EXCEPTIONS
    void value() const
    {
        if (error_)
            throw *error_;
    }
#endif

private:
    std::optional<sparseffn::error> error_;
};

/* ---- spans ---- */

/** Where n elements lie: of a pointer and a size, an array, a vector, std::array, std::span. Owns nothing. */
template <class T> class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N> constexpr span(T (&array)[N]) noexcept : data_(array), size_(N) {}
    template <class C, class = std::enable_if_t<!std::is_array_v<std::remove_reference_t<C>> &&
                                                std::is_convertible_v<decltype(std::declval<C &>().data()), T *> &&
                                                std::is_convertible_v<decltype(std::declval<C &>().size()), std::size_t>>>
    constexpr span(C &&container) noexcept : data_(container.data()), size_(container.size())
    {
    }
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

namespace detail {

/** The words are those of ctx; of this thread without one. */
inline result<void> check(const sffn_context *ctx, sffn_status status)
{
    if (status == SFFN_OK)
        return {};
    return error(status, sffn_context_last_error(ctx));
}

template <class T> result<T> check(const sffn_context *ctx, sffn_status status, T value)
{
    if (status == SFFN_OK)
        return result<T>(std::move(value));
    return error(status, sffn_context_last_error(ctx));
}

inline error empty(const char *name)
{
    return error(SFFN_ERR_INVALID_ARGUMENT, std::string(name) + " is an empty handle");
}

inline error wrong_size(const char *name, std::size_t size, const char *expected, std::size_t n)
{
    return error(SFFN_ERR_SHAPE, std::string(name) + " has " + std::to_string(size) + " elements; expected " + expected + std::to_string(n));
}

} // namespace detail

/* ---- configs: the C structs with their defaults, to be filled in field by field ----
 * slice() cuts a layer's config, or its selector's, down to the neurons [first, first + n): ffn.h. */

struct context_config : sffn_context_config {
    context_config() noexcept : sffn_context_config SFFN_CONTEXT_CONFIG_INIT {}
};
struct active_set_config : sffn_active_set_config {
    active_set_config() noexcept : sffn_active_set_config SFFN_ACTIVE_SET_CONFIG_INIT {}
};
struct value_rule : sffn_value_rule {
    value_rule() noexcept : sffn_value_rule SFFN_VALUE_RULE_INIT {}
};
struct matmul_config : sffn_matmul_config {
    matmul_config() noexcept : sffn_matmul_config SFFN_MATMUL_CONFIG_INIT {}
};
struct predictor_config : sffn_predictor_config {
    predictor_config() noexcept : sffn_predictor_config SFFN_PREDICTOR_CONFIG_INIT {}
    result<void> try_slice(std::uint32_t first, std::uint32_t n) { return detail::check(nullptr, sffn_predictor_config_slice(nullptr, this, first, n)); }
#if SFFN_HAS_EXCEPTIONS
    void slice(std::uint32_t first, std::uint32_t n) { try_slice(first, n).value(); }
#endif
};
struct router_config : sffn_router_config {
    router_config() noexcept : sffn_router_config SFFN_ROUTER_CONFIG_INIT {}
    result<void> try_slice(std::uint32_t first, std::uint32_t n) { return detail::check(nullptr, sffn_router_config_slice(nullptr, this, first, n)); }
#if SFFN_HAS_EXCEPTIONS
    void slice(std::uint32_t first, std::uint32_t n) { try_slice(first, n).value(); }
#endif
};
struct ffn_config : sffn_ffn_config {
    ffn_config() noexcept : sffn_ffn_config SFFN_FFN_CONFIG_INIT {}
    result<void> try_slice(std::uint32_t first, std::uint32_t n) { return detail::check(nullptr, sffn_ffn_config_slice(nullptr, this, first, n)); }
#if SFFN_HAS_EXCEPTIONS
    void slice(std::uint32_t first, std::uint32_t n) { try_slice(first, n).value(); }
#endif
};
struct ffn_args : sffn_ffn_args {
    ffn_args() noexcept : sffn_ffn_args SFFN_FFN_ARGS_INIT {}
};
struct ffn_stats : sffn_ffn_stats {
    ffn_stats() noexcept : sffn_ffn_stats SFFN_FFN_STATS_INIT {}
};
struct layer_stats : sffn_layer_stats {
    layer_stats() noexcept : sffn_layer_stats SFFN_LAYER_STATS_INIT {}
};
struct context_info : sffn_context_info {
    context_info() noexcept : sffn_context_info SFFN_CONTEXT_INFO_INIT {}
};
struct matmul_info : sffn_matmul_info {
    matmul_info() noexcept : sffn_matmul_info SFFN_MATMUL_INFO_INIT {}
};
struct predictor_info : sffn_predictor_info {
    predictor_info() noexcept : sffn_predictor_info SFFN_PREDICTOR_INFO_INIT {}
};
struct router_info : sffn_router_info {
    router_info() noexcept : sffn_router_info SFFN_ROUTER_INFO_INIT {}
};
struct ffn_info : sffn_ffn_info {
    ffn_info() noexcept : sffn_ffn_info SFFN_FFN_INFO_INIT {}
};
struct model_info : sffn_model_info {
    model_info() noexcept : sffn_model_info SFFN_MODEL_INFO_INIT {}
};
struct tensor_info : sffn_tensor_info {
    tensor_info() noexcept : sffn_tensor_info SFFN_TENSOR_INFO_INIT {}
};

/* ---- handles ---- */

namespace detail {

/** Owns one object of the C library. made_with: where its own failures leave their words. */
template <class T, void (*destroy)(T *)> class handle {
public:
    handle() noexcept = default;
    handle(handle &&other) noexcept : object_(std::exchange(other.object_, nullptr)), made_with_(std::exchange(other.made_with_, nullptr)) {}
    handle &operator=(handle &&other) noexcept
    {
        if (this != &other) {
            destroy(object_);
            object_ = std::exchange(other.object_, nullptr);
            made_with_ = std::exchange(other.made_with_, nullptr);
        }
        return *this;
    }
    ~handle() { destroy(object_); }
    /** The C object, still owned by the handle; nullptr when empty. */
    T *get() const noexcept { return object_; }
    explicit operator bool() const noexcept { return object_ != nullptr; }
    /** Hands the C object over to the caller; the handle is empty then. */
    [[nodiscard]] T *release() noexcept
    {
        made_with_ = nullptr;
        return std::exchange(object_, nullptr);
    }

protected:
    handle(T *object, const sffn_context *made_with) noexcept : object_(object), made_with_(made_with) {}
    const sffn_context *made_with() const noexcept { return made_with_; }

private:
    T *object_ = nullptr;
    const sffn_context *made_with_ = nullptr;
};

} // namespace detail

/** Threads, memory, kernels, scratch: context.h. One call at a time; one context per concurrent stream. */
class context : public detail::handle<sffn_context, sffn_context_destroy> {
public:
    context() noexcept = default;
    static result<context> try_create(const sffn_context_config &config = context_config())
    {
        sffn_context *ctx = nullptr;
        const sffn_status status = sffn_context_create(&config, &ctx);
        return detail::check(nullptr, status, context(ctx));
    }
    /** The words of the last call that failed with this context. */
    const char *last_error() const noexcept { return sffn_context_last_error(get()); }
    result<context_info> try_info() const
    {
        context_info info;
        const sffn_status status = sffn_context_get_info(get(), &info);
        return detail::check(get(), status, info);
    }
    std::size_t n_kernels() const noexcept { return get() ? sffn_context_n_kernels(get()) : 0; }
    /** nullptr past the end. */
    const char *kernel_name(std::size_t index) const noexcept { return get() ? sffn_context_kernel_name(get(), index) : nullptr; }
    /** Statistics as text: enum sffn_stats_format. */
    result<std::string> try_stats_text(std::int32_t format) const
    {
        std::string text;
        std::size_t needed = 0;
        sffn_status status = sffn_context_write_stats(get(), format, nullptr, 0, &needed);
        while (status == SFFN_OK && text.size() < needed) { /* counters may grow between two calls */
            text.resize(needed);
            status = sffn_context_write_stats(get(), format, &text[0], text.size(), &needed);
            if (status == SFFN_ERR_SHAPE)
                status = SFFN_OK;
        }
        if (status == SFFN_OK)
            text.resize(needed - 1);
        return detail::check(get(), status, std::move(text));
    }
    result<void> try_reset_stats() { return detail::check(get(), sffn_context_reset_stats(get())); }
#if SFFN_HAS_EXCEPTIONS
    explicit context(const sffn_context_config &config) : context(try_create(config).value()) {}
    context_info info() const { return try_info().value(); }
    std::string stats_text(std::int32_t format) const { return try_stats_text(format).value(); }
    void reset_stats() { try_reset_stats().value(); }
#endif

private:
    explicit context(sffn_context *ctx) noexcept : handle(ctx, ctx) {}
};

/** Neurons or blocks per token: active_set.h. */
class active_set : public detail::handle<sffn_active_set, sffn_active_set_destroy> {
public:
    active_set() noexcept = default;
    static result<active_set> try_create(context &ctx, const sffn_active_set_config &config)
    {
        sffn_active_set *set = nullptr;
        const sffn_status status = sffn_active_set_create(ctx.get(), &config, &set);
        return detail::check(ctx.get(), status, active_set(set, ctx.get()));
    }
    result<void> try_clear(std::size_t n_tokens) { return done(sffn_active_set_clear(get(), n_tokens)); }
    result<void> try_set_indices(std::size_t token, span<const std::uint32_t> blocks)
    {
        return done(sffn_active_set_set_indices(get(), token, blocks.data(), blocks.size()));
    }
    /** (n_blocks + 7) / 8 bytes. */
    result<void> try_set_bitmap(std::size_t token, span<const std::uint8_t> bitmap)
    {
        const std::size_t n = (std::size_t(n_blocks()) + 7) / 8;
        if (bitmap.size() != n)
            return detail::wrong_size("bitmap", bitmap.size(), "(n_blocks + 7) / 8 = ", n);
        return done(sffn_active_set_set_bitmap(get(), token, bitmap.data()));
    }
    result<void> try_get_bitmap(std::size_t token, span<std::uint8_t> bitmap) const
    {
        const std::size_t n = (std::size_t(n_blocks()) + 7) / 8;
        if (bitmap.size() != n)
            return detail::wrong_size("bitmap", bitmap.size(), "(n_blocks + 7) / 8 = ", n);
        return done(sffn_active_set_get_bitmap(get(), token, bitmap.data()));
    }
    /** n_blocks bytes. */
    result<void> try_set_mask(std::size_t token, span<const std::uint8_t> mask)
    {
        if (mask.size() != n_blocks())
            return detail::wrong_size("mask", mask.size(), "n_blocks = ", n_blocks());
        return done(sffn_active_set_set_mask(get(), token, mask.data()));
    }
    result<void> try_set_all(std::size_t token) { return done(sffn_active_set_set_all(get(), token)); }
    result<void> try_set_values(std::size_t token, span<const float> values, const sffn_value_rule &rule)
    {
        return done(sffn_active_set_set_values(get(), token, values.data(), values.size(), &rule));
    }
    result<void> try_set_weights(std::size_t token, span<const float> weights)
    {
        if (weights.size() != n_blocks())
            return detail::wrong_size("weights", weights.size(), "n_blocks = ", n_blocks());
        return done(sffn_active_set_set_weights(get(), token, weights.data()));
    }
    result<void> try_set_slice(const active_set &whole, std::uint32_t first_block)
    {
        return done(sffn_active_set_set_slice(get(), whole.get(), first_block));
    }
    result<double> try_recall(const active_set &truth, std::size_t token) const
    {
        double recall = 0;
        const sffn_status status = sffn_active_set_recall(get(), truth.get(), token, &recall);
        return detail::check(truth.made_with(), status, recall);
    }
    std::uint32_t n_blocks() const noexcept { return sffn_active_set_n_blocks(get()); }
    std::uint32_t block_size() const noexcept { return sffn_active_set_block_size(get()); }
    std::uint32_t max_tokens() const noexcept { return sffn_active_set_max_tokens(get()); }
    std::size_t n_tokens() const noexcept { return sffn_active_set_n_tokens(get()); }
    bool has_weights() const noexcept { return get() && sffn_active_set_has_weights(get()); }
    /** The active blocks of one token, ascending, valid until the set changes. */
    span<const std::uint32_t> indices(std::size_t token) const noexcept
    {
        return {sffn_active_set_indices(get(), token), sffn_active_set_count(get(), token)};
    }
    /** The weights of one token's blocks; empty when the set was made without. */
    span<const float> weights(std::size_t token) const noexcept
    {
        const float *weights = get() ? sffn_active_set_weights(get(), token) : nullptr;
        return {weights, weights ? n_blocks() : 0};
    }
    bool contains(std::size_t token, std::uint32_t block) const noexcept { return sffn_active_set_contains(get(), token, block) != 0; }
    std::size_t union_count() const noexcept { return sffn_active_set_union_count(get()); }
    double density() const noexcept { return sffn_active_set_density(get()); }
#if SFFN_HAS_EXCEPTIONS
    active_set(context &ctx, const sffn_active_set_config &config) : active_set(try_create(ctx, config).value()) {}
    void clear(std::size_t n_tokens) { try_clear(n_tokens).value(); }
    void set_indices(std::size_t token, span<const std::uint32_t> blocks) { try_set_indices(token, blocks).value(); }
    void set_bitmap(std::size_t token, span<const std::uint8_t> bitmap) { try_set_bitmap(token, bitmap).value(); }
    void get_bitmap(std::size_t token, span<std::uint8_t> bitmap) const { try_get_bitmap(token, bitmap).value(); }
    void set_mask(std::size_t token, span<const std::uint8_t> mask) { try_set_mask(token, mask).value(); }
    void set_all(std::size_t token) { try_set_all(token).value(); }
    void set_values(std::size_t token, span<const float> values, const sffn_value_rule &rule) { try_set_values(token, values, rule).value(); }
    void set_weights(std::size_t token, span<const float> weights) { try_set_weights(token, weights).value(); }
    void set_slice(const active_set &whole, std::uint32_t first_block) { try_set_slice(whole, first_block).value(); }
    double recall(const active_set &truth, std::size_t token) const { return try_recall(truth, token).value(); }
#endif

private:
    active_set(sffn_active_set *set, const sffn_context *ctx) noexcept : handle(set, ctx) {}
    result<void> done(sffn_status status) const { return detail::check(made_with(), status); }
};

/** One packed matrix, rows = neurons: matmul.h. */
class matmul : public detail::handle<sffn_matmul, sffn_matmul_destroy> {
public:
    matmul() noexcept = default;
    static result<matmul> try_create(context &ctx, const sffn_matmul_config &config)
    {
        sffn_matmul *m = nullptr;
        const sffn_status status = sffn_matmul_create(ctx.get(), &config, &m);
        return detail::check(ctx.get(), status, matmul(m, ctx.get(), config.n_rows, config.n_cols));
    }
    /** x [n_tokens][n_cols] -> out [n_tokens][n_rows]; active nullptr: all rows. */
    result<void> try_rows_dot(context &ctx, span<const float> x, span<float> out, const active_set *active = nullptr) const
    {
        return product(sffn_matmul_rows_dot, ctx, "x", x, n_cols_, out, n_rows_, active);
    }
    /** h [n_tokens][n_rows] -> y [n_tokens][n_cols]. */
    result<void> try_rows_axpy(context &ctx, span<const float> h, span<float> y, const active_set *active = nullptr) const
    {
        return product(sffn_matmul_rows_axpy, ctx, "h", h, n_rows_, y, n_cols_, active);
    }
    result<void> try_get_row(std::uint32_t row, span<float> out) const
    {
        if (out.size() != n_cols_)
            return detail::wrong_size("out", out.size(), "n_cols = ", n_cols_);
        return detail::check(made_with(), sffn_matmul_get_row(get(), row, out.data()));
    }
    result<matmul_info> try_info() const
    {
        matmul_info info;
        const sffn_status status = sffn_matmul_get_info(get(), &info);
        return detail::check(made_with(), status, info);
    }
#if SFFN_HAS_EXCEPTIONS
    matmul(context &ctx, const sffn_matmul_config &config) : matmul(try_create(ctx, config).value()) {}
    void rows_dot(context &ctx, span<const float> x, span<float> out, const active_set *active = nullptr) const
    {
        try_rows_dot(ctx, x, out, active).value();
    }
    void rows_axpy(context &ctx, span<const float> h, span<float> y, const active_set *active = nullptr) const
    {
        try_rows_axpy(ctx, h, y, active).value();
    }
    void get_row(std::uint32_t row, span<float> out) const { try_get_row(row, out).value(); }
    matmul_info info() const { return try_info().value(); }
#endif

private:
    matmul(sffn_matmul *m, const sffn_context *ctx, std::uint32_t n_rows, std::uint32_t n_cols) noexcept
        : handle(m, ctx), n_rows_(n_rows), n_cols_(n_cols)
    {
    }
    template <class Call>
    result<void> product(Call call, context &ctx, const char *name, span<const float> in, std::size_t width, span<float> out, std::size_t out_width,
                         const active_set *active) const
    {
        if (!get())
            return detail::check(ctx.get(), call(ctx.get(), nullptr, in.data(), width, 0, nullptr, out.data(), out_width));
        if (active && !*active)
            return detail::empty("active");
        const std::size_t n_tokens = in.size() / width;
        if (in.size() % width != 0)
            return detail::wrong_size(name, in.size(), "a multiple of ", width);
        if (out.size() != n_tokens * out_width)
            return detail::wrong_size("the output", out.size(), "", n_tokens * out_width);
        return detail::check(ctx.get(), call(ctx.get(), get(), in.data(), width, n_tokens, active ? active->get() : nullptr, out.data(), out_width));
    }
    std::size_t n_rows_ = 0, n_cols_ = 0;
};

/** Which neurons will be active: predictor.h. */
class predictor : public detail::handle<sffn_predictor, sffn_predictor_destroy> {
public:
    predictor() noexcept = default;
    static result<predictor> try_create(context &ctx, const sffn_predictor_config &config)
    {
        sffn_predictor *p = nullptr;
        const sffn_status status = sffn_predictor_create(ctx.get(), &config, &p);
        return detail::check(ctx.get(), status, predictor(p, ctx.get(), config));
    }
    /** x [n_tokens][d_model] -> scores [n_tokens][n_layers * d_ff], and the neurons that pass; an empty span, or nullptr: not wanted. */
    result<void> try_predict(context &ctx, span<const float> x, span<float> scores, active_set *active) const
    {
        if (!get() || (active && !*active))
            return detail::empty(get() ? "active" : "predictor");
        const std::size_t n_tokens = x.size() / d_model_;
        if (x.size() % d_model_ != 0)
            return detail::wrong_size("x", x.size(), "a multiple of d_model = ", d_model_);
        if (!scores.empty() && scores.size() != n_tokens * n_scores_)
            return detail::wrong_size("scores", scores.size(), "", n_tokens * n_scores_);
        return detail::check(ctx.get(), sffn_predictor_predict(ctx.get(), get(), x.data(), d_model_, n_tokens, scores.empty() ? nullptr : scores.data(),
                                                               n_scores_, active ? active->get() : nullptr));
    }
    /** The selections of all layers in one call: n_layers different sets. */
    result<void> try_predict_layers(context &ctx, span<const float> x, span<sffn_active_set *const> active) const
    {
        if (!get())
            return detail::empty("predictor");
        if (x.size() % d_model_ != 0)
            return detail::wrong_size("x", x.size(), "a multiple of d_model = ", d_model_);
        if (active.size() != n_layers_)
            return detail::wrong_size("active", active.size(), "n_layers = ", n_layers_);
        return detail::check(ctx.get(), sffn_predictor_predict_layers(ctx.get(), get(), x.data(), d_model_, x.size() / d_model_, active.data()));
    }
    /** Runs the prediction and tells what weights it read, of all tokens together. */
    result<std::uint64_t> try_count_bytes(context &ctx, span<const float> x) const
    {
        if (!get())
            return detail::empty("predictor");
        if (x.size() % d_model_ != 0)
            return detail::wrong_size("x", x.size(), "a multiple of d_model = ", d_model_);
        std::uint64_t bytes = 0;
        const sffn_status status = sffn_predictor_count_bytes(ctx.get(), get(), x.data(), d_model_, x.size() / d_model_, &bytes);
        return detail::check(ctx.get(), status, bytes);
    }
    result<predictor_info> try_info() const
    {
        predictor_info info;
        const sffn_status status = sffn_predictor_get_info(get(), &info);
        return detail::check(made_with(), status, info);
    }
#if SFFN_HAS_EXCEPTIONS
    predictor(context &ctx, const sffn_predictor_config &config) : predictor(try_create(ctx, config).value()) {}
    void predict(context &ctx, span<const float> x, span<float> scores, active_set *active) const { try_predict(ctx, x, scores, active).value(); }
    void predict_layers(context &ctx, span<const float> x, span<sffn_active_set *const> active) const { try_predict_layers(ctx, x, active).value(); }
    std::uint64_t count_bytes(context &ctx, span<const float> x) const { return try_count_bytes(ctx, x).value(); }
    predictor_info info() const { return try_info().value(); }
#endif

private:
    predictor(sffn_predictor *p, const sffn_context *ctx, const sffn_predictor_config &config) noexcept
        : handle(p, ctx), d_model_(config.d_model), n_layers_(config.n_layers), n_scores_(n_layers_ * config.d_ff)
    {
    }
    std::size_t d_model_ = 0, n_layers_ = 0, n_scores_ = 0;
};

/** The experts of a layer that compute a token: router.h. */
class router : public detail::handle<sffn_router, sffn_router_destroy> {
public:
    router() noexcept = default;
    static result<router> try_create(context &ctx, const sffn_router_config &config)
    {
        sffn_router *r = nullptr;
        const sffn_status status = sffn_router_create(ctx.get(), &config, &r);
        return detail::check(ctx.get(), status, router(r, ctx.get(), config));
    }
    /** x [n_tokens][d_model] -> scores [n_tokens][n_experts], and the experts kept; an empty span, or nullptr: not wanted. */
    result<void> try_select(context &ctx, span<const float> x, span<float> scores, active_set *active) const
    {
        if (!get() || (active && !*active))
            return detail::empty(get() ? "active" : "router");
        const std::size_t n_tokens = x.size() / d_model_;
        if (x.size() % d_model_ != 0)
            return detail::wrong_size("x", x.size(), "a multiple of d_model = ", d_model_);
        if (!scores.empty() && scores.size() != n_tokens * n_experts_)
            return detail::wrong_size("scores", scores.size(), "", n_tokens * n_experts_);
        return detail::check(ctx.get(), sffn_router_select(ctx.get(), get(), x.data(), d_model_, n_tokens, scores.empty() ? nullptr : scores.data(),
                                                           n_experts_, active ? active->get() : nullptr));
    }
    result<router_info> try_info() const
    {
        router_info info;
        const sffn_status status = sffn_router_get_info(get(), &info);
        return detail::check(made_with(), status, info);
    }
#if SFFN_HAS_EXCEPTIONS
    router(context &ctx, const sffn_router_config &config) : router(try_create(ctx, config).value()) {}
    void select(context &ctx, span<const float> x, span<float> scores, active_set *active) const { try_select(ctx, x, scores, active).value(); }
    router_info info() const { return try_info().value(); }
#endif

private:
    router(sffn_router *r, const sffn_context *ctx, const sffn_router_config &config) noexcept
        : handle(r, ctx), d_model_(config.d_model), n_experts_(config.n_experts)
    {
    }
    std::size_t d_model_ = 0, n_experts_ = 0;
};

/** One key of a file's metadata; of arrays also what they hold. */
struct meta_entry {
    const char *key = nullptr; /**< valid as long as the model */
    std::int32_t kind = SFFN_META_NONE, element_kind = SFFN_META_NONE; /**< enum sffn_meta_kind */
    std::uint64_t n = 0;
};

/** The tensors, metadata and layers of a file: model.h. */
class model : public detail::handle<sffn_model, sffn_model_close> {
public:
    model() noexcept = default;
    static result<model> try_open(context &ctx, const std::string &path)
    {
        sffn_model *m = nullptr;
        const sffn_status status = sffn_model_open(ctx.get(), path.c_str(), &m);
        return detail::check(ctx.get(), status, model(m, ctx.get()));
    }
    result<model_info> try_info() const
    {
        model_info info;
        const sffn_status status = sffn_model_get_info(get(), &info);
        return done(status, info);
    }
    result<tensor_info> try_tensor(std::size_t index) const
    {
        tensor_info info;
        const sffn_status status = sffn_model_get_tensor(get(), index, &info);
        return done(status, info);
    }
    result<tensor_info> try_find_tensor(const std::string &name) const
    {
        tensor_info info;
        const sffn_status status = sffn_model_find_tensor(get(), name.c_str(), &info);
        return done(status, info);
    }
    /** Metadata by index, for listings. */
    result<meta_entry> try_meta(std::size_t index) const
    {
        meta_entry entry;
        const sffn_status status = sffn_model_get_meta(get(), index, &entry.key, &entry.kind, &entry.element_kind, &entry.n);
        return done(status, entry);
    }
    result<std::int64_t> try_get_int(const std::string &key, std::size_t index = 0) const
    {
        std::int64_t value = 0;
        const sffn_status status = sffn_model_get_int(get(), key.c_str(), index, &value);
        return done(status, value);
    }
    result<double> try_get_float(const std::string &key, std::size_t index = 0) const
    {
        double value = 0;
        const sffn_status status = sffn_model_get_float(get(), key.c_str(), index, &value);
        return done(status, value);
    }
    /** Lies in the file: valid as long as the model. */
    result<std::string_view> try_get_string(const std::string &key, std::size_t index = 0) const
    {
        const char *text = nullptr;
        std::size_t bytes = 0;
        const sffn_status status = sffn_model_get_string(get(), key.c_str(), index, &text, &bytes);
        return done(status, std::string_view(text, status == SFFN_OK ? bytes : 0));
    }
    std::size_t meta_count(const std::string &key) const noexcept { return sffn_model_meta_count(get(), key.c_str()); }
    /** What the file says of a layer, over the fields of `config`. */
    result<ffn_config> try_layer_config(std::uint32_t layer, ffn_config config = ffn_config()) const
    {
        const sffn_status status = sffn_model_layer_config(get(), layer, &config);
        return done(status, config);
    }
    result<predictor_config> try_layer_predictor_config(std::uint32_t layer, predictor_config config = predictor_config()) const
    {
        const sffn_status status = sffn_model_layer_predictor_config(get(), layer, &config);
        return done(status, config);
    }
    result<router_config> try_layer_router_config(std::uint32_t layer, router_config config = router_config()) const
    {
        const sffn_status status = sffn_model_layer_router_config(get(), layer, &config);
        return done(status, config);
    }
    /** [d_ff]: where the layer's neurons were before preparation. */
    result<void> try_layer_permutation(std::uint32_t layer, span<std::uint32_t> permutation) const
    {
        const result<ffn_config> config = try_layer_config(layer);
        if (!config)
            return config.error();
        if (permutation.size() != config->d_ff)
            return detail::wrong_size("permutation", permutation.size(), "d_ff = ", config->d_ff);
        return detail::check(made_with(), sffn_model_layer_permutation(get(), layer, permutation.data()));
    }
    /** enum sffn_select. */
    result<std::int32_t> try_layer_plan(std::uint32_t layer) const
    {
        std::int32_t select = SFFN_SELECT_DEFAULT;
        const sffn_status status = sffn_model_layer_plan(get(), layer, &select);
        return done(status, select);
    }
#if SFFN_HAS_EXCEPTIONS
    model(context &ctx, const std::string &path) : model(try_open(ctx, path).value()) {}
    model_info info() const { return try_info().value(); }
    tensor_info tensor(std::size_t index) const { return try_tensor(index).value(); }
    tensor_info find_tensor(const std::string &name) const { return try_find_tensor(name).value(); }
    meta_entry meta(std::size_t index) const { return try_meta(index).value(); }
    std::int64_t get_int(const std::string &key, std::size_t index = 0) const { return try_get_int(key, index).value(); }
    double get_float(const std::string &key, std::size_t index = 0) const { return try_get_float(key, index).value(); }
    std::string_view get_string(const std::string &key, std::size_t index = 0) const { return try_get_string(key, index).value(); }
    ffn_config layer_config(std::uint32_t layer, const ffn_config &config = ffn_config()) const { return try_layer_config(layer, config).value(); }
    predictor_config layer_predictor_config(std::uint32_t layer, const predictor_config &config = predictor_config()) const
    {
        return try_layer_predictor_config(layer, config).value();
    }
    router_config layer_router_config(std::uint32_t layer, const router_config &config = router_config()) const
    {
        return try_layer_router_config(layer, config).value();
    }
    void layer_permutation(std::uint32_t layer, span<std::uint32_t> permutation) const { try_layer_permutation(layer, permutation).value(); }
    std::int32_t layer_plan(std::uint32_t layer) const { return try_layer_plan(layer).value(); }
#endif

private:
    model(sffn_model *m, const sffn_context *ctx) noexcept : handle(m, ctx) {}
    template <class T> result<T> done(sffn_status status, const T &value) const { return detail::check(made_with(), status, value); }
};

/** What a call of ffn::forward() may say besides x and y; the fields are those of sffn_ffn_args. */
struct forward_options {
    std::int32_t select = SFFN_SELECT_DEFAULT;
    const active_set *active = nullptr;
    span<const float> select_x = {}; /**< [n_tokens][the selector's d_model] */
    span<float> h = {};              /**< [n_tokens][d_ff] */
    active_set *active_out = nullptr;
    sffn_ffn_stats *stats = nullptr;
};

/** One layer, x -> y: ffn.h. Immutable: share it between threads and contexts. */
class ffn : public detail::handle<sffn_ffn, sffn_ffn_destroy> {
public:
    ffn() noexcept = default;
    static result<ffn> try_create(context &ctx, const sffn_ffn_config &config)
    {
        sffn_ffn *f = nullptr;
        const sffn_status status = sffn_ffn_create(ctx.get(), &config, &f);
        return detail::check(ctx.get(), status, ffn(f, ctx.get()));
    }
    /** With the selector and the plan that the file has. */
    static result<ffn> try_from_model(context &ctx, const model &file, std::uint32_t layer, const sffn_ffn_config &config = ffn_config())
    {
        sffn_ffn *f = nullptr;
        const sffn_status status = sffn_ffn_create_from_model(ctx.get(), file.get(), layer, &config, &f);
        return detail::check(ctx.get(), status, ffn(f, ctx.get()));
    }
    std::uint32_t d_model() const noexcept { return d_model_; }
    std::uint32_t d_ff() const noexcept { return d_ff_; }
    /** x, y [n_tokens][d_model]. Does not allocate when it succeeds. */
    result<void> try_forward(context &ctx, span<const float> x, span<float> y, const forward_options &options = forward_options()) const
    {
        ffn_args args;
        if (result<void> fits = fill(args, x, y, options); !fits)
            return fits;
        return try_forward(ctx, args);
    }
    result<void> try_forward(context &ctx, const sffn_ffn_args &args) const
    {
        return detail::check(ctx.get(), sffn_ffn_forward(ctx.get(), get(), &args));
    }
    /** On the caller's threads, which each make the same call; barrier() makes all of them wait for each other. */
    template <class Barrier>
    result<void> try_forward_spmd(context &ctx, const sffn_ffn_args &args, std::uint32_t ith, std::uint32_t nth, Barrier &barrier) const
    {
        const auto wait = [](void *b) { (*static_cast<Barrier *>(b))(); };
        return detail::check(ctx.get(), sffn_ffn_forward_spmd(ctx.get(), get(), &args, ith, nth, wait, &barrier));
    }
    /** 0 for bad arguments: run phase 0 to get the words. */
    std::uint32_t n_phases(const sffn_ffn_args &args) const noexcept { return sffn_ffn_n_phases(get(), &args); }
    result<void> try_forward_phase(context &ctx, const sffn_ffn_args &args, std::uint32_t phase, std::uint32_t ith, std::uint32_t nth) const
    {
        return detail::check(ctx.get(), sffn_ffn_forward_phase(ctx.get(), get(), &args, phase, ith, nth));
    }
    result<void> try_reserve(context &ctx) const { return detail::check(ctx.get(), sffn_ffn_reserve(ctx.get(), get())); }
    result<void> try_reserve_threads(context &ctx, std::uint32_t max_threads) const
    {
        return detail::check(ctx.get(), sffn_ffn_reserve_threads(ctx.get(), get(), max_threads));
    }
    std::size_t query_scratch(const context &ctx) const noexcept { return sffn_ffn_query_scratch(ctx.get(), get()); }
    result<ffn_info> try_info() const
    {
        ffn_info info;
        const sffn_status status = sffn_ffn_get_info(get(), &info);
        return detail::check(made_with(), status, info);
    }
    /** The layer's counters in a context that collects them. */
    result<layer_stats> try_stats(const context &ctx) const
    {
        layer_stats stats;
        const sffn_status status = sffn_context_get_layer_stats(ctx.get(), get(), &stats);
        return detail::check(ctx.get(), status, stats);
    }
    /** The stages alone. select_x [n_tokens][the selector's d_model] -> active. */
    result<void> try_select(context &ctx, span<const float> select_x, std::size_t n_tokens, active_set &active) const
    {
        return detail::check(ctx.get(), sffn_ffn_select(ctx.get(), get(), select_x.data(), n_tokens, active.get()));
    }
    /** x [n_tokens][d_model] -> s [n_tokens][d_ff] and the neurons that survive. active_in nullptr: all. */
    result<void> try_gate(context &ctx, span<const float> x, span<float> s, const active_set *active_in = nullptr, active_set *active_out = nullptr) const
    {
        if (result<void> fits = check_stage("x", x, d_model_, "s", s, d_ff_, active_in); !fits)
            return fits;
        if (active_out && !*active_out)
            return detail::empty("active_out");
        return detail::check(ctx.get(), sffn_ffn_gate(ctx.get(), get(), x.data(), x.size() / d_model_, active_in ? active_in->get() : nullptr, s.data(),
                                                      active_out ? active_out->get() : nullptr));
    }
    /** x and s [n_tokens][d_ff] -> h [n_tokens][d_ff]. */
    result<void> try_up(context &ctx, span<const float> x, span<const float> s, span<float> h, const active_set *active_in = nullptr) const
    {
        if (result<void> fits = check_stage("x", x, d_model_, "h", h, d_ff_, active_in); !fits)
            return fits;
        if (s.size() != h.size())
            return detail::wrong_size("s", s.size(), "as many as h: ", h.size());
        return detail::check(ctx.get(), sffn_ffn_up(ctx.get(), get(), x.data(), s.data(), x.size() / d_model_, active_in ? active_in->get() : nullptr,
                                                    h.data()));
    }
    /** h [n_tokens][d_ff] -> y [n_tokens][d_model]. */
    result<void> try_down(context &ctx, span<const float> h, span<float> y, const active_set *active_in = nullptr) const
    {
        if (result<void> fits = check_stage("h", h, d_ff_, "y", y, d_model_, active_in); !fits)
            return fits;
        return detail::check(ctx.get(), sffn_ffn_down(ctx.get(), get(), h.data(), h.size() / d_ff_, active_in ? active_in->get() : nullptr, y.data()));
    }
#if SFFN_HAS_EXCEPTIONS
    ffn(context &ctx, const sffn_ffn_config &config) : ffn(try_create(ctx, config).value()) {}
    static ffn from_model(context &ctx, const model &file, std::uint32_t layer, const sffn_ffn_config &config = ffn_config())
    {
        return try_from_model(ctx, file, layer, config).value();
    }
    void forward(context &ctx, span<const float> x, span<float> y, const forward_options &options = forward_options()) const
    {
        try_forward(ctx, x, y, options).value();
    }
    void forward(context &ctx, const sffn_ffn_args &args) const { try_forward(ctx, args).value(); }
    template <class Barrier> void forward_spmd(context &ctx, const sffn_ffn_args &args, std::uint32_t ith, std::uint32_t nth, Barrier &barrier) const
    {
        try_forward_spmd(ctx, args, ith, nth, barrier).value();
    }
    void forward_phase(context &ctx, const sffn_ffn_args &args, std::uint32_t phase, std::uint32_t ith, std::uint32_t nth) const
    {
        try_forward_phase(ctx, args, phase, ith, nth).value();
    }
    void reserve(context &ctx) const { try_reserve(ctx).value(); }
    void reserve_threads(context &ctx, std::uint32_t max_threads) const { try_reserve_threads(ctx, max_threads).value(); }
    ffn_info info() const { return try_info().value(); }
    layer_stats stats(const context &ctx) const { return try_stats(ctx).value(); }
    void select(context &ctx, span<const float> select_x, std::size_t n_tokens, active_set &active) const
    {
        try_select(ctx, select_x, n_tokens, active).value();
    }
    void gate(context &ctx, span<const float> x, span<float> s, const active_set *active_in = nullptr, active_set *active_out = nullptr) const
    {
        try_gate(ctx, x, s, active_in, active_out).value();
    }
    void up(context &ctx, span<const float> x, span<const float> s, span<float> h, const active_set *active_in = nullptr) const
    {
        try_up(ctx, x, s, h, active_in).value();
    }
    void down(context &ctx, span<const float> h, span<float> y, const active_set *active_in = nullptr) const
    {
        try_down(ctx, h, y, active_in).value();
    }
#endif

private:
    ffn(sffn_ffn *f, const sffn_context *ctx) noexcept : handle(f, ctx)
    {
        sffn_ffn_info info = SFFN_FFN_INFO_INIT;
        if (f && sffn_ffn_get_info(f, &info) == SFFN_OK) {
            d_model_ = info.d_model;
            d_ff_ = info.d_ff;
        }
    }
    result<void> check_stage(const char *name, span<const float> in, std::size_t width, const char *out_name, span<float> out, std::size_t out_width,
                             const active_set *active_in) const
    {
        if (!get() || (active_in && !*active_in))
            return detail::empty(get() ? "active_in" : "ffn");
        if (in.size() % width != 0)
            return detail::wrong_size(name, in.size(), "a multiple of ", width);
        if (out.size() != in.size() / width * out_width)
            return detail::wrong_size(out_name, out.size(), "", in.size() / width * out_width);
        return {};
    }
    /** A selector's input is checked by the library: its width here is what the span has per token. */
    result<void> fill(ffn_args &args, span<const float> x, span<float> y, const forward_options &o) const
    {
        if (!get() || (o.active && !*o.active) || (o.active_out && !*o.active_out))
            return detail::empty(!get() ? "ffn" : o.active && !*o.active ? "options.active" : "options.active_out");
        const std::size_t n = x.size() / d_model_;
        if (x.size() % d_model_ != 0)
            return detail::wrong_size("x", x.size(), "a multiple of d_model = ", d_model_);
        if (y.size() != x.size())
            return detail::wrong_size("y", y.size(), "as many as x: ", x.size());
        if (!o.h.empty() && o.h.size() != n * d_ff_)
            return detail::wrong_size("options.h", o.h.size(), "n_tokens * d_ff = ", n * d_ff_);
        if (!o.select_x.empty() && (n == 0 || o.select_x.size() % n != 0))
            return detail::wrong_size("options.select_x", o.select_x.size(), "a multiple of n_tokens = ", n);
        args.x = x.data();
        args.y = y.data();
        args.n_tokens = n;
        args.select = o.select;
        args.active = o.active ? o.active->get() : nullptr;
        args.select_x = o.select_x.empty() ? nullptr : o.select_x.data();
        args.select_x_stride = o.select_x.empty() ? 0 : o.select_x.size() / n;
        args.h = o.h.empty() ? nullptr : o.h.data();
        args.active_out = o.active_out ? o.active_out->get() : nullptr;
        args.stats = o.stats;
        return {};
    }
    std::uint32_t d_model_ = 0, d_ff_ = 0;
};

} // namespace sparseffn
#endif /* SFFN_SPARSEFFN_HPP */
