"""Finds the package and library of this tree. SPARSEFFN_LIBRARY (set by meson) wins over the usual build folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bindings" / "python"

sys.path.insert(0, str(PACKAGE))
sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True

if not os.environ.get("SPARSEFFN_LIBRARY"):
    for build in ("build-python", "build"):
        library = ROOT / build / "lib" / "libsparseffn.so"
        if library.exists():
            os.environ["SPARSEFFN_LIBRARY"] = str(library)
            break

# With a library named, a failing import is a failure. Without any, only what needs none runs.
HAS_LIBRARY = bool(os.environ.get("SPARSEFFN_LIBRARY"))
collect_ignore = (
    [] if HAS_LIBRARY else [p.name for p in Path(__file__).parent.glob("test_*.py") if p.name != "test_abi.py"]
)

if HAS_LIBRARY:
    import sparseffn

    @pytest.fixture
    def ctx():
        with sparseffn.Context() as context:
            yield context

    @pytest.fixture(params=[name for name, is_supported in sparseffn.isas().items() if is_supported])
    def any_isa(request):
        """A context per ISA that this machine runs."""
        with sparseffn.Context(max_isa=request.param) as context:
            yield context


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def root():
    return ROOT
