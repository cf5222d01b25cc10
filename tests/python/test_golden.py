"""Every layer of tests/golden through the Python API, within the bounds of its README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sparseffn as sf
from pyref import QUANTISED, assert_within, gamma, read_golden

CASES = sorted((Path(__file__).resolve().parents[1] / "golden").glob("*.bin"))
pytestmark = pytest.mark.skipif(not CASES, reason="no golden files")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden(any_isa, path):
    f, a = read_golden(path)
    wtype = f["wtype"]

    def weights(name):
        return sf.Weights(a[name], wtype if wtype in QUANTISED else None)

    parameters = dict(
        up=weights("up"),
        down=weights("down"),
        down_layout="columns" if f["down_layout"] == "model_major" else "rows",
        activation=f["activation"],
        act_threshold=f["act_threshold"],
        act_tie=f["act_tie"],
        rule=f["rule"],
        rule_tie=f["rule_tie"],
        rule_threshold=a["thresholds"] if "thresholds" in a else f["rule_threshold"],
    )
    if f["is_gated"]:
        parameters["gate"] = weights("gate")
    for name in ("gate_bias", "up_bias", "down_bias"):
        if name in a:
            parameters[name] = a[name]
    ffn = sf.FFN(any_isa, **parameters)
    n = f["n_tokens"]
    h = np.full((n, f["d_ff"]), np.nan, np.float32)
    alive = sf.ActiveSet(any_isa, f["d_ff"], max_tokens=n)
    y = ffn.forward(a["x"], h=h, active_out=alive)

    e = gamma(f["d_model"] + 8)
    dh, dy = e * a["h_cond"], e * a["y_cond"] + gamma(f["d_ff"] + 2) * a["y_abs"]
    if wtype in QUANTISED:
        dh, dy = dh + a["h_int8"], dy + a["y_int8"]
    assert_within(h, a["h"], dh + 1e-37, "h")
    assert_within(y, a["y"], dy + 1e-37, "y")
    active = a["active"].astype(bool)
    assert not (h != 0)[~active].any()
    if f["rule"] != "abs_h" and f["activation"] != "drelu":
        assert np.array_equal(alive.mask(), active)
    else:
        assert alive.mask()[active].all()
    if f["n_ties"]:
        assert np.array_equal(y, a["y"].astype(np.float32))
