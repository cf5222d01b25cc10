"""Calls drop the GIL; a context serves one call at a time; layers are shared."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sparseffn as sf


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(5)
    return dict(
        gate=rng.standard_normal((512, 256)).astype(np.float32),
        up=rng.standard_normal((512, 256)).astype(np.float32),
        down=rng.standard_normal((256, 512)).astype(np.float32),
    )


def test_one_context_per_thread(layer):
    with sf.Context() as ctx:
        ffn = sf.FFN(ctx, **layer)
        x = np.random.default_rng(6).standard_normal((8, 256)).astype(np.float32)
        expected = ffn.forward(x)

        def work(seed):
            with sf.Context(1 + seed % 2) as mine:
                ffn.reserve(mine)
                return all(np.array_equal(ffn.forward(x, context=mine), expected) for _ in range(50))

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(work, range(12)))


def test_busy_and_gil(layer):
    """While one thread is inside a long call, this one runs Python, and is told that the context is busy."""
    with sf.Context() as ctx:
        ffn = sf.FFN(ctx, **layer, dense_tokens=0)
        x = np.random.default_rng(7).standard_normal((20_000, 256)).astype(np.float32)
        small = x[:1].copy()
        inside = threading.Event()
        finished = threading.Event()

        def work():
            inside.set()
            try:
                ffn.forward(x)
            finally:
                finished.set()

        seen = []
        for _ in range(20):
            inside.clear(), finished.clear()
            thread = threading.Thread(target=work)
            thread.start()
            inside.wait()
            while not finished.is_set() and not seen:
                try:
                    ffn.forward(small)
                except sf.BusyError as e:
                    seen.append(e)
                time.sleep(0.0005)
            thread.join()
            if seen:
                break
        assert seen, "no call met another one"
        assert seen[0].status == 22 and "one Context per thread" in str(seen[0])
        assert ffn.forward(small).shape == (1, 256)


def test_close_during_a_call(layer):
    """close() in one thread does not pull the layer from under another's call."""
    x = np.ones((2000, 256), np.float32)
    outcomes = []

    def work(ffn, started):
        started.set()
        try:
            outcomes.append(ffn.forward(x).shape)
        except ValueError as e:  # close() came first
            outcomes.append(str(e))

    for _ in range(10):
        ctx = sf.Context()
        ffn = sf.FFN(ctx, **layer, dense_tokens=0)
        started = threading.Event()
        thread = threading.Thread(target=work, args=(ffn, started))
        thread.start()
        started.wait()
        time.sleep(0.001)
        ffn.close()
        ctx.close()
        thread.join()
    assert len(outcomes) == 10
    assert all(o == (2000, 256) or "closed" in o for o in outcomes) and (2000, 256) in outcomes


def test_log_from_many_contexts(layer):
    lines = []
    lock = threading.Lock()

    def log(level, text):
        if level == sf.LogLevel.DEBUG:
            with lock:
                lines.append(text)

    def work(i):
        with sf.Context(log=log) as ctx:
            for _ in range(50):
                with pytest.raises(sf.ArgumentError):
                    sf.ActiveSet(ctx, 0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert len(lines) == 400
