"""examples/sharding/torch_gloo.py: two processes, one layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")


def test_gloo(root):
    ranks, d_ff = 2, 1002
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    environment = {**os.environ, "PYTHONPATH": str(root / "bindings" / "python"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-B", root / "examples" / "sharding" / "torch_gloo.py", "--ranks", str(ranks), "--d-model", "256", "--d-ff", str(d_ff), "--tokens", "3"]
    run = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["largest_share_of_bound"] <= 1 and result["largest_difference"] > 0  # it did not add in the same order by chance
    assert result["all_reduce_bytes"] == 3 * 256 * 4 and result["sent_per_rank_bytes"] == 2 * (ranks - 1) * 3 * 256 * 4 // ranks
    assert result["weight_bytes_unsharded"] == 3 * 256 * d_ff * 4
