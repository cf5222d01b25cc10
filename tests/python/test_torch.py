"""CPU torch tensors, when torch is there. The package never imports it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sparseffn as sf


def test_torch_is_not_imported():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import sparseffn; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_in_and_out(torch, ctx):
    torch.manual_seed(1)
    w = torch.randn(48, 32)
    m = sf.Matmul(ctx, w)
    x = torch.randn(3, 32)
    out = torch.full((3, 48), float("nan"))
    assert m.rows_dot(x, out=out) is out
    assert torch.allclose(out, x @ w.T, atol=1e-4)
    assert np.array_equal(m.rows_dot(x.numpy()), out.numpy())
    assert np.array_equal(m.rows_dot(x[1]), out[1].numpy())
    assert np.array_equal(m.rows_dot(torch.cat([x, x], 1)[:, 32:]), out.numpy())


def test_parameters_and_linear_layers(torch, ctx):
    gate, up, down = torch.nn.Linear(32, 64), torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    ffn = sf.FFN(
        ctx,
        gate=gate.weight,
        up=up.weight,
        down=down.weight,
        gate_bias=gate.bias,
        up_bias=up.bias,
        down_bias=down.bias,
        activation="silu",
    )
    x = torch.randn(4, 32)
    expected = down(torch.nn.functional.silu(gate(x)) * up(x))
    assert np.abs(ffn.forward(x) - expected.detach().numpy()).max() < 1e-5


def test_borrowed_parameters_alias(torch, ctx):
    w = torch.ones(4, 32)
    m = sf.Matmul(ctx, w, storage="borrow")
    w.mul_(3)
    assert (m.get_row(0) == 3).all()


@pytest.mark.parametrize("name, dtype", [("bfloat16", "bf16"), ("float16", "f16")])
def test_half_types(torch, ctx, name, dtype):
    w = torch.randn(8, 32).to(getattr(torch, name))
    weights = sf.Weights(w)
    assert weights.dtype.name.lower() == dtype and weights.address == w.data_ptr()
    assert np.array_equal(sf.dequantize(weights), w.float().numpy())


def test_refused(torch, ctx):
    m = sf.Matmul(ctx, torch.randn(48, 32))
    with pytest.raises(TypeError, match="x: expected float32, got float64"):
        m.rows_dot(torch.randn(2, 32, dtype=torch.float64))
    with pytest.raises(TypeError, match="x: expected rows of adjacent floats"):
        m.rows_dot(torch.randn(32, 2).T)
    with pytest.raises(TypeError, match="out: expected a tensor that requires no gradient"):
        m.rows_dot(torch.randn(2, 32), out=torch.empty(2, 48, requires_grad=True))
    with pytest.raises(TypeError, match="x: expected a tensor on the CPU, got one on meta"):
        m.rows_dot(torch.empty(2, 32, device="meta"))
    with pytest.raises(TypeError, match="x: this tensor has no numpy view"):
        m.rows_dot(torch.randn(2, 32).to_sparse())
    m.rows_dot(torch.randn(2, 32, requires_grad=True))
