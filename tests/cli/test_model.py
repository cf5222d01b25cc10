#!/usr/bin/env python3
"""sffn end to end: the model in examples/models against the float64 reference in tests/golden/reglu33m.json, and a Hugging Face folder."""
import json
import math
import os
import signal
import subprocess
import sys
import time

import cli_test
from cli_test import Case

HELDOUT = os.path.join(cli_test.ROOT, "examples", "models", "heldout.json")
FOLDER_HELDOUT = os.path.join(cli_test.MODEL_FOLDER, "heldout_tokens.json")
# tests/reference/llama_float64.py shared/models/reglu-30m --windows 1
FOLDER_PERPLEXITY = 6.09905


class Bundled(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prepared = {"q8_0": cli_test.MODEL_GGUF}
        with open(os.path.join(cli_test.ROOT, "tests", "golden", "reglu33m.json"), encoding="utf-8") as f:
            cls.golden = json.load(f)

    def gguf(self, dtype):
        """f32 holds the weights of the bundled file exactly, and so does what the reference computed."""
        if dtype not in self.prepared:
            path = self.path(f"{dtype}.gguf")
            self.ok("prepare", cli_test.MODEL_GGUF, "-o", path, "--dtype", dtype)
            self.prepared[dtype] = path
        return self.prepared[dtype]

    def perplexity_of_windows(self, n):
        return math.exp(sum(self.golden["heldout"]["nll"][:n]) / n)

    def test_inspect(self):
        got = self.json("inspect", cli_test.MODEL_GGUF)
        self.assertEqual((got["format"], got["n_layers"], got["d_model"], got["d_ff"], got["activation"]), ("gguf", 6, 512, 2560, "relu"))
        self.assertEqual((got["rope_is_permuted"], got["n_sparse_layers"], got["layers"][3]["down_layout"]), (True, 6, "neurons"))

    def test_greedy(self):
        """The float64 reference's tokens, however the FFN runs."""
        for case in self.golden["greedy"]:
            bos = () if case["has_bos"] else ("--no-bos",)
            for args in (("--ffn", "dense"), ("--ffn", "sparse"), ("--select", "gate"), ("--select", "screen"), ("--threads", "1"),
                         ("--threads", "3"), ("--isa", "scalar")):
                got = self.json("generate", self.gguf("f32"), "--prompt", case["prompt"], "-n", len(case["ids"]), "--ignore-eos", *bos, *args)
                self.assertEqual(got["n_prompt"], len(case["prompt_ids"]) + case["has_bos"])
                self.assertEqual(got["tokens"], case["ids"], args)
                self.assertEqual(got["text"], case["text"])

    def test_density(self):
        case = self.golden["greedy"][1]
        dense, sparse = (self.json("generate", self.gguf("f32"), "--prompt", case["prompt"], "-n", "40", "--ignore-eos", "--ffn", ffn)
                         for ffn in ("dense", "sparse"))
        self.assertEqual((dense["density"], dense["bytes_per_token"]), (1, 6 * 3 * 512 * 2560 * 4))
        self.assertTrue(0.05 < sparse["density"] < 0.15)
        gate = 6 * 512 * 2560 * 4
        self.assertAlmostEqual(sparse["bytes_per_token"], gate * (1 + 2 * sparse["density"]), delta=1)
        self.assertEqual(len(sparse["layers"]), 6)

    def test_eval(self):
        """Perplexity and density against float64 over 16 windows."""
        want = self.golden["heldout"]
        got = self.json("eval", self.gguf("f32"), "--tokens", HELDOUT)
        self.assertEqual((got["n_tokens"], got["n_predicted"]), (8192, 16 * 511))
        self.assertAlmostEqual(got["perplexity_dense"], want["perplexity"], delta=want["perplexity"] * 1e-4)
        self.assertAlmostEqual(got["perplexity_sparse"], want["perplexity"], delta=want["perplexity"] * 1e-4)
        for layer, zeros in zip(got["layers"], want["zeros"]):
            self.assertAlmostEqual(layer["density"], 1 - zeros, delta=1e-4)
            self.assertEqual((layer["recall"], layer["cett"]), (1, 0))
            self.assertLess(layer["relative_error"], 1e-6)

    def test_eval_screen(self):
        got = self.json("eval", self.gguf("f32"), "--tokens", HELDOUT, "-n", 2048, "--select", "screen")
        self.assertAlmostEqual(got["perplexity_dense"], self.perplexity_of_windows(4), delta=1e-3)
        self.assertLess(abs(got["perplexity_sparse"] / got["perplexity_dense"] - 1), 0.005)
        self.assertGreater(got["recall"], 0.98)
        self.assertLess(got["predicted_density"], 0.2)
        self.assertLess(got["cett"], 0.01)
        self.assertLess(got["bytes"], 0.25 * got["dense_bytes"])

    def test_types(self):
        want = self.perplexity_of_windows(2)
        # numpy in float64 with these q4_0 weights has 4.952 in place of 4.676; x in 8 bits adds a few per cent to that.
        for dtype, loss in (("f16", 1e-3), ("bf16", 1e-3), ("q8_0", 0.01), ("q4_0", 4.952 / 4.676 * 1.05 - 1)):
            got = self.json("eval", self.gguf(dtype), "--tokens", HELDOUT, "-n", 1024)
            self.assertLess(abs(got["perplexity_dense"] / want - 1), loss, dtype)
            self.assertLess(abs(got["perplexity_sparse"] / got["perplexity_dense"] - 1), 1e-3, dtype)

    def test_perplexity_of_text(self):
        """generate --perplexity and eval --text are the same measurement."""
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write("The kernel is the part of the operating system that manages memory, processes and devices.\n" * 12)
        model = self.gguf("f32")
        text = self.json("eval", model, "--text", self.path("text"))
        for ffn in ("dense", "sparse"):
            got = self.json("generate", model, "--perplexity", self.path("text"), "--ffn", ffn)
            self.assertAlmostEqual(got["perplexity"], text[f"perplexity_{ffn}"], delta=1e-6 * got["perplexity"])
            self.assertEqual((got["n_prompt"], got["n_generated"], got["tokens"], got["text"]), (0, 0, [], ""))

    def test_screen_needs_more_than_four_bits(self):
        self.fails(1, "generate", self.gguf("q4_0"), "--prompt", "x", "--select", "screen", says=("q4_0",))


class Folder(Case):
    """A Hugging Face folder, when there is one beside the checkout."""

    def setUp(self):
        if not os.path.exists(FOLDER_HELDOUT):
            self.skipTest(cli_test.NO_MODEL_FOLDER)

    def test_folder_is_gguf(self):
        """Hugging Face's order of q and k, and GGUF's, are the same model; f32 is the same as bf16 in more bytes."""
        path = {}
        for dtype in ("bf16", "f32"):
            path[dtype] = self.path(f"{dtype}.gguf")
            self.ok("prepare", cli_test.MODEL_FOLDER, "-o", path[dtype], "--dtype", dtype)
        folder, gguf = self.json("inspect", cli_test.MODEL_FOLDER), self.json("inspect", path["bf16"])
        self.assertEqual((folder["format"], folder["n_layers"], folder["rope_is_permuted"], folder["n_sparse_layers"]),
                         ("hf_folder", 6, False, 6))
        self.assertEqual((gguf["format"], gguf["rope_is_permuted"], gguf["layers"][3]["down_layout"]), ("gguf", True, "neurons"))
        for key in ("architecture", "n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "n_vocab", "n_context", "activation",
                    "is_tied", "ffn_bytes"):
            self.assertEqual(folder[key], gguf[key], key)
        for model in (cli_test.MODEL_FOLDER, path["bf16"], path["f32"]):
            got = self.json("eval", model, "--tokens", FOLDER_HELDOUT, "-n", 512)
            self.assertAlmostEqual(got["perplexity_dense"], FOLDER_PERPLEXITY, delta=FOLDER_PERPLEXITY * 2e-4, msg=model)

    def test_folder_has_no_tokenizer(self):
        self.fails(1, "generate", cli_test.MODEL_FOLDER, "--prompt", "x", says=("sffn prepare",))

    def test_interrupted_prepare(self):
        out = self.path("interrupted.gguf")
        with subprocess.Popen([cli_test.SFFN, "prepare", cli_test.MODEL_FOLDER, "-o", out, "--dtype", "q4_0", "--threads", "1"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        if process.returncode == 0 or process.returncode == -signal.SIGINT:
            self.skipTest("the signal came too late or too early")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"interrupted", err)
        self.assertEqual([name for name in os.listdir(self.folder) if "interrupted" in name], [])


if __name__ == "__main__":
    sys.exit(cli_test.main())
