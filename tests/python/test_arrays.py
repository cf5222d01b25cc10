"""Arrays in and out: no copies, and errors that say what was expected."""

from __future__ import annotations

import array
import ctypes

import numpy as np
import pytest
import sparseffn as sf
from sparseffn._lib import lib

N_ROWS, N_COLS = 48, 32


@pytest.fixture
def matmul(ctx, rng):
    return sf.Matmul(ctx, rng.standard_normal((N_ROWS, N_COLS), dtype=np.float32))


@pytest.fixture
def calls(monkeypatch):
    """Records what reaches sffn_matmul_rows_dot."""
    seen = []
    original = lib.sffn_matmul_rows_dot

    def spy(*args):
        seen.append(args)
        return original(*args)

    monkeypatch.setattr(lib, "sffn_matmul_rows_dot", spy)
    return seen


class ArrayInterface:
    def __init__(self, of):
        self._of = of
        self.__array_interface__ = of.__array_interface__


class DLPack:
    def __init__(self, of):
        self._of = of

    def __dlpack__(self, **options):
        return self._of.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._of.__dlpack_device__()


@pytest.mark.parametrize(
    "wrap",
    [lambda a: a, ArrayInterface, DLPack, memoryview, lambda a: a.view(np.matrix), lambda a: a.view(np.recarray)],
    ids=["ndarray", "array_interface", "dlpack", "buffer", "subclass", "recarray"],
)
def test_inputs_are_read_in_place(matmul, rng, calls, wrap):
    x = rng.standard_normal((3, N_COLS), dtype=np.float32)
    y = matmul.rows_dot(wrap(x))
    assert calls[0][2] == x.ctypes.data
    assert y.ctypes.data == calls[0][6]
    assert np.array_equal(y, matmul.rows_dot(x))


@pytest.mark.parametrize(
    "wrap", [lambda a: a, ArrayInterface, memoryview], ids=["ndarray", "array_interface", "buffer"]
)
def test_outputs_are_written_in_place(matmul, rng, calls, wrap):
    x = rng.standard_normal((3, N_COLS), dtype=np.float32)
    out = np.full((3, N_ROWS), np.nan, np.float32)
    given = wrap(out)
    assert matmul.rows_dot(x, out=given) is given
    assert calls[0][6] == out.ctypes.data
    assert np.array_equal(out, matmul.rows_dot(x))


def test_one_token_is_one_dimensional(matmul, rng):
    x = rng.standard_normal((3, N_COLS), dtype=np.float32)
    y = matmul.rows_dot(x)
    assert y.shape == (3, N_ROWS) and y.dtype == np.float32
    one = matmul.rows_dot(x[1])
    assert one.shape == (N_ROWS,) and np.array_equal(one, y[1])
    out = np.empty((1, N_ROWS), np.float32)
    assert np.array_equal(matmul.rows_dot(x[1], out=out)[0], y[1])
    flat = np.empty(N_ROWS, np.float32)
    assert np.array_equal(matmul.rows_dot(x[1:2], out=flat), y[1])


def test_no_tokens(matmul):
    y = matmul.rows_dot(np.empty((0, N_COLS), np.float32))
    assert y.shape == (0, N_ROWS)


def test_row_strides_on_both_sides(matmul, rng, calls):
    x = rng.standard_normal((6, N_COLS + 7), dtype=np.float32)
    out = np.full((6, N_ROWS + 5), 7, np.float32)
    source, target = x[::2, 3 : 3 + N_COLS], out[1::2, 2 : 2 + N_ROWS]
    matmul.rows_dot(source, out=target)
    assert calls[0][2:5] == (source.ctypes.data, 2 * (N_COLS + 7), 3)
    assert calls[0][6:8] == (target.ctypes.data, 2 * (N_ROWS + 5))
    assert np.array_equal(target, matmul.rows_dot(np.ascontiguousarray(source)))
    assert (out[::2] == 7).all() and (out[:, :2] == 7).all() and (out[:, 2 + N_ROWS :] == 7).all()


def test_stride_of_a_single_row_does_not_matter(matmul, rng):
    x = rng.standard_normal((8, N_COLS), dtype=np.float32)
    y = matmul.rows_dot(x[2:3])
    assert np.array_equal(matmul.rows_dot(x[2:7:8]), y)
    assert np.array_equal(matmul.rows_dot(np.broadcast_to(x[2], (1, N_COLS))), y)


def test_unaligned_input(matmul, rng, calls):
    x = rng.standard_normal((2, N_COLS), dtype=np.float32)
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    shifted = raw[1:].view(np.float32).reshape(x.shape)
    assert not shifted.flags.aligned
    assert np.array_equal(matmul.rows_dot(shifted), matmul.rows_dot(x))
    assert calls[0][2] == raw.ctypes.data + 1


def f32(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros((2, N_COLS)), TypeError, "x: expected float32, got float64"),
        (np.zeros((2, N_COLS), np.float16), TypeError, "x: expected float32, got float16"),
        (f32(2, N_COLS).astype(">f4"), TypeError, "x: expected float32, got >f4"),
        (np.zeros((2, N_COLS), np.int32), TypeError, "x: expected float32, got int32"),
        ([0.0] * N_COLS, TypeError, "x: expected a numpy array, a CPU tensor, .* got list"),
        (None, TypeError, "x: .* got NoneType"),
        (1.0, TypeError, "x: .* got float"),
        (array.array("d", [0.0] * N_COLS), TypeError, "x: expected float32, got float64"),
        (f32(N_COLS, 2).T, TypeError, r"x: expected rows of adjacent floats \(C order\).*ascontiguousarray"),
        (f32(2, 2 * N_COLS)[:, ::2], TypeError, "x: expected rows of adjacent floats"),
        (f32(2, N_COLS)[:, ::-1], TypeError, "x: expected rows of adjacent floats"),
        (f32(2, N_COLS)[::-1], TypeError, "x: expected rows at least 128 bytes apart"),
        (np.broadcast_to(f32(N_COLS), (3, N_COLS)), TypeError, "x: expected rows at least 128 bytes apart"),
        (
            f32(2, N_COLS + 1),
            sf.ShapeError,
            r"x: expected shape \[32\] or \[n_tokens, 32\] \(n_cols = 32\), got \[2, 33\]",
        ),
        (f32(N_COLS - 1), sf.ShapeError, "x: expected shape"),
        (f32(1, 2, N_COLS), sf.ShapeError, "x: expected shape"),
        (np.float32(1), sf.ShapeError, "x: expected shape"),
    ],
)
def test_wrong_inputs(matmul, calls, x, error, message):
    with pytest.raises(error, match=message):
        matmul.rows_dot(x)
    assert not calls


def readonly():
    a = f32(2, N_ROWS)
    a.flags.writeable = False
    return a


def unaligned():
    return np.zeros(2 * N_ROWS * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, N_ROWS)


@pytest.mark.parametrize(
    "out, error, message",
    [
        (readonly(), TypeError, "out: expected a writable array"),
        (bytes(2 * N_ROWS * 4), TypeError, "out: expected a writable array"),
        (unaligned(), TypeError, "out: expected an array aligned to 4 bytes"),
        (np.zeros((2, N_ROWS)), TypeError, "out: expected float32, got float64"),
        (f32(3, N_ROWS), sf.ShapeError, r"out: expected shape \[2, 48\] \(n_rows = 48\), got \[3, 48\]"),
        (f32(2, N_COLS), sf.ShapeError, "out: expected shape"),
        (f32(N_ROWS), sf.ShapeError, "out: expected shape"),
        (f32(N_ROWS, 2).T, TypeError, "out: expected rows of adjacent floats"),
        (np.lib.stride_tricks.as_strided(f32(N_ROWS), (2, N_ROWS), (0, 4)), TypeError, "out: expected rows at least"),
    ],
)
def test_wrong_outputs(matmul, calls, out, error, message):
    with pytest.raises(error, match=message):
        matmul.rows_dot(f32(2, N_COLS), out=out)
    assert not calls


def test_overlap_is_refused_and_interleaving_is_not(ctx, rng):
    square = sf.Matmul(ctx, rng.standard_normal((16, 16), dtype=np.float32))
    both = rng.standard_normal((4, 40), dtype=np.float32)
    x, out = both[:, :16], both[:, 20:36]
    expected = square.rows_dot(x.copy())
    for shift in (0, 1, 15):
        with pytest.raises(sf.ArgumentError, match="out: must not overlap x"):
            square.rows_dot(x, out=both[:, shift : shift + 16])
    assert np.array_equal(square.rows_dot(x, out=out), expected)


def test_views_keep_the_memory_alive_during_the_call(matmul):
    """The only reference to the input is the argument itself."""
    assert matmul.rows_dot(np.ones((2000, N_COLS), np.float32)).shape == (2000, N_ROWS)


def test_ctypes_buffers(matmul, rng):
    x = (ctypes.c_float * N_COLS)(*rng.standard_normal(N_COLS))
    assert np.array_equal(matmul.rows_dot(x), matmul.rows_dot(np.array(x, np.float32)))
