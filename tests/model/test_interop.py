#!/usr/bin/env python3
"""Files of the public packages gguf and safetensors are read by libsparseffn with equal contents, and what sffn_prepare() writes is what those
packages, and Hugging Face's tokenizers, expect. Plain Python: each test_* function gets an empty folder. Exit status 77: packages are missing."""
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import traceback

try:
    import gguf
    import ml_dtypes
    import numpy as np
    import safetensors
    import safetensors.numpy
    import tokenizers
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
import capi

Q = gguf.GGMLQuantizationType
CTX = capi.Context(1)
RNG = np.random.default_rng(20260801)
REGLU = pathlib.Path(__file__).resolve().parents[3] / "shared" / "models" / "reglu-30m"
bf16 = ml_dtypes.bfloat16


def as_bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def same(a, b):
    return np.array_equal(as_bytes(a), as_bytes(b))


def same_quantised(ours, values, kind):
    """ours == what gguf-py quantises, but for one thing: the q4_0 scale of a block of minus zeros is -0 in ggml's C and here, +0 in gguf-py."""
    theirs = as_bytes(gguf.quantize(np.ascontiguousarray(values, np.float32), kind)).copy()
    ours = as_bytes(ours).copy()
    if kind == Q.Q4_0:
        for raw in (ours, theirs):
            scales = raw.reshape(-1, 18)[:, :2]
            scales[(scales == (0, 128)).all(1)] = 0
    return same(ours, theirs)


def raises(status, call, *words):
    try:
        call()
    except capi.Error as error:
        assert error.status == status, error
        for word in words:
            assert word in error.text, (word, error.text)
        return error.text
    raise AssertionError(f"no error {status}")


def reader_values(reader):
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def reader_tensors(reader):
    return {t.name: t for t in reader.tensors}


# ---- reading what the packages write ----

def test_gguf_values(folder):
    path = folder / "values.gguf"
    w = gguf.GGUFWriter(path, "llama")
    w.add_uint8("a.u8", 255)
    w.add_int8("a.i8", -128)
    w.add_uint16("a.u16", 65535)
    w.add_int16("a.i16", -32768)
    w.add_uint32("a.u32", 4294967295)
    w.add_int32("a.i32", -2147483648)
    w.add_uint64("a.u64", 2**63 - 1)
    w.add_int64("a.i64", -2**63)
    w.add_float32("a.f32", 0.1)
    w.add_float64("a.f64", 0.1)
    w.add_bool("a.yes", True)
    w.add_bool("a.no", False)
    w.add_string("a.text", "höchst ünüblich \U0001f600")
    w.add_string("a.empty", "")
    w.add_array("a.strings", [f"token {i}" * (i % 5) for i in range(1000)])
    w.add_array("a.ints", list(range(-500, 500)))
    w.add_array("a.floats", [i / 7 for i in range(100)])
    w.add_array("a.bools", [i % 3 == 0 for i in range(50)])
    w.add_key_value("a.large", 2**64 - 1, gguf.GGUFValueType.UINT64)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    m = CTX.open(path)
    ours, theirs = m.metas(), reader_values(gguf.GGUFReader(path))
    assert list(ours) == list(theirs)
    large = theirs.pop("a.large")
    assert large == 2**64 - 1 and ours.pop("a.large") == 2**64
    for key in theirs:
        assert ours[key] == theirs[key], key
    assert capi.lib.sffn_model_meta_count(m.handle, b"a.strings") == 1000
    assert capi.lib.sffn_model_meta_count(m.handle, b"a.f32") == 1
    assert capi.lib.sffn_model_meta_count(m.handle, b"a") == 0
    raises(capi.NOT_FOUND, lambda: m.value(b"a.ints", 1000, "int"), "a.ints")
    raises(capi.DTYPE, lambda: m.value(b"a.text", 0, "float"), "a.text")
    m.close()


def test_gguf_tensors_of_every_type(folder):
    for alignment in (32, 64, 8, 4096):
        path = folder / f"types-{alignment}.gguf"
        w = gguf.GGUFWriter(path, "test")
        w.add_custom_alignment(alignment)
        expected = {}
        for kind in Q:
            if kind == Q.Q8_1:
                continue  # gguf-py says 40 bytes, ggml 36; no file has it
            block, size = gguf.GGML_QUANT_SIZES[kind]
            for n_dims in range(1, 5):
                name = f"t.{kind.name}.{n_dims}"
                shape = tuple(int(x) for x in RNG.integers(1, 4, n_dims - 1)) + (block * int(RNG.integers(1, 4)),)
                raw = RNG.integers(0, 256, shape[:-1] + (shape[-1] // block * size,), np.uint8)
                w.add_tensor(name, raw, raw_dtype=kind)
                expected[name] = (kind.name, shape, raw)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        m = CTX.open(path)
        tensors = m.tensors()
        assert len(tensors) == len(expected)
        for t in tensors:
            kind, shape, raw = expected[t["name"]]
            assert t["type"] == kind and t["dims"] == shape and same(t["raw"], raw), t["name"]
            assert same(m.find(t["name"])["raw"], raw)
        m.close()


def test_safetensors(folder):
    kinds = [np.float32, np.float16, bf16, np.float64, np.int8, np.int16, np.int32, np.int64,
             np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]
    tensors = {}
    for kind in kinds:
        for n_dims in range(0, 5):
            shape = tuple(int(x) for x in RNG.integers(1, 5, n_dims))
            tensors[f"{np.dtype(kind).name}.{n_dims}"] = np.asarray(RNG.integers(0, 2, shape)).astype(kind)
    tensors = {n: np.asarray(a) for n, a in tensors.items()}
    tensors["nothing"] = np.zeros((3, 0), np.float32)
    tensors["Ünïcode \" \\ \n"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = folder / "all.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt", "note": "ä \" \n"})
    m = CTX.open(path)
    assert m.metas() == {"format": "pt", "note": "ä \" \n"}
    ours = {t["file_name"]: t for t in m.tensors()}
    assert set(ours) == set(tensors)
    for name, array in tensors.items():
        assert same(ours[name]["raw"], array), name
        assert ours[name]["dims"] == (array.shape or (1,)), name
    assert [ours[f"{n}.1"]["dtype"] for n in ("float32", "float16", "bfloat16", "float64")] == [0, 1, 2, -1]
    assert m.info().format == 1 and m.info().activation == -1
    m.close()


# ---- Hugging Face folders ----

def save_shards(folder, tensors, n_shards):
    names = list(tensors)
    if n_shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for i in range(n_shards):
        shard = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[i::n_shards]}
        safetensors.numpy.save_file(part, folder / shard)
        weight_map.update({n: shard for n in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def small_llama(folder, kind=bf16, n_shards=1, d=64, ff=96, heads=4, kv=2, layers=2, vocab=300, head_dim=None, bias=False,
                tokenizer=True, **config):
    """A folder like those of transformers; returns its tensors."""
    folder.mkdir(exist_ok=True)
    head_dim = head_dim or d // heads

    def draw(*shape):
        return RNG.normal(0, 1, shape).astype(np.float32).astype(kind)

    tensors = {"model.embed_tokens.weight": draw(vocab, d), "model.norm.weight": draw(d), "lm_head.weight": draw(vocab, d)}
    for i in range(layers):
        p = f"model.layers.{i}."
        tensors |= {
            p + "input_layernorm.weight": draw(d), p + "post_attention_layernorm.weight": draw(d),
            p + "self_attn.q_proj.weight": draw(heads * head_dim, d), p + "self_attn.k_proj.weight": draw(kv * head_dim, d),
            p + "self_attn.v_proj.weight": draw(kv * head_dim, d), p + "self_attn.o_proj.weight": draw(d, heads * head_dim),
            p + "mlp.gate_proj.weight": draw(ff, d), p + "mlp.up_proj.weight": draw(ff, d), p + "mlp.down_proj.weight": draw(d, ff)}
        if bias:
            tensors |= {p + "self_attn.q_proj.bias": draw(heads * head_dim), p + "self_attn.k_proj.bias": draw(kv * head_dim)}
    save_shards(folder, tensors, n_shards)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "relu", "hidden_size": d,
        "intermediate_size": ff, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": head_dim, "vocab_size": vocab, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 5000.0,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": [2, 3], "nested": {"deep": {"value": 3}},
        "list": [1, 2.5, "x"], "nothing": None} | config))
    if tokenizer:
        train_tokenizer(vocab).save(str(folder / "tokenizer.json"))
    return tensors


TEXT = ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs; how vexingly quick!",
        "In 1984 he paid $12,345.67 — or so they say…", "naïve café coöperation Ωmega \U0001f600 snow☃"] * 3


def train_tokenizer(vocab):
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab - 4, show_progress=False, special_tokens=["<pad>", "<s>", "</s>"],
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(TEXT, trainer)
    t.add_tokens([tokenizers.AddedToken("<user>", special=False)])
    return t


def llama_permute(weights, n_head):
    """convert_hf_to_gguf.py's permutation."""
    return weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


HF_TO_GGUF = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q",
              "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    part, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{HF_TO_GGUF[part]}.{suffix}"


def expect_prepared(path, tensors, heads, kv, kind, keep_embeddings=True):
    """Compares a prepared file with what numpy and gguf-py make of the source's tensors."""
    found = reader_tensors(gguf.GGUFReader(path))
    assert len(found) == len(tensors)
    for name, array in tensors.items():
        name = gguf_name(name)
        if ".attn_q." in name:
            array = llama_permute(array, heads)
        if ".attn_k." in name:
            array = llama_permute(array, kv)
        if name.endswith("ffn_down.weight"):
            array, name = array.T, name.replace("ffn_down", "ffn_down_t")
        t = found[name]
        assert tuple(t.shape[::-1]) == array.shape, name
        wanted = kind
        if array.ndim == 1:
            wanted = Q.F32
        elif wanted is None:
            wanted = {np.dtype(bf16): Q.BF16, np.dtype(np.float16): Q.F16, np.dtype(np.float32): Q.F32}[array.dtype]
        elif wanted == Q.Q4_0 and keep_embeddings and name in ("token_embd.weight", "output.weight"):
            wanted = Q.Q8_0
        assert t.tensor_type == wanted, (name, t.tensor_type, wanted)
        assert same_quantised(t.data, array.astype(np.float32), wanted), (name, wanted)


def test_prepare_llama(folder):
    dtypes = {None: -1, Q.F32: 0, Q.F16: 1, Q.BF16: 2, Q.Q8_0: 3, Q.Q4_0: 4}
    for kind in (bf16, np.float16, np.float32):
        for n_shards in (1, 3):
            source = folder / f"{np.dtype(kind).name}-{n_shards}"
            tensors = small_llama(source, kind, n_shards, bias=n_shards == 3)
            m = CTX.open(source)
            for wanted, dtype in dtypes.items():
                for keep in (1, 0) if wanted == Q.Q4_0 else (1,):
                    out = folder / "out.gguf"
                    CTX.prepare(m, out, dtype, keep)
                    expect_prepared(out, tensors, 4, 2, wanted, keep)
            m.close()
    assert sorted(p.name for p in folder.iterdir()) == ["bfloat16-1", "bfloat16-3", "float16-1", "float16-3", "float32-1", "float32-3", "out.gguf"]


def test_prepare_keys(folder):
    small_llama(folder / "source", head_dim=32, rope_scaling={"type": "linear", "factor": 2.0})
    m = CTX.open(folder / "source")
    assert m.metas()["nested.deep.value"] == 3 and m.metas()["rope_scaling.type"] == "linear" and m.metas()["eos_token_id"] == [2, 3]
    raises(capi.DTYPE, lambda: m.value(b"list", 2, "int"))
    assert [m.value(b"list", 0, "int"), m.value(b"list", 1, "float"), m.value(b"list", 2, "string")] == [1, 2.5, "x"]
    CTX.prepare(m, folder / "out.gguf", act_threshold=0.03125)
    m.close()
    keys = reader_values(gguf.GGUFReader(folder / "out.gguf"))
    expected = {
        "general.architecture": "llama", "general.name": "source", "general.file_type": 32, "general.alignment": 32,
        "llama.context_length": 128, "llama.embedding_length": 64, "llama.block_count": 2, "llama.feed_forward_length": 96,
        "llama.rope.dimension_count": 32, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32, "llama.attention.value_length": 32, "llama.rope.freq_base": 5000.0, "llama.vocab_size": 300,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-6)), "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 2.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "sffn.activation": "fatrelu", "sffn.act_threshold": 0.03125, "sffn.act_tie": 1, "sffn.source": "source", "sffn.version": "0.1.0"}
    for key, value in expected.items():
        assert keys[key] == value, (key, keys.get(key))
    m = CTX.open(folder / "out.gguf")
    info = m.info()
    assert (info.n_layers, info.d_model, info.d_ff, info.n_heads, info.n_kv_heads, info.head_dim, info.n_vocab, info.n_context) == \
        (2, 64, 96, 4, 2, 32, 300, 128)
    assert capi.lib.sffn_activation_name(info.activation) == b"fatrelu" and info.act_threshold == 0.03125 and info.rope_is_permuted == 1
    # Preparing the prepared file changes nothing but its source and file_type.
    CTX.prepare(m, folder / "again.gguf")
    m.close()
    first, again = gguf.GGUFReader(folder / "out.gguf"), gguf.GGUFReader(folder / "again.gguf")
    values, values2 = reader_values(first), reader_values(again)
    assert values.pop("sffn.source") == "source" and values2.pop("sffn.source") == "out.gguf" and values == values2
    assert all(a.name == b.name and same(a.data, b.data) for a, b in zip(first.tensors, again.tensors))


def test_prepare_threads(folder):
    small_llama(folder / "source", d=128, ff=1056, layers=1)
    outputs = []
    for n_threads in (1, 2, 7):
        ctx = capi.Context(n_threads)
        m = ctx.open(folder / "source")
        for dtype in (-1, capi.Q8_0, capi.Q4_0, capi.F32):
            ctx.prepare(m, folder / "out.gguf", dtype)
            outputs.append((dtype, (folder / "out.gguf").read_bytes()))
        m.close()
    for i, (dtype, data) in enumerate(outputs):
        assert data == outputs[i % 4][1], dtype


def test_odd_sizes(folder):
    """Columns that no block of 32 fits keep their type; a down matrix whose transposed rows fit none becomes f16."""
    tensors = small_llama(folder / "source", d=48, ff=64, heads=4, kv=4, layers=1)
    m = CTX.open(folder / "source")
    CTX.prepare(m, folder / "out.gguf", capi.Q8_0)
    m.close()
    found = reader_tensors(gguf.GGUFReader(folder / "out.gguf"))
    assert found["blk.0.ffn_gate.weight"].tensor_type == Q.BF16 and found["blk.0.ffn_down_t.weight"].tensor_type == Q.BF16
    w = gguf.GGUFWriter(folder / "quant.gguf", "llama")
    w.add_block_count(1)
    down = tensors["model.layers.0.mlp.down_proj.weight"].astype(np.float32)
    w.add_tensor("blk.0.ffn_down.weight", gguf.quantize(down, Q.Q8_0), raw_dtype=Q.Q8_0)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    m = CTX.open(folder / "quant.gguf")
    CTX.prepare(m, folder / "out.gguf")
    m.close()
    t = reader_tensors(gguf.GGUFReader(folder / "out.gguf"))["blk.0.ffn_down_t.weight"]
    assert t.tensor_type == Q.F16
    assert same(t.data, gguf.dequantize(gguf.quantize(down, Q.Q8_0), Q.Q8_0).T.astype(np.float16))


def test_architectures(folder):
    small_llama(folder / "sparse", model_type="sparsellama", architectures=["SparseLlamaForCausalLM"], hidden_act="fatrelu", hidden_act_param=0.01)
    m = CTX.open(folder / "sparse")
    info = m.info()
    assert info.architecture == b"llama" and abs(info.act_threshold - 0.01) < 1e-9 and info.act_tie == 1 and info.rope_is_permuted == 0
    assert capi.lib.sffn_activation_name(info.activation) == b"fatrelu"
    CTX.prepare(m, folder / "sparse.gguf")
    assert reader_values(gguf.GGUFReader(folder / "sparse.gguf"))["sffn.act_threshold"] == float(np.float32(0.01))
    m.close()
    for config, name in [({"model_type": "mistral", "hidden_act": "silu"}, b"silu"), ({"model_type": "bamboo"}, b"drelu"),
                         ({"hidden_act": "relu2"}, b"relu2"), ({"hidden_act": "gelu"}, b"gelu"), ({"hidden_act": "gelu_new"}, b"gelu_tanh"),
                         ({"hidden_act": "gelu_pytorch_tanh"}, b"gelu_tanh"), ({"model_type": None, "hidden_act": "silu"}, b"silu")]:
        small_llama(folder / "x", layers=1, tokenizer=False, **config)
        m = CTX.open(folder / "x")
        assert capi.lib.sffn_activation_name(m.info().activation) == name, config
        m.close()
    small_llama(folder / "x", layers=1, tokenizer=False, hidden_act="fatrelu")
    raises(capi.FORMAT, lambda: CTX.open(folder / "x"), "hidden_act_param", "config.json: offset")
    small_llama(folder / "x", layers=1, tokenizer=False, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    m = CTX.open(folder / "x")
    raises(capi.UNSUPPORTED, lambda: CTX.prepare(m, folder / "out.gguf"), "rope_scaling")
    m.close()
    small_llama(folder / "x", layers=1, tokenizer=False, hidden_act="silu")
    m = CTX.open(folder / "x")
    raises(capi.UNSUPPORTED, lambda: CTX.prepare(m, folder / "out.gguf", act_threshold=0.1), "silu")
    m.close()
    assert not (folder / "out.gguf").exists()


def test_opt(folder):
    d, ff = 32, 64
    tensors = {"model.decoder.embed_tokens.weight": np.zeros((40, d), np.float16), "model.decoder.embed_positions.weight": np.zeros((18, d), np.float16),
               "model.decoder.final_layer_norm.weight": np.zeros(d, np.float16), "model.decoder.final_layer_norm.bias": np.zeros(d, np.float16)}
    for i in range(2):
        p = f"model.decoder.layers.{i}."
        for part, shape in [("fc1.weight", (ff, d)), ("fc1.bias", (ff,)), ("fc2.weight", (d, ff)), ("fc2.bias", (d,)),
                            ("self_attn.q_proj.weight", (d, d)), ("self_attn.q_proj.bias", (d,)), ("self_attn.out_proj.weight", (d, d)),
                            ("self_attn_layer_norm.weight", (d,)), ("final_layer_norm.weight", (d,))]:
            tensors[p + part] = RNG.normal(0, 1, shape).astype(np.float16)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "opt", "activation_function": "relu", "ffn_dim": ff, "hidden_size": d,
                                                    "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 16}))
    m = CTX.open(folder)
    assert m.info().d_ff == ff and m.info().architecture == b"opt" and m.info().activation == 0
    assert m.find("blk.1.ffn_up.bias")["file_name"] == "model.decoder.layers.1.fc1.bias"
    assert m.find("model.decoder.layers.1.fc2.weight")["name"] == "blk.1.ffn_down.weight"
    CTX.prepare(m, folder / "opt.gguf")
    m.close()
    found = reader_tensors(gguf.GGUFReader(folder / "opt.gguf"))
    assert same(found["blk.1.ffn_down_t.weight"].data, tensors["model.decoder.layers.1.fc2.weight"].T)
    assert same(found["blk.0.ffn_up.bias"].data, tensors["model.decoder.layers.0.fc1.bias"].astype(np.float32))
    assert same(found["blk.0.attn_q.weight"].data, tensors["model.decoder.layers.0.self_attn.q_proj.weight"])  # not llama: not reordered
    assert "blk.0.attn_norm.weight" in found and "blk.0.ffn_norm.weight" in found and "position_embd.weight" in found


# ---- GGUF to GGUF ----

def write_gguf(path, kind, d=256, ff=512, extra=()):
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1)
    w.add_embedding_length(d)
    w.add_feed_forward_length(ff)
    w.add_file_type(1)
    w.add_array("tokenizer.ggml.tokens", ["a", "b", "ü"])
    w.add_array("x.bools", [True, False])
    w.add_float64("x.f64", 0.1)
    raws = {}
    for name, shape in [("token_embd", (3, d)), ("blk.0.ffn_gate", (ff, d)), ("blk.0.ffn_up", (ff, d)), ("blk.0.ffn_down", (d, ff))]:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = RNG.integers(0, 256, (shape[0], shape[1] // block, size), np.uint8)
        # Scales are f16 at the start or (q6_K) at the end: keep them finite and small.
        at = size - 2 if kind == Q.Q6_K else 0
        n_scales = {Q.Q4_1: 2, Q.Q5_1: 2, Q.Q4_K: 2, Q.Q5_K: 2}.get(kind, 1)
        scales = RNG.normal(0, 0.01, raw.shape[:2] + (n_scales,)).astype(np.float16)
        raw[:, :, at:at + 2 * n_scales] = scales.view(np.uint8)
        raws[name + ".weight"] = raw = raw.reshape(shape[0], -1)
        w.add_tensor(name + ".weight", raw, raw_dtype=kind)
    w.add_tensor("blk.0.ffn_norm.weight", np.ones(d, np.float32))
    w.add_tensor("odd.counts", np.arange(7, dtype=np.int32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return raws


def test_prepare_gguf_types(folder):
    for kind in (Q.Q4_0, Q.Q8_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q4_K, Q.Q5_K, Q.Q6_K):
        raws = write_gguf(folder / "in.gguf", kind)
        m = CTX.open(folder / "in.gguf")
        for dtype, wanted in ((-1, None), (capi.F32, Q.F32), (capi.F16, Q.F16), (capi.Q8_0, Q.Q8_0), (capi.Q4_0, Q.Q4_0)):
            CTX.prepare(m, folder / "out.gguf", dtype, 0)
            reader = gguf.GGUFReader(folder / "out.gguf")
            found = reader_tensors(reader)
            for name, raw in raws.items():
                values = gguf.dequantize(raw, kind)
                if name.endswith("ffn_down.weight"):
                    values, name, raw = values.T, name.replace("ffn_down", "ffn_down_t"), None
                target = wanted if wanted is not None else (kind if kind in (Q.Q4_0, Q.Q8_0) else Q.Q8_0)
                t = found[name]
                assert t.tensor_type == target, (name, kind, t.tensor_type)
                is_copy = raw is not None and target == kind
                assert same(t.data, raw) if is_copy else same_quantised(t.data, values, target), (name, kind, target)
            assert same(found["odd.counts"].data, np.arange(7, dtype=np.int32)) and found["odd.counts"].tensor_type == Q.I32
            keys, source = reader_values(reader), reader_values(gguf.GGUFReader(folder / "in.gguf"))
            for key, value in source.items():
                if key not in ("general.file_type", "general.alignment"):
                    assert keys[key] == value, key
            kinds = {Q.F32: 0, Q.F16: 1, Q.Q8_0: 7, Q.Q4_0: 2}
            assert keys["general.file_type"] == (1 if target == kind else kinds[target]), (kind, wanted)
            assert keys["sffn.activation"] == "silu"  # the architecture's
        m.close()
    write_gguf(folder / "in.gguf", Q.IQ4_NL)
    m = CTX.open(folder / "in.gguf")
    raises(capi.UNSUPPORTED, lambda: CTX.prepare(m, folder / "no.gguf"), "IQ4_NL", "blk.0.ffn_down.weight")
    m.close()
    assert not (folder / "no.gguf").exists() and not list(folder.glob("*.tmp"))


def test_powerinfer(folder):
    """PowerInfer's magic, its ffn_down_t and its predictor's tensors."""
    path = folder / "p.gguf"
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1)
    w.add_float32("powerinfer.sparse_threshold", 0.5)
    for name, shape in [("ffn_gate", (96, 64)), ("ffn_up", (96, 64)), ("ffn_down_t", (96, 64)), ("fc1", (8, 64)), ("fc2", (96, 8))]:
        w.add_tensor(f"blk.0.{name}.weight", RNG.normal(0, 1, shape).astype(np.float16))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    data = bytearray(path.read_bytes())
    data[:4] = b"PWRI"
    path.write_bytes(data)
    m = CTX.open(path)
    assert m.info().activation == 0 and m.info().d_ff == 96 and m.info().d_model == 64  # relu, sizes from the tensors
    assert m.value(b"powerinfer.sparse_threshold", 0, "float") == 0.5 and m.find("blk.0.fc1.weight")["dims"] == (8, 64)
    CTX.prepare(m, folder / "out.gguf")
    theirs = {t["name"]: t["raw"] for t in m.tensors()}
    found = reader_tensors(gguf.GGUFReader(folder / "out.gguf"))
    assert set(found) == set(theirs) and all(same(found[n].data, theirs[n]) for n in found)
    m.close()


# ---- tokenizers ----

def bpe(pieces, ranks):
    """The textbook loop: the best-ranked pair first."""
    pieces = list(pieces)
    while len(pieces) > 1:
        best = min(range(len(pieces) - 1), key=lambda i: ranks.get((pieces[i], pieces[i + 1]), 1 << 60))
        if (pieces[best], pieces[best + 1]) not in ranks:
            break
        pieces[best:best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces


def check_byte_level(path, tokenizer, texts):
    keys = reader_values(gguf.GGUFReader(path))
    tokens = keys["tokenizer.ggml.tokens"]
    ids = {t: i for i, t in enumerate(tokens)}
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(keys["tokenizer.ggml.merges"])}
    for text in texts:
        out = []
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            out += [ids[p] for p in bpe(piece, ranks)]
        assert out == tokenizer.encode(text, add_special_tokens=False).ids, text
    return keys


def test_byte_level_tokenizer(folder):
    small_llama(folder / "source")
    m = CTX.open(folder / "source")
    CTX.prepare(m, folder / "out.gguf")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "source" / "tokenizer.json"))
    keys = check_byte_level(folder / "out.gguf", tokenizer, TEXT)
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    n = tokenizer.get_vocab_size()
    assert len(tokens) == 300 and tokens[:n] == [tokenizer.id_to_token(i) for i in range(n)]
    assert tokens[n:] == [f"[PAD{i}]" for i in range(n, 300)] and types[n:] == [5] * (300 - n)
    assert types[:3] == [3, 3, 3] and types[tokens.index("<user>")] == 4 and types[3] == 1
    # merges in both forms give the same file
    parsed = json.loads((folder / "source" / "tokenizer.json").read_text())
    merges = parsed["model"]["merges"]
    as_pairs = [m.split(" ") if isinstance(m, str) else m for m in merges]
    for form in (as_pairs, [" ".join(p) for p in as_pairs]):
        parsed["model"]["merges"] = form
        (folder / "source" / "tokenizer.json").write_text(json.dumps(parsed))
        CTX.prepare(m, folder / "again.gguf")
        assert (folder / "again.gguf").read_bytes() == (folder / "out.gguf").read_bytes()
    # other pre-tokenizers
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": llama3}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    for pre, wanted in [({"type": "Sequence", "pretokenizers": [split, level]}, "llama-bpe"),
                        ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level | {"use_regex": True}]}, "starcoder"),
                        ({"type": "Sequence", "pretokenizers": [split | {"pattern": {"Regex": "x"}}, level]}, None)]:
        parsed["pre_tokenizer"] = pre
        (folder / "source" / "tokenizer.json").write_text(json.dumps(parsed))
        CTX.prepare(m, folder / "again.gguf")
        assert reader_values(gguf.GGUFReader(folder / "again.gguf")).get("tokenizer.ggml.pre") == wanted
    for change, word in [(lambda p: p["model"]["vocab"].update({"zzz": 300}), "token id 300"),
                         (lambda p: p["model"]["vocab"].update({"zzz": 5}), "two tokens"),
                         (lambda p: p["model"]["merges"].append("ab"), "merge"),
                         (lambda p: p["model"]["merges"].append(["a", "b", "c"]), "merge"),
                         (lambda p: p["model"]["vocab"].update({"zzz": -1}), "no number"),
                         (lambda p: p.update({"added_tokens": [{"id": 3}]}), "content")]:
        broken = json.loads(json.dumps(parsed))
        change(broken)
        (folder / "source" / "tokenizer.json").write_text(json.dumps(broken))
        raises(capi.FORMAT, lambda: CTX.prepare(m, folder / "no.gguf"), word, "tokenizer.json: offset")
    assert not (folder / "no.gguf").exists()
    m.close()


def test_sentencepiece_like_tokenizer(folder):
    """BPE with byte fallback: scores must make sentencepiece's greedy merging do what the merge list does."""
    small_llama(folder / "source", tokenizer=False)
    t = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + bytes_)
    t.train_from_iterator(TEXT, trainer)
    t.save(str(folder / "source" / "tokenizer.json"))
    parsed = json.loads((folder / "source" / "tokenizer.json").read_text())
    parsed["added_tokens"] = parsed["added_tokens"][:3]
    (folder / "source" / "tokenizer.json").write_text(json.dumps(parsed))
    t = tokenizers.Tokenizer.from_file(str(folder / "source" / "tokenizer.json"))
    small_llama(folder / "source", tokenizer=False, vocab=t.get_vocab_size())
    (folder / "source" / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "add_eos_token": False}))
    m = CTX.open(folder / "source")
    CTX.prepare(m, folder / "out.gguf")
    m.close()
    keys = reader_values(gguf.GGUFReader(folder / "out.gguf"))
    assert keys["tokenizer.ggml.model"] == "llama" and keys["tokenizer.ggml.unknown_token_id"] == 0
    assert keys["tokenizer.ggml.add_bos_token"] is True and keys["tokenizer.ggml.add_eos_token"] is False
    tokens, scores, types = (keys[f"tokenizer.ggml.{k}"] for k in ("tokens", "scores", "token_type"))
    ids = {x: i for i, x in enumerate(tokens)}
    assert types[:4] == [2, 3, 3, 6] and types[ids["<0x41>"]] == 6
    random.seed(1)
    words = " ".join(TEXT).split()
    for _ in range(200):
        text = " ".join(random.choices(words, k=random.randint(1, 8)))
        pieces = list("▁" + text.replace(" ", "▁"))
        while True:
            pairs = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])) if a + b in ids and types[ids[a + b]] == 1]
            if not pairs:
                break
            i = -max(pairs)[1]
            pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]
        assert [ids[p] for p in pieces] == t.encode(text, add_special_tokens=False).ids, text


def test_reglu(folder):
    """The real model, where the checkout has it beside it."""
    if not REGLU.is_dir():
        print("  (no reglu-30m here)")
        return
    tensors = {}
    for path in sorted(REGLU.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
    m = CTX.open(REGLU)
    raises(capi.NOT_FOUND, lambda: m.find("output.weight"), "output.weight")
    assert m.info().is_tied == 1
    for dtype, kind in ((-1, None), (capi.Q8_0, Q.Q8_0), (capi.Q4_0, Q.Q4_0)):
        CTX.prepare(m, folder / "out.gguf", dtype)
        expect_prepared(folder / "out.gguf", tensors, 8, 4, kind)
        print(f"  {kind.name if kind else 'BF16'}: {(folder / 'out.gguf').stat().st_size} bytes")
    m.close()
    tokenizer = tokenizers.Tokenizer.from_file(str(REGLU / "tokenizer.json"))
    keys = check_byte_level(folder / "out.gguf", tokenizer, TEXT + [(REGLU / "README.md").read_text()])
    assert keys["tokenizer.ggml.bos_token_id"] == 0 and keys["tokenizer.ggml.add_bos_token"] is True and keys["sffn.activation"] == "relu"


# ---- prepare's manners ----

def test_interruption(folder):
    small_llama(folder / "source", layers=3)
    m = CTX.open(folder / "source")
    calls = []

    def progress(user, what, done, total):
        calls.append((what, done, total))
        return 0

    CTX.prepare(m, folder / "out.gguf", capi.Q8_0, progress=progress)
    before = (folder / "out.gguf").read_bytes()
    assert calls[0][1] == 0 and calls[-1][1] == calls[-1][2] and [x[1] for x in calls] == sorted(x[1] for x in calls)
    for stop in range(len(calls)):
        seen = [0]

        def interrupt(user, what, done, total):
            seen[0] += 1
            return seen[0] > stop

        raises(capi.INTERRUPTED, lambda: CTX.prepare(m, folder / "out.gguf", progress=interrupt), "out.gguf")
        assert (folder / "out.gguf").read_bytes() == before
    raises(capi.IO, lambda: CTX.prepare(m, folder / "no" / "such.gguf"), "create", "No such file")
    raises(capi.IO, lambda: CTX.prepare(m, folder / "source"), "rename")
    raises(capi.INVALID, lambda: CTX.prepare(m, folder / "out.gguf", 7), "dtype is 7")
    raises(capi.INVALID, lambda: CTX.prepare(m, folder / "out.gguf", act_threshold=float("nan")), "act_threshold")
    # onto the source itself: the mapping keeps the old file alive
    m.close()
    m = CTX.open(folder / "out.gguf")
    CTX.prepare(m, folder / "out.gguf")
    m.close()
    assert sorted(p.name for p in folder.iterdir()) == ["out.gguf", "source"]


def main():
    wanted = sys.argv[1:]
    passed = failed = 0
    for name, function in list(globals().items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sffn-interop-"))
        try:
            function(folder)
            passed += 1
            print("ok  ", name, flush=True)
        except Exception:
            failed += 1
            print("FAIL", name, flush=True)
            traceback.print_exc()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
