"""Statistics in production: Context.stats(), stats_prometheus(), FFN.stats(), by the parsers of others."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sparseffn as sf

SIGNS = np.array([-1, 1, -1, -1, 1, -1, -1, 1, -1, -1], np.float32).reshape(10, 1)  # {1, 4, 7} are active for x > 0
ONES = np.ones((10, 1), np.float32)
NAMES = ["blk.0", 'a"b\\c\nd', "café €", "blk.0"]


@pytest.fixture
def counted():
    with sf.Context(collect_stats=True, stats_recall_every=2) as ctx:
        layers = [sf.FFN(ctx, gate=SIGNS, up=ONES, down=ONES, down_layout="rows", name=name) for name in NAMES]
        guess = sf.ActiveSet.from_mask(ctx, np.isin(np.arange(10), [1, 4, 5, 9]))
        for _ in range(4):
            layers[0].forward(np.ones(1, np.float32), active=guess)
        layers[1].forward(np.ones((3, 1), np.float32))
        layers[1].forward(np.ones((3, 1), np.float32), select="dense")
        yield ctx, layers


def test_layer(counted):
    ctx, layers = counted
    s = layers[0].stats()
    assert (s.calls_sparse, s.calls_dense, s.n_tokens, s.n_selected, s.n_active, s.n_nonzero) == (4, 0, 4, 16, 8, 8)
    assert (s.sampled_tokens, s.sampled_true, s.sampled_selected, s.sampled_hits) == (2, 6, 8, 4)
    assert s.recall == 2 / 3 and s.precision == 0.5
    with pytest.raises(sf.UnsupportedError, match="collect_stats"), sf.Context() as other:
        layers[0].stats(other)
    with sf.Context(collect_stats=True) as other:
        with pytest.raises(sf.NotFound, match="not registered"):
            layers[0].stats(other)
        layers[0].reserve(other)
        assert layers[0].stats(other).n_tokens == 0


def test_json(counted):
    ctx, _ = counted
    stats = ctx.stats()
    assert stats["version"] == sf.library_version and stats["unregistered_calls"] == 0
    assert [layer["name"] for layer in stats["layers"]] == [*NAMES[:3], "blk.0#2"]
    first, second = stats["layers"][:2]
    assert first["calls"] == {"sparse": 4, "dense": 0, "onednn": 0} and first["d_ff"] == 10
    assert (first["tokens"], first["neurons"], first["selected"], first["active"]) == (4, 40, 16, 8)
    assert first["sampled"] == {
        "tokens": 2, "true": 6, "selected": 8, "hits": 4, "recall": 0.666667, "precision": 0.5,
    }  # fmt: skip
    assert second["calls"] == {"sparse": 1, "dense": 1, "onednn": 0} and second["active"] == 3 * 3 + 3 * 10
    assert second["dense_reasons"] == {"asked": 1, "plan": 0, "no_zeros": 0, "many_tokens": 0} and second["widened"] == 0
    assert second["sampled"]["recall"] is None
    seconds = first["seconds"]
    assert seconds["total"] > 0
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"), abs=1e-8)
    ctx.reset_stats()
    assert all(layer["tokens"] == 0 and layer["seconds"]["total"] == 0 for layer in ctx.stats()["layers"])


def test_why_dense():
    ones = np.ones((4, 1), np.float32)
    with sf.Context(collect_stats=True) as ctx:
        by_itself = sf.FFN(ctx, gate=ones, up=ones, down=ones.T)
        assert (by_itself.info.dense_reason, by_itself.info.dense_tokens) == (sf.DenseReason.NOT, 0)
        relu = sf.FFN(ctx, gate=ones, up=ones, down=ones.T, dense_tokens=3)
        silu = sf.FFN(ctx, gate=ones, up=ones, down=ones.T, activation="silu", max_density=0.5)
        assert (relu.info.select, relu.info.dense_reason, relu.info.dense_tokens) == (sf.Select.GATE, sf.DenseReason.NOT, 3)
        assert (silu.info.select, silu.info.dense_reason, silu.info.dense_tokens) == (
            sf.Select.DENSE, sf.DenseReason.NO_ZEROS, 1,
        )  # fmt: skip
        assert silu.info.max_density == 0.5
        stats = sf.FFNStats()
        for layer, n, select, reason in [
            (relu, 1, "default", sf.DenseReason.NOT),
            (relu, 3, "default", sf.DenseReason.MANY_TOKENS),
            (relu, 1, "dense", sf.DenseReason.ASKED),
            (silu, 1, "default", sf.DenseReason.NO_ZEROS),
        ]:
            layer.forward(np.ones((n, 1), np.float32), select=select, stats=stats)
            assert stats.why_dense == reason and (stats.way == sf.Path.SPARSE) == (reason == sf.DenseReason.NOT)
            assert stats.as_dict()["dense_reason"] == reason.name.lower()
            assert stats.selected_by == (sf.Select.GATE if reason == sf.DenseReason.NOT else sf.Select.DENSE)
        total = relu.stats()
        assert (total.dense_asked, total.dense_plan, total.dense_no_zeros, total.dense_many_tokens) == (1, 0, 0, 1)
        three = sf.ActiveSet.from_mask(ctx, np.array([1, 1, 1, 0], bool))
        silu.forward(np.ones(1, np.float32), active=three, stats=stats)
        assert stats.n_widened == 1 and stats.n_selected == 4 and stats.selected_by == sf.Select.ACTIVE
        assert silu.stats().n_widened == 1 and silu.stats().dense_no_zeros == 1


LINE = re.compile(r'[a-z_]+\{layer="((?:[^"\\\n]|\\["\\n])*)"(?:,(?:path|reason|stage)="[a-z_]+")?\} \d+(?:\.\d+)?\n')


def test_prometheus_lines(counted):
    """By the grammar, without a package: HELP and TYPE before the samples of each metric, and every metric in one group."""
    ctx, _ = counted
    seen, current = [], None
    for line in ctx.stats_prometheus().splitlines(keepends=True):
        comment = re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)\n", line)
        if comment:
            kind, name, words = comment.groups()
            if kind == "HELP":
                assert name not in seen and name.startswith("sffn_")
                seen.append(name)
                current = name
            else:
                assert name == current and words in ("counter", "gauge")
                assert (words == "counter") == name.endswith("_total")
        else:
            assert line.startswith((f"{current}{{", f"{current} "))
            assert LINE.fullmatch(line) or re.fullmatch(r"sffn_unregistered_calls_total \d+\n", line), line
    assert len(seen) == 15


def test_prometheus_by_its_own_parser(counted):
    parser = pytest.importorskip("prometheus_client.parser")
    ctx, _ = counted
    families = {f.name: f for f in parser.text_string_to_metric_families(ctx.stats_prometheus())}

    def value(name, **labels):
        found = [s.value for s in families[name].samples if s.labels == labels]
        assert len(found) == 1
        return found[0]

    assert families["sffn_layer_calls"].type == "counter" and families["sffn_layer_neurons"].type == "gauge"
    assert value("sffn_layer_calls", layer="blk.0", path="sparse") == 4
    assert value("sffn_layer_calls", layer=NAMES[1], path="dense") == 1
    assert value("sffn_layer_tokens", layer=NAMES[1]) == 6
    assert value("sffn_layer_tokens", layer="café €") == 0
    assert value("sffn_layer_tokens", layer="blk.0#2") == 0
    assert value("sffn_layer_sampled_hit_neurons", layer="blk.0") == 4
    assert value("sffn_layer_neurons", layer="blk.0") == 10
    total = ctx.stats()["layers"][0]["seconds"]["total"]
    stages = ("select", "gate", "up", "down", "check", "other")
    assert sum(value("sffn_layer_seconds", layer="blk.0", stage=s) for s in stages) == pytest.approx(total, abs=1e-8)


def test_off(ctx):
    for call in (ctx.stats, ctx.stats_prometheus, ctx.reset_stats):
        with pytest.raises(sf.UnsupportedError, match="collect_stats"):
            call()
    with pytest.raises(sf.ArgumentError, match="stats_recall_every is 3"):
        sf.Context(stats_recall_every=3)


def test_statistics_change_nothing():
    rng = np.random.default_rng(5)
    gate, up, down = (rng.standard_normal(s).astype(np.float32) for s in [(96, 32), (96, 32), (32, 96)])
    x = rng.standard_normal((11, 32)).astype(np.float32)
    results = []
    for options in ({}, {"collect_stats": True}, {"collect_stats": True, "stats_recall_every": 1}):
        with sf.Context(**options) as ctx:
            predictor = sf.Predictor(ctx, gate=gate)
            layer = sf.FFN(ctx, gate=gate, up=up, down=down, dtype="q8_0", predictor=predictor)
            results.append(layer.forward(x))
            if options:
                assert layer.stats().sampled_tokens == (11 if "stats_recall_every" in options else 0)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
