"""Predictor and Router."""

from __future__ import annotations

import numpy as np
import pyref
import pytest
import sparseffn as sf
from pyref import assert_within

D, F = 64, 80


@pytest.fixture
def gate(rng):
    return (rng.standard_normal((F, D)) / 8).astype(np.float32)


@pytest.fixture
def x(rng):
    return rng.standard_normal((6, D)).astype(np.float32)


def screen(gate, x, bias=0.0, threshold=0.0, margin=1.5):
    """(scores, their bound, what is added to a score before the test) of the documented rule, in float64."""
    low = pyref.decode(pyref.encode(gate, "q4_0"), "q4_0")
    exact = x.astype(np.float64) @ low.T + bias
    e = np.sqrt(((gate - low) ** 2).mean(1))
    return (
        exact,
        pyref.dot_bound(low, x.astype(np.float64), "q4_0", bias),
        margin * np.outer(np.linalg.norm(x, axis=1), e),
    )


@pytest.mark.parametrize("margin", [0.0, 1.5])
@pytest.mark.parametrize("with_vectors", [False, True])
def test_predictor(ctx, rng, gate, x, margin, with_vectors):
    bias = rng.standard_normal(F).astype(np.float32) / 4 if with_vectors else None
    threshold = rng.random(F).astype(np.float32) / 4 if with_vectors else 0.1
    p = sf.Predictor(ctx, gate, gate_bias=bias, threshold=threshold, margin=margin)
    assert (p.d_model, p.d_ff) == (D, F) and p.weight_bytes >= F * D * 18 // 32
    exact, bound, slack = screen(gate, x, 0.0 if bias is None else bias, threshold, margin)
    scores = np.empty((6, F), np.float32)
    active = p.predict(x, scores=scores)
    assert (active.n_blocks, active.block_size, active.n_tokens) == (F, 1, 6)
    assert_within(scores, exact, bound, "scores")
    assert np.array_equal(p.scores(x), scores)
    passes = exact + slack - threshold
    clear = np.abs(passes) > bound + 1e-3 * slack
    assert clear.mean() > 0.8
    assert np.array_equal(active.mask()[clear], (passes > 0)[clear])
    if margin:
        sure = x.astype(np.float64) @ gate.T + (0.0 if bias is None else bias) > threshold
        assert (active.mask() & sure).sum() / sure.sum() > 0.9


def test_predictor_reuses_a_set(ctx, gate, x):
    p = sf.Predictor(ctx, gate)
    active = sf.ActiveSet(ctx, F, max_tokens=8)
    assert p.predict(x, active) is active and active.n_tokens == 6
    wide = np.zeros((12, 2 * D), np.float32)
    wide[::2, :D] = x
    assert np.array_equal(p.predict(wide[::2, :D]).mask(), active.mask())
    p.predict(x[0], active)
    assert active.n_tokens == 1
    before = active.mask()
    with pytest.raises(sf.ShapeError):
        p.predict(np.zeros((9, D), np.float32), active)
    with pytest.raises(sf.ShapeError):
        p.predict(x[0], sf.ActiveSet(ctx, F - 1))
    assert np.array_equal(active.mask(), before)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_predictor_of_other_gates(ctx, gate, x, dtype):
    w = sf.quantize(gate, dtype)
    assert np.array_equal(sf.Predictor(ctx, w).scores(x), sf.Predictor(ctx, sf.dequantize(w)).scores(x))


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(gate=np.zeros((4, 33), np.float32)), sf.ShapeError),
        (dict(gate=np.zeros((4, 18), np.uint8)), TypeError),
        (dict(margin=float("nan")), sf.ArgumentError),
        (dict(margin=-1.0), sf.ArgumentError),
        (dict(threshold=float("nan")), sf.ArgumentError),
        (dict(threshold=np.zeros(3, np.float32)), sf.ShapeError),
        (dict(threshold=[0.0] * 4), TypeError),
        (dict(threshold=np.zeros(4)), TypeError),
        (dict(gate_bias=np.zeros(4)), TypeError),
        (dict(gate_bias=np.zeros(8, np.float32)[::2]), TypeError),
        (dict(gate_bias=np.zeros(5, np.float32)), sf.ShapeError),
        (dict(kind="oracle"), ValueError),
    ],
)
def test_predictor_refuses(ctx, change, error):
    arguments = dict(gate=np.ones((4, 32), np.float32))
    with pytest.raises(error):
        sf.Predictor(ctx, **{**arguments, **change})


def test_predictor_of_a_4_bit_gate(ctx, gate):
    with pytest.raises(sf.UnsupportedError):
        sf.Predictor(ctx, sf.quantize(gate, "q4_0"))


def top_k_mask(scores, k):
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, 1)
    return mask


@pytest.mark.parametrize("hidden", ["none", "relu", "tanh"])
@pytest.mark.parametrize("dtype", [None, "f16", "q8_0"])
def test_low_rank(ctx, rng, x, hidden, dtype):
    w1 = (rng.standard_normal((32, D)) / 8).astype(np.float32)
    w2 = (rng.standard_normal((F, 32)) / 6).astype(np.float32)
    b1, b2 = rng.standard_normal(32).astype(np.float32), rng.standard_normal(F).astype(np.float32)
    p = sf.Predictor(ctx, kind="low_rank", w1=w1, w2=w2, b1=b1, b2=b2, hidden=hidden, dtype=dtype, input="residual")
    act = {"none": lambda v: v, "relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}[hidden]
    exact = act(x.astype(np.float64) @ w1.T + b1) @ w2.T + b2
    scores = p.scores(x)
    assert np.abs(scores - exact).max() < {None: 1e-5, "f16": 1e-2, "q8_0": 0.1}[dtype]
    assert np.array_equal(p.predict(x).mask(), scores > 0)
    top = sf.Predictor(
        ctx, kind="low_rank", w1=w1, w2=w2, b1=b1, b2=b2, hidden=hidden, dtype=dtype, decision="top_k", top_k=9,
        top_k_multiple=4,
    )  # fmt: skip
    assert np.array_equal(top.predict(x).mask(), top_k_mask(scores, 12))
    assert (p.info.rank, p.info.d_model, p.info.d_ff, p.info.n_layers) == (32, D, F, 1)
    assert p.info.dtype == sf.DType.F32 if dtype is None else p.info.dtype.name.lower() == dtype
    assert p.info.kind == sf.PredictorKind.LOW_RANK and p.info.input == sf.SelectorInput.RESIDUAL
    assert p.info.hidden_activation.name.lower() == hidden and p.info.weight_bytes == p.weight_bytes
    assert top.info.top_k == 12 and top.info.decision == sf.Decision.TOP_K and p.info.top_k == 0


def test_several_layers(ctx, rng, x):
    w1, w2 = rng.standard_normal((8, D)).astype(np.float32), rng.standard_normal((3 * F, 8)).astype(np.float32)
    p = sf.Predictor(ctx, kind="low_rank", w1=w1, w2=w2, n_layers=3, threshold=np.full(3 * F, 0.5, np.float32))
    scores = p.scores(x)
    assert scores.shape == (6, 3 * F) and p.info.n_layers == 3 and p.info.has_thresholds
    sets = p.predict_layers(x)
    assert [s.n_tokens for s in sets] == [6, 6, 6]
    assert np.array_equal(np.hstack([s.mask() for s in sets]), scores > 0.5)
    assert p.predict_layers(x[0], sets) == sets
    with pytest.raises(sf.UnsupportedError):
        p.predict(x)
    with pytest.raises(sf.ShapeError):
        p.predict_layers(x, sets[:2])
    with pytest.raises(sf.ArgumentError):
        p.predict_layers(x, [sets[0]] * 3)
    with pytest.raises(sf.UnsupportedError):
        w = np.zeros((F, D), np.float32)
        sf.FFN(ctx, gate=w, up=w, down=w.T.copy(), predictor=p)


def test_gate_svd(ctx, rng, x):
    gate = (rng.standard_normal((F, 16)) @ rng.standard_normal((16, D)) / 16).astype(np.float32)
    exact = x @ gate.T
    p = sf.Predictor(ctx, gate, kind="gate_svd", rank=16, dtype="f32")
    assert np.abs(p.scores(x) - exact).max() < 1e-4 and p.info.dtype == sf.DType.F32
    q = sf.Predictor(ctx, gate, kind="gate_svd", rank=32)
    assert q.info.dtype == sf.DType.Q8_0 and np.abs(q.scores(x) - exact).max() < 0.1 * np.abs(exact).max()


def test_signs(ctx, gate, x):
    p = sf.Predictor(ctx, gate, kind="sign", alpha=1.25)
    negative = ((gate < 0)[None] != (x < 0)[:, None]).sum(2)
    scores = p.scores(x)
    assert np.array_equal(scores, 1.25 * (D - negative) - negative)
    assert np.array_equal(p.predict(x).mask(), scores >= 0)
    assert p.weight_bytes == F * D // 8 and p.info.alpha == 1.25 and p.info.dtype is None
    with pytest.raises(sf.ArgumentError):
        sf.Predictor(ctx, gate, kind="sign", alpha=0.0)


def test_callback(ctx, x):
    calls = []

    def score(a, scores):
        calls.append(a.copy())
        assert not a.flags.writeable and scores.shape == (F,) and np.isnan(scores).all()
        scores[:-1] = np.arange(F - 1) - 40 + a[0]

    p = sf.Predictor(ctx, kind="callback", callback=score, d_model=D, d_ff=F, threshold=0.0)
    active = p.predict(x)
    assert np.array_equal(np.array(calls), x) and p.weight_bytes == 0 and p.info.dtype is None
    want = np.arange(F) - 40 + x[:, :1] > 0
    want[:, -1] = True  # never written
    assert np.array_equal(active.mask(), want)
    w = np.ones((F, D), np.float32)
    ffn = sf.FFN(ctx, gate=w, up=w, down=w.T.copy(), predictor=p)
    del p, score
    ffn.forward(x)
    assert len(calls) == 12


def test_callback_that_raises(ctx, x, monkeypatch):
    import sys

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_type))
    p = sf.Predictor(ctx, kind="callback", callback=lambda a, s: 1 / 0, d_model=D, d_ff=F)
    assert p.predict(x[0]).mask().all() and seen == [ZeroDivisionError]


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(w1=None), TypeError),
        (dict(w2=np.zeros((8, 5), np.float32)), sf.ShapeError),
        (dict(n_layers=3), sf.ShapeError),
        (dict(n_layers=0), sf.ShapeError),
        (dict(b1=np.zeros(8, np.float32)), sf.ShapeError),
        (dict(b2=np.full(8, np.nan, np.float32)), sf.ArgumentError),
        (dict(dtype="q8_0"), sf.ShapeError),
        (dict(decision="top_k"), sf.ArgumentError),
        (dict(decision="best"), ValueError),
        (dict(tie="maybe"), ValueError),
        (dict(hidden="gelu"), ValueError),
        (dict(gate_bias=np.zeros(8, np.float32)), sf.ArgumentError),
        (dict(kind="callback"), TypeError),
        (dict(kind="gate_svd"), TypeError),
    ],
)
def test_low_rank_refuses(ctx, change, error):
    arguments = dict(kind="low_rank", w1=np.ones((4, 32), np.float32), w2=np.ones((8, 4), np.float32))
    with pytest.raises(error):
        sf.Predictor(ctx, **{**arguments, **change})


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_router(ctx, rng, dtype, with_bias):
    data = pyref.encode(rng.standard_normal((10, D)).astype(np.float32), dtype)
    bias = rng.standard_normal(10).astype(np.float32) if with_bias else None
    r = sf.Router(ctx, sf.Weights(data, dtype if dtype == "q8_0" else None), bias=bias, block_size=8, threshold=0.6)
    assert (r.d_model, r.n_experts, r.block_size) == (D, 10, 8) and r.weight_bytes > 0
    x = rng.standard_normal((7, D)).astype(np.float32)
    w, b = pyref.decode(data, dtype), 0.0 if bias is None else bias.astype(np.float64)
    exact, bound = x.astype(np.float64) @ w.T + b, pyref.dot_bound(w, x.astype(np.float64), dtype, b)
    scores = np.empty((7, 10), np.float32)
    active = r.select(x, scores=scores)
    assert (active.n_blocks, active.block_size, active.n_tokens) == (10, 8, 7)
    assert_within(scores, exact, bound, "scores")
    assert np.array_equal(r.scores(x), scores)
    limit = np.log(0.6 / 0.4)
    clear = np.abs(exact - limit) > bound + 1e-5
    assert clear.mean() > 0.8 and np.array_equal(active.mask()[clear], (exact > limit)[clear])


def test_router_ties_and_nan(ctx):
    r = sf.Router(ctx, np.array([[1.0], [-1.0], [0.0]], np.float32), block_size=1)
    assert r.select(np.array([2.0], np.float32)).mask(0).tolist() == [True, False, False]
    assert r.select(np.array([np.nan], np.float32)).mask(0).all()


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(threshold=0.0), sf.ArgumentError),
        (dict(threshold=1.0), sf.ArgumentError),
        (dict(block_size=0), sf.ArgumentError),
        (dict(bias=np.zeros(3, np.float32)), sf.ShapeError),
        (dict(weights=np.zeros((0, 32), np.float32)), sf.ArgumentError),
        (dict(rule="top_p"), ValueError),
    ],
)
def test_router_refuses(ctx, change, error):
    arguments = dict(weights=np.ones((4, 32), np.float32))
    with pytest.raises(error):
        sf.Router(ctx, **{**arguments, **change})


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("normalize", [False, True])
def test_router_rules(ctx, rng, normalize):
    w1, w2 = rng.standard_normal((12, D)).astype(np.float32), rng.standard_normal((10, 12)).astype(np.float32)
    b1, x = rng.standard_normal(12).astype(np.float32), rng.standard_normal((9, D)).astype(np.float32)
    common = dict(hidden_weights=w1, hidden_bias=b1, normalize_input=normalize, block_size=8)
    a = x.astype(np.float64)
    if normalize:
        a /= np.linalg.norm(a, axis=1, keepdims=True)
    exact = np.tanh(a @ w1.T + b1) @ w2.T
    r = sf.Router(ctx, w2, rule="top_k", top_k=3, **common)
    assert np.abs(r.scores(x) - exact).max() < 1e-5 and (r.info.n_hidden, r.info.top_k) == (12, 3)
    assert np.array_equal(r.select(x).mask(), top_k_mask(exact, 3)) and not r.select(x).has_weights
    r = sf.Router(ctx, w2, rule="mass", mass=0.8, weighting="softmax", **common)
    p = softmax(exact)
    order = np.argsort(-p, axis=1)
    before = np.take_along_axis(p, order, 1).cumsum(1) - np.take_along_axis(p, order, 1)
    want = np.zeros(p.shape, bool)
    np.put_along_axis(want, order, before < 0.8, 1)
    active = r.select(x)
    assert np.array_equal(active.mask(), want) and active.has_weights
    weights = np.array([active.weights(t) for t in range(9)])
    assert np.abs(weights - p * want).max() < 1e-5
    assert (r.info.rule, r.info.weighting) == (sf.RouterRule.MASS, sf.Weighting.SOFTMAX)
    with pytest.raises(sf.ArgumentError):
        r.select(x, sf.ActiveSet(ctx, 10, block_size=8, max_tokens=9))


def test_weights_of_a_set(ctx, rng, x):
    w = rng.standard_normal((3, F, D)).astype(np.float32)
    ffn = sf.FFN(ctx, gate=w[0], up=w[1], down=w[2], activation="silu", down_layout="rows")
    s = sf.ActiveSet(ctx, F // 8, block_size=8, max_tokens=6, has_weights=True)
    s.clear(6)
    assert s.weights(5).tolist() == [1.0] * (F // 8)
    weights = rng.random((6, F // 8)).astype(np.float32)
    for t in range(6):
        s.set_all(t)
        s.set_weights(t, weights[t])
        assert np.array_equal(s.weights(t), weights[t])
    g, u = x.astype(np.float64) @ w[0].T.astype(np.float64), x.astype(np.float64) @ w[1].T
    h = g / (1 + np.exp(-g)) * u * np.repeat(weights, 8, 1)
    want = h @ w[2]
    assert np.abs(ffn.forward(x, active=s) - want).max() < 1e-4 * np.abs(h).max() * F
    bare = sf.ActiveSet(ctx, 4)
    bare.clear(1)
    with pytest.raises(sf.ArgumentError):
        bare.set_weights(0, np.ones(4, np.float32))
    with pytest.raises(sf.ShapeError):
        bare.weights(0)
    with pytest.raises(sf.ShapeError):
        s.set_weights(0, np.ones(3, np.float32))


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(rule="top_k"), sf.ArgumentError),
        (dict(rule="mass", mass=0.0), sf.ArgumentError),
        (dict(weighting="soft"), ValueError),
        (dict(hidden_weights=np.ones((5, 32), np.float32)), sf.ShapeError),
        (dict(hidden_bias=np.ones(5, np.float32)), TypeError),
        (dict(weights=np.full((4, 32), np.nan, np.float32)), sf.ArgumentError),
    ],
)
def test_router_rules_refuse(ctx, change, error):
    arguments = dict(weights=np.ones((4, 32), np.float32))
    with pytest.raises(error):
        sf.Router(ctx, **{**arguments, **change})
