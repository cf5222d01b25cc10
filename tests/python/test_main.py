"""python -m sparseffn."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import sparseffn as sf
from sparseffn.__main__ import main


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"library_version:    {sf.library_version}\n" in text and "kernels:\n  " in text


def test_info_json():
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run(
        [sys.executable, "-m", "sparseffn", "info", "--json", "--threads", "2", "--max-isa", "scalar"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert facts["isa"] == "scalar" and facts["n_threads"] == 2 and facts["package_version"] == sf.__version__
    assert facts["library_path"] and facts["kernels"] and "scalar" in facts["isas"]


def test_failure_and_usage(capsys):
    assert main(["info", "--max-isa", "mmx"]) == 1
    assert "mmx" in capsys.readouterr().err
    for wrong in ([], ["fly"], ["info", "--threads", "x"]):
        with pytest.raises(SystemExit) as e:
            main(wrong)
        assert e.value.code == 2


def test_public_names():
    for name in sf.__all__:
        member = getattr(sf, name)
        assert isinstance(member, (str, sf.logger.__class__)) or member.__doc__, name
    for cls in (sf.Context, sf.ActiveSet, sf.Matmul, sf.Predictor, sf.Router, sf.FFN, sf.Model):
        for name, member in vars(cls).items():
            if not name.startswith("_") and callable(member):
                assert member.__doc__ and member.__annotations__, f"{cls.__name__}.{name}"
