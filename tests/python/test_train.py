"""The schedule of ProSparse through ctypes."""

from __future__ import annotations

import math

import pytest
import sparseffn as sf

STAGES_7B = [(5000, 0.0), (6000, 5e-3), (10000, 5e-2), (12000, 5e-2), (16000, 2e-1), (16500, 2e-1)]


@pytest.mark.parametrize(
    "step, expected",
    [(5000, 0), (5001, 0.005), (6001, 0.00500000694), (7000, 0.0115900974), (8000, 0.0275), (10000, 0.05), (11111, 0.05),
     (13000, 0.0719669914), (15000, 0.1780330086), (16500, 0.2), (10**15, 0.2)],
)  # fmt: skip
def test_published_values(step, expected):
    assert math.isclose(sf.prosparse_lambda(STAGES_7B, step), expected, rel_tol=5e-9)


def test_refused():
    with pytest.raises(ValueError, match=r"stages\[1\]: \(5, 0.1\) after \(5, 0.0\): steps must ascend"):
        sf.prosparse_lambda([(5, 0.0), (5, 0.1)], 1)
    with pytest.raises(ValueError, match="factors must not fall"):
        sf.prosparse_lambda([(5, 0.2), (6, 0.1)], 1)
    with pytest.raises(sf.ArgumentError, match=r"stages\[0\]: \(5, nan\)"):
        sf.prosparse_lambda([(5, math.nan)], 1)
    with pytest.raises(sf.ArgumentError, match="at least one stage"):
        sf.prosparse_lambda([], 1)
