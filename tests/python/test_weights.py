"""Weights, quantize, dequantize."""

from __future__ import annotations

import numpy as np
import pyref
import pytest
import sparseffn as sf


@pytest.mark.parametrize(
    "dtype, block, row", [("f32", 1, 256), ("f16", 1, 128), ("bf16", 1, 128), ("q8_0", 32, 68), ("q4_0", 32, 36)]
)
def test_sizes(dtype, block, row):
    assert sf.block_size(dtype) == block
    assert sf.row_bytes(dtype, 64) == row
    assert sf.row_bytes(dtype, 0) == 0
    if block > 1:
        with pytest.raises(sf.ShapeError, match="multiple of 32"):
            sf.row_bytes(dtype, 33)


@pytest.mark.parametrize("dtype", pyref.DTYPES)
def test_quantize_equals_the_independent_encoder(rng, dtype):
    a = (rng.standard_normal((7, 96)) * 10.0 ** rng.integers(-4, 4, (7, 1))).astype(np.float32)
    a[3] = 0
    w = sf.quantize(a, dtype)
    assert w.dtype.name.lower() == dtype and w.shape == (7, 96)
    expected = pyref.encode(a, dtype)
    assert np.array_equal(w.array, expected)
    assert np.array_equal(sf.dequantize(w), pyref.decode(expected, dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "bf16", "f16"])
def test_quantize_equals_the_gguf_package(rng, dtype):
    gguf = pytest.importorskip("gguf")
    a = rng.standard_normal((5, 128)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    expected = gguf.quants.quantize(a, kind)
    found = sf.quantize(a, dtype)
    assert found.array.tobytes() == expected.tobytes()
    assert np.array_equal(sf.dequantize(found), gguf.quants.dequantize(expected, kind))


def test_quantize_of_strided_rows(rng):
    a = rng.standard_normal((6, 80)).astype(np.float32)
    part = a[::2, 8:72]
    assert np.array_equal(sf.quantize(part, "q8_0").array, sf.quantize(part.copy(), "q8_0").array)
    out = np.full((3, 70), 9, np.float32)
    target = out[:, 3:67]
    assert sf.dequantize(sf.quantize(part, "f32"), out=target) is target
    assert np.array_equal(target, part) and (out[:, :3] == 9).all() and (out[:, 67:] == 9).all()


def test_quantize_refuses(rng):
    with pytest.raises(TypeError, match="array: expected float32"):
        sf.quantize(np.zeros((2, 32)).astype(np.float16), "q8_0")
    with pytest.raises(TypeError):
        sf.quantize(np.zeros((2, 32)), "q8_0")
    with pytest.raises(sf.ShapeError, match="multiple of 32"):
        sf.quantize(np.zeros((2, 33), np.float32), "q4_0")
    with pytest.raises(ValueError, match="dtype: 'q5_1' is none of"):
        sf.quantize(np.zeros((2, 32), np.float32), "q5_1")


def test_weights_share_memory():
    a = np.zeros((4, 8), np.float32)
    w = sf.Weights(a)
    assert w.address == a.ctypes.data and w.dtype is sf.DType.F32 and w.shape == (4, 8) and w.row_bytes == 32
    assert np.shares_memory(w.array, a) and w.nbytes == 128
    part = np.zeros((9, 20), np.float16)[1::2, 4:12]
    w = sf.Weights(part)
    assert (w.dtype, w.shape, w.row_bytes, w.address) == (sf.DType.F16, (4, 8), 80, part.ctypes.data)


def test_bf16_forms():
    bits = np.arange(32, dtype=np.uint16).reshape(2, 16)
    assert sf.Weights(bits).dtype is sf.DType.BF16
    assert sf.Weights(bits, "bf16").dtype is sf.DType.BF16
    assert sf.Weights(bits, "f16").dtype is sf.DType.F16
    ml_dtypes = pytest.importorskip("ml_dtypes")
    real = bits.view(ml_dtypes.bfloat16)
    w = sf.Weights(real)
    assert w.dtype is sf.DType.BF16 and w.address == bits.ctypes.data
    assert np.array_equal(sf.dequantize(w), real.astype(np.float32))


def test_raw_bytes():
    flat = np.zeros(3 * 68, np.uint8)
    w = sf.Weights(flat, "q8_0", (3, 64))
    assert w.shape == (3, 64) and w.row_bytes == 68 and w.address == flat.ctypes.data
    assert sf.Weights(flat.reshape(3, 68), "q8_0").shape == (3, 64)
    assert sf.Weights(flat.tobytes(), "q8_0", (3, 64)).shape == (3, 64)
    padded = np.zeros((3, 80), np.uint8)[:, :68]
    assert sf.Weights(padded, "q8_0").row_bytes == 80
    assert sf.Weights(np.zeros((2, 16), np.uint8), "f32").shape == (2, 4)
    unaligned = np.zeros(2 * 16 + 1, np.uint8)[1:]
    assert sf.Weights(unaligned, "f32", (2, 4)).address == unaligned.ctypes.data


@pytest.mark.parametrize(
    "data, arguments, error, message",
    [
        (np.zeros((2, 34), np.uint8), {}, TypeError, "raw bytes need dtype="),
        (np.zeros(68, np.uint8), dict(dtype="q8_0"), sf.ShapeError, "flat bytes need shape"),
        (np.zeros(69, np.uint8), dict(dtype="q8_0", shape=(1, 64)), sf.ShapeError, "takes 1 x 68 bytes, got 69"),
        (np.zeros((2, 35), np.uint8), dict(dtype="q8_0"), sf.ShapeError, "no whole q8_0 blocks of 34"),
        (np.zeros((2, 34), np.uint8), dict(dtype="q8_0", shape=(2, 64)), sf.ShapeError, r"expected shape \[2, 68\]"),
        (np.zeros((2, 36), np.uint8), dict(dtype="q4_0", shape=(2, 33)), sf.ShapeError, "multiple of 32"),
        (np.zeros((2, 4), np.float64), {}, TypeError, "expected float32, float16, bfloat16"),
        (np.zeros((2, 4), np.int16), {}, TypeError, "expected float32, float16, bfloat16"),
        (np.zeros((2, 4), ">f4"), {}, TypeError, "expected float32, float16, bfloat16"),
        (np.zeros((2, 4), np.float32), dict(dtype="f16"), TypeError, "expected float16 for dtype 'f16', got float32"),
        (np.zeros((2, 32), np.float32), dict(dtype="q8_0"), TypeError, "uint8"),
        (np.zeros((4, 2), np.float32).T, {}, TypeError, "adjacent elements"),
        (np.zeros((4, 2), np.float32)[::-1], {}, TypeError, "rows at least 8 bytes apart"),
        (np.zeros(4, np.float32), {}, sf.ShapeError, "expected a matrix, got 1 dimensions"),
        (np.zeros((1, 2, 4), np.float32), {}, sf.ShapeError, "expected a matrix, got 3 dimensions"),
        ([[1.0]], {}, TypeError, "got list"),
        (np.zeros((2, 4), np.float32), dict(shape=(2, 5)), sf.ShapeError, "expected shape"),
    ],
)
def test_refused(data, arguments, error, message):
    with pytest.raises(error, match=message):
        sf.Weights(data, **arguments)
