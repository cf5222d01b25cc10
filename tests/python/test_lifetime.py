"""Who keeps what alive, under reference counting and under the garbage collector."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
import sparseffn as sf
from sparseffn._lib import lib

D, F = 32, 64


@pytest.fixture
def destroyed(monkeypatch):
    """Names of the objects destroyed, in order."""
    order = []

    def watch(name, function):
        original = getattr(lib, function)

        def spy(ptr):
            order.append(name)
            original(ptr)

        monkeypatch.setattr(lib, function, spy)

    for name in ("context", "active_set", "matmul", "predictor", "router", "ffn"):
        watch(name, f"sffn_{name}_destroy")
    watch("model", "sffn_model_close")
    yield order
    gc.collect()


def matrix(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def make_ffn(ctx, **more):
    return sf.FFN(ctx, gate=matrix(F, D), up=matrix(F, D), down=matrix(D, F), **more)


def test_destroyed_at_once_without_the_collector(destroyed):
    gc.disable()
    try:
        ctx = sf.Context()
        ffn = make_ffn(ctx)
        del ffn
        assert destroyed == ["ffn"]
        del ctx
        assert destroyed == ["ffn", "context"]
    finally:
        gc.enable()


def test_context_outlives_what_it_made(destroyed):
    ffn = make_ffn(sf.Context())
    gc.collect()
    x = matrix(3, D)
    y = ffn.forward(x)
    assert destroyed == []
    active = sf.ActiveSet(ffn.context, F, max_tokens=3)
    ffn.forward(x, active_out=active)
    del ffn
    assert destroyed == ["ffn"] and active.count(0) > 0
    del active
    assert destroyed == ["ffn", "active_set", "context"]
    assert np.isfinite(y).all()


def test_closed_context_waits_for_its_objects(destroyed):
    ctx, other = sf.Context(), sf.Context()
    ffn = make_ffn(ctx)
    x = matrix(2, D)
    expected = ffn.forward(x)
    ctx.close()
    assert ctx.closed and destroyed == []
    with pytest.raises(ValueError, match="this Context is closed"):
        ffn.forward(x)
    ffn.reserve(other)
    assert np.array_equal(ffn.forward(x, context=other), expected)
    assert ffn.info.d_ff == F
    ffn.close()
    assert destroyed == ["ffn", "context"]
    with pytest.raises(ValueError, match="this FFN is closed"):
        ffn.forward(x, context=other)


@pytest.mark.parametrize("kind", ["predictor", "router"])
@pytest.mark.parametrize("how", ["close", "del"])
def test_layer_keeps_its_selector(destroyed, kind, how):
    ctx = sf.Context()
    selector = sf.Predictor(ctx, matrix(F, D)) if kind == "predictor" else sf.Router(ctx, matrix(2, D))
    ffn = make_ffn(ctx, **{kind: selector})
    x = matrix(2, D)
    expected = ffn.forward(x)
    if how == "close":
        selector.close()
        with pytest.raises(ValueError, match="closed"):
            selector.scores(x)
    del selector
    gc.collect()
    assert destroyed == []
    assert np.array_equal(ffn.forward(x), expected)
    del ffn, ctx
    assert destroyed == ["ffn", kind, "context"]


@pytest.mark.parametrize("turn", range(4))
def test_order_holds_when_a_cycle_dies_at_once(destroyed, turn):
    """The collector runs finalizers of a dead cycle in no useful order: parents must wait all the same."""

    class Engine:
        pass

    engine = Engine()
    engine.me = engine
    engine.ctx = sf.Context()
    engine.predictor = sf.Predictor(engine.ctx, matrix(F, D))
    engine.ffn = make_ffn(engine.ctx, predictor=engine.predictor, storage="borrow" if turn % 2 else "copy")
    engine.active = sf.ActiveSet(engine.ctx, F)
    for name in ("ctx", "predictor", "ffn", "active"):
        getattr(engine, name).owner = engine
    if turn > 1:
        engine.ctx.close()
    del engine
    assert destroyed == []
    gc.collect()
    assert sorted(destroyed) == ["active_set", "context", "ffn", "predictor"]
    assert destroyed[-1] == "context" and destroyed.index("ffn") < destroyed.index("predictor")


def test_borrowed_arrays_live_as_long_as_the_layer():
    ctx = sf.Context()
    arrays = [matrix(F, D) for _ in range(3)]
    watch = [weakref.ref(a) for a in arrays]
    x = matrix(2, D)
    ffn = sf.FFN(ctx, gate=arrays[0], up=arrays[1], down=arrays[2], down_layout="rows", storage="borrow")
    expected = ffn.forward(x)
    del arrays
    gc.collect()
    junk = [np.full((F, D), 1e30, np.float32) for _ in range(16)]
    assert all(w() is not None for w in watch)
    assert np.array_equal(ffn.forward(x), expected)
    del ffn, junk
    gc.collect()
    assert all(w() is None for w in watch)


def test_copied_arrays_are_let_go():
    ctx = sf.Context()
    a = matrix(F, D)
    watch = weakref.ref(a)
    m = sf.Matmul(ctx, a)
    expected = m.get_row(1)
    del a
    gc.collect()
    assert watch() is None
    assert np.array_equal(m.get_row(1), expected)


def test_borrowed_matmul_keeps_the_array():
    ctx = sf.Context()
    a = matrix(F, D)
    watch = weakref.ref(a)
    m = sf.Matmul(ctx, a, storage="borrow")
    del a
    gc.collect()
    assert watch() is not None
    m.close()
    gc.collect()
    assert watch() is None


def test_log_function_lives_as_long_as_the_c_context():
    lines = []

    class Log:
        def __call__(self, level, text):
            lines.append(text)

    log = Log()
    watch = weakref.ref(log)
    ctx = sf.Context(log=log)
    active = sf.ActiveSet(ctx, 4)
    del log
    ctx.close()
    gc.collect()
    assert watch() is not None
    with pytest.raises(sf.ShapeError):
        active.clear(100)  # the text and the log go through the closed context
    assert lines
    del active
    gc.collect()
    assert watch() is None


def test_no_pickles_and_no_copies():
    """A copy in another process would hold addresses of this one."""
    ctx = sf.Context()
    for thing in (ctx, sf.ActiveSet(ctx, 4), make_ffn(ctx)):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                attempt(thing)


def test_failed_creation_leaves_nothing(destroyed):
    ctx = sf.Context()
    for _ in range(3):
        with pytest.raises(sf.SparseffnError):
            sf.ActiveSet(ctx, 0)
        with pytest.raises(sf.ShapeError):
            make_ffn(ctx, gate_bias=np.zeros(3, np.float32))
    assert destroyed == []
    del ctx
    gc.collect()
    assert destroyed == ["context"]


def run(code):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )


PRELUDE = """
import gc, os, sys, threading, time
import numpy as np, sparseffn as sf
ctx = sf.Context(int(2))
w = np.ones((64, 32), np.float32)
ffn = sf.FFN(ctx, gate=w, up=w, down=w, down_layout="rows", storage="borrow")
x = np.ones((4, 32), np.float32)
"""


def test_exit_with_everything_alive():
    done = run(PRELUDE + "cycle = [ctx, ffn]; cycle.append(cycle); print(ffn.forward(x).shape)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "(4, 32)\n", "")


def test_exit_while_a_daemon_thread_is_inside():
    done = run(
        PRELUDE
        + """
def work():
    while True:
        ffn.forward(x)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
print("bye")
"""
    )
    assert (done.returncode, done.stdout) == (0, "bye\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork():
    """A child can neither use nor destroy the parent's pool; with contexts of its own it works."""
    done = run(
        PRELUDE
        + """
ffn.forward(x)
pid = os.fork()
if pid == 0:
    try:
        ffn.forward(x)
    except RuntimeError as e:
        assert "os.fork()" in str(e)
    else:
        os._exit(3)
    other = sf.Context()
    ffn.reserve(other)
    y = ffn.forward(x, context=other)
    del ffn, ctx
    gc.collect()
    sys.stdout.write(f"child {y.shape}\\n"); sys.stdout.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("parent", ffn.forward(x).shape)
"""
    )
    assert (done.returncode, done.stdout) == (0, "child (4, 32)\nparent (4, 32)\n"), done.stderr
