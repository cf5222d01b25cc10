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
