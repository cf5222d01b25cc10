#!/usr/bin/env python3
"""Options, help, exit statuses and error lines of sffn, and small models made here: seconds, no packages."""
import json
import os
import signal
import subprocess
import sys
import time

import cli_test
import tiny_gguf
from cli_test import Case

COMMANDS = ("info", "inspect", "eval", "prepare", "generate")


class Usage(Case):
    def test_help(self):
        out, _ = self.ok("--help")
        for command in COMMANDS:
            self.assertIn(command, out)
            out_one, _ = self.ok(command, "--help")
            self.assertTrue(out_one.startswith(f"Usage: sffn {command}"))
            self.assertIn("--json", out_one)
            self.assertEqual(self.ok(command, "-h")[0], out_one)

    def test_help_is_narrow(self):
        for command in COMMANDS:
            for line in self.ok(command, "--help")[0].splitlines():
                self.assertLessEqual(len(line), 120, line)

    def test_version(self):
        self.assertRegex(self.ok("--version")[0], r"^sffn \d+\.\d+\.\d+\n$")

    def test_no_command(self):
        status, out, err = cli_test.run()
        self.assertEqual((status, out), (2, ""))
        self.assertIn("Usage: sffn COMMAND", err)

    def test_unknown_command(self):
        self.fails(2, "generat", says=("'generat'", "generate"))

    def test_unknown_option(self):
        for command in COMMANDS:
            self.fails(2, command, "--jsn", says=("'--jsn'", "did you mean '--json'", f"sffn {command} --help"))
            self.fails(2, command, "--xyzzy", says=("unknown option '--xyzzy'",))
            self.fails(2, command, "-z", says=("unknown option '-z'",))

    def test_missing_value(self):
        self.fails(2, "generate", "m.gguf", "--prompt", says=("--prompt needs a value",))
        self.fails(2, "generate", "m.gguf", "--prompt", "--json", says=("--prompt needs a value", "--prompt=--json"))
        self.fails(2, "prepare", "m.gguf", "-o", says=("-o needs a value",))

    def test_missing_model(self):
        for command in COMMANDS[1:]:
            self.fails(2, command, says=("MODEL is missing",))

    def test_two_models(self):
        self.fails(2, "inspect", "a", "b", says=("unexpected argument 'b'",))
        self.fails(2, "info", "a", says=("unexpected argument 'a'",))

    def test_bad_values(self):
        for args, words in {
            ("generate", "m", "--prompt", "x", "-n", "-1"): ("'-1'", "whole number"),
            ("generate", "m", "--prompt", "x", "-n", "1x"): ("'1x'",),
            ("generate", "m", "--prompt", "x", "--n-tokens="): ("''",),
            ("generate", "m", "--prompt", "x", "--threads", "513"): ("'513'", "512"),
            ("generate", "m", "--prompt", "x", "--temperature", "nan"): ("'nan'",),
            ("generate", "m", "--prompt", "x", "--seed", "99999999999999999999"): ("whole number",),
            ("generate", "m", "--prompt", "x", "--ffn", "sprse"): ("'sprse'", "dense|sparse"),
            ("generate", "m", "--prompt", "x", "--select", ""): ("gate|plan|",),
            ("generate", "m", "--prompt", "x", "--json=1"): ("takes no value",),
            ("generate", "m", "--prompt", "x", "--ffn", "dense", "--select", "gate"): ("--ffn sparse",),
            ("generate", "m"): ("--prompt TEXT",),
            ("prepare", "m"): ("-o OUT.gguf",),
            ("prepare", "m", "-o", "x", "--dtype", "q5_0"): ("'q5_0'", "q4_0"),
            ("prepare", "m", "-o", "x", "--act-threshold", "-1"): ("'-1'",),
            ("eval", "m"): ("--text FILE or --tokens",),
            ("eval", "m", "--text", "a", "--tokens", "b"): ("--text FILE or --tokens",),
            ("eval", "m", "--tokens", "a", "--window", "1"): ("'1'",),
            ("inspect", "m", "--json", "--tensors"): ("without --json",),
        }.items():
            with self.subTest(args=args):
                self.fails(2, *args, says=words)

    def test_no_such_file(self):
        for args in (("inspect", "/nonexistent/m.gguf"), ("generate", "/nonexistent/m.gguf", "--prompt", "x"),
                     ("prepare", "/nonexistent/m.gguf", "-o", self.path("x.gguf"))):
            self.fails(1, *args, says=("/nonexistent/m.gguf",))
        self.assertFalse(os.path.exists(self.path("x.gguf")))

    def test_no_model_file(self):
        with open(self.path("junk.gguf"), "wb") as f:
            f.write(b"GGUF\x03\0\0\0" + b"\xff" * 64)
        self.fails(1, "inspect", self.path("junk.gguf"), says=("junk.gguf",))

    def test_unknown_isa(self):
        for command in ("info", "eval", "generate", "prepare"):
            self.fails(2, command, *(["m.gguf"] if command != "info" else []), "--isa", "mmx", says=("--isa is 'mmx'", "sffn info"))

    def test_choices_are_whole(self):
        out, _ = self.ok("prepare", "--help")
        for rule in ("cett", "block_top_k_score", "statistical_h", "statistical_score"):
            self.assertIn(rule, out)

    def test_selections_of_each_command(self):
        """An error names what the command takes, and nothing that it then refuses."""
        for command in (("eval", "m.gguf", "--tokens", "t.json", "--select"), ("generate", "m.gguf", "--prompt", "a", "--select")):
            self.fails(2, *command, "foo", says=("gate|plan|predictor|screen|cascade|sign|svd|router",))
            self.fails(2, *command, "screen,foo=1", says=("screen: margin density",))
            self.fails(2, *command, "cascade,bits=0", says=("bits is 0", "columns"))
            self.fails(2, *command, "cascade,bits=2,step=5", says=("'5'",))
        prepare = ("prepare", "m.gguf", "-o", "o.gguf", "--tokens", "t.json", "--predictor")
        self.fails(2, *prepare, "foo", says=("screen|cascade|sign|svd|low_rank|mlp|router",))
        self.fails(2, *prepare, "screen,foo=1", says=("margin density recall",))
        self.assertNotIn("the file's own", self.ok("prepare", "--help")[0])

    def test_seed(self):
        self.fails(2, "generate", "m.gguf", "--prompt", "a", "--seed", str(2 ** 64), says=("up to 18446744073709551615",))

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([cli_test.SFFN, "info"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)


class Info(Case):
    def test_text(self):
        out, err = self.ok("info")
        self.assertEqual(err, "")
        for word in ("version", "CPU features", "topology", "huge pages", "hwloc", "oneDNN", "rows_dot_q8_0"):
            self.assertIn(word, out)

    def test_json(self):
        info = self.json("info")
        names = [isa["name"] for isa in info["isas"]]
        self.assertEqual(names[0], "scalar")
        self.assertIn(info["isa"], names)
        self.assertTrue(info["isas"][0]["is_supported"])
        self.assertGreaterEqual(info["n_cpus"], info["n_cores"])
        self.assertGreaterEqual(info["n_threads"], 1)
        self.assertGreaterEqual(info["probe_bytes"], 1 << 26)
        self.assertLessEqual(info["probe_huge_bytes"], info["probe_bytes"])
        for kernel in info["kernels"]:
            self.assertEqual(kernel["name"], f"{kernel['operation']}_{kernel['isa']}")
        self.assertIn("rows_dot_q4_0", [kernel["operation"] for kernel in info["kernels"]])

    def test_cap(self):
        for args, env in ((("--isa", "scalar"), None), ((), {"SFFN_MAX_ISA": "scalar"})):
            info = self.json("info", *args, env=env)
            self.assertEqual({kernel["isa"] for kernel in info["kernels"]}, {"scalar"})


class Tiny(Case):
    """Random models of two layers."""

    def make(self, name="tiny.gguf", change=None, **kwargs):
        metadata, tensors = tiny_gguf.llama(**kwargs)
        if change:
            change(metadata, tensors)
        tiny_gguf.write(self.path(name), metadata, tensors)
        return self.path(name)

    def generate(self, model, *args):
        return self.json("generate", model, "--prompt", "hello hello", "-n", "20", "--ignore-eos", *args)

    def test_inspect(self):
        model = self.make()
        got = self.json("inspect", model)
        self.assertEqual((got["format"], got["architecture"], got["n_layers"], got["d_model"], got["d_ff"], got["n_sparse_layers"]),
                         ("gguf", "llama", 2, 32, 96, 2))
        self.assertEqual(got["is_tied"], True)
        self.assertEqual([layer["bytes"] for layer in got["layers"]], [3 * 96 * 32 * 4] * 2)
        self.assertEqual(got["layers"][0]["down_layout"], "columns")
        self.assertEqual(got["layers"][0]["select"], ["gate", "screen"])
        out, _ = self.ok("inspect", model, "--tensors", "--metadata")
        for word in ("blk.1.ffn_down.weight", "32 x 96", "tokenizer.ggml.merges", "sparse: gate"):
            self.assertIn(word, out)

    def test_inspect_selectors(self):
        """Plan, rule, predictor, router and order of the neurons, per layer."""
        STRING, F32, U32, ARRAY = tiny_gguf.STRING, tiny_gguf.F32, tiny_gguf.U32, tiny_gguf.ARRAY

        def change(metadata, tensors):
            metadata |= {
                "sffn.plan": (ARRAY, (STRING, ["predictor", "router"])), "sffn.rule": (ARRAY, (STRING, ["none", "abs_h"])),
                "sffn.rule_threshold": (ARRAY, (F32, [0.0, 0.25])), "sffn.predictor.kind": (ARRAY, (STRING, ["screened_gate", "none"])),
                "sffn.predictor.margin": (ARRAY, (F32, [0.5, 0.0])), "sffn.router.rule": (ARRAY, (STRING, ["none", "sigmoid"])),
                "sffn.router.block_size": (ARRAY, (U32, [32, 48])),
            }
            tensors |= {"blk.0.sffn_predictor.threshold": ((96,), [0.125] * 96), "blk.1.sffn_router.weight": ((2, 32), [0.5] * 64)}

        model = self.make(change=change)
        first, second = self.json("inspect", model)["layers"]
        self.assertEqual((first["plan"], second["plan"]), ("predictor", "router"))
        self.assertEqual(first["select"], ["gate", "screen", "predictor"])
        self.assertEqual((first["predictor"]["kind"], first["predictor"]["margin"], first["predictor"]["has_thresholds"]),
                         ("screened_gate", 0.5, True))
        self.assertEqual((first["router"], second["predictor"], first["rule"]["name"]), (None, None, "none"))
        self.assertEqual((second["router"]["n_experts"], second["router"]["block_size"]), (2, 48))
        self.assertEqual(second["rule"], {"name": "abs_h", "tie": "drop", "threshold": 0.25, "has_thresholds": False, "k": 0, "m": 0,
                                          "sparsity": 0})
        self.assertEqual(first["is_permuted"], False)
        out, _ = self.ok("inspect", model)
        for word in ("screened_gate, a threshold per neuron", "sigmoid, 2 experts of 48", "abs_h > 0.25", "sparse: router"):
            self.assertIn(word, out)
        bad = self.make(change=lambda m, t: m.update({"sffn.plan": (ARRAY, (STRING, ["gate", "gats"]))}))
        layers = self.json("inspect", bad)["layers"]
        self.assertEqual([layer["runs_sparse"] for layer in layers], [True, False])
        self.assertIn("'gats'", layers[1]["reason"])

    def test_selector_inputs(self):
        """A predictor gets the tensor that it was made for: with a norm of -1, the gate times the FFN's input has the other sign than the
        gate times the residual stream, so the one predictor finds all active neurons and the other one none."""
        STRING, ARRAY = tiny_gguf.STRING, tiny_gguf.ARRAY
        density = {}
        for input in ("ffn", "residual", "layer", "layer_norm"):
            def change(metadata, tensors):
                metadata |= {"sffn.predictor.kind": (ARRAY, (STRING, ["low_rank"])), "sffn.predictor.input": (ARRAY, (STRING, [input]))}
                for name in ("attn_v", "attn_output"):  # attention adds nothing: the layer's input is the residual stream
                    shape, values = tensors[f"blk.0.{name}.weight"]
                    tensors[f"blk.0.{name}.weight"] = shape, [0.0] * len(values)
                tensors |= {"blk.0.ffn_norm.weight": ((32,), [-1.0] * 32), "blk.0.sffn_predictor_w2.weight": tensors["blk.0.ffn_gate.weight"],
                            "blk.0.sffn_predictor_w1.weight": ((32, 32), [float(i // 32 == i % 32) for i in range(1024)])}
            model = self.make(n_layers=1, change=change)
            self.assertEqual(self.json("inspect", model)["layers"][0]["predictor"]["input"], input)
            density[input] = self.generate(model)["density"]
        exact = self.generate(model, "--select", "gate")["density"]
        self.assertEqual(density, {"ffn": exact, "residual": 0, "layer": 0, "layer_norm": 0})
        self.assertGreater(exact, 0.2)
        wrong = self.make(n_layers=1, change=lambda m, t: (change(m, t), m.update({"sffn.predictor.input": (ARRAY, (STRING, ["first_layer"]))})))
        self.fails(1, "generate", wrong, "--prompt", "x", says=("layer 0", "first layer's input"))

    def test_inspect_silu(self):
        got = self.json("inspect", self.make(activation="silu"))
        self.assertEqual(got["n_sparse_layers"], 0)
        self.assertIn("silu has no exact zeros", got["layers"][0]["reason"])

    def test_silu(self):
        model = self.make(activation="silu")
        dense, sparse = (self.generate(model, "--ffn", ffn) for ffn in ("dense", "sparse"))
        self.assertEqual(dense["tokens"], sparse["tokens"])
        self.assertEqual(sparse["density"], 1)
        self.assertEqual(sparse["dense_share"], 1)
        self.assertRegex(self.ok("generate", model, "--prompt", "x", "-n", "2")[1], r"FFN +dense \(.+\),")
        self.fails(1, "generate", model, "--prompt", "x", "--select", "screen", says=("silu", "--select screen"))

    def test_inspect_missing_tensor(self):
        got = self.json("inspect", self.make(change=lambda m, t: t.pop("blk.1.ffn_up.weight")))
        self.assertEqual([layer["runs_sparse"] for layer in got["layers"]], [True, False])
        self.assertIn("blk.1.ffn_up.weight", got["layers"][1]["reason"])

    def test_generate(self):
        model = self.make()
        got = self.generate(model)
        for key in ("name", "model", "ffn", "select", "n_prompt", "n_generated", "tokens", "text", "tokens_per_second",
                    "prompt_tokens_per_second", "ffn_share", "density", "dense_share", "perplexity", "bytes_per_token"):
            self.assertIn(key, got)
        self.assertEqual((got["name"], got["ffn"], got["select"], got["n_prompt"], got["n_generated"]), ("generate", "sparse", "gate", 3, 20))
        self.assertEqual(len(got["tokens"]), 20)
        self.assertIsNone(got["perplexity"])
        self.assertGreater(got["tokens_per_second"], 0)
        self.assertTrue(0 < got["ffn_share"] < 1)
        self.assertTrue(0.2 < got["density"] < 0.8)
        self.assertEqual(len(got["layers"]), 2)

    def test_dense_is_sparse(self):
        model = self.make()
        sparse = self.generate(model)
        for args in (("--ffn", "dense"), ("--select", "gate"), ("--select", "screen"), ("--threads", "1"), ("--threads", "5"),
                     ("--isa", "scalar")):
            self.assertEqual(self.generate(model, *args)["tokens"], sparse["tokens"], args)
        dense = self.generate(model, "--ffn", "dense")
        self.assertEqual((dense["density"], dense["select"]), (1, "dense"))
        self.assertEqual(dense["bytes_per_token"], 2 * 3 * 96 * 32 * 4)
        self.assertLess(sparse["bytes_per_token"], dense["bytes_per_token"])

    def test_long_prompt(self):
        """A prompt of more than 64 tokens runs in two batches."""
        model = self.make(change=lambda m, t: m.update({"llama.context_length": (tiny_gguf.U32, 256)}))
        long = "abc " * 25
        first = self.json("generate", model, "--prompt", long, "-n", "30", "--ignore-eos", "--ffn", "dense")
        again = self.json("generate", model, "--prompt", long, "-n", "30", "--ignore-eos", "--ffn", "sparse")
        self.assertGreater(first["n_prompt"], 65)
        self.assertEqual(first["tokens"], again["tokens"])

    def test_untied(self):
        tied = self.generate(self.make())
        untied = self.generate(self.make("untied.gguf", is_tied=False))
        self.assertEqual(tied["tokens"], untied["tokens"])

    def test_temperature(self):
        model = self.make()
        draws = [self.generate(model, "--temperature", "1.5", "--seed", seed)["tokens"] for seed in (1, 1, 2)]
        self.assertEqual(draws[0], draws[1])
        self.assertNotEqual(draws[0], draws[2])
        self.assertEqual(self.generate(model, "--temperature", "0", "--seed", "7")["tokens"], self.generate(model)["tokens"])
        cold = self.generate(model, "--temperature", "0.0001", "--seed", "3")["tokens"]
        self.assertEqual(cold, self.generate(model)["tokens"])

    def test_text_mode(self):
        model = self.make()
        text = self.generate(model)["text"]
        out, err = self.ok("generate", model, "--prompt", "hello hello", "-n", "20", "--ignore-eos")
        self.assertEqual(out, "hello hello" + text + "\n")
        for word in ("tokens/s", "density", "FFN"):
            self.assertIn(word, err)

    def test_end_of_text(self):
        """bos is the likeliest token everywhere: generation ends at once, unless told not to."""
        def always_bos(metadata, tensors):
            shape, values = tensors["token_embd.weight"]
            n = shape[1]
            tensors["output.weight"] = (shape, [0.0] * len(values))
            tensors["output_norm.weight"] = ((n,), [0.0] * n)
        model = self.make(change=always_bos)
        self.assertEqual(self.json("generate", model, "--prompt", "x", "-n", "5")["n_generated"], 0)
        self.assertEqual(self.json("generate", model, "--prompt", "x", "-n", "5", "--ignore-eos")["tokens"], [0] * 5)

    def test_perplexity(self):
        """All logits equal: the perplexity is the size of the vocabulary."""
        def flat(metadata, tensors):
            tensors["output_norm.weight"] = ((32,), [0.0] * 32)
        model = self.make(change=flat)
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write("hello world, this is a text of some length. " * 10)
        n_vocab = len(tiny_gguf.tokens_of(tiny_gguf.llama()[0]))
        for args in ((), ("--prompt", "x", "-n", "2"), ("--ffn", "dense")):
            got = self.json("generate", model, "--perplexity", self.path("text"), *args)
            self.assertAlmostEqual(got["perplexity"], n_vocab, delta=n_vocab * 1e-6)
        got = self.json("eval", model, "--text", self.path("text"))
        self.assertAlmostEqual(got["perplexity_dense"], n_vocab, delta=n_vocab * 1e-6)
        self.assertEqual(got["window"], 64)

    def test_text_is_text(self):
        model = self.make()
        with open(self.path("bytes"), "wb") as f:
            f.write(b"hello \0 world")
        for command in (("generate", model, "--perplexity"), ("eval", model, "--text")):
            self.fails(1, *command, self.path("bytes"), says=("bytes", "not text", "byte 6"))

    def test_perplexity_file_comes_first(self):
        status, out, err = cli_test.run("generate", self.make(), "--prompt", "x", "-n", "2", "--perplexity", self.path("none"))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("none", err)

    def test_prepare_keeps_its_source(self):
        model = self.make()
        with open(model, "rb") as f:
            before = f.read()
        os.symlink(model, self.path("link.gguf"))
        for out in (model, self.path("link.gguf")):
            self.fails(2, "prepare", model, "-o", out, "--dtype", "q8_0", says=("is the model itself",))
        with open(model, "rb") as f:
            self.assertEqual(f.read(), before)

    def test_eval(self):
        model = self.make()
        with open(self.path("ids.json"), "w", encoding="utf-8") as f:
            json.dump({"note": "x", "tokens": [0, *range(1, 200)]}, f)
        exact = self.json("eval", model, "--tokens", self.path("ids.json"), "--window", "32")
        self.assertEqual((exact["n_tokens"], exact["n_predicted"], exact["window"]), (200, 200 - 7, 32))
        self.assertAlmostEqual(exact["perplexity_dense"] / exact["perplexity_sparse"], 1, delta=1e-5)
        for layer in exact["layers"]:
            self.assertEqual((layer["recall"], layer["cett"], layer["predicted_density"]), (1, 0, 1))
            self.assertLess(layer["relative_error"], 1e-6)
            self.assertTrue(0.3 < layer["density"] < 0.7)
            row = 32 * 4
            self.assertAlmostEqual(layer["bytes"], 96 * row * (1 + 2 * layer["density"]), delta=row)
        screen = self.json("eval", model, "--tokens", self.path("ids.json"), "--window", "32", "--select", "screen")
        for layer, truth in zip(screen["layers"], exact["layers"]):
            self.assertEqual(layer["density"], truth["density"])
            self.assertTrue(truth["density"] < layer["predicted_density"] < 1)
            self.assertTrue(0.9 < layer["recall"] <= 1)
            self.assertTrue(0 <= layer["cett"] < 0.2)
            # With nothing else wrong, the error is what was skipped: root of mean squares against a mean.
            self.assertTrue(0.5 * layer["cett"] < layer["relative_error"] < 20 * layer["cett"] + 1e-6)
        out, err = self.ok("eval", model, "--tokens", self.path("ids.json"), "-n", "64")
        self.assertIn("perplexity", out)

    def test_eval_bad_tokens(self):
        model = self.make()
        for content, words in (("[1, 2, x]", ("byte 7", "'x]'")), ("[1, 999999]", ("999999",)), ("[1, -2]", ("-2",)), ("{}", ("no list",)),
                               ("", ("no list",)), ("[1 2]", ("expected a token id",)), ("[]", ("0 tokens",)), ("[5]", ("1 tokens",)),
                               ("[1,", ("token id",)), ('{"tokens": 3}', ("no list",))):
            with self.subTest(content=content):
                with open(self.path("bad.json"), "w", encoding="utf-8") as f:
                    f.write(content)
                self.fails(1, "eval", model, "--tokens", self.path("bad.json"), says=words)

    def test_too_long(self):
        model = self.make()
        self.fails(1, "generate", model, "--prompt", "x" * 40, "-n", "40", says=("context, 64",))
        self.fails(1, "generate", model, "--prompt", "x" * 64, says=("context, 64",))
        # Without -n the text ends where the context does.
        self.assertEqual(self.json("generate", model, "--prompt", "x" * 40, "--ignore-eos")["n_generated"], 64 - 41)

    def test_empty_prompt(self):
        model = self.make()
        self.assertEqual(self.json("generate", model, "--prompt", "", "-n", "3", "--ignore-eos")["n_prompt"], 1)
        self.fails(1, "generate", model, "--prompt", "", "--no-bos", says=("prompt is empty",))

    def test_refused_models(self):
        string, u32 = tiny_gguf.STRING, tiny_gguf.U32
        tokens = tiny_gguf.tokens_of(tiny_gguf.llama()[0])
        for change, words in (
            (lambda m, t: m.update({"general.architecture": (string, "falcon")}), ("falcon",)),
            (lambda m, t: m.update({"llama.attention.head_count_kv": (u32, 3)}), ("3 key-value heads",)),
            (lambda m, t: m.update({"llama.block_count": (u32, 4000000000)}), ()),
            (lambda m, t: m.update({"llama.rope.dimension_count": (u32, 4)}), ("llama.rope.dimension_count",)),
            (lambda m, t: m.update({"llama.rope.scaling.type": (string, "yarn")}), ("yarn",)),
            (lambda m, t: t.update({"blk.0.attn_q.bias": ((32,), [0.0] * 32)}), ("blk.0.attn_q.bias",)),
            (lambda m, t: t.pop("blk.1.attn_k.weight"), ("blk.1.attn_k.weight",)),
            (lambda m, t: t.pop("output_norm.weight"), ("output_norm.weight",)),
            (lambda m, t: t.update({"blk.0.attn_v.weight": ((15, 32), [0.0] * 480)}), ("blk.0.attn_v.weight", "15 x 32", "16 x 32")),
            (lambda m, t: m.update({"sffn.activation": (string, "mish")}), ("mish",)),
            (lambda m, t: m.update({"tokenizer.ggml.model": (string, "llama")}), ("tokenizer.ggml.model", "gpt2")),
            (lambda m, t: m.update({"tokenizer.ggml.pre": (string, "tekken")}), ("tokenizer.ggml.pre", "tekken")),
            (lambda m, t: m.pop("tokenizer.ggml.tokens"), ("sffn prepare",)),
            (lambda m, t: m.update({"tokenizer.ggml.tokens": (tiny_gguf.ARRAY, (string, tokens + ["more"]))}), ("vocabulary",)),
            (lambda m, t: m.update({"tokenizer.ggml.merges": (tiny_gguf.ARRAY, (string, ["h e", "x\x1b[2J y"]))}), ("merges[1]",)),
            (lambda m, t: m.update({"tokenizer.ggml.merges": (tiny_gguf.ARRAY, (string, ["he"]))}), ("merges[0]",)),
        ):
            with self.subTest(words=words):
                err = self.fails(1, "generate", self.make("bad.gguf", change), "--prompt", "hello", says=words)
                self.assertNotIn("\x1b", err)

    def test_prepare(self):
        model = self.make()
        before = self.generate(model)
        for dtype in ("f32", "bf16", "f16", "q8_0", "q4_0"):
            got = self.json("prepare", model, "-o", self.path("out.gguf"), "--dtype", dtype)
            self.assertEqual((got["name"], got["dtype"]), ("prepare", dtype))
            self.assertEqual(got["bytes_out"], os.path.getsize(self.path("out.gguf")))
            layers = self.json("inspect", self.path("out.gguf"))["layers"]
            self.assertEqual((layers[0]["gate"], layers[0]["down"], layers[0]["down_layout"]), (dtype, dtype, "neurons"))
            after = self.generate(self.path("out.gguf"))
            if dtype == "f32":
                self.assertEqual(after["tokens"], before["tokens"])
            self.assertEqual(self.generate(self.path("out.gguf"), "--ffn", "dense")["tokens"], after["tokens"])
        self.fails(1, "generate", self.path("out.gguf"), "--prompt", "x", "-n", "2", "--select", "screen", says=("q4_0",))
        self.assertEqual(self.json("inspect", self.path("out.gguf"))["layers"][0]["select"], ["gate"])

    def test_prepare_threshold(self):
        model = self.make()
        self.ok("prepare", model, "-o", self.path("fat.gguf"), "--act-threshold", "0.5")
        got = self.json("inspect", self.path("fat.gguf"))
        self.assertEqual((got["activation"], got["act_threshold"]), ("fatrelu", 0.5))
        self.assertLess(self.generate(self.path("fat.gguf"))["density"], self.generate(model)["density"])

    def test_prepare_cannot_write(self):
        self.fails(1, "prepare", self.make(), "-o", "/nonexistent/out.gguf", says=("/nonexistent/out.gguf",))

    def test_interrupt(self):
        """The first Ctrl-C ends generation between two tokens; the text so far is whole."""
        model = self.make(change=lambda m, t: m.update({"llama.context_length": (tiny_gguf.U32, 1000000)}))
        with subprocess.Popen([cli_test.SFFN, "generate", model, "--prompt", "x", "-n", "20000", "--ignore-eos", "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertLess(json.loads(out)["n_generated"], 20000)


if __name__ == "__main__":
    sys.exit(cli_test.main())
