"""Models from Hugging Face folders and GGUF files; Hugging Face folders out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import Context, Model, PrepareLayer, prepare
from .model import Llama, ModelConfig

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", "fatrelu": "fatrelu", "drelu": "drelu", "relu2": "relu2",
                "relu_squared": "relu2"}  # fmt: skip
_KINDS = ("llama", "sparsellama", "mistral")


def memory_free(device: torch.device) -> int:
    """Bytes; very many where nothing is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 1 << 62


def _check_room(path: Path, n_parameters: int) -> None:
    need, free = 8 * n_parameters, memory_free(torch.device("cpu"))
    if need > free:
        raise MemoryError(f"model: {path} has {n_parameters / 1e9:.1f} G parameters; reading them takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def load(path: str | os.PathLike[str]) -> Llama:
    """A model in float32 from a Hugging Face folder (safetensors) or a GGUF file of the llama architecture.

    Raises:
        ValueError: another architecture, activation or RoPE scaling, a missing tensor or one of another shape; says which.
        OSError: no such file.
        MemoryError: the weights in float32, once as they are read and once in the model, do not fit.
    """
    path = Path(path)
    if path.is_dir():
        config, tensors = _from_folder(path)
    elif path.suffix == ".gguf":
        config, tensors = _from_gguf(path)
    elif not path.exists():
        raise FileNotFoundError(f"model: there is no {path}")
    else:
        raise ValueError(f"model: {path} is neither a folder with config.json nor a .gguf file")
    model = Llama(config)
    wanted = dict(model.named_parameters())
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"model: {path} lacks {len(missing)} tensors, for example {missing[0]}")
    with torch.no_grad():
        for name, p in wanted.items():
            if tuple(tensors[name].shape) != tuple(p.shape):
                raise ValueError(f"model: {name} is {list(tensors[name].shape)} in {path}, config.json says {list(p.shape)}")
            p.copy_(tensors[name])
    return model


def config_from_dict(config: dict[str, Any]) -> ModelConfig:
    """From config.json. What this model class does not compute is refused, not ignored."""
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"model: architecture {kind!r} is not supported, expected one of {', '.join(_KINDS)}")
    act = config.get("hidden_act", "silu")
    if act not in _ACTIVATIONS:
        raise ValueError(f"model: hidden_act {act!r} is not supported, expected one of {', '.join(_ACTIVATIONS)}")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ValueError(f"model: {key} is set; biases are not supported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (rope.get("rope_type") or rope.get("type") or "default") != "default":
        raise ValueError(f"model: RoPE scaling {rope} is not supported")
    try:
        return ModelConfig(
            d_model=config["hidden_size"],
            d_ff=config["intermediate_size"],
            n_layers=config["num_hidden_layers"],
            n_heads=config["num_attention_heads"],
            n_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            n_vocab=config["vocab_size"],
            n_context=config.get("max_position_embeddings", 2048),
            head_dim=config.get("head_dim") or 0,
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10000.0),
            is_tied=config.get("tie_word_embeddings", False),
            activation=_ACTIVATIONS[act],
            act_threshold=config.get("hidden_act_param") or 0.0,
            expert_size=config.get("lte_expert_size", 0),
            router_threshold=config.get("lte_threshold", 0.5),
            bos=config.get("bos_token_id") or 0,
        )
    except KeyError as e:
        raise ValueError(f"model: config.json has no {e.args[0]}") from None


def _from_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        text = (folder / "config.json").read_text()
    except FileNotFoundError:
        raise FileNotFoundError(f"model: {folder} has no config.json") from None
    try:
        config = config_from_dict(json.loads(text))
    except json.JSONDecodeError as e:
        raise ValueError(f"model: {folder / 'config.json'} is not JSON: {e}") from None
    _check_room(folder, config.n_parameters)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            found = load_file(folder / name)
        except SafetensorError as e:
            raise ValueError(f"model: {folder / name} is not a safetensors file, or a part of one: {e}") from None
        for key, value in found.items():
            tensors[key.removeprefix("model.")] = value.float()
    if config.is_tied:
        tensors["lm_head.weight"] = tensors.get("embed_tokens.weight", torch.empty(0))
    return config, tensors


_GGUF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "sffn_router": "mlp.router",
}  # fmt: skip


def _gguf_reader(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"model: there is no {path}")
    try:
        from gguf import GGUFReader
    except ImportError as e:
        raise ImportError("reading GGUF files needs: pip install gguf") from e
    return GGUFReader(str(path))


def _from_gguf(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    from gguf.quants import dequantize

    reader = _gguf_reader(path)

    def meta(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        return default if field is None else field.contents()

    architecture = meta("general.architecture")
    if architecture != "llama":
        raise ValueError(f"model: architecture {architecture!r} is not supported, expected llama")
    if meta("llama.rope.scaling.type", "none") != "none":
        raise ValueError(f"model: RoPE scaling {meta('llama.rope.scaling.type')!r} is not supported")
    _check_room(path, sum(int(t.n_elements) for t in reader.tensors))
    tensors: dict[str, Tensor] = {}
    for t in reader.tensors:
        value = torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), dtype=np.float32))
        part, _, suffix = t.name.rpartition(".")
        if t.name == "token_embd.weight":
            tensors["embed_tokens.weight"] = value
        elif t.name in ("output_norm.weight", "output.weight"):
            tensors["norm.weight" if "norm" in t.name else "lm_head.weight"] = value
        elif part.startswith("blk."):
            _, layer, kind = part.split(".")
            if kind == "ffn_down_t":  # written by sffn prepare: neuron-major
                kind, value = "ffn_down", value.T.contiguous()
            if kind in _GGUF_NAMES:
                tensors[f"layers.{layer}.{_GGUF_NAMES[kind]}.{suffix}"] = value

    def same(key: str, default: Any) -> Any:
        """The value of all layers."""
        values = meta(key, default)
        values = values if isinstance(values, list) else [values]
        if any(v != values[0] for v in values):
            raise ValueError(f"model: {path} has different {key} in its layers, which this model class does not compute")
        return values[0]

    has_router = "layers.0.mlp.router.weight" in tensors
    if has_router and same("sffn.router.rule", "sigmoid") != "sigmoid":
        raise ValueError(f"model: {path} has routers of rule {same('sffn.router.rule', '')!r}, expected sigmoid")
    n_heads = int(meta("llama.attention.head_count"))
    n_kv_heads = int(meta("llama.attention.head_count_kv", n_heads))
    is_tied = "lm_head.weight" not in tensors
    act = str(meta("sffn.activation", "silu")).lower()
    if act not in _ACTIVATIONS:
        raise ValueError(f"model: sffn.activation {act!r} is not supported")
    if "embed_tokens.weight" not in tensors:
        raise ValueError(f"model: {path} lacks token_embd.weight")
    config = ModelConfig(
        d_model=int(meta("llama.embedding_length")),
        d_ff=int(meta("llama.feed_forward_length")),
        n_layers=int(meta("llama.block_count")),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        n_vocab=tensors["embed_tokens.weight"].shape[0],
        n_context=int(meta("llama.context_length", 2048)),
        head_dim=int(meta("llama.attention.key_length", 0)),
        rms_norm_eps=float(meta("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        rope_theta=float(meta("llama.rope.freq_base", 10000.0)),
        is_tied=is_tied,
        activation=_ACTIVATIONS[act],
        act_threshold=float(meta("sffn.act_threshold", 0.0)),
        expert_size=int(same("sffn.router.block_size", 0)) if has_router else 0,
        router_threshold=float(same("sffn.router.threshold", 0.5)) if has_router else 0.5,
        bos=int(meta("tokenizer.ggml.bos_token_id", 0)),
    )
    if is_tied:
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
    # GGUF's llama files interleave the halves of each head's q and k rows for neighbouring-pair rotation: undo it.
    for i in range(config.n_layers):
        for kind, heads in (("q", n_heads), ("k", n_kv_heads)):
            name = f"layers.{i}.self_attn.{kind}_proj.weight"
            if name in tensors:
                w = tensors[name]
                tensors[name] = w.view(heads, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape).contiguous()
    return config, tensors


def load_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json, of a folder that has one, or of a GGUF file with a byte-level BPE."""
    try:
        from tokenizers import Tokenizer
    except ImportError as e:
        raise ImportError("text needs: pip install tokenizers") from e
    path = Path(path)
    if path.suffix == ".gguf":
        return _gguf_tokenizer(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"tokenizer: there is no {file}; name one with --tokenizer")
    return Tokenizer.from_file(str(file))


def _gguf_tokenizer(path: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = _gguf_reader(path)
    kind = reader.get_field("tokenizer.ggml.model")
    pre = reader.get_field("tokenizer.ggml.pre")
    kind_name, pre_name = (None if f is None else f.contents() for f in (kind, pre))
    if kind_name != "gpt2" or pre_name not in ("smollm", "gpt-2", "default"):
        raise ValueError(f"tokenizer: {path} has {kind_name!r} ({pre_name!r}); name a tokenizer.json with --tokenizer")
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(m.split(" ", 1)) for m in reader.get_field("tokenizer.ggml.merges").contents()]
    types = reader.get_field("tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level]) if pre_name == "smollm" else level
    tokenizer.decoder = decoders.ByteLevel()
    if types is not None:
        tokenizer.add_special_tokens([AddedToken(t, special=True) for t, k in zip(tokens, types.contents()) if k == 3])
    return tokenizer


def save(
    model: Llama,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.bfloat16,
    tokenizer: str | os.PathLike[str] | None = None,
    shard_bytes: int = 2 << 30,
    routers: bool = True,
) -> None:
    """Writes a Hugging Face folder: config.json, safetensors (shards of at most ``shard_bytes``), tokenizer.json copied if named.

    `sffn prepare FOLDER -o OUT.gguf` and sparseffn.Model read it. hidden_act is the activation, fatrelu when a threshold
    is set, with hidden_act_param. With LTE: lte_expert_size, lte_threshold and tensors model.layers.N.mlp.router.weight
    [d_ff/expert_size][d_model]; the neurons of an expert are adjacent in gate, up and down. ``routers`` False leaves them out.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    act = "fatrelu" if c.activation == "relu" and c.act_threshold > 0 else c.activation
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": act, "hidden_size": c.d_model, "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_dim,
        "vocab_size": c.n_vocab, "max_position_embeddings": c.n_context, "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope_theta,
        "tie_word_embeddings": c.is_tied, "bos_token_id": c.bos, "torch_dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
    if act == "fatrelu":
        config["hidden_act_param"] = c.act_threshold
    if c.expert_size and routers:
        config.update(lte_expert_size=c.expert_size, lte_threshold=c.router_threshold)
    tensors = {}
    for name, p in model.named_parameters():  # a tied lm_head is listed once, as embed_tokens
        if ".router." in name and not routers:
            continue
        key = name if name.startswith("lm_head") else f"model.{name}"
        tensors[key] = p.detach().to("cpu", torch.float32 if p.dim() < 2 and dtype != torch.bfloat16 else dtype).contiguous()
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        if shards[-1] and size + value.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for shard, name in zip(shards, names):
            save_file(shard, folder / name, metadata={"format": "pt"})
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                 "weight_map": {key: name for shard, name in zip(shards, names) for key in shard}}  # fmt: skip
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if tokenizer is not None:
        source = Path(tokenizer)
        if source.suffix == ".gguf":
            load_tokenizer(source).save(str(folder / "tokenizer.json"))
        else:
            shutil.copyfile(source / "tokenizer.json" if source.is_dir() else source, folder / "tokenizer.json")


def save_gguf(
    model: Llama,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = "q8_0",
    tokenizer: str | os.PathLike[str] | None = None,
    notes: str | None = None,
) -> None:
    """Writes one GGUF file through sffn_prepare(): what `sffn generate` and sparseffn.Model run without further settings.

    ``dtype`` is the type of all matrices: bf16, q8_0, q4_0, f16, f32, or None for the float32 of training. With LTE each
    layer carries its router, and its plan says to use it.
    """
    with tempfile.TemporaryDirectory() as folder, Context() as context:
        save(model, folder, dtype=torch.float32, tokenizer=tokenizer, routers=False)
        layers = None
        if model.config.expert_size:
            layers = [
                PrepareLayer(
                    plan="router",
                    router={
                        "weights": ffn.router.weight.detach().float().cpu().contiguous(),  # type: ignore[union-attr]
                        "block_size": model.config.expert_size,
                        "threshold": model.config.router_threshold,
                    },
                )
                for ffn in model.ffns
            ]
        with Model(context, folder) as source:
            prepare(context, source, path, dtype=dtype, layers=layers, command="python -m sparseffn.torch", notes=notes)
