#!/usr/bin/env python3
"""Writes ../golden/reglu33m.json: what the model reglu-33m answers in float64 with its q8_0 weights. Keys: ../golden/README.md.

    python3 make_reglu33m.py [MODEL] [--tokenizer FILE]     needs the tokenizers and gguf packages; some minutes
    python3 make_reglu33m.py [MODEL] --inputs FILE          writes examples/models/layer3_inputs.f32 instead

MODEL is the GGUF file in examples/models (the default) or the bf16 Hugging Face folder that it was made of, whose matrices quant.py then rounds
to q8_0. Both give the same bytes. FILE is the model's tokenizer.json; the one of shared/models/reglu-30m is the same.
"""
import argparse
import json
import os

import numpy as np
import tokenizers

import llama_float64 as llama
import quant

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
OUT = os.path.join(HERE, "..", "golden", "reglu33m.json")
MODEL = os.path.join(ROOT, "examples", "models", "reglu-33m.gguf")
HELDOUT = os.path.join(ROOT, "examples", "models", "heldout.json")
TOKENIZER = os.path.join(ROOT, "..", "shared", "models", "reglu-30m", "tokenizer.json")

INPUT_LAYER, INPUT_POSITIONS = 3, (127, 255, 383, 511)
WINDOW_OFFSETS = (0, 4096)
POSITIONS = (0, 63, 127)
VOCAB_IDS = list(range(0, 8192, 128))
PROMPT = "To install the package, run"

TEXTS = [
    "", " ", "  ", "   ", "a", " a", "  a", "a ", "a  ", "\n", "\n\n", "\t", "\r\n", " \n ", "a\n\nb", "a \n b", "\ta\t\tb",
    "Hello world", "hello, world!", "The quick brown fox jumps over the lazy dog.",
    "To install the package, run the following command as root:\n\n    apt-get install libfoo-dev\n",
    "it's", "It's I'm you're we've they'll he'd don't", "IT'S I'LL", "it’s we’re", "'s 't 're", "''''", "rock'n'roll",
    "0", "7", "42", "123456789", "1 2  3", "3.14159", "1,000,000", "2024-11-22T01:43:00Z", "v1.2.3-rc4", "0x1F", "a1b2c3",
    "int main(void) { return 0; }\n", "for (size_t i = 0; i < n; i++)\n\tsum += x[i] * w[i];",
    "def f(x):\n    return x**2  # square\n", "https://example.org/a?b=c&d=%20#e", "/usr/share/doc/libc6/README.Debian",
    "<html><p>&amp;</p></html>", "!!!???...", "--foo=bar -x | grep -v '^#' > /dev/null 2>&1", "\"quoted\" `code` {braces} [x] \\n",
    "café naïve Ærøskøbing Straße", "cafe\u0301", "Привет, мир", "Ελληνικά", "日本語のテキスト", "中文，标点。", "한국어", "עברית שלום",
    "العربية ١٢٣", "हिन्दी १२३", "ไทย", "½ ² Ⅷ １２３", "€ £ ¥ § ©", "→ ≤ ∑ ∞", "😀", "👩‍👩‍👧 🇩🇪 👍🏽",
    "a\u00a0b", "a\u3000b \u2003 c", "a\u200bb", "a\u0085b\u2028c", "\ufeffBOM", "\u0001\u007f", "x" * 40, " " * 17 + "x",
    "Internationalization antidisestablishmentarianism", "CamelCaseIdentifier snake_case_identifier SCREAMING_CASE",
    "<s>", "a<s>b", "< s >", "</s>",
]


def round_bf16(v):
    """[..] -> [..] rounded to bf16."""
    return quant.bf16_to_f32(quant.f32_to_bf16(v)).astype(np.float64)


def round_int8(v):
    """[..][m] -> [..][m] rounded to int8 with one scale per 32 values."""
    block = v.reshape(-1, 32)
    scale = np.abs(block).max(axis=1, keepdims=True) / 127
    safe = np.where(scale == 0, 1, scale)
    return (np.rint(block / safe) * scale).reshape(v.shape)


def as_q8_0(name, array):
    """A matrix as the GGUF file keeps it: blocks of 32 along a row, of the down matrix along the vector of a neuron."""
    if array.ndim < 2:
        return array
    turned = np.ascontiguousarray(array.T) if "down_proj" in name else array
    rounded = quant.decode_q8_0(quant.encode_q8_0(turned))
    return np.ascontiguousarray(rounded.T) if "down_proj" in name else rounded


def load(path, dtype=np.float64):
    """The model with q8_0 weights."""
    return llama.load_model(path, dtype, rounding=as_q8_0 if os.path.isdir(path) else None)


def windows_and_logits(model, tokens):
    """The JSON entries of WINDOW_OFFSETS, and all logits [2][128][V]."""
    ids = np.array([tokens[o:o + 128] for o in WINDOW_OFFSETS])
    out = llama.logits(model, ids)
    nll = llama.window_nll(model, ids).mean(axis=1)
    entries = []
    for w, offset in enumerate(WINDOW_OFFSETS):
        top = np.sort(out[w], axis=-1)[:, -2:]
        entries.append({
            "offset": offset, "ids": ids[w].tolist(), "nll": float(nll[w]),
            "argmax": out[w].argmax(axis=-1).tolist(),
            "margin": [round(float(m), 6) for m in top[:, 1] - top[:, 0]],
            "logits": [{"position": p, "values": [round(float(v), 9) for v in out[w, p, VOCAB_IDS]]} for p in POSITIONS],
        })
    return entries, out


def noise(path, tokens, exact):
    """Largest and root mean square difference from exact [2][128][V] when something is rounded."""
    result = {}
    for name, dtype, rounding in (("float32", np.float32, None), ("bf16_ffn", np.float64, round_bf16),
                                  ("int8_ffn", np.float64, round_int8)):
        model = load(path, dtype)
        model["round_ffn"] = rounding
        error = windows_and_logits(model, tokens)[1] - exact
        result[name] = {"max": float(np.abs(error).max()), "rms": float(np.sqrt((error ** 2).mean()))}
    return result


def greedy_entry(model, tokenizer, has_bos):
    """The JSON entry of PROMPT's continuation."""
    prompt_ids = tokenizer.encode(PROMPT).ids
    ids, margin = llama.greedy(model, ([0] if has_bos else []) + prompt_ids, 40)
    return {"prompt": PROMPT, "prompt_ids": prompt_ids, "has_bos": has_bos, "ids": ids,
            "text": tokenizer.decode(ids, skip_special_tokens=False), "margin": [round(m, 6) for m in margin]}


def tokenizer_entries(tokenizer):
    """One JSON entry per text."""
    entries = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        entry = {"text": text, "ids": ids}
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != text:
            entry["decoded"] = decoded
        entries.append(entry)
    return entries


def dump(value, indent=""):
    """JSON with one line per list of numbers, so that the file stays readable and small."""
    inner = indent + " "
    if isinstance(value, dict):
        body = [f"{inner}{json.dumps(k)}: {dump(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(body) + "\n" + indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        if "text" in value[0] and "ids" in value[0] and len(value) > 10:    # tokenizer pairs, one a line
            body = [inner + json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in value]
        else:
            body = [inner + dump(v, inner) for v in value]
        return "[\n" + ",\n".join(body) + "\n" + indent + "]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_inputs(model, tokens, path):
    """float32 [16 * 4][D]: what the FFN of layer 3 gets at four positions of each window of 512."""
    rows = []
    for window in np.array(tokens).reshape(-1, 1, 512):
        x, _, _ = llama.ffn_inputs_outputs(model, window)[INPUT_LAYER]
        rows.append(x[0, INPUT_POSITIONS])
    np.concatenate(rows).astype("<f4").tofile(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--tokenizer", default=TOKENIZER)
    parser.add_argument("--inputs", metavar="FILE")
    args = parser.parse_args()
    tokens = llama.read_tokens(HELDOUT)
    model = load(args.model)
    if args.inputs:
        write_inputs(model, tokens, args.inputs)
        return
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
    windows, exact = windows_and_logits(model, tokens)
    result = {
        "vocab_ids": VOCAB_IDS,
        "windows": windows,
        "heldout": {"window": 512, "n_windows": 16, **llama.evaluate(model, tokens, 512, 16)},
        "greedy": [greedy_entry(model, tokenizer, False), greedy_entry(model, tokenizer, True)],
        "noise": noise(args.model, tokens, exact),
        "tokenizer": tokenizer_entries(tokenizer),
    }
    with open(OUT, "w", encoding="utf-8") as f:
        f.write(dump(result) + "\n")
    print(f"{OUT}: {os.path.getsize(OUT)} bytes, perplexity {result['heldout']['perplexity']:.6f}, noise {result['noise']}")


if __name__ == "__main__":
    main()
