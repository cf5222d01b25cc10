"""Writes small llama models as GGUF v3, byte by byte, so that the tests need no packages."""
import random
import struct

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
BYTE_CHARS = {}
for _b in range(256):
    printable = 33 <= _b <= 126 or 161 <= _b <= 172 or 174 <= _b <= 255
    BYTE_CHARS[_b] = chr(_b) if printable else chr(256 + sum(1 for b in BYTE_CHARS.values() if ord(b) > 255))


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    if kind == STRING:
        return text(v)
    if kind == ARRAY:
        element_kind, elements = v
        return struct.pack("<IQ", element_kind, len(elements)) + b"".join(value(element_kind, e) for e in elements)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def write(path, metadata, tensors):
    """metadata: {key: (kind, value)}; tensors: {name: (shape slowest first, list of floats)}, written as f32."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, (kind, v) in metadata.items():
        head += text(key) + struct.pack("<I", kind) + value(kind, v)
    data = b""
    for name, (shape, values) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


def llama(seed=1, n_layers=2, d=32, d_ff=96, heads=4, kv_heads=2, is_tied=True, activation="relu", merges=("h e", "l l", "he ll", "hell o", "Ġ hello")):
    """(metadata, tensors) of a random llama with a byte-level vocabulary: <s>, 256 bytes, the merges."""
    tokens = ["<s>", *(BYTE_CHARS[b] for b in range(256)), *(m.replace(" ", "") for m in merges)]
    head_dim, rng = d // heads, random.Random(seed)

    def matrix(rows, cols):
        return (rows, cols), [rng.gauss(0, cols ** -0.5) for _ in range(rows * cols)]

    metadata = {
        "general.architecture": (STRING, "llama"), "general.name": (STRING, "tiny"), "llama.block_count": (U32, n_layers),
        "llama.context_length": (U32, 64), "llama.embedding_length": (U32, d), "llama.feed_forward_length": (U32, d_ff),
        "llama.attention.head_count": (U32, heads), "llama.attention.head_count_kv": (U32, kv_heads),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "llama.rope.freq_base": (F32, 10000.0),
        "llama.rope.dimension_count": (U32, head_dim), "llama.vocab_size": (U32, len(tokens)),
        "sffn.activation": (STRING, activation), "tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [3 if t == "<s>" else 1 for t in tokens])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, list(merges))), "tokenizer.ggml.bos_token_id": (U32, 0),
    }
    tensors = {"token_embd.weight": matrix(len(tokens), d), "output_norm.weight": ((d,), [1.0] * d)}
    if not is_tied:
        tensors["output.weight"] = tensors["token_embd.weight"]
    for i in range(n_layers):
        b = f"blk.{i}."
        tensors |= {
            b + "attn_norm.weight": ((d,), [1.0] * d), b + "ffn_norm.weight": ((d,), [1.0] * d),
            b + "attn_q.weight": matrix(heads * head_dim, d), b + "attn_k.weight": matrix(kv_heads * head_dim, d),
            b + "attn_v.weight": matrix(kv_heads * head_dim, d), b + "attn_output.weight": matrix(d, heads * head_dim),
            b + "ffn_gate.weight": matrix(d_ff, d), b + "ffn_up.weight": matrix(d_ff, d), b + "ffn_down.weight": matrix(d, d_ff),
        }
    return metadata, tensors


def tokens_of(metadata):
    return metadata["tokenizer.ggml.tokens"][1][1]
