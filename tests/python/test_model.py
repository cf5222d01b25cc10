"""Model and prepare(), on a small GGUF written by the public gguf package and on the real model when it is there."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pyref
import pytest
import sparseffn as sf
from pyref import DTYPES, QUANTISED, Layer, assert_within

ROOT = Path(__file__).resolve().parents[2]
REGLU = ROOT / "examples" / "models" / "reglu-33m.gguf"
SOURCE = ROOT.parent / "shared" / "models" / "reglu-30m"
D, F, N_LAYERS, VOCAB = 64, 96, 2, 11
TEXT = "a naïve — 日本 text"


def write_gguf(path, layers, activation="relu"):
    """A llama-shaped file with these FFN layers and every kind of metadata."""
    gguf = pytest.importorskip("gguf")
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("tiny")
    w.add_block_count(len(layers))
    w.add_context_length(16)
    w.add_embedding_length(D)
    w.add_feed_forward_length(F)
    w.add_head_count(2)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(VOCAB)
    if activation:
        w.add_string("sffn.activation", activation)
    w.add_string("test.text", TEXT)
    w.add_bool("test.yes", True)
    w.add_int64("test.minus", -(2**40))
    w.add_float32("test.half", 0.5)
    w.add_array("test.ints", [3, 1, 2])
    w.add_array("test.texts", ["a", "", TEXT])
    w.add_array("test.reals", [0.25, -1.5])

    def add(name, data, dtype="f32"):
        kind = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}.get(dtype)
        if kind is None or dtype == "f16":
            w.add_tensor(name, data)
        else:
            raw = data.view(np.uint8) if dtype == "bf16" else data
            w.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])

    rng = np.random.default_rng(1)

    def random(*shape):
        return rng.standard_normal(shape).astype(np.float32) / 8

    add("token_embd.weight", random(VOCAB, D))
    add("output_norm.weight", np.ones(D, np.float32))
    for i, layer in enumerate(layers):
        for name, shape in dict(attn_q=(D, D), attn_k=(D // 2, D), attn_v=(D // 2, D), attn_output=(D, D)).items():
            add(f"blk.{i}.{name}.weight", random(*shape))
        add(f"blk.{i}.attn_norm.weight", np.ones(D, np.float32))
        add(f"blk.{i}.ffn_norm.weight", np.ones(D, np.float32))
        add(f"blk.{i}.ffn_gate.weight", layer.gate_data, layer.dtype)
        add(f"blk.{i}.ffn_up.weight", layer.up_data, layer.dtype)
        add(f"blk.{i}.ffn_down.weight", layer.down_data, layer.dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@pytest.fixture(scope="module", params=DTYPES)
def tiny(request, tmp_path_factory):
    """(path, layers) per weight type."""
    rng = np.random.default_rng(9)
    layers = [Layer.random(rng, request.param, D, F, down_layout="columns") for _ in range(N_LAYERS)]
    path = tmp_path_factory.mktemp("model") / f"tiny-{request.param}.gguf"
    write_gguf(path, layers)
    return path, layers


@pytest.fixture(scope="module")
def tiny_f32(tmp_path_factory):
    rng = np.random.default_rng(9)
    layers = [Layer.random(rng, "f32", D, F, down_layout="columns") for _ in range(N_LAYERS)]
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(path, layers)
    return path, layers


def test_info(ctx, tiny):
    path, _ = tiny
    with sf.Model(ctx, path) as model:
        info = model.info
        assert info.format is sf.FileFormat.GGUF and info.architecture == "llama" and info.name == "tiny"
        assert (info.n_layers, info.d_model, info.d_ff, info.n_heads, info.n_kv_heads) == (N_LAYERS, D, F, 2, 1)
        assert (info.n_vocab, info.n_context, info.head_dim) == (VOCAB, 16, D // 2)
        assert info.rms_norm_eps == np.float32(1e-5) and info.rope_theta == 10000.0
        assert info.activation is sf.Activation.RELU and info.is_tied and info.rope_is_permuted
        assert info.n_tensors == len(model.tensors) == 2 + 9 * N_LAYERS
        assert info.file_bytes == path.stat().st_size
        assert model.n_layers == N_LAYERS and "tiny" in repr(model)


def test_metadata(ctx, tiny_f32):
    model = sf.Model(ctx, tiny_f32[0])
    meta = model.metadata
    assert meta["test.text"] == TEXT and meta["test.yes"] is True and meta["test.minus"] == -(2**40)
    assert meta["test.half"] == 0.5 and meta["test.ints"] == [3, 1, 2] and meta["test.texts"] == ["a", "", TEXT]
    assert meta["test.reals"] == [0.25, -1.5] and meta["llama.block_count"] == N_LAYERS
    assert "test.text" in meta and "no.such" not in meta and len(meta) == len(list(meta)) >= 17
    assert meta.get("no.such", 5) == 5
    with pytest.raises(KeyError) as e:
        meta["no.such"]
    assert isinstance(e.value, sf.NotFound) and "no.such" in str(e.value)
    assert dict(meta)["general.architecture"] == "llama"
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.metadata["test.text"]


def test_lookups_that_find_nothing_are_no_errors(tiny_f32):
    lines = []
    with sf.Context(log=lambda level, text: lines.append((level, text))) as ctx, sf.Model(ctx, tiny_f32[0]) as model:
        assert "no.such" not in model.metadata and len(model.metadata) > 10
        assert "no.such" not in model.tensors and model.tensors.get("no.such") is None
        with pytest.raises(sf.NotFound):
            model.layer(99)
        assert not [text for level, text in lines if level <= sf.LogLevel.WARNING]
        assert [text for level, text in lines if level == sf.LogLevel.DEBUG and "99" in text]


def test_tensors(ctx, tiny):
    path, layers = tiny
    model = sf.Model(ctx, path)
    layer = layers[1]
    t = model.tensors["blk.1.ffn_gate.weight"]
    assert t.name == t.file_name == "blk.1.ffn_gate.weight" and t.type_name == layer.dtype.upper()
    assert t.dtype.name.lower() == layer.dtype and t.shape == (F, D)
    assert np.array_equal(t.data, layer.gate_data) and not t.data.flags.writeable
    with pytest.raises(ValueError):
        t.data.flags.writeable = True
    assert np.array_equal(t.numpy(), layer.gate.astype(np.float32))
    assert np.array_equal(sf.dequantize(t), t.numpy())
    assert model.tensors["output_norm.weight"].numpy().tolist() == [1.0] * D
    with pytest.raises(sf.ShapeError, match="expected a matrix"):
        model.tensors["output_norm.weight"].weights()
    assert set(model.tensors) >= {"token_embd.weight", "blk.0.ffn_down.weight"}
    for wrong in ("blk.9.ffn_gate.weight", "", "blk.1.ffn_gate.weight\0"):
        with pytest.raises(sf.NotFound):
            model.tensors[wrong]
    assert "nothing" not in model.tensors and 5 not in model.tensors
    embedding = sf.Matmul(ctx, model.tensors["token_embd.weight"], storage="borrow")
    assert np.array_equal(embedding.get_row(3), model.tensors["token_embd.weight"].data[3])


def test_tensor_is_the_mapping(ctx, tiny_f32):
    """No copy: the view and a borrowed matmul see the same addresses; the view outlives model and context."""
    model = sf.Model(ctx, tiny_f32[0])
    first, second = (model.tensors["blk.0.ffn_up.weight"] for _ in range(2))
    assert first.data.ctypes.data == second.data.ctypes.data == first.weights().address
    assert model.layer(0).up.address == first.data.ctypes.data
    data = first.data
    model.close()
    ctx.close()
    del model, first, second, ctx
    gc.collect()
    assert np.array_equal(data, tiny_f32[1][0].up_data)


@pytest.mark.parametrize("storage", ["copy", "borrow"])
def test_layers_against_numpy(ctx, rng, tiny, storage):
    path, layers = tiny
    model = sf.Model(ctx, path)
    x = rng.standard_normal((4, D)).astype(np.float32)
    for i, layer in enumerate(layers):
        ffn = model.ffn(i, storage=storage)
        if layer.dtype in QUANTISED:
            # Down was quantised again along the other direction: compare with what its rows decode to.
            again = sf.Matmul(ctx, model.layer(i).down, layout="columns")
            data = pyref.encode(layer.down.astype(np.float32), layer.dtype)
            assert np.array_equal(again.get_row(5), pyref.decode(data, layer.dtype)[5].astype(np.float32))
            layer = Layer(layer.dtype, layer.gate_data, layer.up_data, data, "rows")
        _, y, _, dy = layer.relu(x)
        assert_within(ffn.forward(x), y, dy, f"layer {i}")


def test_borrowing_layer_outlives_the_model(ctx, rng, tiny):
    path, _ = tiny
    x = rng.standard_normal((4, D)).astype(np.float32)
    model = sf.Model(ctx, path)
    expected = model.ffn(1).forward(x)
    ffn = model.ffn(1, storage="borrow")
    model.close()
    del model
    gc.collect()
    assert np.array_equal(ffn.forward(x), expected)


def test_layer_parameters(ctx, rng, tiny):
    path, layers = tiny
    model = sf.Model(ctx, path)
    layer = model.layer(0)
    assert layer.activation is sf.Activation.RELU and layer.down_layout is sf.Layout.COLUMNS
    assert layer.gate.shape == layer.up.shape == (F, D) and layer.down.shape == (D, F)
    assert layer.gate_bias is None and layer.rule is sf.Rule.NONE
    x = rng.standard_normal((4, D)).astype(np.float32)
    assert np.array_equal(sf.FFN(ctx, **layer.parameters()).forward(x), model.ffn(0).forward(x))
    with sf.Context(2) as other:
        assert model.ffn(0, context=other, activation="silu").info.activation is sf.Activation.SILU


def test_predictor_of_a_layer(ctx, rng, tiny):
    path, layers = tiny
    model = sf.Model(ctx, path)
    if layers[0].dtype == "q4_0":
        with pytest.raises(sf.UnsupportedError):
            model.predictor(0)
        return
    p = model.predictor(0, margin=0.5)
    x = rng.standard_normal((4, D)).astype(np.float32)
    assert np.array_equal(p.scores(x), sf.Predictor(ctx, model.tensors["blk.0.ffn_gate.weight"]).scores(x))
    stats = sf.FFNStats()
    model.ffn(0, predictor=p).forward(x, stats=stats)
    assert 0 < stats.n_selected < 4 * F


def test_missing_layers_and_files(ctx, tiny_f32, tmp_path):
    model = sf.Model(ctx, tiny_f32[0])
    for i in (N_LAYERS, 2**32 - 1):
        with pytest.raises(sf.NotFound):
            model.ffn(i)
    with pytest.raises(ValueError):
        model.ffn(-1)
    with pytest.raises(sf.IOError_, match="nowhere") as e:
        sf.Model(ctx, tmp_path / "nowhere.gguf")
    assert isinstance(e.value, OSError) and e.value.status == 30
    with pytest.raises(ValueError, match="zero byte"):
        sf.Model(ctx, "a\0b")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(tiny_f32[0]).read_bytes()[:200])
    with pytest.raises(sf.FormatError, match="broken.gguf"):
        sf.Model(ctx, broken)
    broken.write_bytes(b"GGUF")
    with pytest.raises(sf.FormatError):
        sf.Model(ctx, str(broken))
    with pytest.raises(sf.FormatError):
        sf.Model(ctx, Path(__file__))


def test_unicode_path(ctx, tiny_f32, tmp_path):
    path = tmp_path / "модель 日本.gguf"
    path.write_bytes(Path(tiny_f32[0]).read_bytes())
    assert sf.Model(ctx, path).info.d_ff == F


@pytest.mark.parametrize("dtype", [None, "bf16", "q8_0", "q4_0", "f16", "f32"])
def test_prepare(ctx, rng, tiny_f32, tmp_path, dtype):
    gguf = pytest.importorskip("gguf")
    model = sf.Model(ctx, tiny_f32[0])
    out = tmp_path / "out.gguf"
    seen = []
    sf.prepare(ctx, model, out, dtype=dtype, progress=lambda *a: seen.append(a))
    assert seen and all(isinstance(w, str) and 0 <= done <= total for w, done, total in seen)
    assert os.listdir(tmp_path) == ["out.gguf"]
    ready = sf.Model(ctx, out)
    down = ready.tensors["blk.1.ffn_down_t.weight"]
    kind = dtype or "f32"
    assert down.shape == (F, D) and down.dtype.name.lower() == kind
    original = tiny_f32[1][1].down.astype(np.float32)
    assert np.array_equal(down.data, pyref.encode(original, kind))
    assert ready.info.activation is sf.Activation.RELU and ready.layer(1).down_layout is sf.Layout.ROWS
    x = rng.standard_normal((3, D)).astype(np.float32)
    layer = ready.layer(1)
    reference = Layer(kind, layer.gate.array, layer.up.array, layer.down.array, "rows")
    _, y, _, dy = reference.relu(x)
    assert_within(ready.ffn(1).forward(x), y, dy, "y")
    borrowed = ready.ffn(1, storage="borrow").forward(x)
    assert np.array_equal(borrowed, ready.ffn(1).forward(x))
    # The public reader sees the same.
    names = {t.name: t for t in gguf.GGUFReader(out).tensors}
    assert names["blk.1.ffn_down_t.weight"].data.tobytes() == down.data.tobytes()


def test_prepare_with_a_threshold(ctx, tiny_f32, tmp_path):
    model = sf.Model(ctx, tiny_f32[0])
    sf.prepare(ctx, model, tmp_path / "out.gguf", act_threshold=0.125)
    info = sf.Model(ctx, tmp_path / "out.gguf").info
    assert info.activation is sf.Activation.FATRELU and info.act_threshold == 0.125
    with pytest.raises(ValueError, match="act_threshold"):
        sf.prepare(ctx, model, tmp_path / "no.gguf", act_threshold=-1)


def selected_layers(rng):
    """Layer 0: a low-rank predictor and a new order. Layer 1: a router, a rule and another order."""
    w1, w2 = rng.standard_normal((32, D)).astype(np.float32) / 8, rng.standard_normal((F, 32)).astype(np.float32) / 8
    predictor = dict(
        kind="low_rank",
        w1=w1,
        w2=sf.quantize(w2, "q8_0"),
        b2=rng.standard_normal(F).astype(np.float32) / 8,
        hidden="relu",
        threshold=rng.standard_normal(F).astype(np.float32) / 16,
        tie="keep",
        input="residual",
    )
    router = dict(weights=rng.standard_normal((3, D)).astype(np.float32), bias=np.zeros(3, np.float32), threshold=0.25)
    return [
        sf.PrepareLayer(plan="predictor", predictor=predictor, permutation=rng.permutation(F)),
        sf.PrepareLayer(plan="router", router=router, rule="abs_h", rule_threshold=0.0625, permutation=rng.permutation(F)),
    ]


def test_prepare_layers(ctx, rng, tiny, tmp_path):
    """Selectors out and in: the public reader sees them, and so does Model."""
    gguf = pytest.importorskip("gguf")
    path, _ = tiny
    source, layers = sf.Model(ctx, path), selected_layers(rng)
    sf.prepare(ctx, source, tmp_path / "out.gguf", layers=layers, command="make it", notes="ä")
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    keys = {name: field.contents() for name, field in reader.fields.items()}
    assert keys["sffn.plan"] == ["predictor", "router"] and keys["sffn.rule"] == ["none", "abs_h"]
    assert keys["sffn.predictor.kind"] == ["low_rank", "none"] and keys["sffn.router.rule"] == ["none", "sigmoid"]
    assert keys["sffn.predictor.input"][0] == "residual" and keys["sffn.predictor.tie"][0] == "keep"
    assert keys["sffn.router.threshold"][1] == 0.25 and keys["sffn.rule_threshold"][1] == 0.0625
    assert keys["sffn.prepare.command"] == "make it" and keys["sffn.prepare.notes"] == "ä"
    tensors = {t.name: t for t in reader.tensors}
    for i, layer in enumerate(layers):
        order = layer.permutation
        assert np.array_equal(tensors[f"blk.{i}.sffn_permutation"].data, order)
        for name in ("ffn_gate", "ffn_up"):  # bit for bit, whatever the type
            ours = source.tensors[f"blk.{i}.{name}.weight"].data.view(np.uint8).reshape(F, -1)
            theirs = np.ascontiguousarray(tensors[f"blk.{i}.{name}.weight"].data).view(np.uint8).reshape(F, -1)
            assert np.array_equal(theirs, ours[order])
    given = layers[0].predictor
    assert np.array_equal(tensors["blk.0.sffn_predictor_w1.weight"].data, given["w1"])
    w2 = tensors["blk.0.sffn_predictor_w2.weight"]
    assert w2.tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert np.array_equal(w2.data, given["w2"].array.reshape(F, -1)[layers[0].permutation])
    assert np.array_equal(tensors["blk.0.sffn_predictor_w2.bias"].data, given["b2"][layers[0].permutation])
    assert np.array_equal(tensors["blk.0.sffn_predictor.threshold"].data, given["threshold"][layers[0].permutation])
    assert np.array_equal(tensors["blk.1.sffn_router.weight"].data, layers[1].router["weights"])

    model = sf.Model(ctx, tmp_path / "out.gguf")
    assert (model.plan(0), model.plan(1)) == (sf.Select.PREDICTOR, sf.Select.ROUTER)
    assert source.plan(0) is sf.Select.DEFAULT
    assert np.array_equal(model.permutation(1), layers[1].permutation)
    with pytest.raises(sf.NotFound, match="layer 0 has no permutation"):
        source.permutation(0)
    with pytest.raises(sf.NotFound, match="layer 0 has no router"):
        model.router(0)
    with pytest.raises(sf.NotFound, match="layer 2"):
        model.plan(2)
    assert model.layer(1).rule is sf.Rule.ABS_H and model.layer(1).rule_threshold == 0.0625
    x = rng.standard_normal((3, D)).astype(np.float32)
    stats = sf.FFNStats()
    hidden = np.maximum(given["w1"].astype(np.float64) @ x.T, 0)
    scores = (sf.dequantize(given["w2"]).astype(np.float64) @ hidden).T + given["b2"]
    predictor, order = model.predictor(0), layers[0].permutation
    got = predictor.scores(x)
    # x and the hidden vector meet q8_0 weights in 8 bits: half a step of the largest in each term
    bound = 32 * np.abs(sf.dequantize(given["w2"])).max() * np.abs(hidden).max() / 254 + 1e-4
    assert np.abs(got - scores[:, order]).max() <= bound
    assert model.ffn(0).info.select_input is sf.SelectorInput.RESIDUAL
    assert model.ffn(1).info.select_input is sf.SelectorInput.FFN
    model.ffn(0).forward(x, stats=stats)
    assert stats.n_selected == (got >= given["threshold"][order]).sum()
    model.ffn(1).forward(x, stats=stats)
    router = model.router(1)
    kept = router.select(x)
    assert stats.n_selected == sum(kept.count(t) for t in range(3)) * 32
    model.ffn(1, select="dense").forward(x, stats=stats)
    assert stats.way is sf.Path.DENSE
    # the same scores in a new order, bit for bit
    ours, theirs = (m.ffn(0, select="gate").gate(x)[0] for m in (model, source))
    assert np.array_equal(ours, theirs[:, order])


def test_prepare_wrong_layers(ctx, rng, tiny_f32, tmp_path):
    model, out = sf.Model(ctx, tiny_f32[0]), tmp_path / "no.gguf"
    for change, error, words in [
        (lambda a, b: None, sf.ShapeError, "n_layers is 1"),
        (lambda a, b: a.__setattr__("plan", "gats"), ValueError, "plan"),
        (lambda a, b: a.predictor.__setitem__("rnak", 3), TypeError, "no parameter 'rnak'"),
        (lambda a, b: a.predictor.__setitem__("w2", np.zeros((F, 8), np.float32)), sf.ShapeError, "w2"),
        (lambda a, b: a.predictor.__setitem__("b2", np.zeros(3, np.float32)), sf.ShapeError, "b2"),
        (lambda a, b: a.predictor.__setitem__("threshold", float("nan")), sf.ArgumentError, "threshold is NaN"),
        (lambda a, b: a.__setattr__("permutation", np.zeros(F, int)), sf.ArgumentError, "again"),
        (lambda a, b: a.__setattr__("permutation", np.arange(F) - 1), sf.ArgumentError, r"permutation\[0\]"),
        (lambda a, b: a.__setattr__("permutation", np.arange(F - 1)), sf.ShapeError, "permutation"),
        (lambda a, b: b.router.__setitem__("block_size", 16), sf.ShapeError, "n_experts"),
        (lambda a, b: b.__setattr__("router", None), sf.ArgumentError, "plan is 'router'"),
    ]:
        layers = selected_layers(rng)
        change(*layers)
        with pytest.raises(error, match=words):
            sf.prepare(ctx, model, out, layers=layers[:1] if "n_layers" in words else layers)
    assert not out.exists()


class Stop(Exception):
    pass


def test_prepare_stopped(ctx, tiny_f32, tmp_path):
    model = sf.Model(ctx, tiny_f32[0])
    out = tmp_path / "out.gguf"
    with pytest.raises(sf.Interrupted):
        sf.prepare(ctx, model, out, progress=lambda *a: True)

    def fail(*a):
        raise Stop("from the callback")

    def interrupt(*a):
        raise KeyboardInterrupt

    with pytest.raises(Stop, match="from the callback"):
        sf.prepare(ctx, model, out, progress=fail)
    with pytest.raises(KeyboardInterrupt):
        sf.prepare(ctx, model, out, progress=interrupt)
    assert os.listdir(tmp_path) == []
    with pytest.raises(sf.IOError_):
        sf.prepare(ctx, model, tmp_path / "no such folder" / "out.gguf")


def bf16_file(path, name):
    """One bf16 tensor of a safetensors file, by its own few lines."""
    with open(path, "rb") as f:
        head = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        start = f.tell()
        if name not in head:
            return None
        a, b = head[name]["data_offsets"]
        f.seek(start + a)
        return np.frombuffer(f.read(b - a), np.uint16).reshape(head[name]["shape"])


@pytest.fixture(scope="module")
def reglu_layer():
    """Layer 2 of the original reglu-30m, read without the library."""
    if not SOURCE.exists():
        pytest.skip("no shared/models/reglu-30m")

    def find(part):
        name = f"model.layers.2.mlp.{part}_proj.weight"
        return next(t for p in sorted(SOURCE.glob("*.safetensors")) if (t := bf16_file(p, name)) is not None)

    return Layer("bf16", find("gate"), find("up"), find("down"), "columns")


def check_reglu(ffn, layer, rng, stats):
    x = rng.standard_normal((6, 512)).astype(np.float32)
    _, y, _, dy = layer.relu(x)
    assert_within(ffn.forward(x, stats=stats), y, dy, "y")
    dense = ffn.forward(x, select="dense")
    assert_within(dense, y, dy, "dense")


def test_reglu_folder(ctx, rng, reglu_layer):
    model = sf.Model(ctx, SOURCE)
    info = model.info
    assert info.format is sf.FileFormat.HF_FOLDER and info.activation is sf.Activation.RELU
    assert (info.n_layers, info.d_model, info.d_ff, info.n_vocab) == (6, 512, 2304, 8192)
    t = model.tensors["blk.2.ffn_gate.weight"]
    assert t.file_name == "model.layers.2.mlp.gate_proj.weight" and np.array_equal(t.data, reglu_layer.gate_data)
    assert model.tensors["model.layers.2.mlp.gate_proj.weight"].data.ctypes.data == t.data.ctypes.data
    stats = sf.FFNStats()
    check_reglu(model.ffn(2), reglu_layer, rng, stats)
    assert stats.touched_bytes < model.ffn(2).info.weight_bytes


def test_reglu_gguf(ctx, rng, request):
    if not REGLU.exists():
        pytest.skip("no examples/models/reglu-33m.gguf")
    model = sf.Model(ctx, REGLU)
    info = model.info
    assert (info.n_layers, info.d_model, info.d_ff, info.activation) == (6, 512, 2560, sf.Activation.RELU)
    assert len(model.metadata["tokenizer.ggml.tokens"]) == 8192
    for i in range(info.n_layers):
        layer = model.layer(i)
        kind = layer.up.dtype.name.lower()
        reference = Layer(kind, layer.gate.array, layer.up.array, layer.down.array, layer.down_layout.name.lower())
        stats = sf.FFNStats()
        check_reglu(model.ffn(i), reference, rng, stats)
        assert 0 < stats.density < 1


def test_reglu_on_text(ctx):
    """Inputs of every layer on real text, from the independent float64 model: y within the bound, few neurons awake."""
    if not SOURCE.exists():
        pytest.skip("no shared/models/reglu-30m")
    spec = importlib.util.spec_from_file_location("llama_float64", ROOT / "tests" / "reference" / "llama_float64.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    tokens = reference.read_tokens(SOURCE / "heldout_tokens.json")[:48]
    seen = reference.ffn_inputs_outputs(reference.load_model(str(SOURCE)), [tokens])
    model = sf.Model(ctx, SOURCE)
    zeros = []
    for i, (x, h, _) in enumerate(seen):
        x = x[0].astype(np.float32)
        found = model.layer(i)
        layer = Layer("bf16", found.gate.array, found.up.array, found.down.array, "columns")
        _, y, _, dy = layer.relu(x)
        stats = sf.FFNStats()
        ffn = model.ffn(i, dense_tokens=0)
        assert_within(ffn.forward(x, stats=stats), y, dy, f"layer {i}")
        zeros.append(1 - stats.n_nonzero / (stats.n_tokens * stats.d_ff))
        assert zeros[-1] == pytest.approx((h == 0).mean(), abs=1e-3)  # x was rounded to float32
    assert 0.85 < np.mean(zeros) < 0.93


def test_readme_example(monkeypatch, capsys):
    """The first block of code of bindings/python/README.md."""
    if not REGLU.exists():
        pytest.skip("no examples/models/reglu-33m.gguf")
    text = (ROOT / "bindings" / "python" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    assert "density 0." in capsys.readouterr().out
