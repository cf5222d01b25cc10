#!/usr/bin/env python3
"""Float64 forward pass of a llama-architecture model with a ReLU-gated FFN.

An independent reference: numpy only, written from the maths, slow and plain.
Every shape below uses n windows of T tokens, width D, F neurons, V vocabulary ids, H query heads of
size E and K key-value heads.

    python3 llama_float64.py MODEL --tokens TOKENS.json --windows 16

MODEL is a Hugging Face folder, or a GGUF file that `sffn prepare` made of one (read with the gguf package).
"""
import argparse
import json
import os
import struct

import numpy as np


# ---------------------------------------------------------------- safetensors

def read_safetensors(path):
    """Returns {name: array} of one file; bf16 and f16 become float32, exactly.

    The file is a u64 header length, a JSON header, then the data; offsets count from the data's start.
    """
    with open(path, "rb") as f:
        raw = f.read()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + header_bytes])
    data = raw[8 + header_bytes:]
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        piece = data[begin:end]
        if info["dtype"] == "BF16":   # bf16 is the upper half of a float32
            bits = np.frombuffer(piece, "<u2").astype(np.uint32) << 16
            array = bits.view(np.float32)
        elif info["dtype"] == "F16":
            array = np.frombuffer(piece, "<f2").astype(np.float32)
        elif info["dtype"] == "F32":
            array = np.frombuffer(piece, "<f4")
        else:
            raise ValueError(f"{name}: dtype {info['dtype']} is not supported")
        tensors[name] = array.reshape(info["shape"])
    return tensors


def read_all_tensors(model_dir):
    """Returns {name: array} of a folder with one model.safetensors or shards with an index."""
    index = os.path.join(model_dir, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_safetensors(os.path.join(model_dir, "model.safetensors"))
    with open(index) as f:
        weight_map = json.load(f)["weight_map"]
    tensors = {}
    for shard in sorted(set(weight_map.values())):
        tensors.update(read_safetensors(os.path.join(model_dir, shard)))
    assert set(tensors) == set(weight_map)
    return tensors


# ---------------------------------------------------------------- GGUF

def read_gguf(path):
    """Returns (config, {name: array}) of a llama with tied embeddings, as config.json and safetensors would have them."""
    import gguf                                                     # the public package

    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.get_field(key).contents()

    short = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    heads = {"attn_q": value("llama.attention.head_count"), "attn_k": value("llama.attention.head_count_kv")}
    tensors = {}
    for t in reader.tensors:
        array = np.array(gguf.dequantize(t.data, t.tensor_type), np.float32)
        if not t.name.startswith("blk."):
            name = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}[t.name]
            tensors[f"model.{name}.weight"] = array
            continue
        _, layer, kind, _ = t.name.split(".")
        if kind == "ffn_down_t":                                    # [F][D], neuron by neuron
            kind, array = "ffn_down", np.ascontiguousarray(array.T)
        if kind in heads:                                           # rows 0 E/2 1 E/2+1 ... of each head -> 0 1 2 ...
            n = array.shape[1]
            array = array.reshape(heads[kind], -1, 2, n).swapaxes(1, 2).reshape(-1, n)
        tensors[f"model.layers.{layer}.{short[kind]}.weight"] = array
    config = {
        "hidden_size": value("llama.embedding_length"), "num_hidden_layers": value("llama.block_count"),
        "num_attention_heads": heads["attn_q"], "num_key_value_heads": heads["attn_k"],
        "head_dim": value("llama.rope.dimension_count"), "rope_theta": value("llama.rope.freq_base"),
        "rms_norm_eps": float(str(np.float32(value("llama.attention.layer_norm_rms_epsilon")))),  # 1e-5, not its float32
        "hidden_act": value("sffn.activation"), "hidden_act_param": value("sffn.act_threshold"), "tie_word_embeddings": True,
    }
    return config, tensors


def read_model(path):
    """(config, {name: array}) of a Hugging Face folder or a GGUF file."""
    if os.path.isfile(path):
        return read_gguf(path)
    with open(os.path.join(path, "config.json")) as f:
        return json.load(f), read_all_tensors(path)


# ---------------------------------------------------------------- model

def load_model(path, dtype=np.float64, fatrelu_threshold=None, rounding=None):
    """Returns the model as a dict: config values, "embed" [V][D], "norm" [D], "head" [V][D], "layers".

    A layer holds the Hugging Face matrices as they are, [out][in]. dtype float32 is there only to see
    how much rounding matters. fatrelu_threshold t makes the FFN drop gates g < t; None means ReLU.
    rounding, a function, is put on every tensor (name, float32 array) first.
    """
    config, tensors = read_model(path)
    rounding = rounding or (lambda name, array: array)
    if config["hidden_act"] not in ("relu", "fatrelu"):
        raise ValueError(f"hidden_act {config['hidden_act']} is not supported")
    if fatrelu_threshold is None and config["hidden_act"] == "fatrelu":
        fatrelu_threshold = config["hidden_act_param"]
    raw = {k: rounding(k, v).astype(dtype) for k, v in tensors.items()}
    short = {
        "input_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    }
    layers = [{s: raw[f"model.layers.{i}.{long}.weight"] for s, long in short.items()}
              for i in range(config["num_hidden_layers"])]
    embed = raw["model.embed_tokens.weight"]
    return {
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
        "eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"],
        "fatrelu_threshold": fatrelu_threshold,
        "round_ffn": None,      # a function put on x and h of every FFN, to see what rounding them does
        "embed": embed,
        "norm": raw["model.norm.weight"],
        "head": embed if config.get("tie_word_embeddings") else raw["lm_head.weight"],
        "layers": layers,
    }


def rms_norm(x, weight, eps):
    """x [..][D], weight [D] -> [..][D]."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, theta):
    """Rotates x [n][heads][T][E]; element j is paired with j + E/2 ("rotate_half"), positions 0 .. T-1."""
    n_tokens, dim = x.shape[2], x.shape[3]
    half = dim // 2
    frequency = theta ** (-2.0 * np.arange(half) / dim)             # [E/2]
    angle = np.arange(n_tokens)[:, None] * frequency[None, :]       # [T][E/2]
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(model, layer, x):
    """Causal grouped-query attention. x [n][T][D], already normed -> [n][T][D]."""
    n, n_tokens, _ = x.shape
    heads, kv_heads, dim = model["n_heads"], model["n_kv_heads"], model["head_dim"]

    def split(y, count):                                            # [n][T][count*E] -> [n][count][T][E]
        return y.reshape(n, n_tokens, count, dim).transpose(0, 2, 1, 3)

    q = rope(split(x @ layer["q"].T, heads), model["rope_theta"])
    k = rope(split(x @ layer["k"].T, kv_heads), model["rope_theta"])
    v = split(x @ layer["v"].T, kv_heads)
    k = np.repeat(k, heads // kv_heads, axis=1)                     # query head i uses kv head i // group
    v = np.repeat(v, heads // kv_heads, axis=1)
    score = q @ k.transpose(0, 1, 3, 2) / np.sqrt(x.dtype.type(dim))  # [n][H][T][T]
    future = np.triu(np.ones((n_tokens, n_tokens), bool), 1)
    score = np.where(future, -np.inf, score)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    out = (weight @ v).transpose(0, 2, 1, 3).reshape(n, n_tokens, heads * dim)
    return out @ layer["o"].T


def ffn(model, layer, x):
    """x [..][D] -> (h [..][F], y [..][D]); h = act(gate x) * (up x), y = down h."""
    rounded = model["round_ffn"] or (lambda v: v)
    x = rounded(x)
    g = x @ layer["gate"].T
    t = model["fatrelu_threshold"]
    keep = g > 0 if not t else g >= t
    h = rounded(np.where(keep, g, 0) * (x @ layer["up"].T))
    return h, h @ layer["down"].T


def logits(model, tokens, on_ffn=None):
    """tokens [n][T] ints -> [n][T][V]. on_ffn(layer_index, x, h, y) sees every FFN's input and outputs."""
    x = model["embed"][np.asarray(tokens)]
    for i, layer in enumerate(model["layers"]):
        x = x + attention(model, layer, rms_norm(x, layer["input_norm"], model["eps"]))
        ffn_x = rms_norm(x, layer["ffn_norm"], model["eps"])
        h, y = ffn(model, layer, ffn_x)
        if on_ffn:
            on_ffn(i, ffn_x, h, y)
        x = x + y
    return rms_norm(x, model["norm"], model["eps"]) @ model["head"].T


def ffn_inputs_outputs(model, tokens):
    """tokens [n][T] -> one (x [n][T][D], h [n][T][F], y [n][T][D]) per layer."""
    seen = []
    logits(model, tokens, lambda i, x, h, y: seen.append((x, h, y)))
    return seen


def log_softmax(x):
    """x [..][V] -> [..][V]."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def window_nll(model, tokens, on_ffn=None):
    """tokens [n][T] -> negative log-likelihood [n][T-1] of tokens 1 .. T-1, each given those before it."""
    tokens = np.asarray(tokens)
    log_p = log_softmax(logits(model, tokens, on_ffn)[:, :-1])
    return -np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]


def evaluate(model, tokens, window=512, n_windows=16, batch=4):
    """Cuts the first n_windows * window tokens into windows that do not overlap; each starts afresh.

    Returns {"perplexity", "nll" [n_windows] (mean per window), "zeros" [L] (share of h that is exactly 0)}.
    """
    tokens = np.asarray(tokens[:n_windows * window]).reshape(n_windows, window)
    zeros = np.zeros(len(model["layers"]))
    seen = np.zeros(len(model["layers"]))

    def count(i, x, h, y):
        zeros[i] += np.count_nonzero(h == 0)
        seen[i] += h.size

    nll = np.concatenate([window_nll(model, tokens[b:b + batch], count)
                          for b in range(0, n_windows, batch)])
    return {"perplexity": float(np.exp(nll.mean())), "nll": nll.mean(axis=1).tolist(),
            "zeros": (zeros / seen).tolist()}


def perplexity(model, tokens, window=512, n_windows=16):
    """exp of the mean negative log-likelihood, see evaluate()."""
    return evaluate(model, tokens, window, n_windows)["perplexity"]


def zeros_per_layer(model, tokens, window=512, n_windows=16):
    """[L] share of exact zeros in h, see evaluate()."""
    return evaluate(model, tokens, window, n_windows)["zeros"]


def greedy(model, prompt_ids, n_new):
    """Extends prompt_ids by n_new most likely ids, the whole text recomputed at each step (no KV cache).

    Returns (ids, margins): the new ids and how far the best logit leads the second at each step.
    """
    ids, margins = list(prompt_ids), []
    for _ in range(n_new):
        last = logits(model, [ids])[0, -1]
        second, first = np.argsort(last)[-2:]
        ids.append(int(first))
        margins.append(float(last[first] - last[second]))
    return ids[len(prompt_ids):], margins


def read_tokens(path):
    """A JSON list of ids, or an object whose "tokens" is one."""
    with open(path) as f:
        data = json.load(f)
    return data["tokens"] if isinstance(data, dict) else data


def main():
    parser = argparse.ArgumentParser(description="float64 perplexity and zeros per layer")
    parser.add_argument("model")
    parser.add_argument("--tokens", help="default: MODEL/heldout_tokens.json")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--fatrelu", type=float, help="FATReLU threshold (keeps g >= t)")
    parser.add_argument("--float32", action="store_true", help="compute in float32 instead")
    args = parser.parse_args()
    dtype = np.float32 if args.float32 else np.float64
    model = load_model(args.model, dtype, args.fatrelu)
    tokens = read_tokens(args.tokens or os.path.join(args.model, "heldout_tokens.json"))
    result = evaluate(model, tokens, args.window, args.windows)
    print(f"perplexity {result['perplexity']:.6f} over {args.windows} windows of {args.window}")
    print("zeros", " ".join(f"{z:.4f}" for z in result["zeros"]), f"mean {np.mean(result['zeros']):.4f}")


if __name__ == "__main__":
    main()
