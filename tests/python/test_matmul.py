"""Matmul against numpy in float64."""

from __future__ import annotations

import numpy as np
import pyref
import pytest
import sparseffn as sf
from pyref import DTYPES, QUANTISED, assert_within, decode, encode


def stored(data, dtype):
    return sf.Weights(data, dtype if dtype in QUANTISED else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", ["copy", "borrow"])
def test_rows_dot_and_axpy(any_isa, rng, dtype, storage):
    data = encode(rng.standard_normal((41, 96)).astype(np.float32), dtype)
    w = decode(data, dtype)
    m = sf.Matmul(any_isa, stored(data, dtype), storage=storage)
    info = m.info
    assert (info.n_rows, info.n_cols, info.dtype.name.lower(), info.storage.name.lower()) == (41, 96, dtype, storage)
    assert info.weight_bytes == data.nbytes and info.row_bytes >= data.nbytes // 41

    x = rng.standard_normal((5, 96)).astype(np.float32)
    mask = rng.random((5, 41)) < 0.3
    mask[0], mask[1] = False, True
    active = sf.ActiveSet.from_mask(any_isa, mask)
    exact, bound = x.astype(np.float64) @ w.T, pyref.dot_bound(w, x.astype(np.float64), dtype)
    assert_within(m.rows_dot(x), exact, bound, "dot")
    found = m.rows_dot(x, active)
    assert_within(found[mask], exact[mask], bound[mask], "sparse dot")
    assert (found[~mask] == 0).all()

    h = rng.standard_normal((5, 41)).astype(np.float32)
    masked = np.where(mask, h, 0).astype(np.float64)
    poisoned = np.where(mask, h, np.nan).astype(np.float32)
    assert_within(
        m.rows_axpy(h), h.astype(np.float64) @ w, pyref.axpy_bound(w, h.astype(np.float64), dtype, data), "axpy"
    )
    found = m.rows_axpy(poisoned, active)
    assert_within(found, masked @ w, pyref.axpy_bound(w, masked, dtype, data), "sparse axpy")
    assert (found[0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_get_row(ctx, rng, dtype):
    data = encode(rng.standard_normal((9, 64)).astype(np.float32), dtype)
    m = sf.Matmul(ctx, stored(data, dtype))
    out = np.full((2, 64), 5, np.float32)
    for row in range(9):
        assert np.array_equal(m.get_row(row), decode(data, dtype)[row].astype(np.float32))
    assert m.get_row(3, out=out[1]) is not None
    assert np.array_equal(out[1], m.get_row(3)) and (out[0] == 5).all()
    with pytest.raises(sf.ShapeError, match="9"):
        m.get_row(9)
    with pytest.raises(ValueError):
        m.get_row(-1)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_columns_are_transposed(ctx, rng, dtype):
    data = encode(rng.standard_normal((24, 40)).astype(np.float32), dtype)
    m = sf.Matmul(ctx, stored(data, dtype), layout="columns")
    assert (m.n_rows, m.n_cols) == (40, 24)
    w = decode(data, dtype).astype(np.float32)
    assert np.array_equal(np.stack([m.get_row(i) for i in range(40)]), w.T)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_lossless_blocks(ctx, rng, dtype):
    data = encode(rng.standard_normal((48, 96)).astype(np.float32), dtype)  # [n_cols][n_rows]
    m = sf.Matmul(ctx, sf.Weights(data, dtype), layout="columns", block_size=32)
    assert m.info.block_size == 32
    w = decode(data, dtype).T
    h = rng.standard_normal((2, 96)).astype(np.float32)
    mask = np.array([[True, False, True], [False, True, False]])
    active = sf.ActiveSet.from_mask(ctx, mask, block_size=32)
    masked = np.where(mask.repeat(32, 1), h, 0).astype(np.float64)
    # Scales belong to (column, block of 32 neurons) here, so h meets them as ggml's x does: in blocks of 32 int8.
    bound = pyref.x_error(masked) @ np.abs(w) + pyref.gamma(98) * (np.abs(masked) @ np.abs(w)) + 1e-37
    assert_within(m.rows_axpy(h, active), masked @ w, bound)
    poisoned = np.where(mask.repeat(32, 1), h, np.nan).astype(np.float32)
    assert np.array_equal(m.rows_axpy(poisoned, active), m.rows_axpy(h, active))
    with pytest.raises(sf.UnsupportedError):
        m.rows_dot(rng.standard_normal((1, 48)).astype(np.float32))


def test_repacking_to_another_type(ctx, rng):
    a = rng.standard_normal((6, 64)).astype(np.float32)
    m = sf.Matmul(ctx, a, dtype="q8_0")
    assert m.info.dtype is sf.DType.Q8_0
    expected = sf.dequantize(sf.quantize(a, "q8_0"))
    assert np.array_equal(np.stack([m.get_row(i) for i in range(6)]), expected)


def test_blocks_of_neurons(ctx, rng):
    w = rng.standard_normal((64, 16)).astype(np.float32)
    m = sf.Matmul(ctx, w)
    x = rng.standard_normal((1, 16)).astype(np.float32)
    active = sf.ActiveSet.from_mask(ctx, np.array([[False, True]]), block_size=32)
    full = m.rows_dot(x)
    found = m.rows_dot(x, active)
    assert (found[:, :32] == 0).all() and np.array_equal(found[:, 32:], full[:, 32:])


def test_borrow_reads_the_array_and_copy_does_not(ctx, rng):
    a = rng.standard_normal((4, 32)).astype(np.float32)
    before = a.copy()
    copied, borrowed = sf.Matmul(ctx, a), sf.Matmul(ctx, a, storage="borrow")
    a *= 2
    assert np.array_equal(copied.get_row(1), before[1])
    assert np.array_equal(borrowed.get_row(1), 2 * before[1])


def test_borrow_of_strided_and_unaligned_rows(ctx, rng):
    a = rng.standard_normal((4, 40)).astype(np.float32)
    part = a[:, 3:35]
    m = sf.Matmul(ctx, part, storage="borrow")
    x = rng.standard_normal((2, 32)).astype(np.float32)
    expected = sf.Matmul(ctx, part.copy()).rows_dot(x)
    assert np.array_equal(m.rows_dot(x), expected)
    raw = np.zeros(4 * 32 * 4 + 1, np.uint8)
    raw[1:] = np.frombuffer(part.tobytes(), np.uint8)
    unaligned = sf.Matmul(ctx, sf.Weights(raw[1:], "f32", (4, 32)), storage="borrow")
    assert np.array_equal(unaligned.rows_dot(x), expected)


@pytest.mark.parametrize(
    "weights, arguments, error",
    [
        (np.zeros((4, 32), np.float32), dict(storage="borrow", dtype="f16"), sf.UnsupportedError),
        (np.zeros((4, 32), np.float32), dict(storage="borrow", layout="columns"), sf.UnsupportedError),
        (np.zeros((4, 33), np.float32), dict(dtype="q8_0"), sf.ShapeError),
        (np.zeros((0, 32), np.float32), {}, sf.ArgumentError),
        (np.zeros((4, 32), np.float32), dict(layout="diagonal"), ValueError),
        (np.zeros((4, 32), np.float64), {}, TypeError),
    ],
)
def test_refused(ctx, weights, arguments, error):
    with pytest.raises(error) as e:
        sf.Matmul(ctx, weights, **arguments)
    assert str(e.value)


def test_active_of_another_shape(ctx):
    m = sf.Matmul(ctx, np.ones((64, 32), np.float32))
    x = np.ones((2, 32), np.float32)
    out = np.full((2, 64), 3, np.float32)
    for active in (
        sf.ActiveSet.from_mask(ctx, np.ones((2, 63), bool)),
        sf.ActiveSet.from_mask(ctx, np.ones((1, 64), bool)),
        sf.ActiveSet.from_mask(ctx, np.ones((2, 64), bool), block_size=32),
    ):
        with pytest.raises(sf.ShapeError):
            m.rows_dot(x, active, out)
    assert (out == 3).all()
    with pytest.raises(TypeError, match="active: expected an ActiveSet, got ndarray"):
        m.rows_dot(x, np.ones((2, 64), bool))


def test_other_context(ctx, rng):
    m = sf.Matmul(ctx, rng.standard_normal((33, 64)).astype(np.float32))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    with sf.Context(3) as other:
        assert np.array_equal(m.rows_dot(x, context=other), m.rows_dot(x))


def test_repr(ctx):
    m = sf.Matmul(ctx, np.ones((4, 8), np.float32))
    assert repr(m) == "<sparseffn.Matmul f32 [4, 8]>"
    m.close()
    assert repr(m) == "<sparseffn.Matmul closed>"
