#!/usr/bin/env python3
"""sffn prepare with a text, on small models made here: rules, plans, interruption. Seconds, no packages."""
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import cli_test
import tiny_gguf
from cli_test import Case


class Prepare(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.ids = os.path.join(cls.folder, "tiny.gguf"), os.path.join(cls.folder, "ids.json")
        tiny_gguf.write(cls.model, *tiny_gguf.llama())
        rng = random.Random(5)
        with open(cls.ids, "w", encoding="utf-8") as f:
            json.dump([rng.randrange(262) for _ in range(320)], f)

    def prepare(self, *args, out="out.gguf", model=None, text=()):
        return self.json("prepare", model or self.model, "-o", self.path(out), *(text or ("--tokens", self.ids)), "--window", "32", "--threads", "1", *args)

    def eval(self, model, *args):
        return self.json("eval", model, "--tokens", self.ids, "--window", "32", "--timed", "0", "--threads", "1", *args)

    def test_keys(self):
        got = self.prepare()
        for key in ("name", "model", "out", "dtype", "bytes_in", "bytes_out", "seconds", "cett", "layers"):
            self.assertIn(key, got)
        self.assertEqual(len(got["layers"]), 2)
        for layer in got["layers"]:
            self.assertEqual([c["select"] for c in layer["candidates"]], ["dense", "gate", "screen", "cascade,bits=0,columns=0.5"])
            self.assertEqual([c["select"] for c in layer["candidates"] if c["is_chosen"]], [layer["plan"]])
            for candidate in layer["candidates"]:
                for key in ("predicted_density", "recall", "relative_error", "bytes", "ns"):
                    self.assertGreaterEqual(candidate[key], 0)
                self.assertTrue(candidate["relative_error"] <= 0.01 or not candidate["is_chosen"])
            dense, gate, screen, cascade = layer["candidates"]
            self.assertEqual((dense["relative_error"], gate["relative_error"], gate["recall"]), (0, 0, 1))
            self.assertLess(screen["bytes"], gate["bytes"])
            self.assertLess(cascade["bytes"], gate["bytes"])
        self.assertFalse(os.path.exists(self.path("out.gguf.work")))

    def test_plans(self):
        """What --plan asks for is what the file says, and what a run without options does."""
        for plan, want in (("dense", "dense"), ("gate", "gate"), ("predictor", "screen,margin=0")):
            with self.subTest(plan=plan):
                more = ("--predictor", want) if plan == "predictor" else ()
                got = self.prepare("--plan", plan, *more)
                self.assertEqual([layer["plan"] for layer in got["layers"]], [want] * 2)
                run = self.eval(self.path("out.gguf"))
                self.assertEqual(run["select"], "plan")
                same = self.eval(self.model, "--select", want) if plan != "dense" else None
                if same:
                    for key in ("predicted_density", "recall", "bytes"):
                        self.assertAlmostEqual(run[key], same[key], delta=1e-6 * same[key], msg=key)
                else:
                    self.assertEqual((run["predicted_density"], run["bytes"]), (1, run["dense_bytes"]))
                tokens = self.json("generate", self.path("out.gguf"), "--prompt", "hello", "-n", "8", "--ignore-eos")
                self.assertEqual((len(tokens["tokens"]), tokens["select"]), (8, "plan"))

    def test_fits(self):
        """Trained selectors reach their recall on the sample, and the file that is written does what was measured."""
        for predictor in ("screen,recall=0.95", "cascade,bits=4,step=2,margin=4", "svd,rank=8,bits=32,recall=0.95", "low_rank,rank=8,bits=16,recall=0.9", "mlp,rank=16,bits=16",
                          "router,size=8,recall=0.9"):
            with self.subTest(predictor=predictor):
                is_router = predictor.startswith("router")
                choice = ("--plan", "router", "--experts", "8") if is_router else ("--plan", "predictor", "--predictor", predictor)
                got = self.prepare(*choice)
                run = self.eval(self.path("out.gguf"))
                for layer, row in zip(got["layers"], run["layers"]):
                    (candidate,) = layer["candidates"]
                    want = 0.99 if is_router or "recall" not in predictor else float(predictor.rsplit("=", 1)[1])
                    self.assertAlmostEqual(candidate["recall"], want, delta=0.03)
                    self.assertAlmostEqual(row["recall"], candidate["recall"], delta=0.03)
                    self.assertAlmostEqual(row["predicted_density"], candidate["predicted_density"], delta=0.03)
                    self.assertAlmostEqual(row["bytes"], candidate["bytes"], delta=0.05 * candidate["bytes"])
                self.assertAlmostEqual(run["perplexity_dense"], self.dense_perplexity(), delta=1e-3 * run["perplexity_dense"])

    def dense_perplexity(self):
        return self.eval(self.model, "--select", "gate")["perplexity_dense"]

    def test_all_candidates(self):
        got = self.prepare("--predictor", "screen,margin=0:1", "--predictor", "svd,rank=8:16,bits=16", "--experts", "16", "--target-cett", "0.1")
        for layer in got["layers"]:
            self.assertEqual([c["select"] for c in layer["candidates"]], ["dense", "gate", "screen,margin=0", "screen,margin=1", "svd,bits=16,rank=8",
                                                                          "svd,bits=16,rank=16", "router,size=16"])

    def test_bad_fits(self):
        for predictor, words in (("svd,rank=8", ("rank 8", "multiples of 32")), ("low_rank,rank=64,bits=16", ("rank 64", "32 inputs")),
                                 ("router,size=7", ("7 neurons", "96"))):
            self.fails(1, "prepare", self.model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--predictor", predictor, says=words)
            self.assertFalse(os.path.exists(self.path("no.gguf.work")))

    def test_target_cett(self):
        for rule in ("cett", "abs_h", "cats", "chess"):
            with self.subTest(rule=rule):
                got = self.prepare("--target-cett", "0.2", "--rule", rule, "--plan", "gate")
                self.assertAlmostEqual(got["cett"], 0.2, delta=1e-6)
                for layer in got["layers"]:
                    self.assertTrue(0.1 < layer["rule_cett"] <= 0.2)
                run = self.eval(self.path("out.gguf"), "--select", "gate")
                for layer, row in zip(got["layers"], run["layers"]):
                    self.assertAlmostEqual(row["cett"], layer["rule_cett"], delta=0.03)

    def test_target_density(self):
        got = self.prepare("--target-density", "0.25", "--rule", "cats", "--plan", "gate")
        for layer in got["layers"]:
            self.assertAlmostEqual(layer["rule_density"], 0.25, delta=0.01)
        for row in self.eval(self.path("out.gguf"), "--select", "gate")["layers"]:
            self.assertAlmostEqual(row["density"], 0.25, delta=0.03)

    def test_rules_of_a_token(self):
        """Rules that compare a token's neurons: their parameters meet the target, are no larger than they must be, and come back from the file."""
        for name in ("top_k_h", "top_k_score", "block_top_k_h", "block_top_k_score", "statistical_h", "statistical_score"):
            with self.subTest(rule=name):
                got = self.prepare("--target-cett", "0.3", "--rule", name, "--plan", "gate")
                run = self.eval(self.path("out.gguf"), "--select", "gate")
                for layer, row in zip(got["layers"], run["layers"]):
                    self.assertEqual(layer["rule"], name)
                    self.assertIsNone(layer["rule_threshold"])
                    self.assertTrue(0.1 < layer["rule_cett"] <= 0.3, layer["rule_cett"])
                    self.assertAlmostEqual(row["cett"], layer["rule_cett"], delta=0.03)
                    self.assertAlmostEqual(row["down_density"], layer["rule_density"], delta=0.03)
                    self.assertEqual((layer["rule_m"] or 0), 32 if name.startswith("block") else 0)
                    self.assertEqual(layer["rule_sparsity"] is not None, name.startswith("stat"))
                    if layer["rule_k"]:
                        self.assertLessEqual(row["down_density"], layer["rule_k"] / (layer["rule_m"] or 96) + 1e-9)
        half = self.prepare("--target-density", "0.25", "--rule", "top_k_h", "--plan", "gate")
        self.assertEqual([(layer["rule_k"], layer["rule_density"]) for layer in half["layers"]], [(24, 0.25)] * 2)
        self.prepare("--target-ppl", "5", "--rule", "block_top_k_h", "--plan", "predictor", "--predictor", "low_rank,rank=8,bits=16,recall=0.9")

    def test_own_inputs(self):
        """A selector that reads the residual stream is fitted on it, and gets it when the file runs."""
        for kind in ("low_rank,rank=8,bits=16,recall=0.9", "mlp,rank=16,bits=16,recall=0.9", "router,size=8,recall=0.9"):
            for where in ("residual", "layer", "layer_norm"):
                with self.subTest(kind=kind, input=where):
                    got = self.prepare("--plan", "router" if kind.startswith("router") else "predictor", "--predictor", f"{kind},input={where}")
                    run = self.eval(self.path("out.gguf"))
                    for layer, row in zip(got["layers"], run["layers"]):
                        self.assertAlmostEqual(row["recall"], layer["candidates"][0]["recall"], delta=0.03)
                        self.assertAlmostEqual(row["predicted_density"], layer["candidates"][0]["predicted_density"], delta=0.03)
        self.fails(2, "prepare", self.model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--predictor", "mlp,rank=8,input=first_layer",
                   says=("'first_layer'", "residual", "collected"))
        self.fails(2, "prepare", self.model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--plan", "router", "--predictor", "screen",
                   says=("screen", "--plan router"))
        self.fails(2, "prepare", self.model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--predictor", "svd,rank=8,input=residual",
                   says=("'input=residual'",))
        self.fails(2, "prepare", self.model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--predictor", "mlp,rank=8,input=residual:layer",
                   says=("one input",))

    def test_select_by_name(self):
        """--select predictor and router run what the file has, and say so when it has none."""
        self.prepare("--plan", "predictor", "--predictor", "screen")
        same = self.eval(self.path("out.gguf")), self.eval(self.path("out.gguf"), "--select", "predictor")
        self.assertEqual(same[1]["select"], "predictor")
        self.assertEqual({**same[0], "select": ""}, {**same[1], "select": ""})
        text = self.json("generate", self.path("out.gguf"), "--prompt", "hello", "-n", "4", "--ignore-eos", "--select", "predictor")
        self.assertEqual(text["select"], "predictor")
        for command in (("eval", "--tokens", self.ids), ("generate", "--prompt", "hello")):
            self.fails(1, command[0], self.path("out.gguf"), *command[1:], "--select", "router", says=("layer 0", "no router"))
            self.fails(1, command[0], self.model, *command[1:], "--select", "predictor", says=("layer 0", "no predictor"))
        self.prepare("--plan", "router", "--experts", "8")
        same = self.eval(self.path("out.gguf")), self.eval(self.path("out.gguf"), "--select", "router")
        self.assertEqual({**same[0], "select": ""}, {**same[1], "select": ""})

    def test_bad_selectors(self):
        """A file whose selector does not fit: an error that says what, where and how it should be, from whoever opens it."""
        def array(kind, value):
            return (tiny_gguf.ARRAY, (kind, [value] * 2))
        screen = {"sffn.predictor.kind": array(tiny_gguf.STRING, "screened_gate")}
        low_rank = {"sffn.predictor.kind": array(tiny_gguf.STRING, "low_rank"), "sffn.predictor.rank": array(tiny_gguf.U32, 4)}
        good = {"blk.0.sffn_predictor_w1.weight": ((4, 32), [0.1] * 128), "blk.0.sffn_predictor_w2.weight": ((96, 4), [0.1] * 384)}
        nan = [float("nan")] * 128
        for activation, keys, tensors, words in (
            ("silu", screen, {}, ("layer 0", "silu", "no zeros")),
            ("relu", {"sffn.rule": array(tiny_gguf.STRING, "best")}, {}, ("sffn.rule of layer 0", "'best'", "unknown")),
            ("relu", {"sffn.predictor.kind": array(tiny_gguf.STRING, "oracle")}, {}, ("sffn.predictor.kind", "'oracle'")),
            ("relu", {"sffn.plan": array(tiny_gguf.STRING, "predictor")}, {}, ("plan of layer 0", "predictor", "none")),
            ("relu", {**screen, "sffn.predictor.margin": array(tiny_gguf.F32, float("nan"))}, {}, ("sffn.predictor.margin of layer 0", "NaN")),
            ("relu", {**screen, "sffn.predictor.margin": array(tiny_gguf.F32, -1.0)}, {}, ("margin is -1",)),
            ("relu", {"sffn.plan": (tiny_gguf.ARRAY, (tiny_gguf.STRING, ["gate"]))}, {}, ("sffn.plan", "array of 2 strings")),
            ("relu", low_rank, {}, ("blk.0.sffn_predictor_w1.weight",)),
            ("relu", low_rank, {**good, "blk.0.sffn_predictor_w1.weight": ((4, 64), [0.1] * 256)}, ("blk.0.sffn_predictor_w1.weight", "64", "32")),
            ("relu", low_rank, {**good, "blk.0.sffn_predictor_w2.weight": ((64, 4), [0.1] * 256)}, ("blk.0.sffn_predictor_w2.weight", "64", "96")),
            ("relu", low_rank, {**good, "blk.0.sffn_predictor_w1.weight": ((4, 32), nan)}, ("w1", "NaN")),
            ("relu", low_rank, good, ("blk.1.sffn_predictor_w1.weight",)),  # of layer 0 only
        ):
            with self.subTest(words=words):
                metadata, weights = tiny_gguf.llama(activation=activation)
                tiny_gguf.write(self.path("misfit.gguf"), {**metadata, **keys}, {**weights, **tensors})
                self.fails(1, "eval", self.path("misfit.gguf"), "--tokens", self.ids, says=words)
                self.fails(1, "generate", self.path("misfit.gguf"), "--prompt", "hello", says=words)

    def test_target_ppl(self):
        none = self.prepare("--target-ppl", "0", "--plan", "gate")
        some = self.prepare("--target-ppl", "5", "--plan", "gate")
        self.assertGreaterEqual(some["cett"], none["cett"])
        self.assertGreater(some["cett"], 0)
        # methods.md 14.10: 5 % of perplexity are 0.04879016 of the loss, on the last tenth of the text, where it was looked for.
        with open(self.ids, encoding="utf-8") as f, open(self.path("last.json"), "w", encoding="utf-8") as last:
            json.dump(json.load(f)[-32:], last)
        run = self.json("eval", self.path("out.gguf"), "--tokens", self.path("last.json"), "--window", "32", "--timed", "0", "--threads", "1")
        self.assertLessEqual(math.log(run["perplexity_sparse"] / run["perplexity_dense"]), 0.04879016 + 1e-6)

    def test_silu(self):
        """No exact zeros: without a rule dense wins, with one the gate can."""
        model = self.path("silu.gguf")
        tiny_gguf.write(model, *tiny_gguf.llama(activation="silu"))
        got = self.prepare(model=model)
        for layer in got["layers"]:
            self.assertEqual([c["select"] for c in layer["candidates"]], ["dense", "gate"])
        self.prepare("--target-cett", "0.2", "--plan", "gate", model=model)
        row = self.eval(self.path("out.gguf"), "--select", "gate")
        self.assertEqual(row["density"], 1)
        self.assertLess(row["down_density"], 0.9)
        self.fails(1, "prepare", model, "-o", self.path("no.gguf"), "--tokens", self.ids, "--predictor", "screen", says=("silu",))

    def test_command(self):
        """The file says how it was made, and not where it went."""
        self.prepare("--plan", "gate", "--n-tokens", "200")
        with open(self.path("out.gguf"), "rb") as f:
            data = f.read()
        self.assertIn(b"sffn.prepare.command", data)
        self.assertIn(b"--plan gate --n-tokens 200", data)
        self.assertNotIn(b"out.gguf", data)
        self.assertEqual(data.count(b"tiny.gguf"), 2)  # the source, and the command

    def test_text(self):
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write("hello world, a text with some length. " * 20)
        self.prepare("--plan", "gate", text=("--calibrate", self.path("text")))
        out, _ = self.ok("prepare", self.model, "-o", self.path("out.gguf"), "--calibrate", self.path("text"), "--target-cett", "0.1")
        for word in ("selection", "recall", "dense", "gate", "screen", "chosen", "rule cett", "CETT"):
            self.assertIn(word, out)

    def test_wrong_usage(self):
        for args, words in {
            ("--plan", "gate"): ("--calibrate TEXT",), ("--target-cett", "0.1"): ("--calibrate TEXT",), ("--resume",): ("--calibrate TEXT",),
            ("--calibrate", "a", "--tokens", "b"): ("not both",),
            ("--tokens", "b", "--target-cett", "0.1", "--target-ppl", "1"): ("expected one of",),
            ("--tokens", "b", "--target-cett", "2"): ("'2'",), ("--tokens", "b", "--target-density", "-1"): ("'-1'",),
            ("--tokens", "b", "--rule", "cats"): ("--rule cats needs a target",), ("--tokens", "b", "--rule", "dogs"): ("'dogs'", "cett|abs_h|cats|chess"),
            ("--tokens", "b", "--plan", "best"): ("'best'",), ("--tokens", "b", "--plan", "predictor"): ("--predictor",),
            ("--tokens", "b", "--plan", "gate", "--predictor", "screen"): ("not gate",),
            ("--tokens", "b", "--plan", "gate", "--experts", "32"): ("not gate",), ("--tokens", "b", "--experts", "0"): ("'0'",),
            ("--tokens", "b", "--predictor", "gate"): ("no predictor",), ("--tokens", "b", "--predictor", "scren"): ("'scren'",),
            ("--tokens", "b", "--plan", "predictor", "--predictor", "screen,margin=1:2"): ("is a list",),
        }.items():
            with self.subTest(args=args):
                self.fails(2, "prepare", "m.gguf", "-o", "x.gguf", *args, says=words)

    def test_bad_texts(self):
        for content, words in (("[1, 2, 3]", ("3 tokens", "at least 64")), (json.dumps([99999] * 100), ("99999",))):
            with open(self.path("bad.json"), "w", encoding="utf-8") as f:
                f.write(content)
            self.fails(1, "prepare", self.model, "-o", self.path("bad.gguf"), "--tokens", self.path("bad.json"), says=words)
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("bad.gguf")], [])

    def test_work_folder(self):
        args = ("prepare", self.model, "-o", self.path("w.gguf"), "--tokens", self.ids, "--plan", "gate")
        self.fails(1, *args, "--resume", says=("w.gguf.work", "to resume"))
        os.mkdir(self.path("w.gguf.work"))
        self.fails(1, *args, says=("w.gguf.work", "--resume"))
        with open(os.path.join(self.path("w.gguf.work"), "job.txt"), "w", encoding="utf-8") as f:
            f.write("sffn 0.0.1\n")
        self.fails(1, *args, "--resume", says=("another run", "sffn 0.0.1"))
        os.remove(os.path.join(self.path("w.gguf.work"), "job.txt"))
        self.ok(*args, "--resume")
        self.assertFalse(os.path.exists(self.path("w.gguf.work")))


class Interrupted(Case):
    """Killed and interrupted runs go on where they stopped, and give the bytes of a run that was left alone."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.ids = os.path.join(cls.folder, "small.gguf"), os.path.join(cls.folder, "ids.json")
        tiny_gguf.write(cls.model, *tiny_gguf.llama(n_layers=3, d=64, d_ff=256))
        rng = random.Random(6)
        with open(cls.ids, "w", encoding="utf-8") as f:
            json.dump([rng.randrange(262) for _ in range(5000)], f)

    def command(self, out, *args):
        return [cli_test.SFFN, "prepare", self.model, "-o", self.path(out), "--tokens", self.ids, "--window", "64", "--target-cett", "0.1", "--plan",
                "predictor", "--predictor", "screen", "--samples", "256", "--threads", "1", *args]

    def interrupted(self, out, when, how, *args):
        """Runs until `when` is in the work folder, then sends `how`; 1 when it could be interrupted."""
        work, deadline = self.path(out) + ".work", time.time() + 60
        with subprocess.Popen(self.command(out, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and time.time() < deadline and not os.path.exists(os.path.join(work, when)):
                time.sleep(0.001)
            process.send_signal(how)
            _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            return 0
        if how == signal.SIGINT:
            self.assertFalse(os.path.exists(self.path(out)))
            self.assertEqual(process.returncode, 1, err)
            self.assertIn(b"--resume goes on", err.splitlines()[-1])
        return 1

    def test_resume(self):
        done = subprocess.run(self.command("whole.gguf"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("whole.gguf"), "rb") as f:
            want = f.read()
        for k, stops in enumerate(([("small.gguf", signal.SIGKILL)], [("inputs-2.f32", signal.SIGINT)], [("layer-0.result", signal.SIGKILL)],
                                   [("small.gguf", signal.SIGINT), ("inputs-0.f32", signal.SIGKILL), ("layer-1.result", signal.SIGINT)])):
            with self.subTest(stops=stops):
                out, more, n = f"part{k}.gguf", (), 0
                for when, how in stops:
                    n += self.interrupted(out, when, how, *more)
                    if n:
                        more = ("--resume",)
                if not os.path.exists(self.path(out)):
                    done = subprocess.run(self.command(out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
                    self.assertEqual(done.returncode, 0, done.stderr)
                with open(self.path(out), "rb") as f:
                    self.assertEqual(f.read(), want)
                self.assertEqual([name for name in os.listdir(self.folder) if name.startswith(out) and name != out], [])


if __name__ == "__main__":
    sys.exit(cli_test.main())
