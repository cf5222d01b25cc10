"""ActiveSet."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import sparseffn as sf


@pytest.fixture
def active(ctx):
    made = sf.ActiveSet(ctx, 37, max_tokens=4)
    made.clear(3)
    return made


def test_new(ctx):
    a = sf.ActiveSet(ctx, 10, block_size=32, max_tokens=5)
    assert (a.n_blocks, a.block_size, a.max_tokens, a.n_tokens, len(a)) == (10, 32, 5, 0, 0)
    assert a.density == 0 and a.union_count == 0 and a.count(0) == 0
    assert a.mask().shape == (0, 10)
    assert "n_blocks=10" in repr(a)


def test_indices(active):
    active.set_indices(1, np.array([30, 2, 2, 17], np.uint32))
    assert active.indices(1).tolist() == [2, 17, 30] and active.indices(1).dtype == np.uint32
    assert active.count(1) == 3 and active.count(0) == 0
    assert active.indices(0).tolist() == [] and active.indices(2).tolist() == []
    assert active.contains(1, 17) and not active.contains(1, 18) and not active.contains(0, 17)
    assert not active.contains(1, 1000) and not active.contains(9, 17)
    active.set_indices(1, [])
    assert active.count(1) == 0


@pytest.mark.parametrize(
    "given",
    [[3, 1], (3, 1), range(1, 4, 2), {1, 3}, np.array([3, 1]), np.array([3, 9, 1], np.uint32)[::2], iter([3, 1])],
)
def test_indices_from_anything_of_integers(active, given):
    active.set_indices(0, given)
    assert active.indices(0).tolist() == [1, 3]


@pytest.mark.parametrize(
    "given, error",
    [
        ([37], sf.ArgumentError),
        ([0, 2**32 - 1], sf.ArgumentError),
        ([-1], ValueError),
        ([2**32], ValueError),
        (np.array([-1]), ValueError),
        (np.array([1.0]), TypeError),
        (np.array([[1]], np.uint32), sf.ShapeError),
        (5, TypeError),
    ],
)
def test_wrong_indices_leave_the_set(active, given, error):
    active.set_indices(0, [4, 5])
    with pytest.raises(error):
        active.set_indices(0, given)
    assert active.indices(0).tolist() == [4, 5]


def test_masks_and_bitmaps(active, rng):
    mask = rng.random(37) < 0.4
    active.set_mask(0, mask)
    assert np.array_equal(active.mask(0), mask) and active.mask(0).dtype == np.bool_
    assert np.array_equal(active.indices(0), np.flatnonzero(mask))
    active.set_mask(1, mask.astype(np.uint8) * 255)
    assert np.array_equal(active.mask(1), mask)
    bits = np.packbits(mask, bitorder="little")
    assert np.array_equal(active.bitmap(0), bits)
    bits[-1] |= 0x80  # past the end: ignored
    active.set_bitmap(2, bits)
    assert np.array_equal(active.mask(2), mask)
    out = np.empty(5, np.uint8)
    assert active.bitmap(2, out=out) is out
    assert np.array_equal(active.mask(), np.stack([mask] * 3))
    assert active.density == pytest.approx(mask.mean()) and active.union_count == mask.sum()


def test_from_mask(ctx, rng):
    mask = rng.random((5, 19)) < 0.3
    a = sf.ActiveSet.from_mask(ctx, mask, block_size=4)
    assert np.array_equal(a.mask(), mask) and (a.n_tokens, a.block_size) == (5, 4)
    assert a.union_count == mask.any(0).sum()
    assert a.density == pytest.approx(mask.mean())
    assert sf.ActiveSet.from_mask(ctx, mask[0]).n_tokens == 1


def test_all(active):
    active.set_all(1)
    assert active.count(1) == 37 and active.mask(1).all()
    active.clear(2)
    assert active.count(1) == 0 and active.n_tokens == 2
    active.clear(0)
    assert active.n_tokens == 0


def test_recall(ctx, active):
    truth = sf.ActiveSet(ctx, 37, max_tokens=3)
    truth.clear(3)
    active.set_indices(0, [1, 2, 3, 4])
    truth.set_indices(0, [3, 4, 5, 6])
    assert active.recall(truth, 0) == 0.5
    assert active.recall(truth, 1) == 1.0
    with pytest.raises(sf.ShapeError):
        active.recall(sf.ActiveSet.from_mask(ctx, np.ones(36, bool)), 0)


def test_limits(ctx, active):
    with pytest.raises(sf.ShapeError):
        active.clear(5)
    for use in (
        lambda: active.set_indices(3, [1]),
        lambda: active.set_all(3),
        lambda: active.set_mask(3, np.zeros(37, bool)),
        lambda: active.bitmap(3),
        lambda: active.indices(3),
    ):
        with pytest.raises((sf.ShapeError, sf.ArgumentError)):
            use()
    with pytest.raises(ValueError, match="negative"):
        active.set_all(-1)
    for sizes in (
        dict(n_blocks=0),
        dict(n_blocks=4, block_size=0),
        dict(n_blocks=4, max_tokens=0),
        dict(n_blocks=2**30, block_size=4),
    ):
        with pytest.raises(sf.ArgumentError):
            sf.ActiveSet(ctx, **sizes)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (np.zeros(36, bool), sf.ShapeError, r"mask: expected shape \[37\], got \[36\]"),
        (np.zeros(37, np.int64), TypeError, "mask: expected bool or uint8, got int64"),
        (np.zeros(74, bool)[::2], TypeError, "mask: expected adjacent bytes"),
        ([True] * 37, TypeError, "got list"),
    ],
)
def test_wrong_masks(active, mask, error, message):
    with pytest.raises(error, match=message):
        active.set_mask(0, mask)


def test_view_of_the_indices(active):
    active.set_indices(0, [1, 2, 3])
    view = active.indices(0, copy=False)
    copy = active.indices(0)
    address = view.ctypes.data
    assert view.tolist() == [1, 2, 3] and not view.flags.writeable
    with pytest.raises(ValueError):
        view.flags.writeable = True
    active.set_indices(0, [7, 8, 9])
    assert active.indices(0, copy=False).ctypes.data == address
    assert view.tolist() == [7, 8, 9] and copy.tolist() == [1, 2, 3]


def test_view_outlives_the_set(ctx):
    a = sf.ActiveSet(ctx, 100_000)
    a.clear(1)
    a.set_all(0)
    view = a.indices(0, copy=False)
    a.close()
    del a
    gc.collect()
    junk = [np.zeros(100_000, np.uint32) for _ in range(8)]
    assert np.array_equal(view, np.arange(100_000, dtype=np.uint32))
    del junk


def test_closed(active):
    active.close()
    with pytest.raises(ValueError, match="this ActiveSet is closed"):
        active.set_all(0)


VALUES = np.array([1, -3, 2, 0.5, -0.2, 0.1, 0.3, -4], np.float32)


@pytest.mark.parametrize(
    "kind, options, kept",
    [
        ("top_k", {"k": 4}, [0, 1, 2, 7]),
        ("block_top_k", {"k": 2, "m": 4}, [1, 2, 6, 7]),
        ("above", {"threshold": 1}, [2]),
        ("above", {"threshold": 1.0, "tie": "keep"}, [0, 2]),
        (sf.ValueRule.ABS_ABOVE, {"threshold": np.float32(2)}, [1, 7]),
        ("abs_above", {"threshold": np.array([2, 2, 2, 0.25, 0.25, 0.25, 0.25, 4], np.float32)}, [1, 3, 6]),
        ("statistical_top_k", {"sparsity": 0.5}, [0, 2, 3, 4, 5, 6]),
    ],
)
def test_values(ctx, kind, options, kept):
    a = sf.ActiveSet(ctx, 8)
    a.clear(1)
    a.set_values(0, VALUES, kind, **options)
    assert a.indices(0).tolist() == kept


def test_wrong_values_leave_the_set(ctx):
    a = sf.ActiveSet(ctx, 8)
    a.clear(1)
    a.set_indices(0, [5])
    for error, match, args, options in [
        (sf.ArgumentError, "rule.k is 5, rule.m 4", (0, VALUES, "block_top_k"), {"k": 5, "m": 4}),
        (sf.ArgumentError, "sparsity is 1", (0, VALUES, "statistical_top_k"), {"sparsity": 1}),
        (sf.ArgumentError, "token is 1", (1, VALUES), {}),
        (sf.ShapeError, "values: expected shape", (0, VALUES[:7]), {}),
        (sf.ShapeError, "threshold: expected shape", (0, VALUES), {"threshold": VALUES[:7]}),
        (TypeError, "values: expected float32", (0, VALUES.astype(np.float64)), {}),
        (TypeError, "values: expected float32", (0, None), {}),
        (ValueError, "'biggest' is none of", (0, VALUES, "biggest"), {}),
    ]:
        with pytest.raises(error, match=match):
            a.set_values(*args, **options)
    assert a.indices(0).tolist() == [5]


def test_normal_quantile():
    for p, t in [(0.25, 0.3186394), (0.4, 0.5244005), (0.5, 0.6744898), (0.9, 1.6448536)]:
        assert sf.normal_quantile(0.5 + p / 2) == pytest.approx(t, abs=5e-8)
    assert sf.normal_quantile(0) == -np.inf and np.isnan(sf.normal_quantile(2))
