"""The operator sparseffn.FFN in ONNX Runtime. Skipped without the packages onnx and onnxruntime, or the library (meson -Donnxruntime=enabled)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import sparseffn as sf

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

OPERATOR = Path(os.environ["SPARSEFFN_LIBRARY"]).resolve().parents[1] / "bindings" / "onnxruntime" / "libsparseffn_onnxruntime.so"
if not OPERATOR.exists():
    pytest.skip(f"there is no {OPERATOR}: meson configure -Donnxruntime=enabled", allow_module_level=True)

D, FF, N = 64, 192, 5
NAMES = ("x", "up", "down", "gate", "gate_bias", "up_bias", "down_bias")


@pytest.fixture
def layer(rng):
    """Weights as nn.Linear has them: gate and up [d_ff, d_model], down [d_model, d_ff]."""
    make = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    return {"up": make(FF, D) / 8, "down": make(D, FF) / 14, "gate": make(FF, D) / 8, "gate_bias": make(FF), "up_bias": make(FF), "down_bias": make(D)}


def model(weights, types=None, x_shape=("n", D), stats=False, standard=False, computed=(), **attributes):
    """A model of one node, with a following standard node that needs the shape of y; or of standard nodes alone."""
    tensors = []
    for name, value in weights.items():
        if (types or {}).get(name) == "bfloat16":
            raw = sf.quantize(value, "bf16").array
            tensors.append(helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, raw.tobytes(), raw=True))
        else:
            tensors.append(numpy_helper.from_array(value.astype((types or {}).get(name, value.dtype)), name))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, weights[name].shape) for name in computed]
    tensors = [t for t in tensors if t.name not in computed]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    if standard:
        nodes = [
            helper.make_node("Gemm", ["x", "gate", "gate_bias"], ["g"], transB=1), helper.make_node("Relu", ["g"], ["s"]),
            helper.make_node("Gemm", ["x", "up", "up_bias"], ["u"], transB=1), helper.make_node("Mul", ["s", "u"], ["h"]),
            helper.make_node("Gemm", ["h", "down", "down_bias"], ["y"], transB=1),
        ]  # fmt: skip
    else:
        names = [name if name == "x" or name in weights else "" for name in NAMES]
        while not names[-1]:
            names.pop()
        nodes = [helper.make_node("FFN", names, ["y", "stats"] if stats else ["y"], domain="sparseffn", name="blk.0", **attributes)]
        if stats:
            outputs.append(helper.make_tensor_value_info("stats", TensorProto.INT64, [5]))
    nodes.append(helper.make_node("Identity", ["y"], ["z"]))
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sparseffn", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def session(*args, session_threads=1, **kwargs):
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(OPERATOR))
    options.intra_op_num_threads = session_threads
    options.log_severity_level = 3
    return ort.InferenceSession(model(*args, **kwargs), options, providers=["CPUExecutionProvider"])


def bound_of(weights, x, n_sides=1):
    """g and u are sums of d_model products and a bias, y of d_ff and a bias, in float32, with a few roundings more between."""
    w = {k: np.abs(v.astype(np.float64)) for k, v in weights.items()}
    big_u = np.abs(x) @ w["up"].T + w.get("up_bias", 0)
    big_g = np.abs(x) @ w["gate"].T + w.get("gate_bias", 0) if "gate" in w else 1
    n = 4 * D + FF + 32
    return n_sides * n * 2.0**-24 / (1 - n * 2.0**-24) * ((big_g * big_u) @ w["down"].T + w.get("down_bias", 0))


def exact(weights, x):
    w = {k: v.astype(np.float64) for k, v in weights.items()}
    u = x @ w["up"].T + w.get("up_bias", 0)
    h = np.maximum(x @ w["gate"].T + w.get("gate_bias", 0), 0) * u if "gate" in w else np.maximum(u, 0)
    return h @ w["down"].T + w.get("down_bias", 0)


def test_against_standard_nodes(layer, rng):
    """The same model of ONNX's own nodes, in the same run."""
    x = rng.standard_normal((N, D), dtype=np.float32)
    ours = session(layer).run(None, {"x": x})[0]
    theirs = session(layer, standard=True).run(None, {"x": x})[0]
    assert (np.abs(ours - exact(layer, x)) <= bound_of(layer, x)).all()
    assert (np.abs(ours - theirs) <= bound_of(layer, x, 2)).all()


@pytest.mark.parametrize("leave_out", [(), ("gate_bias", "up_bias"), ("down_bias",), ("gate", "gate_bias"), ("gate", "gate_bias", "up_bias", "down_bias")])
@pytest.mark.parametrize("layout", ["linear", "matmul"])
def test_layouts_and_optional_inputs(layer, rng, leave_out, layout):
    weights = {k: v for k, v in layer.items() if k not in leave_out}
    given = {k: np.ascontiguousarray(v.T) if layout == "matmul" and v.ndim == 2 else v for k, v in weights.items()}
    x = rng.standard_normal((N, D), dtype=np.float32)
    y = session(given, layout=layout).run(None, {"x": x})[0]
    assert (np.abs(y - exact(weights, x)) <= bound_of(weights, x)).all()


def test_the_libraries_bits(layer, rng):
    """What the operator gives is sffn_ffn_forward's y, whatever the number of threads and dimensions, in place or copied."""
    x = rng.standard_normal((2, 3, D), dtype=np.float32)
    with sf.Context() as ctx:
        expected = sf.FFN(ctx, activation="relu", **layer).forward(x.reshape(6, D)).reshape(2, 3, D)
    for attributes in ({}, {"n_threads": 1}, {"n_threads": 5}, {"storage": "borrow"}):
        for session_threads in (1, 3):
            found = session(layer, x_shape=(2, 3, D), session_threads=session_threads, **attributes)
            assert np.array_equal(found.run(None, {"x": x})[0], expected)
    assert session(layer, x_shape=(D,)).run(None, {"x": x[0, 0]})[0].shape == (D,)
    assert session(layer).run(None, {"x": np.empty((0, D), np.float32)})[0].shape == (0, D)


@pytest.mark.parametrize("type_name", ["float16", "bfloat16"])
def test_half_weights(layer, rng, type_name):
    names = ("gate", "up", "down")
    found = session(layer, types={n: type_name for n in names})
    kind = {"float16": "f16", "bfloat16": "bf16"}[type_name]
    rounded = {k: sf.dequantize(sf.quantize(v, kind)) if k in names else v for k, v in layer.items()}
    x = rng.standard_normal((N, D), dtype=np.float32)
    assert (np.abs(found.run(None, {"x": x})[0] - exact(rounded, x)) <= bound_of(rounded, x)).all()


def test_attributes_and_stats(layer, rng):
    x = rng.standard_normal((N, D), dtype=np.float32)
    with sf.Context() as ctx:
        for given, options in (
            ({"activation": "fatrelu", "act_threshold": 0.1}, {"activation": "fatrelu", "act_threshold": 0.1}),
            ({"activation": "silu", "rule": "abs_score", "rule_threshold": 0.2, "rule_tie": "keep"}, {"activation": "silu", "rule": "abs_score", "rule_threshold": 0.2, "rule_tie": "keep"}),
            ({"dtype": "q8_0"}, {"dtype": "q8_0"}),
            ({"select": "dense", "dense_tokens": 0}, {"select": "dense"}),
            ({"activation": "gelu"}, {"activation": "gelu"}),
        ):
            y, stats = session(layer, stats=True, **given).run(None, {"x": x})
            expected = sf.FFNStats()
            assert np.array_equal(y, sf.FFN(ctx, **layer, **options).forward(x, stats=expected))
            assert stats.tolist() == [expected.way, N, expected.n_nonzero, expected.touched_bytes, expected.dense_reason]
    many = rng.standard_normal((64, D), dtype=np.float32)
    _, stats = session(layer, stats=True).run(None, {"x": many})
    assert (stats[0], stats[4]) == (sf.Path.SPARSE, sf.DenseReason.NOT)
    y, stats = session(layer, stats=True, dense_tokens=3).run(None, {"x": x})
    assert (stats[0], stats[4]) == (sf.Path.DENSE, sf.DenseReason.MANY_TOKENS)


def test_concurrent_runs(layer, rng):
    """One session, several threads of the caller: each call has a context of its own."""
    found = session(layer, session_threads=2)
    x = rng.standard_normal((N, D), dtype=np.float32)
    y = found.run(None, {"x": x})[0]
    same = []

    def work():
        same.extend(bool(np.array_equal(found.run(None, {"x": x})[0], y)) for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(same) == 400 and all(same)


def test_refused(layer, rng):
    cases = [
        ({"activation": "swish"}, {}, 'attribute activation is "swish", which is no name of the library'),
        ({"layout": "rows"}, {}, 'attribute layout is "rows"; expected one of linear, matmul'),
        ({"dense_tokens": -1}, {}, "attribute dense_tokens is -1"),
        ({"n_threads": 1000}, {}, "attribute n_threads is 1000"),
        ({"storage": "borrow", "dtype": "q8_0"}, {}, "SFFN_ERR_UNSUPPORTED"),
        ({"storage": "borrow", "layout": "matmul"}, {k: np.ascontiguousarray(layer[k].T) for k in ("gate", "up", "down")}, 'storage is "borrow"; expected "copy" with layout'),
        ({"act_threshold": -1.0, "activation": "fatrelu"}, {}, "SFFN_ERR_INVALID_ARGUMENT: .*act_threshold"),
        ({}, {"gate": layer["gate"][:, :32]}, r"input gate is \[192, 32\], so d_ff = 192 and d_model = 32; up has 192 and 64"),
        ({}, {"down": layer["up"]}, r"input down is \[192, 64\]"),
        ({}, {"up": layer["up"].astype(np.float64)}, "input up has ONNX element type 11; expected float"),
        ({}, {"gate_bias": layer["gate_bias"][:7]}, r"input gate_bias: expected float \[192\], got f32 with 1 dimensions"),
        ({}, {"up": layer["up"][None]}, "input up has 3 dimensions; expected a matrix"),
    ]
    for attributes, weights, words in cases:
        with pytest.raises(Exception, match=words):
            session({**layer, **weights}, **attributes)
    with pytest.raises(Exception, match="input up is computed in the graph; expected an initializer"):
        session(layer, computed=("up",))
    with pytest.raises(Exception, match=r"sparseffn.FFN blk.0: the last dimension of x is 65; expected d_model = 64"):
        session(layer, x_shape=("n", "d")).run(None, {"x": np.ones((1, D + 1), np.float32)})


def test_log_line(layer, capfd):
    """A line for each node, and a warning when nothing can be gained."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(OPERATOR))
    options.log_severity_level = 1
    ort.InferenceSession(model(layer), options, providers=["CPUExecutionProvider"])
    assert "sparseffn.FFN blk.0: relu f32, d_model 64, d_ff 192, 0.1 MB packed" in capfd.readouterr().err
    options.log_severity_level = 2
    ort.InferenceSession(model(layer, activation="silu"), options, providers=["CPUExecutionProvider"])
    assert "this activation has no zeros, so all neurons run: set a rule" in capfd.readouterr().err
