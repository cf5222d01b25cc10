#!/usr/bin/env python3
"""ggml's weight types in numpy: f32, f16, bf16, q8_0 and q4_0, encoded and decoded bit for bit.

A matrix [rows][n] is encoded row by row into bytes [rows][row_bytes]; n is a multiple of 32 for the
block types. One block of 32 values is

    q8_0, 34 bytes: f16 scale d, 32 x int8 q            value = d * q
    q4_0, 18 bytes: f16 scale d, 16 bytes of nibbles    value = d * (nibble - 8)
                    byte i holds value i in its low and value i + 16 in its high four bits

    python3 quant.py --verify      compares with the gguf and ml_dtypes packages, bit for bit
"""
import sys

import numpy as np

BLOCK = 32
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
F32 = np.float32


def f32_to_bf16(x):
    """float32 [..] -> uint16 [..], round to nearest even; a NaN keeps its upper half, made quiet."""
    bits = np.asarray(x, "<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, quiet, rounded).astype("<u2")


def bf16_to_f32(bits):
    """uint16 [..] -> float32 [..], exact."""
    return (np.asarray(bits, "<u2").astype("<u4") << 16).view("<f4")


def f32_to_f16(x):
    """float32 [..] -> uint16 [..]; numpy rounds to nearest even, overflows to infinity, keeps denormals."""
    with np.errstate(over="ignore"):
        return np.asarray(x, "<f4").astype("<f2").view("<u2")


def f16_to_f32(bits):
    """uint16 [..] -> float32 [..], exact."""
    return np.asarray(bits, "<u2").view("<f2").astype("<f4")


def round_half_away(x):
    """C's roundf on float32, which differs from numpy's rint at halves."""
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= F32(0.5), np.copysign(F32(1), x), F32(0))


def inverse(d):
    """1 / d in float32, and 0 where d is 0."""
    return np.divide(F32(1), d, out=np.zeros_like(d), where=d != 0)


def encode_q8_0(x):
    """float32 [rows][n] -> uint8 [rows][n / 32 * 34]: d = max |x| / 127, q = roundf(x * (1 / d)).

    q is computed with the float32 d; only the stored d is rounded to f16.
    """
    rows = x.shape[0]
    x = np.asarray(x, "<f4").reshape(-1, BLOCK)
    d = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    q = round_half_away(x * inverse(d)).astype("i1")
    block = np.concatenate([f32_to_f16(d).view("u1"), q.view("u1")], axis=1)
    return block.reshape(rows, -1)


def decode_q8_0(raw):
    """uint8 [rows][row_bytes] -> float32 [rows][n]."""
    block = raw.reshape(-1, 34)
    d = f16_to_f32(np.ascontiguousarray(block[:, :2]).view("<u2"))
    q = np.ascontiguousarray(block[:, 2:]).view("i1").astype("<f4")
    return (d * q).reshape(raw.shape[0], -1)


def encode_q4_0(x):
    """float32 [rows][n] -> uint8 [rows][n / 32 * 18]: the value v of largest size (the first one) maps to -8.

    d = v / -8, nibble = min(15, trunc(x * (1 / d) + 8.5)), product and sum each rounded to float32.
    A compiler that fuses them into one FMA gets another nibble for a few values in ten million.
    A block of zeros that starts with -0 gets d = -0 as in ggml's C; the gguf package stores +0 there.
    """
    rows = x.shape[0]
    x = np.asarray(x, "<f4").reshape(-1, BLOCK)
    where = np.abs(x).argmax(axis=1)[:, None]
    largest = np.take_along_axis(x, where, axis=1) + F32(0)         # -0 becomes +0, as in ggml's loop
    d = largest / F32(-8)
    nibble = np.trunc(x * inverse(d) + F32(8.5)).astype("u1").clip(0, 15)
    packed = nibble[:, :16] | (nibble[:, 16:] << 4)
    return np.concatenate([f32_to_f16(d).view("u1"), packed], axis=1).reshape(rows, -1)


def decode_q4_0(raw):
    """uint8 [rows][row_bytes] -> float32 [rows][n]."""
    block = raw.reshape(-1, 18)
    d = f16_to_f32(np.ascontiguousarray(block[:, :2]).view("<u2"))
    nibble = np.concatenate([block[:, 2:] & 15, block[:, 2:] >> 4], axis=1)
    return (d * (nibble.astype("<f4") - F32(8))).reshape(raw.shape[0], -1)


def encode(x, wtype):
    """float32 [rows][n] -> uint8 [rows][row_bytes] in one of TYPES."""
    x = np.ascontiguousarray(x, "<f4")
    if wtype == "f32":
        return x.view("u1")
    if wtype == "f16":
        return f32_to_f16(x).view("u1")
    if wtype == "bf16":
        return f32_to_bf16(x).view("u1")
    return {"q8_0": encode_q8_0, "q4_0": encode_q4_0}[wtype](x)


def decode(raw, wtype):
    """uint8 [rows][row_bytes] -> float32 [rows][n]."""
    raw = np.ascontiguousarray(raw, "u1")
    if wtype == "f32":
        return raw.view("<f4")
    if wtype == "f16":
        return f16_to_f32(raw.view("<u2"))
    if wtype == "bf16":
        return bf16_to_f32(raw.view("<u2"))
    return {"q8_0": decode_q8_0, "q4_0": decode_q4_0}[wtype](raw)


def round_trip(x, wtype):
    """float32 [rows][n] -> float32 [rows][n] after encoding and decoding."""
    return decode(encode(x, wtype), wtype)


# ---------------------------------------------------------------- check against public packages

def hard_rows(rng):
    """float32 [rows][64]: ordinary, tiny, huge, zero, tied and half-way values."""
    rows = [rng.standard_normal((20000, 64)),
            rng.standard_normal((2000, 64)) * 1e-3,
            rng.standard_normal((500, 64)) * 1e-7,        # f16 scales become denormal or 0
            rng.standard_normal((500, 64)) * 1e5,
            rng.integers(-8, 9, (2000, 64)),              # ties for the largest value
            rng.integers(-127, 128, (2000, 64)) / 2,      # half-way cases for q8_0
            np.zeros((2, 64)), np.ones((2, 64)), -np.ones((2, 64)),
            np.eye(64), 0 - np.eye(64)]                   # not -np.eye: see encode_q4_0 on -0
    x = np.concatenate([r.astype("<f4") for r in rows])
    x[24500:26500, 5] = 63.5                              # makes d exactly 0.5, so x / d has halves
    return x


def verify():
    """Raises AssertionError at the first difference from gguf.quants or ml_dtypes."""
    import gguf
    import ml_dtypes
    rng = np.random.default_rng(1)
    x = hard_rows(rng)
    for wtype in TYPES:
        qtype = gguf.GGMLQuantizationType[wtype.upper()]
        with np.errstate(over="ignore"):
            theirs = gguf.quants.quantize(x, qtype).view("u1").reshape(x.shape[0], -1)
        ours = encode(x, wtype)
        assert np.array_equal(ours, theirs), f"{wtype}: encoding differs"
        back = gguf.quants.dequantize(theirs.view("<f4") if wtype == "f32" else
                                      theirs.view("<f2") if wtype == "f16" else theirs, qtype)
        same = np.array_equal(decode(ours, wtype).view("u4"), back.astype("<f4").view("u4"))
        assert same, f"{wtype}: decoding differs"
        print(f"{wtype}: {x.size} values, {ours.size} bytes, equal to the gguf package")
    # every finite f16 and bf16, and the point half-way to the next one, which must go to the even one
    for name, inf, to_f32, from_f32 in (("f16", 0x7C00, f16_to_f32, f32_to_f16),
                                        ("bf16", 0x7F80, bf16_to_f32, f32_to_bf16)):
        bits = np.concatenate([np.arange(inf - 1), np.arange(0x8000, 0x8000 + inf - 1)]).astype("<u2")
        value, after = to_f32(bits), to_f32(bits + 1)
        half = ((value.astype(np.float64) + after) / 2).astype("<f4")
        outward, inward = np.copysign(F32(np.inf), value), F32(0)
        assert np.array_equal(from_f32(value), bits), name
        assert np.array_equal(from_f32(half), bits + (bits & 1)), name
        assert np.array_equal(from_f32(np.nextafter(half, outward)), bits + 1), name
        assert np.array_equal(from_f32(np.nextafter(half, inward)), bits), name
        print(f"{name}: rounds to nearest even around all {bits.size} finite values")
    some = rng.integers(0, 2**32, 10**6, dtype=np.uint32).view("<f4")
    some = some[~np.isnan(some)]
    assert np.array_equal(f32_to_bf16(some), some.astype(ml_dtypes.bfloat16).view("<u2"))
    print(f"bf16: equal to ml_dtypes on {some.size} random bit patterns")


if __name__ == "__main__":
    if sys.argv[1:] != ["--verify"]:
        sys.exit(__doc__)
    verify()
