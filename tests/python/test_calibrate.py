"""calibrate.py against numpy."""

from __future__ import annotations

import numpy as np
import pytest

import sparseffn as sf

D, F, T = 32, 64, 50


@pytest.fixture
def layer(rng):
    gate, up, down = (rng.standard_normal((F, D)).astype(np.float32) / 6 for _ in range(3))
    x = rng.standard_normal((T, D)).astype(np.float32)
    return gate, up, down, x


def make(ctx, layer, activation="relu", **options):
    gate, up, down, _ = layer
    return sf.FFN(ctx, gate=gate, up=up, down=down, down_layout="rows", activation=activation, **options)


def products(layer):
    gate, up, down, x = (a.astype(np.float64) for a in layer)
    s = np.maximum(x @ gate.T, 0)
    u = x @ up.T
    return s, u, s * u, down


def test_measure_against_numpy(ctx, layer):
    s, u, h, down = products(layer)
    with sf.Calibration(ctx, make(ctx, layer), eval_samples=T) as calibration:
        calibration.add(layer[3])
        values = {
            "score": (np.abs(s), np.ones(F)),
            "h": (np.abs(h), np.ones(F)),
            "contribution": (np.abs(h), np.linalg.norm(down, axis=1)),
            "chess": (np.abs(s), np.abs(u).mean(0)),
            "gate": (s, np.ones(F)),
        }
        for kind, (value, scale) in values.items():
            t = np.quantile(value * scale, 0.8)
            kept = value > t / scale
            y, error = h @ down, (h * ~kept) @ down
            got = calibration.measure(kind, t)
            assert got.n_tokens == T
            assert got.density == pytest.approx(kept.mean(), abs=1.5 / (T * F))
            cett = np.linalg.norm(error, axis=1) / np.linalg.norm(y, axis=1)
            assert got.cett == pytest.approx(cett.mean(), rel=1e-3)
            assert got.max_cett == pytest.approx(cett.max(), rel=1e-3)
            assert got.relative_error == pytest.approx(np.linalg.norm(error) / np.linalg.norm(y), rel=1e-3)


def test_thresholds_run_in_a_layer(ctx, layer):
    with sf.Calibration(ctx, make(ctx, layer), eval_samples=T) as calibration:
        calibration.add(layer[3])
        found = calibration.find_threshold(target_cett=0.1)
        assert found.measured.cett <= 0.1 and found.kind is sf.Active.CONTRIBUTION and found.tie is sf.Tie.KEEP
        assert calibration.measure("h", found.thresholds, tie="keep") == found.measured
        by_density = calibration.find_threshold("score", target_density=0.25)
        assert by_density.measured.density == pytest.approx(0.25, abs=1 / (T * F))
        teal = calibration.find_threshold("input", target_density=0.5)
        assert teal.thresholds is None
        assert teal.threshold == pytest.approx(np.quantile(np.abs(layer[3]), 0.5), rel=1e-2)
    dense = make(ctx, layer).forward(layer[3], select="dense")
    ruled = make(ctx, layer, rule="abs_h", rule_tie=found.tie, rule_threshold=found.thresholds)
    sparse = ruled.forward(layer[3], select="gate")
    error = np.linalg.norm(sparse - dense, axis=1) / np.linalg.norm(dense, axis=1)
    assert error.mean() == pytest.approx(found.measured.cett, abs=1e-5)


def test_samples_and_moment(ctx, layer):
    x = layer[3]
    ffn = make(ctx, layer)
    calibration = sf.Calibration(ctx, ffn, max_samples=20, select_d_model=2, keep_second_moment=True, seed=5)
    index = np.stack([np.arange(T), -np.arange(T)], 1).astype(np.float32)
    calibration.add(x[:30], index[:30])
    calibration.add(x[30:], index[30:])
    got, select = calibration.samples()
    assert got.shape == (20, D) and select.shape == (20, 2)
    assert np.array_equal(got, x[select[:, 0].astype(int)])
    np.testing.assert_allclose(calibration.second_moment(), x.T @ x / T, rtol=1e-4, atol=1e-5)
    info = calibration.info
    assert (info.n_tokens, info.n_samples, info.n_eval, info.d_ff) == (T, 20, 20, F)
    assert "d_ff=64" in repr(calibration)
    with pytest.raises(sf.ArgumentError, match=r"x\[1\]\[0\] is nan"):
        calibration.add(np.array([[0.0] * D, [np.nan] * D], np.float32), index[:2])
    with pytest.raises(sf.ShapeError, match="select_x"):
        sf.Calibration(ctx, ffn).add(x, index)


def test_progress_stops_and_raises(ctx, layer):
    calibration = sf.Calibration(ctx, make(ctx, layer))
    calibration.add(layer[3])
    with pytest.raises(sf.Interrupted):
        calibration.find_threshold(target_cett=0.1, progress=lambda what, done, total: done == 1)
    with pytest.raises(ZeroDivisionError):
        calibration.find_threshold(target_cett=0.1, progress=lambda what, done, total: 1 // 0)
    with pytest.raises(sf.ArgumentError, match="target_cett"):
        calibration.find_threshold()


def test_experts(ctx, rng):
    centers = rng.standard_normal((8, 16))
    truth = rng.permutation(np.repeat(np.arange(8), 12))
    w = (centers[truth] + 0.05 * rng.standard_normal((96, 16))).astype(np.float32)
    permutation, cost = sf.cluster_neurons(ctx, w, group_size=12, normalize=False)
    assert sorted(permutation) == list(range(96))
    groups = truth[permutation].reshape(8, 12)
    assert (groups == groups[:, :1]).all()
    grouped = w[permutation].reshape(8, 12, 16).astype(np.float64)
    assert cost == pytest.approx(((grouped - grouped.mean(1, keepdims=True)) ** 2).sum())
    with sf.Context(n_threads=3) as other:
        again, _ = sf.cluster_neurons(other, w, group_size=12, normalize=False)
    assert np.array_equal(again, permutation)
    with pytest.raises(sf.ShapeError, match="group_size is 7"):
        sf.cluster_neurons(ctx, w, group_size=7)
    with pytest.raises(sf.Interrupted):
        sf.cluster_neurons(ctx, w, progress=lambda *_: True)


def test_svd_against_numpy(ctx, rng):
    w = rng.standard_normal((80, 48)).astype(np.float32)
    u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    w1, w2, captured = sf.fit_svd(ctx, w, 10)
    np.testing.assert_allclose(w2 @ w1, (u[:, :10] * s[:10]) @ vt[:10], atol=1e-4)
    np.testing.assert_allclose(w2.T @ w2, np.eye(10), atol=1e-5)
    assert captured == pytest.approx((s[:10] ** 2).sum() / (s**2).sum(), rel=1e-5)
    # weighted: the loss on inputs of that second moment is the least, W C^(1/2) = U S V'
    x = rng.standard_normal((200, 48)) @ np.diag(np.linspace(0.1, 3, 48))
    moment = x.T @ x / 200
    values, vectors = np.linalg.eigh(moment)
    root = (vectors * np.sqrt(values)) @ vectors.T
    least = (np.linalg.svd(w @ root, compute_uv=False)[10:] ** 2).sum()
    w1, w2, _ = sf.fit_svd(ctx, w, 10, second_moment=moment.astype(np.float32))
    assert (((w - w2 @ w1) @ root) ** 2).sum() == pytest.approx(least, rel=1e-4)
    with pytest.raises(sf.ArgumentError, match="rank"):
        sf.fit_svd(ctx, w, 49)
    with pytest.raises(sf.ShapeError, match="second_moment"):
        sf.fit_svd(ctx, w, 4, second_moment=np.eye(47, dtype=np.float32))


@pytest.mark.parametrize("shape", [(1200, 1100), (1100, 1300)])
def test_svd_by_iteration(ctx, rng, shape):
    n, d = shape
    decay = (1 + np.arange(1100.0)) ** -0.5  # no gap anywhere
    q1, q2 = (np.linalg.qr(rng.standard_normal((k, 1100)))[0] for k in (n, d))
    w = ((q1 * decay) @ q2.T).astype(np.float32)
    w1, w2, captured = sf.fit_svd(ctx, w, 64)
    best = (decay[:64] ** 2).sum() / (decay**2).sum()
    assert best - 0.003 < captured <= best + 1e-5
    assert captured == pytest.approx(1 - ((w - w2 @ w1) ** 2).sum() / (w**2).sum(), abs=1e-4)


@pytest.fixture
def sampled(ctx, rng):
    """A layer whose neurons fire in groups of 8, its gate, and a calibration of 1200 tokens."""
    centers = rng.standard_normal((8, D))
    gate = (np.repeat(centers, 8, axis=0) + 0.5 * rng.standard_normal((F, D))).astype(np.float32)
    x = (centers[rng.integers(0, 8, (1200, 2))].sum(1) + rng.standard_normal((1200, D))).astype(np.float32)
    bias = np.full(F, -25, np.float32)
    up, down = (rng.standard_normal((F, D)).astype(np.float32) for _ in range(2))
    ffn = sf.FFN(ctx, gate=gate, up=up, down=down, down_layout="rows", gate_bias=bias)
    calibration = sf.Calibration(ctx, ffn, eval_samples=400)
    calibration.add(x)
    return gate, x, calibration


def test_selectors_against_numpy(ctx, sampled):
    gate, x, calibration = sampled
    active = x @ gate.T > 25
    exact = sf.Predictor(ctx, kind="low_rank", w1=np.eye(D, dtype=np.float32), w2=gate, threshold=25.0)
    report = calibration.measure_selector(exact)
    assert report.recall > 0.999 and report.precision > 0.999 and report.relative_error < 0.05
    assert report.true_density == pytest.approx(active[::3].mean(), rel=1e-3)
    halved = calibration.measure_selector(exact, sf.Activity("score", 5.0))
    assert halved.recall > 0.999 and halved.precision == pytest.approx((x @ gate.T > 30)[::3].sum() / active[::3].sum())
    rough, _, _ = sf.fit_svd(ctx, gate, 4)
    svd = sf.Predictor(ctx, kind="low_rank", w1=rough, w2=sf.fit_svd(ctx, gate, 4)[1])
    t = calibration.selector_threshold(svd, 0.95)
    scores = (x @ rough.T @ sf.fit_svd(ctx, gate, 4)[1].T)[::3][active[::3]]
    assert t == pytest.approx(np.sort(scores)[::-1][int(np.ceil(0.95 * scores.size)) - 1], rel=1e-4)
    each = calibration.selector_threshold(svd, 0.95, per_neuron=True)
    assert each.shape == (F,)
    screen = sf.Predictor(ctx, gate, gate_bias=np.full(F, -25, np.float32), margin=1.0)
    margin = calibration.selector_margin(screen, 1.0)
    wide = sf.Predictor(ctx, gate, gate_bias=np.full(F, -25, np.float32), margin=margin)
    assert calibration.measure_selector(wide).recall == 1
    with pytest.raises(sf.UnsupportedError, match="margin"):
        calibration.selector_margin(svd, 0.9)
    with pytest.raises(TypeError, match="selector"):
        calibration.measure_selector(gate)


def test_fits(ctx, sampled):
    gate, x, calibration = sampled
    fit = sf.fit_low_rank(calibration, 4, bias=True, learning_rate=0.01, batch_size=64, max_epochs=5)
    assert fit.result.recall > fit.result.start_recall and fit.result.n_held_out == 60
    predictor = sf.Predictor(
        ctx, kind="low_rank", w1=fit.w1, w2=fit.w2, b1=fit.b1, b2=fit.b2, threshold=fit.result.threshold
    )
    assert calibration.measure_selector(predictor).recall == pytest.approx(fit.result.recall, abs=0.05)
    with sf.Context(n_threads=3) as other:
        again = sf.fit_low_rank(
            calibration, 4, bias=True, learning_rate=0.01, batch_size=64, max_epochs=5, context=other
        )
    assert np.array_equal(again.w2, fit.w2) and again.result == fit.result
    deep = sf.fit_low_rank(calibration, 6, hidden="tanh", start="random", learning_rate=0.02, batch_size=64)
    assert deep.b1 is None and deep.result.recall > deep.result.start_recall + 0.2
    router = sf.fit_router(calibration, 8, density=0.25, max_epochs=5)
    assert router.hidden is None and router.weight.shape == (8, D) and router.result.recall > 0.9
    centers = sf.fit_router(calibration, 8, max_epochs=0)
    want = gate.reshape(8, 8, D).mean(1)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(centers.weight, want, atol=1e-6)
    permutation, _ = sf.cluster_neurons(ctx, gate, group_size=8)
    mlp = sf.fit_router(calibration, 8, permutation=permutation, mlp=True, normalize_input=True, max_epochs=2)
    assert mlp.hidden.shape == (8, D) and mlp.weight.shape == (8, 8)
    with pytest.raises(sf.ArgumentError, match="rank"):
        sf.fit_low_rank(calibration, 0)
    with pytest.raises(sf.ShapeError, match="block_size is 7"):
        sf.fit_router(calibration, 7)
    with pytest.raises(sf.ShapeError, match="permutation"):
        sf.fit_router(calibration, 8, permutation=permutation[:-1])
    with pytest.raises(sf.Interrupted):
        sf.fit_low_rank(calibration, 4, start="random", progress=lambda *_: True)
