#!/usr/bin/env python3
"""sffn eval on small models made here: selections, JSON, the report, recorded masks. Seconds, no packages."""
import html.parser
import json
import os
import struct
import sys
import xml.etree.ElementTree

import cli_test
import tiny_gguf
from cli_test import Case

ROW_KEYS = ("density", "predicted_density", "down_density", "recall", "precision", "cett", "relative_error", "bytes", "dense_bytes", "ns", "dense_ns")


class Eval(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.ids = os.path.join(cls.folder, "tiny.gguf"), os.path.join(cls.folder, "ids.json")
        tiny_gguf.write(cls.model, *tiny_gguf.llama())
        with open(cls.ids, "w", encoding="utf-8") as f:
            json.dump([0, *range(1, 150)], f)

    def eval(self, *args, model=None):
        out, _ = self.ok("eval", model or self.model, "--tokens", self.ids, "--window", "32", "--json", *args)
        return [json.loads(line) for line in out.splitlines()]

    def test_keys(self):
        (got,) = self.eval()
        for key in ("name", "model", "select", "n_tokens", "n_predicted", "window", "perplexity_dense", "perplexity_sparse", "layers", *ROW_KEYS):
            self.assertIn(key, got)
        self.assertEqual((got["name"], got["select"], got["n_tokens"], len(got["layers"])), ("eval", "gate", 150, 2))
        for layer in got["layers"]:
            for key in ("layer", *ROW_KEYS):
                self.assertIn(key, layer)
            self.assertAlmostEqual(layer["precision"], layer["density"], delta=1e-9)
            self.assertGreater(layer["ns"], 0)
            self.assertGreater(layer["dense_ns"], 0)
        self.assertAlmostEqual(got["ns"], sum(layer["ns"] for layer in got["layers"]), delta=1e-6 * got["ns"])

    def test_several(self):
        """Selections of one run are what they are alone."""
        both = self.eval("--select", "gate", "--select", "screen,margin=0:2", "--timed", "0")
        self.assertEqual([row["select"] for row in both], ["gate", "screen,margin=0", "screen,margin=2"])
        for row in both:
            self.assertIsNone(row["ns"])
            self.assertEqual(self.eval("--select", row["select"], "--timed", "0"), [row])
        self.assertLess(both[1]["predicted_density"], both[2]["predicted_density"])
        self.assertLess(both[1]["recall"], both[2]["recall"])
        self.assertGreater(both[1]["cett"], both[2]["cett"])
        for row in both:  # precision = recall * active / let through, token by token; nearly so for the means
            self.assertAlmostEqual(row["precision"], row["recall"] * row["density"] / row["predicted_density"], delta=0.02)

    def test_svd(self):
        """A full rank is the gate itself; with a density, as many neurons as asked for."""
        rows = self.eval("--select", "svd,rank=32,bits=32", "--select", "svd,rank=4:16,bits=32,density=0.5", "--select", "screen,density=0.25",
                         "--select", "sign,alpha=0.7:1.5")
        self.assertGreater(rows[0]["recall"], 0.999)
        for row, density in zip(rows[1:], (0.5, 0.5, 0.25)):
            self.assertAlmostEqual(row["predicted_density"], density, delta=1e-9)
        self.assertLess(rows[4]["recall"], rows[5]["recall"])
        self.assertLess(rows[1]["recall"], rows[2]["recall"])
        self.assertLess(rows[2]["cett"], rows[1]["cett"])
        self.fails(1, "eval", self.model, "--tokens", self.ids, "--select", "svd,rank=33", says=("layer 0", "rank", "33"))

    def test_cascade(self):
        """Wide margins keep all active neurons in every form; narrow ones read less."""
        rows = self.eval("--select", "cascade,margin=6", "--select", "cascade,bits=4,step=2,margin=0:6", "--select", "cascade,bits=1", "--timed", "0")
        self.assertEqual([row["select"] for row in rows[:3]], ["cascade,margin=6", "cascade,bits=4,step=2,margin=0", "cascade,bits=4,step=2,margin=6"])
        self.assertGreater(min(rows[0]["recall"], rows[2]["recall"]), 0.99)
        self.assertLess(rows[1]["predicted_density"], rows[2]["predicted_density"])
        self.assertLess(rows[1]["bytes"], rows[2]["bytes"])

    def test_threads(self):
        runs = [self.eval("--select", "screen", "--timed", "0", "--threads", n) for n in (1, 2, 5)]
        self.assertEqual(runs[0], runs[1])
        self.assertEqual(runs[0], runs[2])

    def test_table(self):
        out, _ = self.ok("eval", self.model, "--tokens", self.ids, "-n", "64", "--select", "screen", "--select", "gate")
        for word in ("selection screen", "selection gate", "recall", "precision", "perplexity"):
            self.assertIn(word, out)

    def test_bad_selections(self):
        for select, words in {
            "scren": ("'scren'", "gate|plan|"), "": ("gate|plan|",), "gate,margin=1": ("'margin=1'", "gate"), "screen,margin": ("KEY=VALUE",),
            "screen,margin=-1": ("'-1'", "from 0"), "screen,margin=nan": ("'nan'",), "screen,margin=1:x": ("'x'",), "screen,margin=": ("''",),
            "screen,margn=1": ("'margn=1'", "margin"), "screen,": ("KEY=VALUE",), "screen,margin=1:": ("''",),
            "cascade,bits=5": ("'5'", "1, 2, 3 or 4"), "cascade,step=0": ("'0'",), "cascade,recall=0.9": ("'recall=0.9'",), "svd,rank=8,bits=3": ("'3'", "4, 8, 16 or 32"),
        }.items():
            with self.subTest(select=select):
                self.fails(2, "eval", self.model, "--tokens", self.ids, "--select", select, says=words)
                if "1:" not in select:
                    self.fails(2, "generate", self.model, "--prompt", "x", "--select", select, says=words)
        self.fails(2, "generate", self.model, "--prompt", "x", "--select", "screen,margin=0:1", says=("expected one selection",))

    def test_report(self):
        folder = self.path("report")
        self.eval("--select", "gate", "--select", "screen", "--report", folder)
        self.assertEqual(os.listdir(folder), ["index.html"])
        with open(os.path.join(folder, "index.html"), encoding="utf-8") as f:
            page = f.read()
        tree = xml.etree.ElementTree.fromstring(page)  # well-formed XML, too
        svgs = tree.findall(".//svg")
        self.assertEqual([svg.find("text").text for svg in svgs],
                         ["Density per layer", "Recall against density", "Error against density", "Speed against error"])
        html.parser.HTMLParser().feed(page)
        for word in ("tiny.gguf", "eval", "--report", "kernels", "2 of d_model 32", "prefers-color-scheme:dark"):
            self.assertIn(word, page)
        for word in ("nan", "inf\"", "<script", "http://", "https://"):
            self.assertNotIn(word, page.lower())
        for svg in svgs:  # everything lies inside its picture
            width, height = map(float, svg.get("viewBox").split()[2:])
            for mark in svg.iter("circle"):
                self.assertTrue(0 < float(mark.get("cx")) < width and 0 < float(mark.get("cy")) < height)
        rows = tree.findall(".//tr")
        self.assertGreaterEqual(len(rows), 1 + 3 + 2 * (1 + 2 + 1))

    def test_report_escapes(self):
        model = self.path("a<b>&\"c.gguf")
        tiny_gguf.write(model, *tiny_gguf.llama())
        self.eval("--report", self.path("report2"), "-n", "32", "--timed", "0", model=model)
        xml.etree.ElementTree.parse(os.path.join(self.path("report2"), "index.html"))

    def test_cannot_write(self):
        self.fails(1, "eval", self.model, "--tokens", self.ids, "-n", "32", "--report", "/nonexistent/r", says=("/nonexistent/r",))
        self.fails(1, "eval", self.model, "--tokens", self.ids, "-n", "32", "--record", "/nonexistent/m", says=("/nonexistent/m",))

    def test_record(self):
        path = self.path("masks")
        (got,) = self.eval("--record", path, "--timed", "0")
        with open(path, "rb") as f:
            data = f.read()
        self.assertFalse(os.path.exists(path + ".part"))
        magic, version, n_layers, d_ff, zero, n_tokens = struct.unpack_from("<8sIIIIQ", data)
        self.assertEqual((magic, version, n_layers, d_ff, zero), (b"SFFNMASK", 1, 2, 96, 0))
        self.assertEqual(n_tokens, got["n_predicted"])
        self.assertEqual(len(data), 32 + n_tokens * n_layers * 12)
        for layer, row in enumerate(got["layers"]):
            active = sum(bin(byte).count("1") for token in range(n_tokens)
                         for byte in data[32 + (token * n_layers + layer) * 12:][:12])
            self.assertAlmostEqual(active / (n_tokens * d_ff), row["density"], delta=1e-9)


if __name__ == "__main__":
    sys.exit(cli_test.main())
