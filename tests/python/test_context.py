"""Context: configuration, information, log, errors."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
import sparseffn as sf
from sparseffn import _errors
from sparseffn._lib import lib


def test_defaults(ctx):
    info = ctx.info
    assert info.n_threads == 1
    assert info.isa in sf.isas() and sf.isas()[info.isa]
    assert info.n_cpus >= 1 and info.n_cores >= 1 and info.page_bytes >= 4096
    assert isinstance(info.has_hwloc, bool)
    assert ctx.last_error == ""
    assert ctx.kernels and all(isinstance(name, str) and name for name in ctx.kernels)
    assert info.isa in repr(ctx)


def test_versions():
    assert sf.library_version == sf.__version__
    assert os.path.exists(sf.library_path) or os.sep not in sf.library_path


@pytest.mark.parametrize("n", [1, 2, 5])
def test_threads(n):
    with sf.Context(n) as ctx:
        assert ctx.info.n_threads == n
    with sf.Context(n_threads=0) as ctx:
        assert ctx.info.n_threads == ctx.info.n_cpus


def test_isas_and_cap():
    found = sf.isas()
    assert next(iter(found)) == "scalar" and found["scalar"]
    with sf.Context(max_isa="scalar") as ctx:
        assert ctx.info.isa == "scalar"
        assert all(name.endswith("scalar") for name in ctx.kernels)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n_threads=513), "n_threads"),
        (dict(max_isa="mmx"), "mmx"),
        (dict(spin_us=2**32 - 1), "spin_us"),
    ],
)
def test_refused_by_the_library(arguments, message):
    with pytest.raises(sf.ArgumentError, match=message) as e:
        sf.Context(**arguments)
    assert e.value.status == 10 and e.value.name == "SFFN_ERR_INVALID_ARGUMENT"
    assert isinstance(e.value, ValueError) and isinstance(e.value, sf.SparseffnError)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (dict(n_threads=-1), ValueError),
        (dict(n_threads=2**32), ValueError),
        (dict(n_threads=1.5), (TypeError, AttributeError)),
        (dict(huge_pages="maybe"), ValueError),
    ],
)
def test_refused_before_the_library(arguments, error):
    with pytest.raises(error):
        sf.Context(**arguments)


def test_close_is_idempotent_and_final():
    ctx = sf.Context()
    with ctx as same:
        assert same is ctx and not ctx.closed
    assert ctx.closed
    ctx.close()
    for use in (
        lambda: ctx.info,
        lambda: ctx.kernels,
        lambda: ctx.last_error,
        lambda: sf.ActiveSet(ctx, 4),
        ctx.__enter__,
    ):
        with pytest.raises(ValueError, match="this Context is closed"):
            use()
    assert "closed" in repr(ctx)


def test_creator_must_be_a_context():
    with pytest.raises(TypeError, match="context: expected a sparseffn.Context, got NoneType"):
        sf.ActiveSet(None, 4)


def provoke(ctx):
    """A call that the library refuses."""
    with pytest.raises(sf.ArgumentError) as e:
        sf.ActiveSet(ctx, 0)
    return str(e.value)


def test_log_to_the_packages_logger(caplog):
    with caplog.at_level(logging.DEBUG, logger="sparseffn"), sf.Context() as ctx:
        text = provoke(ctx)
        assert ctx.last_error == text
    assert any(r.name == "sparseffn" and r.levelno == logging.DEBUG and text in r.getMessage() for r in caplog.records)


def test_log_to_a_logger_and_to_a_function(caplog):
    mine = logging.getLogger("mine")
    with caplog.at_level(logging.DEBUG, logger="mine"), sf.Context(log=mine) as ctx:
        text = provoke(ctx)
    assert any(r.name == "mine" and text in r.getMessage() for r in caplog.records)
    lines = []
    with sf.Context(log=lambda level, line: lines.append((level, line))) as ctx:
        text = provoke(ctx)
    assert any(level == sf._enums.LogLevel.DEBUG and text in line for level, line in lines)


def test_log_to_nobody(caplog):
    with caplog.at_level(logging.DEBUG), sf.Context(log=None) as ctx:
        provoke(ctx)
    assert not [r for r in caplog.records if r.name == "sparseffn"]


def test_package_log_is_silent_by_default(capfd):
    with sf.Context() as ctx:
        provoke(ctx)
    assert capfd.readouterr() == ("", "")


BUILTIN = {
    10: ValueError,
    11: ValueError,
    12: TypeError,
    13: NotImplementedError,
    20: MemoryError,
    21: RuntimeError,
    22: RuntimeError,
    23: RuntimeError,
    30: OSError,
    31: ValueError,
    32: KeyError,
    40: RuntimeError,
    50: RuntimeError,
}


@pytest.mark.parametrize("status", sorted(_errors.BY_STATUS))
def test_error_classes(status):
    e = _errors.error(status, "blk.3: the words")
    assert type(e) is _errors.BY_STATUS[status]
    assert isinstance(e, sf.SparseffnError) and isinstance(e, BUILTIN[status])
    assert e.status == status
    assert (
        e.name == lib.sffn_status_name(status).decode()
        and e.name.startswith("SFFN_ERR_")
        and e.name != "SFFN_ERR_UNKNOWN"
    )
    assert f"({e.name})" in type(e).__doc__
    assert str(e) == "blk.3: the words"
    again = pickle.loads(pickle.dumps(e))
    assert (type(again), str(again), again.status) == (type(e), str(e), status)
    assert type(e).__name__ in sf.__all__
    assert BUILTIN.keys() == _errors.BY_STATUS.keys()


def test_error_of_an_unknown_status():
    e = _errors.error(77, "from the future")
    assert (
        type(e) is sf.SparseffnError and e.status == 77 and e.name == "SFFN_ERR_UNKNOWN" and str(e) == "from the future"
    )
    again = pickle.loads(pickle.dumps(e))
    assert again.status == 77


def test_error_without_words(ctx):
    e = _errors.fail(11, ctx._live().ptr, "sffn_some_call")
    assert str(e) == "sffn_some_call failed with SFFN_ERR_SHAPE"
    assert "Context per thread" in str(_errors.fail(22, ctx._live().ptr, "sffn_some_call"))


def test_out_of_memory(ctx):
    """2^31 - 1 tokens of a large set can't be had; the library says so without harm."""
    with pytest.raises((sf.OutOfMemory, sf.ArgumentError)) as e:
        sf.ActiveSet(ctx, 2**31 - 1, max_tokens=2**32 - 1)
    assert str(e.value)
    assert sf.ActiveSet(ctx, 8).n_blocks == 8


def test_weight_bytes_are_counted(ctx):
    before = ctx.info.weight_bytes
    m = sf.Matmul(ctx, np.ones((64, 64), np.float32))
    assert ctx.info.weight_bytes >= before + 64 * 64 * 4
    m.close()
    assert ctx.info.weight_bytes == before
