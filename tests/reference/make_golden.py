#!/usr/bin/env python3
"""Writes ../golden/*.bin: small FFN layers with y computed in float64, and ../golden/README.md.

Weights are drawn, encoded in the case's type, decoded again, and everything is computed from the decoded
values with correctly rounded sums (math.fsum). Nothing of the library is used.

Rows are drawn neuron by neuron and redrawn until no decision of that neuron is close to its threshold,
so that float32, bf16 and int8 arithmetic must all find the same active set. Exact ties are the exception:
"grid" cases hold multiples of 1/4 only, every sum is exact in float32, and equality is wanted.

    python3 make_golden.py [OUT_DIR]
"""
import math
import os
import struct
import sys
import zlib

import numpy as np

import quant

BLOCK_TYPES = ("q8_0", "q4_0")
MIN_MARGIN = 1e-3
BF16_SLACK = 2.0 ** -7      # four times the relative error of rounding x to bf16
INT8_STEP = 1 / 220         # half a step of int8, 1 / 254 of the largest value, and 1 / 2048 for its scale in f16

# ---------------------------------------------------------------- activations

SQRT_2 = math.sqrt(2.0)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def activate(kind, v, threshold, tie):
    """Returns (act(v), does v pass the activation's own test). Smooth activations let everything pass."""
    if kind in ("relu", "drelu"):
        return (v, True) if v > 0 else (0.0, False)
    if kind == "relu2":
        return (v * v, True) if v > 0 else (0.0, False)
    if kind == "fatrelu":
        keep = v >= threshold if tie == "keep" else v > threshold
        return (v, True) if keep else (0.0, False)
    if kind == "silu":
        return v / (1.0 + math.exp(-v)), True
    if kind == "gelu_erf":
        return 0.5 * v * (1.0 + math.erf(v / SQRT_2)), True
    if kind == "gelu_tanh":
        return 0.5 * v * (1.0 + math.tanh(SQRT_2_OVER_PI * (v + 0.044715 * v ** 3))), True
    raise ValueError(kind)


def slope(kind, v):
    """An upper bound of |act'| around v."""
    if kind == "relu2":
        return 2.0 * abs(v)
    return 1.15 if kind in ("silu", "gelu_erf", "gelu_tanh") else 1.0


# ---------------------------------------------------------------- one neuron, one token

def dot(row, x, bias):
    """row [D], x [D] float32 -> (sum, sum of absolute terms) in float64, the bias being one more term."""
    terms = [float(a) * float(b) for a, b in zip(row, x)] + [bias]   # f32 * f32 is exact in float64
    return math.fsum(terms), math.fsum(abs(t) for t in terms)


def neuron(case, gate_row, up_row, gate_bias, up_bias, rule_t, x):
    """One neuron of one token -> dict of its values, bounds and decisions (value, threshold, bound)."""
    kind, t = case["activation"], case["act_threshold"]
    x_step = float(np.abs(x).max()) * INT8_STEP
    gated = case["gated"]
    u, u_abs = dot(up_row, x, up_bias)
    u_int8 = x_step * float(np.abs(up_row.astype("f8")).sum())
    if gated:
        g, g_abs = dot(gate_row, x, gate_bias)
        g_int8 = x_step * float(np.abs(gate_row.astype("f8")).sum())
    else:
        g, g_abs, g_int8 = u, u_abs, u_int8
    s, passes = activate(kind, g, t, case["act_tie"])
    decisions = []
    if kind in ("relu", "drelu", "relu2"):
        decisions.append((g, 0.0, g_abs, g_int8))
    if kind == "fatrelu":
        decisions.append((g, t, g_abs, g_int8))
    if gated:
        factor = u
        if kind == "drelu":
            decisions.append((u, 0.0, u_abs, u_int8))
            passes = passes and u > 0
            factor = max(u, 0.0)
        h = s * factor
        lip = slope(kind, g)
        h_cond = lip * abs(u) * g_abs + abs(s) * u_abs + max(abs(g), abs(s)) * abs(u)
        lip8 = slope(kind, abs(g) + g_int8)
        h_int8 = lip8 * abs(u) * g_int8 + abs(s) * u_int8 + lip8 * g_int8 * u_int8
    else:
        h = s
        lip, lip8 = slope(kind, g), slope(kind, abs(g) + g_int8)
        h_cond = lip * g_abs + max(abs(g), abs(s))
        h_int8 = lip8 * g_int8
    rule = case["rule"]
    if rule != "none":
        if rule == "abs_h":
            value, bound, int8 = abs(h), h_cond, h_int8
        else:
            value = abs(s) if rule == "abs_score" else s
            bound, int8 = lip * g_abs, lip8 * g_int8
        decisions.append((value, rule_t, bound, int8))
        passes = passes and (value >= rule_t if case["rule_tie"] == "keep" else value > rule_t)
    return {"h": h if passes else 0.0, "active": passes, "gate_abs": g_abs, "up_abs": u_abs,
            "h_cond": h_cond if passes else 0.0, "h_int8": h_int8 if passes else 0.0,
            "value": decisions[-1][0] if decisions else 0.0, "decisions": decisions}


def is_clear(case, decisions):
    """No decision is close to its threshold; an exact tie is not close, it is the point."""
    for value, threshold, bound, int8 in decisions:
        gap = abs(value - threshold)
        need = MIN_MARGIN
        if case["wtype"] in BLOCK_TYPES:
            need = max(need, 1.2 * int8)
        elif not case["grid"]:
            need = max(need, BF16_SLACK * bound)
        if gap != 0 and gap < need:
            return False
    return True


# ---------------------------------------------------------------- one layer

def draw(rng, case, count, scale):
    """float32 [count]: multiples of 1/4 in [-1, 1] for grid cases, else normal."""
    if case["grid"]:
        return (rng.integers(-4, 5, count) / 4).astype("f4")
    return (rng.standard_normal(count) * scale).astype("f4")


def make_layer(case):
    """Returns {array name: array} of one case; raw weights are uint8."""
    rng = np.random.default_rng(zlib.crc32(case["seed"].encode()))
    d, f, n, wtype = case["d_model"], case["d_ff"], case["n_tokens"], case["wtype"]
    x = np.stack([draw(rng, case, d, 1.0) for _ in range(n)])
    if case["special"] == "mirror":
        x[1] = -x[0]
    elif case["special"] == "zero":
        x[1] = 0
    elif case["special"] == "none":
        x[:] = np.abs(x)                      # all inputs positive, so rows can be drawn that never fire

    rows = {"gate": [], "up": []}
    biases = {"gate_bias": [], "up_bias": []}
    thresholds, columns, n_ties = [], [], 0
    for i in range(f):
        for attempt in range(20000):
            gate, up = (quant.round_trip(draw(rng, case, d, d ** -0.5)[None, :], wtype)[0] for _ in "gu")
            gate_bias, up_bias = (float(np.float32(b)) for b in draw(rng, case, 2, 0.3))
            gate_bias = gate_bias if case["bias"] else 0.0
            up_bias = up_bias if case["bias"] else 0.0
            if case["special"] in ("mirror", "zero"):
                # turn the row so that token 0 can be active: it is in every neuron, token 1 in none
                if dot(gate, x[0], gate_bias)[0] < 0:
                    gate, gate_bias = -gate, -gate_bias
                if (case["activation"] == "drelu" or not case["gated"]) and dot(up, x[0], up_bias)[0] < 0:
                    up, up_bias = -up, -up_bias
            elif case["special"] == "none":
                gate, up = -np.abs(gate), -np.abs(up)
            rule_t = case["rule_threshold"]
            if case["vector"]:
                rule_t = float(np.float32(rng.uniform(*case["vector"])))
                if case["grid"]:              # a value that some token really has
                    tokens = [neuron(case, gate, up, gate_bias, up_bias, 0.0, v) for v in x]
                    rule_t = tokens[int(rng.integers(n))]["value"]
            tokens = [neuron(case, gate, up, gate_bias, up_bias, rule_t, v) for v in x]
            decisions = [dec for t in tokens for dec in t["decisions"]]
            ties = sum(v == t and t != 0 for v, t, _, _ in decisions)
            if not is_clear(case, decisions):
                continue
            if case["grid"] and (rule_t < 0.01 if case["vector"] else i % 3 == 0 and ties == 0):
                continue
            if case["special"] in ("mirror", "zero") and not (tokens[0]["active"] and not tokens[1]["active"]):
                continue
            break
        else:
            raise RuntimeError(f"{case['name']}: no row found for neuron {i}")
        rows["gate"].append(gate)
        rows["up"].append(up)
        biases["gate_bias"].append(gate_bias)
        biases["up_bias"].append(up_bias)
        thresholds.append(rule_t)
        columns.append(tokens)
        n_ties += ties

    arrays = {}
    if case["gated"]:
        arrays["gate"] = quant.encode(np.stack(rows["gate"]), wtype)
    arrays["up"] = quant.encode(np.stack(rows["up"]), wtype)
    for name in ("gate", "up"):               # encoding decoded rows once more must change nothing
        if name in arrays:
            assert np.array_equal(quant.decode(arrays[name], wtype), np.stack(rows[name])), (case["name"], name)
    neuron_major = wtype in BLOCK_TYPES
    shape = (f, d) if neuron_major else (d, f)
    down = np.stack([draw(rng, case, shape[1], f ** -0.5) for _ in range(shape[0])])
    arrays["down"] = quant.encode(down, wtype)
    down = quant.decode(arrays["down"], wtype)
    down = down if neuron_major else np.ascontiguousarray(down.T)            # [F][D] from here on
    down_bias = draw(rng, case, d, 0.3) if case["bias"] else np.zeros(d, "f4")
    if case["bias"]:
        if case["gated"]:
            arrays["gate_bias"] = np.array(biases["gate_bias"], "f4")
        arrays["up_bias"] = np.array(biases["up_bias"], "f4")
        arrays["down_bias"] = down_bias
    if case["vector"]:
        arrays["thresholds"] = np.array(thresholds, "f4")
    arrays["x"] = x

    def per_neuron(key, dtype):               # -> [n][F]
        return np.array([[columns[i][t][key] for i in range(f)] for t in range(n)], dtype)

    h = per_neuron("h", "f8")
    arrays["h"] = h
    arrays["active"] = per_neuron("active", "u1")
    y, y_abs = np.zeros((n, d)), np.zeros((n, d))
    for t in range(n):
        for j in range(d):
            terms = [h[t, i] * float(down[i, j]) for i in range(f)] + [float(down_bias[j])]
            y[t, j] = math.fsum(terms)
            y_abs[t, j] = math.fsum(abs(v) for v in terms)
    if case["grid"]:
        assert np.array_equal(y, y.astype("f4")), case["name"]
    arrays["y"], arrays["y_abs"] = y, y_abs
    if case["gated"]:
        arrays["gate_abs"] = per_neuron("gate_abs", "f8")
    arrays["up_abs"] = per_neuron("up_abs", "f8")
    arrays["h_cond"] = per_neuron("h_cond", "f8")
    arrays["y_cond"] = arrays["h_cond"] @ np.abs(down.astype("f8"))
    if neuron_major:
        arrays["h_int8"] = per_neuron("h_int8", "f8")
        arrays["y_int8"] = y_int8(case, arrays, down)
    facts = {"n_ties": n_ties, "density": float(arrays["active"].mean()),
             "all_active": int(arrays["active"].all(axis=1).sum()),
             "none_active": int((~arrays["active"].astype(bool).any(axis=1)).sum())}
    return arrays, facts


def y_int8(case, arrays, down):
    """[n][D] bound of y's error when h, too, is rounded to int8 with the weights' block scale folded in.

    Worst case: one step for the whole token, (largest |h|) * (largest scale of this block of 32 columns) / 127.
    """
    f, d = down.shape
    block_bytes = 34 if case["wtype"] == "q8_0" else 18
    raw = arrays["down"].reshape(f, d // 32, block_bytes)
    scale = np.abs(quant.f16_to_f32(np.ascontiguousarray(raw[:, :, :2]).view("<u2"))[:, :, 0]).astype("f8")  # [F][D/32]
    scale = np.repeat(scale, 32, axis=1)                                     # [F][D]
    w = np.abs(down.astype("f8"))
    q = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)          # |integer weights|
    active = arrays["active"].astype("f8")
    largest_h = (np.abs(arrays["h"]) + arrays["h_int8"]).max(axis=1, keepdims=True)  # [n][1]
    largest_scale = scale.max(axis=0, keepdims=True)                         # [1][D]
    return arrays["h_int8"] @ w + largest_h * largest_scale * INT8_STEP * (active @ q)


# ---------------------------------------------------------------- file format

DTYPE_NAMES = {"<f4": "f32", "<f8": "f64", "|u1": "u8"}


def pad(text, size):
    raw = text.encode()
    assert len(raw) < size, text
    return raw + b"\0" * (size - len(raw))


def write_case(path, fields, arrays, wtype):
    """See README.md. fields {name: int | float | str}, arrays {name: array}; gate, up and down are wtype."""
    out_fields, table, data = b"", b"", b""
    for name, value in fields.items():
        if isinstance(value, str):
            out_fields += pad(name, 24) + pad("str", 8) + pad(value, 32)
        elif isinstance(value, float):
            out_fields += pad(name, 24) + pad("f32", 8) + struct.pack("<f", value) + b"\0" * 28
        else:
            out_fields += pad(name, 24) + pad("u32", 8) + struct.pack("<I", value) + b"\0" * 28
    start = 64 + 64 * len(fields) + 64 * len(arrays)
    for name, array in arrays.items():
        is_weight = name in ("gate", "up", "down")
        dtype = wtype if is_weight else DTYPE_NAMES[array.dtype.str]
        dims = list(array.shape)
        if is_weight:                          # bytes per row -> elements per row
            dims[1] = quant.decode(array[:1], wtype).shape[1]
        raw = np.ascontiguousarray(array).tobytes()
        table += pad(name, 24) + pad(dtype, 8) + struct.pack(
            "<IIIIQQ", len(dims), 0, dims[0], dims[1] if len(dims) > 1 else 1, start + len(data), len(raw))
        data += raw + b"\0" * (-len(raw) % 16)
    head = b"SFFNGLD1" + struct.pack("<II", len(fields), len(arrays)) + b"\0" * 48
    with open(path, "wb") as f:
        f.write(head + out_fields + table + data)


# ---------------------------------------------------------------- the cases

def case(name, shape, wtype, activation, **other):
    """shape is (d_model, d_ff, n_tokens). special: token 0 all active and token 1 none ("mirror": x1 = -x0,
    "zero": x1 = 0), or no token active at all ("none"). vector: range of the thresholds t_i."""
    c = {"name": name, "seed": name, "wtype": wtype, "activation": activation, "gated": True, "bias": False,
         "act_threshold": 0.0, "act_tie": "drop", "rule": "none", "rule_tie": "drop", "rule_threshold": 0.0,
         "vector": None, "grid": False, "special": ""}
    unknown = set(other) - set(c)
    assert not unknown, unknown
    c.update(other)
    c["d_model"], c["d_ff"], c["n_tokens"] = shape
    for key in ("act_threshold", "rule_threshold"):      # compare with the value that the file holds
        c[key] = float(np.float32(c[key]))
    return c


CASES = [
    # plain activations
    case("relu_f32", (23, 29, 4), "f32", "relu", special="mirror"),
    case("relu_one_by_one", (1, 1, 1), "f32", "relu"),
    case("relu_none_active", (13, 17, 3), "f32", "relu", special="none", bias=False),
    case("relu_bf16_wide", (131, 9, 1), "bf16", "relu"),
    case("relu_f16_batch", (20, 21, 9), "f16", "relu", special="mirror"),
    case("relu_bias_f32", (17, 21, 3), "f32", "relu", bias=True),
    case("relu_ungated_bias_f32", (19, 33, 3), "f32", "relu", gated=False, bias=True),
    case("fatrelu_f16", (24, 27, 3), "f16", "fatrelu", act_threshold=0.1, special="mirror"),
    case("relu2_bf16", (27, 31, 3), "bf16", "relu2", special="zero"),
    case("relu2_ungated_f16", (33, 37, 3), "f16", "relu2", gated=False, special="mirror"),
    case("drelu_f32", (21, 27, 3), "f32", "drelu", special="mirror"),
    case("silu_bias_f32", (15, 25, 3), "f32", "silu", bias=True),
    case("gelu_erf_ungated_bias_f32", (22, 27, 3), "f32", "gelu_erf", gated=False, bias=True),
    case("gelu_erf_f16", (18, 23, 2), "f16", "gelu_erf"),
    case("gelu_tanh_bf16", (25, 29, 3), "bf16", "gelu_tanh"),
    # exact ties of the activation
    case("fatrelu_tie_keep_f32", (16, 21, 5), "f32", "fatrelu", act_threshold=0.25, act_tie="keep", grid=True,
         seed="fatrelu_tie"),
    case("fatrelu_tie_drop_f32", (16, 21, 5), "f32", "fatrelu", act_threshold=0.25, act_tie="drop", grid=True,
         seed="fatrelu_tie"),
    case("fatrelu_tie_keep_bf16", (16, 21, 5), "bf16", "fatrelu", act_threshold=0.25, act_tie="keep", grid=True,
         seed="fatrelu_tie"),
    # post-gate rules, without and with ties
    case("silu_score_f32", (19, 23, 4), "f32", "silu", rule="score", rule_threshold=0.05, special="zero"),
    case("silu_abs_score_f16", (20, 31, 4), "f16", "silu", rule="abs_score", rule_threshold=0.1, special="zero"),
    case("silu_abs_score_vec_f32", (18, 23, 4), "f32", "silu", rule="abs_score", rule_tie="keep",
         vector=(0.05, 0.25), special="zero"),
    case("silu_abs_h_vec_bf16", (22, 27, 4), "bf16", "silu", rule="abs_h", rule_tie="keep",
         vector=(0.05, 0.3), special="zero"),
    case("gelu_tanh_abs_h_f32", (14, 19, 3), "f32", "gelu_tanh", rule="abs_h", rule_threshold=0.1, special="zero"),
    case("relu_score_tie_drop_f32", (16, 19, 4), "f32", "relu", rule="score", rule_threshold=0.25, grid=True,
         seed="relu_score_tie"),
    case("relu_score_tie_keep_f32", (16, 19, 4), "f32", "relu", rule="score", rule_tie="keep", rule_threshold=0.25,
         grid=True, seed="relu_score_tie"),
    case("relu_abs_score_vec_tie_keep_f16", (16, 19, 4), "f16", "relu", rule="abs_score", rule_tie="keep",
         vector=(0, 1), grid=True, seed="relu_abs_score_tie"),
    case("relu_abs_score_vec_tie_drop_f16", (16, 19, 4), "f16", "relu", rule="abs_score", rule_tie="drop",
         vector=(0, 1), grid=True, seed="relu_abs_score_tie"),
    case("relu_abs_h_vec_tie_keep_f32", (16, 19, 4), "f32", "relu", rule="abs_h", rule_tie="keep",
         vector=(0, 1), grid=True, seed="relu_abs_h_tie"),
    case("relu_abs_h_vec_tie_drop_f32", (16, 19, 4), "f32", "relu", rule="abs_h", rule_tie="drop",
         vector=(0, 1), grid=True, seed="relu_abs_h_tie"),
    # block-quantised weights
    case("relu_q8_0", (64, 19, 4), "q8_0", "relu", special="mirror"),
    case("relu_q4_0", (64, 23, 3), "q4_0", "relu", special="mirror"),
    case("fatrelu_q4_0", (64, 23, 3), "q4_0", "fatrelu", act_threshold=0.1, act_tie="keep"),
    case("drelu_q8_0", (32, 27, 3), "q8_0", "drelu", special="mirror"),
    case("relu2_ungated_q8_0", (64, 21, 3), "q8_0", "relu2", gated=False, bias=True),
    case("silu_abs_score_q8_0", (32, 29, 3), "q8_0", "silu", rule="abs_score", rule_threshold=0.15, special="zero"),
    case("gelu_tanh_q4_0", (32, 21, 2), "q4_0", "gelu_tanh"),
]

README = """# Golden FFN layers

Each `.bin` holds one small FFN layer with inputs and outputs. Everything expected was computed in float64 with
correctly rounded sums by `../reference/make_golden.py`, from the weights as decoded from their stored bytes; nothing
of the library took part. `../reference/quant.py` encodes the weights and agrees with the `gguf` package bit for bit.
`reglu33m.json` holds the same for a whole model and is described at the end.

## Layer

    g = gate x + gate_bias          u = up x + up_bias            [d_ff]
    s = act(g)                      the score                     [d_ff]
    gated:    h = s * u             dReLU: h = relu(g) * relu(u)
    ungated:  s = act(u), h = s     there is no gate; up and up_bias are the only projection in
    h = 0 where the neuron is not active
    y = down h + down_bias                                        [d_model]

A neuron is active when it passes both tests:

| `activation` | its own test |
|---|---|
| relu, relu2 | g > 0 |
| fatrelu | g > `act_threshold`, or >= when `act_tie` is keep; s = g |
| drelu | g > 0 and u > 0 |
| silu, gelu_erf, gelu_tanh | none |

| `rule` | compares with t = `rule_threshold` or, when there is an array `thresholds`, with t_i |
|---|---|
| none | - |
| score | s > t |
| abs_score | \\|s\\| > t |
| abs_h | \\|h\\| > t |

`rule_tie` = keep makes the comparison >=. Thresholds are float32; compare with the value in the file.
No decision of a case is closer than 1e-3 to its threshold, and most are much further off: x may be rounded to bf16
(f32, f16 and bf16 cases) or to int8 with one scale per token or finer (q8_0 and q4_0 cases) and every decision stays
the same. Exact ties (field `n_ties`) occur only in cases whose x and weights are multiples of 1/4: every product and
partial sum of g, u, h and y is exact in float32, in any order, so y must come out exactly.

## File

Little-endian. A 64-byte head, `n_fields` records of 64 bytes, `n_arrays` records of 64 bytes, then the data, each
array at an offset that is a multiple of 16. Text is padded with zero bytes and always ends in one.

```c
struct gld_head  { char magic[8];                    /* "SFFNGLD1", no zero byte at the end */
                   uint32_t n_fields, n_arrays; char zero[48]; };
struct gld_field { char name[24]; char kind[8];      /* "u32", "f32" or "str" */
                   union { uint32_t u32; float f32; char str[32]; } value; };
struct gld_array { char name[24]; char dtype[8];     /* "f32" "f16" "bf16" "q8_0" "q4_0" "f64" "u8" */
                   uint32_t n_dims, zero;
                   uint32_t dims[2];                 /* elements; dims[1] is 1 when n_dims is 1 */
                   uint64_t offset, n_bytes; };      /* from the start of the file */
```

The structs have no padding, so a file read into memory can be used as it is.

| field | kind | values |
|---|---|---|
| name | str | the file's name without .bin |
| d_model, d_ff, n_tokens | u32 | |
| is_gated, has_bias | u32 | 0 or 1 |
| wtype | str | f32, f16, bf16, q8_0, q4_0: the type of gate, up and down |
| activation | str | relu, fatrelu, relu2, drelu, silu, gelu_erf, gelu_tanh |
| act_threshold, act_tie | f32, str | of fatrelu, else 0 and drop |
| rule | str | none, score, abs_score, abs_h |
| rule_tie, rule_threshold | str, f32 | keep or drop; 0 when `thresholds` is used |
| down_layout | str | model_major: down is [d_model][d_ff]; neuron_major: [d_ff][d_model] (q8_0, q4_0) |
| n_ties | u32 | decisions that are exact ties |

| array | dtype, shape | present |
|---|---|---|
| gate | wtype [d_ff][d_model] | gated |
| up | wtype [d_ff][d_model] | always |
| down | wtype, see down_layout | always |
| gate_bias, up_bias | f32 [d_ff] | has_bias; gate_bias only when gated |
| down_bias | f32 [d_model] | has_bias |
| thresholds | f32 [d_ff] | a rule with t_i |
| x | f32 [n_tokens][d_model] | always |
| h | f64 [n_tokens][d_ff] | always; 0 where inactive |
| active | u8 [n_tokens][d_ff] | always; 1 or 0 |
| y | f64 [n_tokens][d_model] | always |
| gate_abs, up_abs | f64 [n_tokens][d_ff] | sum of \\|w x\\| plus \\|bias\\|; gate_abs only when gated |
| h_cond | f64 [n_tokens][d_ff] | always; see below; 0 where inactive |
| y_abs | f64 [n_tokens][d_model] | sum over i of \\|h_i w_ij\\| plus \\|bias_j\\| |
| y_cond | f64 [n_tokens][d_model] | sum over i of h_cond_i \\|w_ij\\| |
| h_int8, y_int8 | f64, as h and y | q8_0 and q4_0 |

## Error bounds

With u = 2^-24 and gamma_n = n u / (1 - n u) (style.md 6), computed in float32 from exactly decoded weights:

    |g' - g|  <=  gamma_(d_model+2) gate_abs                      the same for u
    |h' - h|  <=  e h_cond                                        e = gamma_(d_model+8)
    |y' - y|  <=  e y_cond + gamma_(d_ff+2) y_abs

h_cond is what a relative error 1 of the terms of g and u does to h, to first order: |act'| |u| gate_abs + |s| up_abs,
plus max(|g|, |s|) |u| for the activation function and the product themselves (8 roundings are allowed for above; a
less accurate exp or tanh needs a larger e). When x is rounded to bf16 add 2^-8 to e, and when h is, add 2^-8 y_abs.
When x is rounded to int8 (one scale per token or per block) add h_int8 to h's bound. When h is, too, with the weights'
block scale folded in, add y_int8 to y's bound; y_int8 already holds what h_int8 does to y. Both are worst cases and
include the second-order term. Worst cases are wide: with plain C loops the root mean square of y's error over a case
was at most 0.6 % of the bound's in float32, 5 % with bf16 and 3 % with int8 (the 1 x 1 case aside), so a test may
also ask for 10 % there.

## Cases

"all" and "none" count the tokens with all and with no neurons active.

| file | type | d_model x d_ff x tokens | density | ties | all | none | bytes |
|---|---|---|---|---|---|---|---|
"""

MODEL_README = """
Cases named `*_tie_keep_*` and `*_tie_drop_*` of one kind share their weights and inputs and differ only in the rule.

## reglu33m.json

Written by `../reference/make_reglu33m.py` for the model in examples/models, computed in float64 by `../reference/llama_float64.py`.
The weights are those of the file, read with the gguf package. The bf16 original, rounded to q8_0 by `../reference/quant.py`, gives the same bytes.

| key | holds |
|---|---|
| windows[] | two windows of 128 ids of examples/models/heldout.json: `offset`, `ids`, `nll` (mean of 127 predictions), |
| | `argmax` [128], `margin` [128] (best logit minus the second) and `logits`: 3 positions, `values` for `vocab_ids` |
| vocab_ids | the 64 ids whose logits are kept |
| heldout | `perplexity`, `nll` per window and `zeros` per layer (share of exact zeros in h) over its 16 windows |
| | of 512 ids that do not overlap, each predicting its ids 1 .. 511 from those before them in the window |
| greedy[] | `prompt`, `prompt_ids` (the tokenizer's), `has_bos` (id 0 put in front when true), the 40 `ids` that follow, |
| | their `text`, and the `margin` of each step |
| noise | largest and root mean square difference of all logits of both windows from float64: `float32` when all is |
| | computed in float32, `bf16_ffn` when x and h of every FFN are rounded to bf16, `int8_ffn` when they are rounded |
| | to int8 in blocks of 32. An argmax whose margin is above twice the largest must come out in that arithmetic |
| | on these windows; elsewhere take it as a guide: a step with a margin above four times the largest should not flip |
| tokenizer[] | `text`, `ids`; `decoded` only where decoding the ids gives another text |

The text is UTF-8 with JSON escapes only where JSON demands them. A text in `tokenizer` may hold `<s>`, which is id 0.
"""


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out_dir = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "golden")
    os.makedirs(out_dir, exist_ok=True)
    readme, total = README, 0
    for c in CASES:
        arrays, facts = make_layer(c)
        if c["grid"]:
            assert facts["n_ties"] > 0
        fields = {
            "name": c["name"], "d_model": c["d_model"], "d_ff": c["d_ff"], "n_tokens": c["n_tokens"],
            "is_gated": int(c["gated"]), "has_bias": int(c["bias"]), "wtype": c["wtype"],
            "activation": c["activation"], "act_threshold": c["act_threshold"], "act_tie": c["act_tie"],
            "rule": c["rule"], "rule_tie": c["rule_tie"], "rule_threshold": c["rule_threshold"],
            "down_layout": "neuron_major" if c["wtype"] in BLOCK_TYPES else "model_major",
            "n_ties": facts["n_ties"],
        }
        path = os.path.join(out_dir, c["name"] + ".bin")
        write_case(path, fields, arrays, c["wtype"])
        size = os.path.getsize(path)
        total += size
        readme += (f"| {c['name']} | {c['wtype']} | {c['d_model']} x {c['d_ff']} x {c['n_tokens']} "
                   f"| {facts['density']:.2f} | {facts['n_ties']} | {facts['all_active']} | {facts['none_active']} "
                   f"| {size} |\n")
        print(f"{c['name']:40} {size:6} bytes, density {facts['density']:.2f}, {facts['n_ties']} ties")
    with open(os.path.join(out_dir, "README.md"), "w") as f:
        f.write(readme + MODEL_README)
    print(f"{len(CASES)} cases, {total} bytes")


if __name__ == "__main__":
    main()
