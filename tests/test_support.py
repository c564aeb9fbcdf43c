"""Every core operator of the installed torch is accounted for."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.schema import inference_overloads
from fxpasses.support import ISLANDS, SIZES, route
from fxpasses.testing.single import single_op_program

aten = torch.ops.aten

NATIVE = 0.97


def test_every_core_overload_is_accounted_for():
    lost = sorted(str(op) for op in inference_overloads() if route(op).kind == "none")
    assert not lost, (
        f"{len(lost)} core overloads have neither a lowering, a decomposition nor a reason: {lost}"
    )


def test_nearly_all_core_overloads_are_native():
    """The figure that `-rP` prints."""
    ops = inference_overloads()
    islands = {str(op): route(op).reason for op in ops if not route(op).native}
    print(f"{len(ops)} core overloads, {len(ops) - len(islands)} native; islands: {islands}")
    assert all(islands.values())
    assert len(ops) - len(islands) >= NATIVE * len(ops)


def test_reasons_are_those_of_core_overloads():
    assert inference_overloads() >= {*ISLANDS, *SIZES}


X = torch.arange(24.0).reshape(4, 6)
BATCH = torch.arange(48.0).reshape(2, 4, 6)

# One call of each core overload that has no row of its own but becomes others.
SPELLED = {
    aten._fft_c2r.default: (torch.ones(4, 3, dtype=torch.complex64), [1], 0, 4),
    aten._fft_r2c.default: (X, [1], 0, True),
    aten.adaptive_avg_pool1d.default: (BATCH, [3]),
    aten.alias.default: (X,),
    aten.any.default: (X,),
    aten.any.dim: (X, 1),
    aten.as_strided.default: (X, [2, 3], [6, 1], 7),
    aten.clone.default: (X,),
    aten.copy.default: (X, torch.ones(6)),
    aten.empty.memory_format: ([2, 3],),
    aten.empty_strided.default: ([2, 3], [1, 2]),
    aten.fill.Scalar: (X, 2),
    aten.full_like.default: (X, 3),
    aten.mean.default: (X,),
    aten.native_dropout.default: (X, 0.5, False),
    aten.scalar_tensor.default: (2,),
    aten.var.dim: (X, [1]),
    aten.view.default: (X, [6, 4]),
}


@pytest.mark.parametrize("op", sorted(SPELLED, key=str), ids=str)
def test_a_decomposed_overload_has_nothing_left_to_decompose(op):
    program, _ = single_op_program(op, *SPELLED[op])
    assert fxp.explain(program).native


def test_the_calls_above_are_all_there_are():
    decomposed = {op for op in inference_overloads() if route(op).kind == "decomposed"}
    assert decomposed == set(SPELLED)


def test_sizes_are_numbers():
    class Model(torch.nn.Module):
        def forward(self, x):
            return x * x.numel() + x.stride(0) + x.storage_offset() + x.is_contiguous()

    dims = ({0: torch.export.Dim("n", max=64)},)
    compiled = fxp.compile(Model(), (X,), dynamic_shapes=dims, strict=True)
    for rows in (4, 7):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(compiled(x), Model()(x))
