"""FFN against numpy in float64, its selections, stages and promises."""

from __future__ import annotations

import numpy as np
import pyref
import pytest
import sparseffn as sf
from pyref import DTYPES, QUANTISED, Layer, assert_within
from sparseffn._lib import lib

D, F = 64, 96


def draw(rng, n=5, d=D):
    return rng.standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("select", ["gate", "dense", "active"])
def test_against_numpy(any_isa, rng, dtype, select):
    layer = Layer.random(rng, dtype, D, F)
    ffn = sf.FFN(any_isa, **layer.weights(sf), activation="relu", name="blk.7")
    x = draw(rng)
    h, y, dh, dy = layer.relu(x)
    active = None
    if select == "active":
        mask = (h != 0) | (rng.random(h.shape) < 0.2)
        active = sf.ActiveSet.from_mask(any_isa, mask)
        # Neurons that rounding may wake stay asleep.
        dh = np.where(mask, dh, np.abs(h) + 0.0)
    got_h = np.full(h.shape, np.nan, np.float32)
    got = ffn.forward(x, select=select, active=active, h=got_h)
    assert_within(got_h, h, dh if select != "active" else layer.relu(x)[2], "h")
    assert_within(got, y, dy, "y")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_down_in_columns(ctx, rng, dtype):
    layer = Layer.random(rng, dtype, D, F, down_layout="columns")
    ffn = sf.FFN(ctx, **layer.weights(sf))
    x = draw(rng)
    h, y, _, dy = layer.relu(x)
    assert_within(ffn.forward(x), y, dy, "y")
    assert np.array_equal(ffn(x), ffn.forward(x))


@pytest.mark.parametrize("kind", ["relu", "fatrelu", "shifted_relu", "relu2", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
def test_activations(ctx, rng, kind, gated):
    """Coarse: the exact bounds are in test_golden.py. What is tested here is that names and numbers arrive."""
    layer = Layer.random(rng, "f32", D, F, gated)
    t = 0.25 if kind in ("fatrelu", "shifted_relu") else 0.0
    biases = {n: (rng.standard_normal(s) / 4).astype(np.float32) for n, s in (("gate", F), ("up", F), ("down", D))}
    given = dict(up_bias=biases["up"], down_bias=biases["down"])
    if gated:
        given["gate_bias"] = biases["gate"]
    ffn = sf.FFN(ctx, **layer.weights(sf), **given, activation=kind, act_threshold=t)
    info = ffn.info
    assert info.activation is sf._enums.parse(sf.Activation, kind, "")
    assert info.is_gated == gated and (info.gate_dtype is None) == (not gated) and info.act_threshold == t
    x = draw(rng)
    u = x @ layer.up.T + biases["up"]
    g = x @ layer.gate.T + biases["gate"] if gated else u
    g = g.astype(np.float64)
    expected = (pyref.act(kind, g, t) * (u if gated else 1)) @ layer.down + biases["down"]
    assert np.abs(ffn.forward(x) - expected).max() < 2e-5


def test_drelu(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    ffn = sf.FFN(ctx, **layer.weights(sf), activation="drelu")
    x = draw(rng)
    expected = (np.maximum(x @ layer.gate.T, 0) * np.maximum(x @ layer.up.T, 0)) @ layer.down
    assert np.abs(ffn.forward(x) - expected).max() < 2e-5


@pytest.mark.parametrize("rule", ["score", "abs_score", "abs_h"])
@pytest.mark.parametrize("vector", [False, True])
def test_rules(ctx, rng, rule, vector):
    layer = Layer.random(rng, "f32", D, F)
    t = rng.uniform(0.05, 0.5, F).astype(np.float32) if vector else 0.25
    ffn = sf.FFN(ctx, **layer.weights(sf), activation="silu", rule=rule, rule_threshold=t)
    assert ffn.info.rule.name.lower() == rule
    x = draw(rng)
    s, u = pyref.act("silu", x @ layer.gate.T), x @ layer.up.T
    kept = {"score": s, "abs_score": np.abs(s), "abs_h": np.abs(s * u)}[rule] > t
    h = np.empty((5, F), np.float32)
    y = ffn.forward(x, h=h, select="gate")
    assert np.array_equal(h != 0, kept)
    assert np.abs(y - np.where(kept, s * u, 0) @ layer.down).max() < 2e-5
    assert np.abs(ffn.forward(x, select="dense") - (s * u) @ layer.down).max() < 2e-5


@pytest.mark.parametrize("tie", ["keep", "drop"])
def test_ties(ctx, tie):
    eye = np.eye(32, dtype=np.float32)
    ffn = sf.FFN(ctx, gate=eye, up=eye, down=eye, activation="fatrelu", act_threshold=0.5, act_tie=tie)
    x = np.full((1, 32), 0.5, np.float32)
    assert (ffn.forward(x) == (0.25 if tie == "keep" else 0)).all()
    ffn = sf.FFN(ctx, gate=eye, up=eye, down=eye, rule="score", rule_threshold=0.5, rule_tie=tie)
    assert (ffn.forward(x) == (0.25 if tie == "keep" else 0)).all()


def poison(data, dtype, rows):
    """NaN in whole stored rows."""
    data = data.copy()
    if dtype in QUANTISED:
        blocks = data.reshape(len(data), -1, 34 if dtype == "q8_0" else 18)
        blocks[rows, :, :2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    elif dtype == "bf16":
        data[rows] = 0x7FC0
    else:
        data[rows] = np.nan
    return data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", ["copy", "borrow"])
def test_rows_of_inactive_neurons_are_not_read(any_isa, rng, dtype, storage):
    layer = Layer.random(rng, dtype, D, F)
    x = draw(rng, 1)
    g = x.astype(np.float64) @ layer.gate.T
    dead = (g < -pyref.dot_bound(layer.gate, x.astype(np.float64), dtype))[0]
    assert 0.3 < dead.mean() < 0.7
    clean = sf.FFN(any_isa, **layer.weights(sf), storage=storage)
    expected = clean.forward(x)
    assert np.isfinite(expected).all()
    layer.up_data = poison(layer.up_data, dtype, dead)
    layer.down_data = poison(layer.down_data, dtype, dead)
    assert np.array_equal(sf.FFN(any_isa, **layer.weights(sf), storage=storage).forward(x), expected)
    # With a selection, gate rows outside it are not read either.
    layer.gate_data = poison(layer.gate_data, dtype, dead)
    chosen = sf.ActiveSet.from_mask(any_isa, ~dead)
    assert np.array_equal(sf.FFN(any_isa, **layer.weights(sf), storage=storage).forward(x, active=chosen), expected)


def test_strided_x_out_h_and_select_x(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    p = sf.Predictor(ctx, layer.gate_data)
    ffn = sf.FFN(ctx, **layer.weights(sf), predictor=p)
    x = draw(rng)
    big = np.full((10, D + 3), 7, np.float32)
    big[::2, 1 : 1 + D] = x
    out, h = np.full((5, D + 9), 7, np.float32), np.full((5, F + 2), 7, np.float32)
    select_x = np.full((5, D + 1), 7, np.float32)
    select_x[:, :D] = x
    target = out[:, 4 : 4 + D]
    assert ffn.forward(big[::2, 1 : 1 + D], target, h=h[:, :F], select_x=select_x[:, :D]) is target
    plain_h = np.empty((5, F), np.float32)
    plain = ffn.forward(x, h=plain_h)
    assert np.array_equal(target, plain) and np.array_equal(h[:, :F], plain_h)
    assert (out[:, :4] == 7).all() and (out[:, 4 + D :] == 7).all() and (h[:, F:] == 7).all()


def test_pointers_reach_the_library_unchanged(ctx, rng, monkeypatch):
    layer = Layer.random(rng, "f32", D, F)
    ffn = sf.FFN(ctx, **layer.weights(sf))
    seen = []
    original = lib.sffn_ffn_forward

    def spy(context, ptr, args):
        a = args._obj
        seen.append((a.x, a.x_stride, a.y, a.y_stride, a.n_tokens, a.h, a.h_stride))
        return original(context, ptr, args)

    monkeypatch.setattr(lib, "sffn_ffn_forward", spy)
    x, y, h = draw(rng), np.empty((5, 2 * D), np.float32)[:, D:], np.empty((5, F), np.float32)
    ffn.forward(x, y, h=h)
    assert seen == [(x.ctypes.data, D, y.ctypes.data, 2 * D, 5, h.ctypes.data, F)]


def test_one_token_and_none(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    ffn = sf.FFN(ctx, **layer.weights(sf))
    x = draw(rng)
    y = ffn.forward(x)
    assert ffn.forward(x[2]).shape == (D,)
    for token in range(5):
        assert np.array_equal(ffn.forward(x[token]), y[token])
    stats = sf.FFNStats()
    assert ffn.forward(np.empty((0, D), np.float32), stats=stats).shape == (0, D)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_batches_change_no_bit(rng, dtype):
    layer = Layer.random(rng, dtype, D, 160)
    x = draw(rng, 11)
    results = []
    for n_threads in (1, 2, 3, 5):
        with sf.Context(n_threads) as ctx:
            ffn = sf.FFN(ctx, **layer.weights(sf))
            results.append(ffn.forward(x))
            results.append(np.stack([ffn.forward(row) for row in x]))
    assert all(np.array_equal(r, results[0]) for r in results)


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_slices_of_neurons_add_up(ctx, rng, dtype):
    """h of a slice has the whole layer's bits; the y add up within the bound of the down product."""
    layer = Layer.random(rng, dtype, D, F)
    weights = layer.weights(sf)
    bias = rng.standard_normal(D).astype(np.float32)
    whole = sf.FFN(ctx, **weights, down_bias=bias)
    x = draw(rng)
    h, total = np.zeros((len(x), F), np.float32), np.zeros((len(x), D))
    y = whole.forward(x, h=h)
    mask = sf.ActiveSet.from_mask(ctx, h != 0)
    for first, n in [(0, 1), (1, 40), (41, F - 41)]:
        part = sf.FFN(ctx, **weights, down_bias=bias, neurons=(first, n))
        assert part.d_ff == part.info.d_ff == n
        active, part_h = sf.ActiveSet(ctx, n, max_tokens=len(x)), np.zeros((len(x), n), np.float32)
        active.set_slice(mask, first)
        total += part.forward(x, h=part_h, active=active)
        assert np.array_equal(part_h, h[:, first : first + n])
    _, _, _, dy = layer.relu(x)
    # both are within dy of float64, and each adds the bias with one rounding
    assert_within(total, y.astype(np.float64), 2 * dy + 2.0**-22 * (np.abs(bias) + np.abs(y)), "sum of slices")
    with pytest.raises(sf.ArgumentError, match="first is 90, n_neurons 7"):
        sf.FFN(ctx, **weights, neurons=(90, 7))
    with pytest.raises(sf.UnsupportedError, match="rule top_k_h"):
        sf.FFN(ctx, **weights, rule="top_k_h", rule_k=3, neurons=(0, 32))
    with pytest.raises(ValueError, match="neurons"):
        sf.FFN(ctx, **weights, neurons=(-1, 32))
    with pytest.raises(sf.ShapeError, match="first_block is 80"):
        sf.ActiveSet(ctx, 20).set_slice(mask, 80)


def test_stats(rng):
    with sf.Context(collect_stats=True) as ctx:
        layer = Layer.random(rng, "f32", D, F)
        ffn = sf.FFN(ctx, **layer.weights(sf), dense_tokens=4)
        x = draw(rng, 3)
        h = layer.relu(x)[0]
        out = sf.ActiveSet(ctx, F, max_tokens=3)
        stats = sf.FFNStats()
        assert stats.density == 0
        ffn.forward(x, stats=stats, active_out=out)
        alive = x.astype(np.float64) @ layer.gate.T > 0
        assert np.array_equal(out.mask(), alive)
        assert stats.way is sf.Path.SPARSE and stats.n_tokens == 3 and stats.n_selected == 3 * F
        assert stats.n_active == alive.sum() and stats.n_nonzero == (h != 0).sum()
        assert stats.density == pytest.approx(alive.mean()) and stats.d_ff == F
        # f32 on one thread: every gate row, the up and down rows of the union.
        assert stats.union_active == alive.any(0).sum()
        assert stats.touched_bytes == 4 * D * (F + 2 * alive.any(0).sum())
        assert stats.total_ns > 0
        facts = stats.as_dict()
        assert facts["path"] == "sparse" and facts["density"] == stats.density and "density=" in repr(stats)

        ffn.forward(x, select="dense", stats=stats)
        assert stats.way is sf.Path.DENSE and stats.touched_bytes == ffn.info.weight_bytes == 3 * 4 * D * F
        ffn.forward(draw(rng, 4), stats=stats)
        assert stats.way is sf.Path.DENSE and stats.n_tokens == 4


def test_info(ctx, rng):
    layer = Layer.random(rng, "q8_0", D, F)
    p = sf.Predictor(ctx, sf.Weights(layer.gate_data, "q8_0"))
    ffn = sf.FFN(ctx, **layer.weights(sf), predictor=p, rule="abs_h", rule_threshold=0.1)
    info = ffn.info
    assert (info.d_model, info.d_ff, ffn.d_model, ffn.d_ff) == (D, F, D, F)
    assert info.has_predictor and not info.has_router and info.rule is sf.Rule.ABS_H
    assert info.gate_dtype is info.up_dtype is info.down_dtype is sf.DType.Q8_0
    assert info.weight_bytes == 3 * F * D * 34 // 32 and info.selector_bytes == p.weight_bytes
    assert "d_ff=96" in repr(ffn)
    repacked = sf.FFN(ctx, **Layer.random(rng, "f32", D, F).weights(sf), dtype="q4_0")
    assert repacked.info.up_dtype is sf.DType.Q4_0


def test_predictor_selects(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    p = sf.Predictor(ctx, layer.gate_data, margin=8.0)
    ffn = sf.FFN(ctx, **layer.weights(sf), predictor=p)
    x = draw(rng)
    plain = sf.FFN(ctx, **layer.weights(sf)).forward(x)
    stats = sf.FFNStats()
    assert np.array_equal(ffn.forward(x, stats=stats), plain)  # this wide a margin misses nobody
    assert stats.n_selected == p.predict(x).mask().sum() < 5 * F
    assert np.array_equal(ffn.forward(x, select="gate"), plain)
    assert np.array_equal(ffn.select(x).mask(), p.predict(x).mask())
    other = draw(rng)
    chosen = p.predict(other)
    expected = sf.FFN(ctx, **layer.weights(sf)).forward(x, active=chosen)
    assert np.array_equal(ffn.forward(x, select_x=other), expected)
    with pytest.raises(sf.ShapeError, match="select_x: expected shape"):
        ffn.forward(x, select_x=other[:, : D - 1].copy())
    with pytest.raises(sf.UnsupportedError):
        ffn.forward(x, select="router")


def test_router_selects(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    r = sf.Router(ctx, rng.standard_normal((3, D + 32)).astype(np.float32), block_size=32)
    ffn = sf.FFN(ctx, **layer.weights(sf), router=r)
    x, rx = draw(rng), draw(rng, 5, D + 32)
    experts = r.select(rx)
    assert np.array_equal(ffn.select(rx).mask(), experts.mask()) and ffn.select(rx).block_size == 32
    y = ffn.forward(x, select_x=rx)
    assert np.array_equal(y, ffn.forward(x, active=experts))
    mask = experts.mask().repeat(32, 1)
    h = np.where(mask, layer.relu(x)[0], 0)
    assert np.abs(y - h @ layer.down).max() < 2e-5
    with pytest.raises(sf.UnsupportedError):
        ffn.forward(x, select="predictor")


def test_no_selector(ctx, rng):
    ffn = sf.FFN(ctx, **Layer.random(rng, "f32", D, F).weights(sf))
    with pytest.raises(sf.UnsupportedError):
        ffn.select(draw(rng))
    out = np.full((5, D), 3, np.float32)
    with pytest.raises(sf.UnsupportedError):
        ffn.forward(draw(rng), out, select="predictor")
    assert (out == 3).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_stages_equal_the_whole(ctx, rng, dtype):
    layer = Layer.random(rng, dtype, D, F)
    ffn = sf.FFN(ctx, **layer.weights(sf))
    x = draw(rng)
    whole_h = np.empty((5, F), np.float32)
    whole = ffn.forward(x, h=whole_h)
    s, active = ffn.gate(x)
    assert s.shape == (5, F) and np.array_equal(s != 0, active.mask())
    h = ffn.up(x, s, active)
    assert np.array_equal(h, whole_h)
    assert np.array_equal(ffn.down(h, active), whole)
    some = sf.ActiveSet.from_mask(ctx, rng.random((5, F)) < 0.5)
    s2, active2 = ffn.gate(x, some)
    assert np.array_equal(active2.mask(), active.mask() & some.mask())
    out = np.empty((5, F), np.float32)
    survivors = sf.ActiveSet(ctx, F, max_tokens=5)
    got, same = ffn.gate(x, some, out=out, active_out=survivors)
    assert got is out and same is survivors and np.array_equal(out, s2)
    assert ffn.gate(x[0])[0].shape == (F,)


def test_stages_refuse_gaps(ctx, rng):
    ffn = sf.FFN(ctx, **Layer.random(rng, "f32", D, F).weights(sf))
    with pytest.raises(TypeError, match="x: expected rows without gaps"):
        ffn.gate(np.zeros((5, D + 1), np.float32)[:, :D])
    with pytest.raises(sf.ShapeError, match="s: expected shape"):
        ffn.up(draw(rng), np.zeros((4, F), np.float32))


def test_nan_in_x_reaches_y(ctx, rng):
    ffn = sf.FFN(ctx, **Layer.random(rng, "f32", D, F).weights(sf))
    x = draw(rng)
    clean = ffn.forward(x)
    x[2, 5] = np.nan
    y = ffn.forward(x)
    assert np.isnan(y[2]).all() and np.array_equal(np.delete(y, 2, 0), np.delete(clean, 2, 0))


def test_other_context_needs_scratch(ctx, rng):
    ffn = sf.FFN(ctx, **Layer.random(rng, "q8_0", D, F).weights(sf))
    x = draw(rng)
    assert ffn.query_scratch() > 0
    with sf.Context(2) as other:
        with pytest.raises(sf.NotReservedError):
            ffn.forward(x, context=other)
        ffn.reserve(other)
        assert np.array_equal(ffn.forward(x, context=other), ffn.forward(x))


def test_borrowed_weights_are_read_in_place(ctx, rng):
    layer = Layer.random(rng, "f32", D, F)
    ffn = sf.FFN(ctx, **layer.weights(sf), storage="borrow")
    x = draw(rng)
    before = ffn.forward(x)
    layer.up_data[:] *= 2
    after = ffn.forward(x)
    assert np.array_equal(after, 2 * before)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(gate=zeros(F, D + 1)), sf.ShapeError, r"gate: expected shape \[96, 64\]"),
        (
            dict(down=zeros(F, D)),
            sf.ShapeError,
            r"down: expected shape \[64, 96\] for down_layout='columns', got \[96, 64\]",
        ),
        (dict(gate_bias=zeros(D)), sf.ShapeError, r"gate_bias: expected shape \[96\]"),
        (dict(down_bias=zeros(F)), sf.ShapeError, r"down_bias: expected shape \[64\]"),
        (dict(up_bias=np.zeros(F)), TypeError, "up_bias: expected float32"),
        (dict(activation="swish"), ValueError, "activation: 'swish' is none of 'relu'"),
        (dict(activation="fatrelu", act_threshold=-1.0), sf.ArgumentError, "act_threshold"),
        (dict(activation="fatrelu", act_threshold=float("nan")), sf.ArgumentError, "act_threshold"),
        (dict(gate=None, activation="drelu"), sf.ArgumentError, "."),
        (dict(rule="score", rule_threshold=zeros(D)), sf.ShapeError, r"rule_threshold: expected shape \[96\]"),
        (dict(predictor="x"), TypeError, "predictor: expected a Predictor, got str"),
        (dict(up=[[1.0]]), TypeError, "up: .* got list"),
        (dict(dense_tokens=-1), ValueError, "dense_tokens"),
        (dict(max_density=float("nan")), sf.ArgumentError, "max_density"),
    ],
)
def test_refused(ctx, change, error, message):
    arguments = dict(gate=zeros(F, D), up=zeros(F, D), down=zeros(D, F), name="blk.9")
    with pytest.raises(error, match=message):
        sf.FFN(ctx, **{**arguments, **change})


def test_selectors_of_another_size(ctx):
    arguments = dict(gate=zeros(F, D), up=zeros(F, D), down=zeros(D, F))
    with pytest.raises(sf.ShapeError):
        sf.FFN(ctx, **arguments, predictor=sf.Predictor(ctx, zeros(F + 1, D)))
    with pytest.raises(sf.ShapeError):
        sf.FFN(ctx, **arguments, router=sf.Router(ctx, zeros(2, D)))
    p, r = sf.Predictor(ctx, zeros(F, D)), sf.Router(ctx, zeros(3, D))
    with pytest.raises(sf.ArgumentError):
        sf.FFN(ctx, **arguments, predictor=p, router=r)


def test_refused_calls_leave_the_output(ctx, rng):
    ffn = sf.FFN(ctx, **Layer.random(rng, "f32", D, F).weights(sf))
    x, out = draw(rng), np.full((5, D), 3, np.float32)
    for arguments, error in (
        (dict(select="active"), (sf.ArgumentError, sf.UnsupportedError)),
        (dict(active=sf.ActiveSet.from_mask(ctx, np.ones((5, F - 1), bool))), sf.ShapeError),
        (dict(active=sf.ActiveSet.from_mask(ctx, np.ones((4, F), bool))), sf.ShapeError),
        (dict(active_out=sf.ActiveSet(ctx, F, max_tokens=4)), sf.ShapeError),
        (dict(active=3), TypeError),
        (dict(stats={}), TypeError),
        (dict(h=zeros(5, D)), sf.ShapeError),
        (dict(select="best"), ValueError),
    ):
        with pytest.raises(error):
            ffn.forward(x, out, **arguments)
        assert (out == 3).all(), arguments
    with pytest.raises(sf.ArgumentError, match="h: must not overlap x"):
        both = zeros(5, F)
        ffn.forward(both[:, :D], out, h=both)


@pytest.mark.parametrize("rule", ["top_k_score", "top_k_h", "block_top_k_score", "block_top_k_h", "statistical_h"])
def test_rules_over_a_token(ctx, rule):
    rng = np.random.default_rng(3)
    gate, up, down = (rng.standard_normal(s).astype(np.float32) for s in [(48, 16), (48, 16), (16, 48)])
    x = rng.standard_normal((3, 16)).astype(np.float32)
    plain = sf.FFN(ctx, gate=gate, up=up, down=down)
    layer = sf.FFN(ctx, gate=gate, up=up, down=down, rule=rule, rule_k=5, rule_m=20, rule_sparsity=0.75)
    assert layer.info.rule == sf.Rule[rule.upper()]
    h, kept = np.empty((3, 48), np.float32), np.empty((3, 48), np.float32)
    plain.forward(x, h=h)
    values = h if rule.endswith("_h") else plain.gate(x)[0]
    layer.forward(x, h=kept)
    active = sf.ActiveSet(ctx, 48, max_tokens=3)
    active.clear(3)
    kind = {"top": "top_k", "blo": "block_top_k", "sta": "statistical_top_k"}[rule[:3]]
    for t in range(3):
        active.set_values(t, np.abs(values[t]), kind, k=5, m=20, sparsity=0.75)
    assert np.array_equal(kept, np.where(active.mask(), h, 0))
    with pytest.raises(sf.ArgumentError, match="rule_k is 0"):
        sf.FFN(ctx, gate=gate, up=up, down=down, rule="top_k_h")
