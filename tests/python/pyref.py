"""The layer in float64, and how far the library may be from it.

Bounds are derived, not tuned (as in tests/golden/README.md): gamma_n = n u / (1 - n u) per float32 sum of n terms; q8_0
and q4_0 add what rounding x to int8 (blocks of 32) and h to 15 bits does.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
QUANTISED = ("q8_0", "q4_0")


def gamma(n):
    return n * 2.0**-24 / (1 - n * 2.0**-24)


def round_bf16(a):
    """float32 -> the bits of bf16, to nearest even."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode(a, dtype):
    """float32 [rows, n] -> what Weights takes, by numpy alone (ggml's reference quantisers)."""
    a = np.ascontiguousarray(a, np.float32)
    if dtype == "f32":
        return a
    if dtype == "f16":
        return a.astype(np.float16)
    if dtype == "bf16":
        return round_bf16(a)
    blocks = a.reshape(a.shape[0], -1, 32)
    if dtype == "q8_0":
        d = np.abs(blocks).max(-1) / np.float32(127)
        inverse = np.divide(1, d, out=np.zeros_like(d), where=d != 0)
        x = blocks * inverse[..., None]
        q = (np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))).astype(np.int8).view(np.uint8)
    else:
        pick = np.abs(blocks).argmax(-1)[..., None]
        d = np.take_along_axis(blocks, pick, -1)[..., 0] / np.float32(-8)
        inverse = np.divide(1, d, out=np.zeros_like(d), where=d != 0)
        v = np.minimum(15, (blocks * inverse[..., None] + np.float32(8.5)).astype(np.int8)).astype(np.uint8)
        q = v[..., :16] | v[..., 16:] << 4
    scale = d.astype(np.float16)[..., None].view(np.uint8)
    return np.concatenate([scale, q], -1).reshape(a.shape[0], -1)


def decode(data, dtype):
    """The inverse, exact, to float64."""
    if dtype in ("f32", "f16"):
        return data.astype(np.float64)
    if dtype == "bf16":
        return bf16_to_f32(data).astype(np.float64)
    q, d = split_blocks(data, dtype)
    return (q * d[..., None]).reshape(data.shape[0], -1)


def split_blocks(data, dtype):
    """Bytes of q8_0 or q4_0 rows -> (integers [rows, blocks, 32], scales [rows, blocks])."""
    blocks = data.reshape(data.shape[0], -1, 34 if dtype == "q8_0" else 18)
    d = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float64)
    q = np.ascontiguousarray(blocks[..., 2:])
    if dtype == "q8_0":
        return q.view(np.int8).astype(np.float64), d
    return np.concatenate([q & 15, q >> 4], -1).astype(np.float64) - 8, d


def x_error(x):
    """Largest error per element when x becomes blocks of 32 int8: half a step, and the rounding of the scale to f16."""
    blocks = np.abs(x).reshape(*x.shape[:-1], -1, 32)
    step = blocks.max(-1, keepdims=True) / 127
    return np.broadcast_to(step * (0.5 + 127 * 2.0**-11) * 1.001, blocks.shape).reshape(x.shape)


def dot_bound(w, x, dtype, bias=0.0):
    """|rows_dot(w, x) - exact| for every token and row; w decoded [rows, n], x [tokens, n]."""
    terms = np.abs(x) @ np.abs(w).T + np.abs(bias)
    bound = gamma(w.shape[1] + 2) * terms
    if dtype in QUANTISED:
        bound = bound + x_error(x) @ np.abs(w).T * (1 + gamma(w.shape[1]))
    return bound + 1e-37


def axpy_bound(w, h, dtype, data=None):
    """|rows_axpy(w, h) - exact|; data: the stored bytes of quantised w."""
    bound = gamma(w.shape[0] + 2) * (np.abs(h) @ np.abs(w))
    if dtype in QUANTISED:
        q, d = split_blocks(data, dtype)
        largest = (np.abs(h)[:, :, None] * np.abs(d)[None]).max((1, 2), initial=0)  # of |h * scale|, per token
        # 15 bits: the step is largest / 2^14 at most, half of it is lost, on every neuron that is not zero.
        steps = (h != 0).astype(np.float64) @ np.abs(q).reshape(len(w), -1)
        bound = bound + largest[:, None] * 2.0**-15 * 1.01 * steps
    return bound + 1e-37


_erf = np.vectorize(math.erf)


def act(kind, g, t=0.0, keep=True):
    if kind == "relu":
        return np.maximum(g, 0)
    if kind == "fatrelu":
        return np.where(g >= t if keep else g > t, g, 0)
    if kind == "shifted_relu":
        return np.maximum(g - t, 0)
    if kind == "relu2":
        return np.maximum(g, 0) ** 2
    if kind == "silu":
        return g / (1 + np.exp(-g))
    if kind == "gelu":
        return g * 0.5 * (1 + _erf(g / math.sqrt(2)))
    if kind == "gelu_tanh":
        return 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    raise ValueError(kind)


@dataclass
class Layer:
    """Stored and decoded weights of one random layer. down is [d_ff, d_model] here, whatever its stored layout."""

    dtype: str
    gate_data: np.ndarray | None
    up_data: np.ndarray
    down_data: np.ndarray
    down_layout: str

    @classmethod
    def random(cls, rng, dtype, d_model, d_ff, gated=True, down_layout="rows"):
        def matrix(rows, n):
            return encode(rng.standard_normal((rows, n)).astype(np.float32) / math.sqrt(d_model), dtype)

        gate, up = (matrix(d_ff, d_model) if gated else None), matrix(d_ff, d_model)
        down = matrix(d_ff, d_model) if down_layout == "rows" else matrix(d_model, d_ff)
        return cls(dtype, gate, up, down, down_layout)

    @property
    def gate(self):
        return None if self.gate_data is None else decode(self.gate_data, self.dtype)

    @property
    def up(self):
        return decode(self.up_data, self.dtype)

    @property
    def down(self):
        down = decode(self.down_data, self.dtype)
        return down if self.down_layout == "rows" else down.T

    def weights(self, sf):
        """FFN's keyword arguments."""
        kind = self.dtype if self.dtype in QUANTISED else None

        def of(data):
            return sf.Weights(data, kind)

        found = dict(up=of(self.up_data), down=of(self.down_data), down_layout=self.down_layout)
        if self.gate_data is not None:
            found["gate"] = of(self.gate_data)
        return found

    def relu(self, x):
        """(h, y, bound of h, bound of y) of a gated ReLU layer, float64 and derived."""
        x = x.astype(np.float64)
        g, u = x @ self.gate.T, x @ self.up.T
        dg, du = dot_bound(self.gate, x, self.dtype), dot_bound(self.up, x, self.dtype)
        s = np.maximum(g, 0)
        h = s * u
        # relu is 1-Lipschitz, so a decision that flips costs no more than dg.
        dh = (dg * np.abs(u) + s * du + dg * du) * (1 + gamma(4)) + gamma(2) * np.abs(h)
        dh = np.where(g > -dg, dh, 0)
        y = h @ self.down
        hs = np.abs(h) + dh
        return h, y, dh, dh @ np.abs(self.down) + axpy_bound(self.down, hs, self.dtype, self.down_data)


def assert_within(found, expected, bound, what=""):
    found = np.asarray(found, np.float64)
    assert np.isfinite(found).all(), f"{what}: not finite"
    excess = np.abs(found - expected) - bound
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert excess[worst] <= 0, f"{what}{list(worst)}: {found[worst]} instead of {expected[worst]} +- {bound[worst]}"


def read_golden(path):
    """tests/golden/*.bin -> (fields, arrays); quantised and 16-bit arrays stay stored."""
    data = path.read_bytes()
    assert data[:8] == b"SFFNGLD1"
    n_fields, n_arrays = struct.unpack_from("<II", data, 8)
    fields, arrays = {}, {}
    text = lambda b: b.split(b"\0")[0].decode()  # noqa: E731
    for i in range(n_fields):
        name, kind, value = struct.unpack_from("<24s8s32s", data, 64 * (1 + i))
        unpack = {"u32": lambda v: struct.unpack_from("<I", v)[0], "f32": lambda v: struct.unpack_from("<f", v)[0]}
        fields[text(name)] = unpack.get(text(kind), text)(value)
    for i in range(n_arrays):
        name, dtype, n_dims, _, d0, d1, offset, n_bytes = struct.unpack_from(
            "<24s8sIIIIQQ", data, 64 * (1 + n_fields + i)
        )
        kind = {"f32": "<f4", "f16": "<f2", "bf16": "<u2", "f64": "<f8"}.get(text(dtype), "u1")
        array = np.frombuffer(data, kind, n_bytes // np.dtype(kind).itemsize, offset)
        arrays[text(name)] = array.reshape((d0, -1) if n_dims == 2 else -1)
    return fields, arrays
