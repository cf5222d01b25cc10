#!/usr/bin/env python3
"""sffn-bench on tiny shapes: what it prints, its JSON keys, exit statuses and error lines. No time is looked at."""
import json
import os
import struct
import sys
import xml.etree.ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cli"))
import cli_test  # noqa: E402
import tiny_gguf  # noqa: E402
from cli_test import ROOT, Case  # noqa: E402

COMMANDS = ("ffn", "stages", "kernels", "scaling", "memory", "trace", "compare", "plot")
# The contract of design and header texts; more may come.
FFN_KEYS = set("""name shape d_model d_ff dtype select density n_tokens n_threads isa median_ns min_ns max_ns repeats weight_bytes touched_bytes
effective_gbps stream_gbps stream_median_gbps gather_gbps gather_median_gbps limit_fraction median_limit_fraction gather_fraction median_gather_fraction speedup_vs_dense speedup_vs_onednn relative_error let_through recall median_error
spread""".split())
SMALL = ("--cold", "16", "--repeats", "3", "--no-onednn")
KERNELS = ("--cols", "64", "--from", "cache", "--repeats", "3")


class BenchCase(Case):
    def rows(self, *args):
        out, err = self.ok(*args, "--json")
        return [json.loads(line) for line in out.splitlines()], err

    def layer(self, command, *args, shape="64,256"):
        return self.rows(command, "--shape", shape, *SMALL, *args)[0]


class Usage(BenchCase):
    def test_help(self):
        out, _ = self.ok("--help")
        for command in COMMANDS:
            self.assertIn(f"  {command} ", out)
            one, _ = self.ok(command, "--help")
            self.assertTrue(one.startswith(f"Usage: sffn-bench {command}"), one)
            for line in one.splitlines():
                self.assertLessEqual(len(line), 132, line)

    def test_version(self):
        self.assertRegex(self.ok("--version")[0], r"^sffn-bench \d+\.\d+\.\d+\n$")

    def test_no_command(self):
        status, out, err = cli_test.run()
        self.assertEqual((status, out), (2, ""))
        self.assertIn("Usage: sffn-bench COMMAND", err)

    def test_wrong_usage(self):
        for args, words in {
            ("fnn",): ('unknown command "fnn"',),
            ("ffn", "--jsn"): ('unknown option "--jsn"', "sffn-bench ffn --help"),
            ("ffn", "--shape", "64"): ('--shape is "64"', "llama2-7b"),
            ("ffn", "--dtype", "q5_0"): ('--dtype is "q5_0"', "q4_0"),
            ("ffn", "--shape", "33,64", "--dtype", "q8_0"): ("d_model is 33", "multiple of 32"),
            ("ffn", "--select", "gates"): ('--select is "gates"', "cascade"),
            ("ffn", "--shape", "64,33", "--select", "router"): ("d_ff is 33", "multiple of 32"),
            ("ffn", "--shape", "64,64", "--select", "low_rank", "--rank", "96"): ("--rank is 96", "d_model (64)"),
            ("ffn", "--density", "0"): ('--density is "0"', "0.0001..1"),
            ("ffn", "--tokens", "0"): ('--tokens is "0"', "1..4096"),
            ("ffn", "--threads", "1,513"): ('--threads is "513"',),
            ("ffn", "--recall", "2"): ('--recall is "2"',),
            ("ffn", "--seconds", "x"): ('--seconds is "x"',),
            ("ffn", "--cold", "0"): ('--cold is "0"',),
            ("ffn", "--batch-path", "fast"): ('--batch-path is "fast"', "auto, sparse or dense"),
            ("ffn", "--trace", "x", "--select", "gate"): ('--select is "gate"', "only dense and oracle"),
            ("ffn", "--json", "--json"): ("--json is given twice",),
            ("scaling", "--trace", "x"): ("sffn-bench trace",),
            ("trace",): ("FILE is missing",),
            ("trace", "--json"): ("FILE is missing",),
            ("stages", "64,64"): ('unknown argument "64,64"',),
            ("kernels", "--ops", "rows_dots"): ('--ops has "rows_dots"',),
            ("kernels", "--isa", "avx3"): ('--isa is "avx3"', "sffn info"),
            ("kernels", "--cols", "33"): ("--cols is 33", "multiple of 32"),
            ("kernels", "--tokens", "9"): ('--tokens is "9"', "1..8"),
            ("kernels", "--from", "disk"): ('--from is "disk"', "cache, memory"),
            ("memory", "--pages", "large"): ('--pages has "large"',),
            ("compare", "--peers", "mkl"): ('--peers has "mkl"', "openblas"),
            ("compare", "--density", "0.1,0.2"): ("--density is a list",),
            ("compare", "--select", "router"): ("--select router", "sffn-bench ffn"),
            ("compare", "--planted", "x"): ("--planted has no meaning here",),
            ("plot",): ("DIR is missing",),
            ("plot", "x", "--threads", "0"): ('--threads is "0"',),
        }.items():
            with self.subTest(args=args):
                self.fails(2, *args, says=words)

    def test_missing_files(self):
        self.fails(1, "trace", "/nonexistent/m", says=("/nonexistent/m",))
        self.fails(1, "plot", "/nonexistent", says=("/nonexistent",))
        self.fails(1, "plot", self.folder, says=("no rows",))


class Ffn(BenchCase):
    def test_selections(self):
        """Each selection runs, has the keys, and computes the layer: exact ones to rounding, predictors to what they miss."""
        selects = "dense,gate,screen,cascade,sign,low_rank,oracle,router"
        rows = self.layer("ffn", "--dtype", "f32", "--density", "0.125", "--select", selects, shape="64,512")
        self.assertEqual([row["select"] for row in rows], selects.split(","))
        for row in rows:
            self.assertLessEqual(FFN_KEYS, set(row))
            self.assertTrue(row["name"].startswith("ffn 64,512 f32 " + row["select"]))
            self.assertEqual((row["d_model"], row["d_ff"], row["n_tokens"], row["n_threads"], row["repeats"]), (64, 512, 1, 1, 3))
            self.assertEqual(row["weight_bytes"], 3 * 64 * 512 * 4)
            self.assertAlmostEqual(row["density"], 0.125)
            self.assertLess(0, row["min_ns"])
            self.assertTrue(row["min_ns"] <= row["median_ns"] <= row["max_ns"])
            self.assertIsNone(row["speedup_vs_onednn"])
            is_predicted = row["select"] in ("screen", "cascade", "sign", "low_rank")
            self.assertEqual(row["recall"] is not None, is_predicted)
            self.assertLess(row["relative_error"], 0.2 if is_predicted else 1e-5)
            if is_predicted:
                self.assertGreater(row["recall"], 0.95)
        bytes_of = {row["select"]: row["touched_bytes"] for row in rows}
        self.assertEqual(bytes_of["dense"], 3 * 64 * 512 * 4)
        self.assertEqual(bytes_of["gate"], (512 + 2 * 64) * 64 * 4)
        self.assertEqual(bytes_of["oracle"], 3 * 64 * 64 * 4)

    def test_lists(self):
        rows = self.layer("ffn", "--dtype", "q4_0,q8_0", "--density", "0.5,0.25", "--tokens", "1,3", "--threads", "1,2")
        got = {(r["dtype"], round(r["density"] * 4) / 4, r["n_tokens"], r["n_threads"]) for r in rows}
        self.assertEqual(len(rows), 16)
        self.assertEqual(got, {(d, p, t, n) for d in ("q4_0", "q8_0") for p in (0.5, 0.25) for t in (1, 3) for n in (1, 2)})

    def test_recall(self):
        row, = self.layer("ffn", "--dtype", "f32", "--select", "sign", "--recall", "0.9", "--density", "0.25")
        self.assertTrue(0.89 < row["recall"] < 0.95, row["recall"])

    def test_refused(self):
        """A row that the library refuses is said; the others go on, and the exit status is 1."""
        status, out, err = cli_test.run("ffn", "--shape", "64,256", *SMALL, "--dtype", "q4_0", "--select", "screen,gate", "--json")
        self.assertEqual((status, out.count("\n")), (1, 1))
        self.assertIn("the gate is q4_0", err)
        self.assertEqual(json.loads(out)["select"], "gate")

    def test_warm_table(self):
        out, _ = self.ok("ffn", "--shape", "64,256", *SMALL, "--warm", "--dtype", "bf16")
        self.assertIn("warm weights", out)
        self.assertRegex(out, r"(?m)^gate +bf16 +0\.1")

    def test_planted(self):
        model = os.path.join(ROOT, "examples", "models", "reglu-33m.gguf")
        if not os.path.exists(os.path.join(os.path.dirname(model), "layer3_inputs.f32")) or not os.path.exists(model):
            self.skipTest("no model with recorded inputs")
        row, = self.layer("ffn", "--planted", model, "--dtype", "q8_0", "--select", "cascade", shape="512,1024")
        self.assertTrue(0.01 < row["density"] < 0.5, row["density"])
        self.assertGreater(row["recall"], 0.9)
        self.assertLess(row["relative_error"], 0.1)


class Rows(BenchCase):
    def test_stages(self):
        rows = self.layer("stages", "--dtype", "f32", "--select", "dense,gate,cascade", "--density", "0.25")
        for select, stages in {"dense": ["gate+up", "down", "other", "total"], "gate": ["gate", "up", "down", "other", "total"],
                               "cascade": ["select", "gate", "up", "down", "other", "total"]}.items():
            mine = [row for row in rows if row["select"] == select]
            self.assertEqual([row["stage"] for row in mine], stages)
            for key in ("touched_bytes", "flops"):
                parts = sum(row[key] for row in mine[:-1])
                self.assertAlmostEqual(parts, mine[-1][key], delta=4)  # rounded to whole bytes each
        gate = next(row for row in rows if (row["select"], row["stage"]) == ("gate", "gate"))
        self.assertEqual(gate["touched_bytes"], 256 * 64 * 4)
        self.assertEqual(gate["flops"], 2 * 256 * 64)
        self.assertLessEqual({"name", "share", "effective_gbps", "stream_gbps", "stream_median_gbps", "gather_gbps", "limit_fraction", "median_limit_fraction", "gather_fraction", "gflops",
                              "relative_error", "median_ns", "isa"}, set(gate))

    def test_scaling(self):
        rows = self.layer("scaling", "--dtype", "q8_0", "--select", "gate", "--threads", "1,2")
        self.assertEqual([row["n_threads"] for row in rows], [1, 2])
        self.assertEqual(rows[0]["speedup_vs_first"], 1)
        for row in rows:
            self.assertLessEqual(FFN_KEYS, set(row))
            self.assertTrue(row["name"].startswith("scaling "))

    def test_kernels(self):
        rows, _ = self.rows("kernels", *KERNELS)
        ops = {(row["op"], row["dtype"]) for row in rows}
        for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0"):
            self.assertLessEqual({("rows_dot", dtype), ("rows_axpy", dtype)}, ops)
        for op, dtype in (("blocks_axpy", "q8_0"), ("blocks_axpy", "q4_0"), ("plane_dot", "f32"), ("count_signs", "f32"), ("quantize_x", None),
                          ("threshold", None), ("top_k", None)):
            self.assertIn((op, dtype), ops)
        self.assertIn("scalar", {row["isa"] for row in rows})
        for row in rows:
            if row["isa"] == "scalar":
                self.assertEqual(row["speedup_vs_scalar"], 1)
            if row["op"] in ("rows_dot", "rows_axpy"):
                self.assertTrue(row["name"].startswith(row["op"]) and row["dtype"] in row["name"], row["name"])
                self.assertLess(row["relative_error"], 0.05 if row["dtype"].startswith("q") else 1e-5, row["name"])

    def test_kernels_from_memory(self):
        rows, _ = self.rows("kernels", *KERNELS[:2], "--from", "memory", "--ops", "rows_dot", "--dtype", "q4_0", "--repeats", "3", "--isa", "scalar",
                            "--cold", "16")
        (row,) = rows
        self.assertEqual(row["from"], "memory")
        self.assertIsNotNone(row["limit_fraction"])

    def test_memory(self):
        rows, _ = self.rows("memory", "--size", "16", "--threads", "1,2", "--pages", "small", "--piece", "4096", "--density", "0.2")
        self.assertEqual([(row["kind"], row["n_threads"]) for row in rows], [("stream", 1), ("gather", 1), ("stream", 2), ("gather", 2)])
        for row in rows:
            self.assertGreater(row["gbps"], 0)

    def test_compare(self):
        rows = self.layer("compare", "--dtype", "f32,q8_0", "--select", "gate", "--peers", "onednn,openblas,torch,ggml", "--tokens", "1,2")
        for dtype in ("f32", "q8_0"):
            for tokens in (1, 2):
                own = [row["select"] for row in rows if (row["peer"], row["dtype"], row["n_tokens"]) == ("sffn", dtype, tokens)]
                self.assertEqual(own, ["dense", "gate"])
        for row in rows:  # which peers there are depends on the machine; each must compute the layer
            self.assertLess(row["relative_error"], 0.1, row["name"])
            self.assertLessEqual({"peer", "version", "how", "dtype", "layer_dtype", "sffn_dense_ns", "sffn_select_ns", "limit_fraction", "median_limit_fraction"}, set(row))

    def test_compare_missing(self):
        status, out, err = cli_test.run("compare", "--shape", "64,256", *SMALL, "--dtype", "f32", "--select", "gate", "--peers", "ggml,torch", "--json",
                                        "--libraries", "/nonexistent", "--python", "/nonexistent/python")
        self.assertEqual((status, out.count("\n")), (0, 2))
        self.assertIn("torch f32 is skipped: /nonexistent/python has no torch", err)
        self.assertIn("ggml f32", err)


class Trace(BenchCase):
    def write(self, name, bitmaps, n_layers, d_ff, n_tokens=None):
        n_tokens = len(bitmaps) // n_layers if n_tokens is None else n_tokens
        with open(self.path(name), "wb") as f:
            f.write(b"SFFNMASK" + struct.pack("<IIIIQ", 1, n_layers, d_ff, 0, n_tokens) + b"".join(bitmaps))
        return self.path(name)

    def test_replay(self):
        """Two layers of 96 neurons, a quarter and an eighth of them active; the layer is two tokens wide."""
        quarter, eighth = bytes([0x11] * 12), bytes([0x01] * 12)
        path = self.write("masks", [quarter, eighth] * 5, 2, 96)
        rows, _ = self.rows("trace", path, "--shape", "64,192", *SMALL, "--dtype", "f32")
        self.assertEqual([(row["trace_layer"], row["density"], row["select"]) for row in rows], [(0, 0.25, "oracle"), (1, 0.125, "oracle")])
        for row in rows:
            self.assertLessEqual(FFN_KEYS, set(row))
            self.assertEqual(row["touched_bytes"], 3 * 192 * row["density"] * 64 * 4)
            self.assertLess(row["relative_error"], 1e-5)
        same, _ = self.rows("ffn", "--trace", path, "--shape", "64,192", *SMALL, "--dtype", "f32")
        self.assertEqual([row["touched_bytes"] for row in same], [row["touched_bytes"] for row in rows])

    def test_recorded(self):
        """What sffn eval writes can be replayed."""
        model, ids = self.path("model.gguf"), self.path("ids")
        tiny_gguf.write(model, *tiny_gguf.llama())
        with open(ids, "w", encoding="utf-8") as f:
            json.dump([0, *range(1, 100)], f)
        bench, cli_test.SFFN = cli_test.SFFN, cli_test.TOKENIZE  # the other program
        try:
            self.ok("eval", model, "--tokens", ids, "--window", "32", "--record", self.path("recorded"), "--timed", "0")
        finally:
            cli_test.SFFN = bench
        rows, _ = self.rows("trace", self.path("recorded"), "--shape", "32,96", *SMALL, "--dtype", "f32")
        self.assertEqual([row["trace_layer"] for row in rows], [0, 1])
        for row in rows:
            self.assertTrue(0.1 < row["density"] < 0.9, row["density"])

    def test_bad_files(self):
        mask = bytes(12)
        for name, words, bitmaps, options in (("short", "shorter or longer", [mask], {"n_tokens": 2}), ("long", "shorter or longer", [mask] * 3, {"n_tokens": 1}),
                                              ("none", "holds no masks", [], {})):
            path = self.write(name, bitmaps, 1, 96, **options)
            self.fails(1, "trace", path, "--shape", "32,96", *SMALL, says=(words,))
        path = self.write("wide", [mask], 1, 96)
        self.fails(1, "trace", path, "--shape", "32,64", *SMALL, says=("layers of 96 neurons", "--shape has 64"))
        with open(self.path("other"), "wb") as f:
            f.write(b"GGUF" + bytes(60))
        self.fails(1, "trace", self.path("other"), says=("no file of activation masks",))


class Plot(BenchCase):
    def test_plots(self):
        files = {
            "ffn": [{"name": f"ffn {d} {t}", "shape": "64,256", "dtype": t, "select": "gate", "n_tokens": 1, "n_threads": 1, "density": d, "weight_bytes": 300,
                     "touched_bytes": 100 + 200 * d, "speedup_vs_dense": 3 - 2 * d, "median_ns": 1e6, "relative_error": 1e-3}
                    for d in (0.1, 0.5, 1.0) for t in ("q4_0", "q8_0")],
            "compare": [{"name": f"compare {p} {n}", "peer": p, "shape": "64,256", "dtype": "f32", "layer_dtype": "f32", "select": "dense", "n_tokens": n,
                         "n_threads": 1, "median_ns": n * 1e6, "relative_error": None} for p in ("sffn", "a<b") for n in (1, 4)],
            "stages": [{"name": f"stages {s}", "stage": s, "shape": "64,256", "dtype": "f32", "select": "gate", "n_tokens": 1, "n_threads": 1, "flops": 100 * i,
                        "touched_bytes": 100, "gflops": 10, "stream_gbps": 30, "effective_gbps": 20, "limit_fraction": 0.6} for i, s in ((1, "gate"), (2, "up"))],
            "scaling": [{"name": f"scaling {n}", "shape": "64,256", "dtype": "bf16", "select": "gate", "n_threads": n, "median_ns": 1e6, "effective_gbps": 20 * n,
                         "stream_gbps": 30 * n} for n in (1, 2, 4)],
        }
        for name, rows in files.items():
            with open(self.path(name + ".jsonl"), "w", encoding="utf-8") as f:
                f.writelines(json.dumps(row) + "\n" for row in rows)
        out, _ = self.ok("plot", self.folder)
        self.assertEqual(out.split(), ["speedup_gate_64x256.svg", "batch_f32_64x256.svg", "scaling_bf16_64x256.svg", "roofline_64x256.svg"])
        for name in out.split():
            with open(self.path(name), encoding="utf-8") as f:
                text = f.read()
            root = xml.etree.ElementTree.fromstring(text)
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        with open(self.path("speedup_gate_64x256.svg"), encoding="utf-8") as f:
            text = f.read()
        self.assertIn("what the bytes allow", text)
        self.assertIn("q4_0: 2.8x at 0.1", text.replace("2.80x", "2.8x"))
        with open(self.path("batch_f32_64x256.svg"), encoding="utf-8") as f:
            self.assertIn("a&lt;b", f.read())

    def test_bad_lines(self):
        folder = self.path("bad")
        os.mkdir(folder)
        for text in ('{"name": 1,}', '{"name"}', '["a"]', '{"a": {"b": 1}}', '{"a": 1} x', '{"a": "b'):
            with open(os.path.join(folder, "x.jsonl"), "w", encoding="utf-8") as f:
                f.write('{"name": "ffn", "median_ns": null}\n\n' + text + "\n")
            self.fails(1, "plot", folder, says=("x.jsonl', line 3", "flat JSON object"))


if __name__ == "__main__":
    sys.exit(cli_test.main())
