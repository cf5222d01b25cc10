#!/usr/bin/env python3
"""The tokenizer of sffn against the tokens in tests/golden, and, when the `tokenizers` package is there, against it on random text."""
import json
import os
import random
import struct
import subprocess
import sys

import cli_test
import tiny_gguf
from cli_test import Case

try:
    import tokenizers
except ImportError:
    tokenizers = None
ALL = os.environ.get("SFFN_TEST_ALL") == "1"
TOKENIZER_JSON = os.path.join(cli_test.MODEL_FOLDER, "tokenizer.json")
GOLDEN = os.path.join(cli_test.ROOT, "tests", "golden", "reglu33m.json")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
HARD = ["", "a", " ", "  ", "\n", "Hello world", " Hello  world\n\n  x ", "don't we'll I'm 'sad 'S it's  's 'RE 'Ll '\u017f '\u017f\u017f", "<s>a<s> b<s",
        "<<s>>", "1234 56  7\u00b2", "naïve café 日本語 тест 🙂🙂 \u200d", "x\u00a0y \u3000z", "\t\tif (a) {\n\t\t\treturn 0;\n", "a" * 3000, " " * 5000,
        "ab " * 2000, "\r\n" * 50, "é" * 500, "\0\x01", " \r\n \r\n  x", "!!\n\n x", " !\r\n", "a\r\nb", "\n a", "\t\n\ta", "(a)(b)", "\u2028\u2029x"]


def encode(model, texts):
    """[(ids, decoded bytes, streamed bytes)] of byte strings."""
    records = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    out = subprocess.run([cli_test.TOKENIZE, model], input=records, stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    return [([int(v) for v in out[2 * i].split()], *(bytes.fromhex(v) for v in out[2 * i + 1].split(" "))) for i in range(len(texts))]


def random_texts(seed, n):
    rng = random.Random(seed)
    pool = [chr(c) for c in range(0x20, 0x7F)] * 3 + list(" \n\r\t  ''sdmtrelvSDMT019") * 10 + [chr(c) for c in range(0x80, 0x600)]
    pool += ["\u2028", "\u3000", "\u1680", "½", "٣", "漢", "𐍈", "🙂", "\u0301", "<s>", "\u017f"]
    texts = ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 80))) for _ in range(n)]
    return texts + ["".join(chr(rng.choice([c for c in [rng.randrange(0x110000)] if not 0xD800 <= c < 0xE000] or [65])) for _ in range(40))
                    for _ in range(n // 10)]


class FromModel(Case):
    """With the vocabulary of the model that comes with the project."""

    def model(self):
        if not os.path.exists(cli_test.MODEL_GGUF):
            self.skipTest(f"no {cli_test.MODEL_GGUF}")
        return cli_test.MODEL_GGUF

    def test_golden(self):
        with open(GOLDEN, encoding="utf-8") as f:
            golden = json.load(f)["tokenizer"]
        for case, (ids, _, _) in zip(golden, encode(self.model(), [case["text"].encode() for case in golden])):
            self.assertEqual(ids, case["ids"], repr(case["text"]))

    def test_every_byte(self):
        texts = [bytes([b]) for b in range(256)] + [bytes(range(256)), b"\xff" * 99, b"\xc3", b"\xe2\x82", b"a\xf0\x9f\x99", b"\xed\xa0\x80",
                                                    b"\xc0\xaf", b"\xf5\x80\x80\x80", b"x\xe2\x82y"]
        for text, (_, decoded, streamed) in zip(texts, encode(self.model(), texts)):
            self.assertEqual(decoded, text)
            self.assertEqual(streamed.decode("utf-8"), text.decode("utf-8", "replace"))

    def test_random_bytes(self):
        rng = random.Random(5)
        texts = [rng.randbytes(rng.randrange(1, 60)) for _ in range(2000)]
        texts += ["".join(rng.choice("aé漢🙂") for _ in range(9)).encode()[rng.randrange(4):-1] for _ in range(500)]
        for text, (_, decoded, streamed) in zip(texts, encode(self.model(), texts)):
            self.assertEqual(decoded, text)
            self.assertEqual(streamed.decode("utf-8"), text.decode("utf-8", "replace"))


class AgainstPackage(Case):
    def setUp(self):
        if tokenizers is None or not os.path.exists(TOKENIZER_JSON):
            self.skipTest("no tokenizers package" if tokenizers is None else cli_test.NO_MODEL_FOLDER)
        with open(TOKENIZER_JSON, encoding="utf-8") as f:
            self.json_text = f.read()

    def compare(self, pre, change, seed):
        """The package's answers with a changed pre-tokenizer, against ours with tokenizer.ggml.pre = pre."""
        content = json.loads(self.json_text)
        change(content)
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
        vocab = content["model"]["vocab"]
        tokens = sorted(vocab, key=vocab.get)
        metadata, tensors = tiny_gguf.llama(n_layers=1)
        merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
        metadata |= {"tokenizer.ggml.pre": (tiny_gguf.STRING, pre), "llama.vocab_size": (tiny_gguf.U32, len(tokens)),
                     "tokenizer.ggml.tokens": (tiny_gguf.ARRAY, (tiny_gguf.STRING, tokens)),
                     "tokenizer.ggml.token_type": (tiny_gguf.ARRAY, (tiny_gguf.I32, [3 if t == "<s>" else 1 for t in tokens])),
                     "tokenizer.ggml.merges": (tiny_gguf.ARRAY, (tiny_gguf.STRING, merges))}
        tensors["token_embd.weight"] = ((len(tokens), 32), [0.0] * len(tokens) * 32)
        tiny_gguf.write(self.path("m.gguf"), metadata, tensors)
        # Every 17th code point, or all of them in the slow test; the ends of the classes are anywhere.
        every = [chr(c) for c in range(seed, 0x110000, 1 if ALL else 17) if not 0xD800 <= c < 0xE000]
        texts = HARD + random_texts(seed, 10000 if ALL else 1000)
        texts += ["".join(f"{c} 1{c}a\n{c}'{c}" for c in every[i:i + 997]) for i in range(0, len(every), 997)]
        for text, (ids, decoded, streamed) in zip(texts, encode(self.path("m.gguf"), [text.encode() for text in texts])):
            want = theirs.encode(text, add_special_tokens=False).ids
            self.assertEqual(ids, want, repr(text[:200]))
            self.assertEqual(streamed.decode(), theirs.decode(want))
            self.assertEqual(decoded.decode(), text.replace("<s>", ""))

    def test_gpt2(self):
        self.compare("gpt-2", lambda content: None, 1)

    def test_starcoder(self):
        def change(content):
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                              {**content["pre_tokenizer"]}]}
        self.compare("starcoder", change, 2)
        self.compare("smollm", change, 6)

    def split(self, pattern, ignore_merges):
        def change(content):
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {**content["pre_tokenizer"], "use_regex": False}]}
            content["model"]["ignore_merges"] = ignore_merges
        return change

    def test_llama_bpe(self):
        self.compare("llama-bpe", self.split(LLAMA3, True), 3)

    def test_qwen2(self):
        self.compare("qwen2", self.split(LLAMA3.replace("{1,3}", ""), False), 4)

    def test_ignored_merges(self):
        """A token that no merge makes: llama-bpe takes it, the others don't."""
        def change(ignore):
            def apply(content):
                self.split(LLAMA3, ignore)(content)
                content["model"]["merges"] = [m for i, m in enumerate(content["model"]["merges"]) if i % 50]
            return apply
        self.compare("llama-bpe", change(True), 5)


if __name__ == "__main__":
    sys.exit(cli_test.main())
