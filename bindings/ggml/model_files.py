"""Model files for the tests: what llama.cpp can load, made from what the tests have. Needs numpy and gguf.

  model_files.py smallthinker IN.gguf OUT.gguf [TYPE]   a ReLU-gated llama, for which llama.cpp has no architecture, as a SmallThinker model of one expert
  model_files.py copy IN.gguf OUT.gguf [TYPE]           the model as it is

All matrices become TYPE: f32, f16, bf16, q8_0, q4_0, ... Without one they stay as they are.

llama.cpp's `llama` architecture always computes SiLU. SmallThinker has the same blocks with ReLU-gated experts; with one expert, which every token uses with weight 1,
it computes what the ReLU-gated llama does. Rotary embedding pairs halves there, so the rows of q and k return to that order.
"""

import re
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    return reader, fields, {t.name: t for t in reader.tensors}


def put_fields(writer, fields, rename):
    for key, field in fields.items():
        if key == "general.architecture" or key.startswith("sffn."):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(rename(key), field.contents(), kind, element)


class Writer:
    def __init__(self, path, architecture, type_):
        self.gguf, self.type = gguf.GGUFWriter(path, architecture), type_

    def put(self, name, data, type_):
        """data: rows as in the file; bytes for quantised types."""
        if self.type not in (None, type_) and data.ndim > 1:
            data, type_ = gguf.quants.quantize(gguf.quants.dequantize(data, type_), self.type), self.type
        self.gguf.add_tensor(name, np.ascontiguousarray(data), raw_dtype=type_)

    def close(self):
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def down_of(tensors, name):
    """ffn_down of a layer: as it is, or turned back from the rows of neurons that `sffn prepare` writes."""
    t = tensors[name]
    if not name.endswith("ffn_down_t.weight"):
        return t.data, t.tensor_type
    turned = gguf.quants.dequantize(t.data, t.tensor_type).T
    return gguf.quants.quantize(np.ascontiguousarray(turned), t.tensor_type), t.tensor_type


def smallthinker(source, target, type_):
    _, fields, tensors = read(source)
    value = lambda key: fields["llama." + key].contents()
    n_heads, n_kv_heads, n_embd = value("attention.head_count"), value("attention.head_count_kv"), value("embedding_length")
    writer = Writer(target, "smallthinker", type_)
    put_fields(writer.gguf, fields, lambda key: key.replace("llama.", "smallthinker.", 1))
    writer.gguf.add_expert_count(1)
    writer.gguf.add_expert_used_count(1)
    writer.gguf.add_expert_feed_forward_length(value("feed_forward_length"))
    writer.gguf.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    for name, t in tensors.items():
        data, dtype = t.data, t.tensor_type
        heads = {"attn_q.weight": n_heads, "attn_k.weight": n_kv_heads}.get(name.split(".", 2)[-1])
        if heads:  # from neighbouring pairs to halves
            data = data.reshape(heads, data.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(data.shape)
        match = re.fullmatch(r"(blk\.\d+)\.ffn_(gate|up|down|down_t)\.weight", name)
        if match:
            data, dtype = down_of(tensors, name)
            part = match[2].removesuffix("_t")
            writer.put(f"{match[1]}.ffn_{part}_exps.weight", data[np.newaxis], dtype)
            if part == "gate":
                writer.gguf.add_tensor(f"{match[1]}.ffn_gate_inp.weight", np.zeros((1, n_embd), np.float32))
        elif ".sffn_" not in name:
            writer.put(name, data, dtype)
    writer.close()


def copy(source, target, type_):
    _, fields, tensors = read(source)
    writer = Writer(target, fields["general.architecture"].contents(), type_)
    put_fields(writer.gguf, fields, lambda key: key)
    for name, t in tensors.items():
        writer.put(name, t.data, t.tensor_type)
    writer.close()


if __name__ == "__main__":
    commands, arguments = {"smallthinker": smallthinker, "copy": copy}, sys.argv[1:]
    if len(arguments) not in (3, 4) or arguments[0] not in commands:
        sys.exit(__doc__)
    commands[arguments[0]](arguments[1], arguments[2], T[arguments[3].upper()] if arguments[3:] else None)
