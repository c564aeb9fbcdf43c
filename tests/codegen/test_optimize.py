"""The passes between the canonical form and the kernels are an argument of `compile`."""

from __future__ import annotations

import torch

import fxpasses as fxp
from fxpasses.codegen.optimize import optimizations
from fxpasses.program import Program


def test_the_passes_for_the_target_can_be_exchanged() -> None:
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).eval()
    x = torch.randn(1, 32, 8, 8)
    seen: list[set[str]] = []

    def look(program: Program) -> Program:
        seen.append({str(node.target) for node in program.nodes() if node.op == "call_function"})
        return program

    default = optimizations("llvm")
    direct = fxp.Pipeline(*(pass_ for pass_ in default if pass_ is not fxp.passes.winograd))
    for passes in (default, direct, fxp.Pipeline()):
        compiled = fxp.compile(layer, (x,), optimize=fxp.Pipeline(passes, look))
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    calls_winograd = [any("winograd" in op for op in ops) for ops in seen]
    assert calls_winograd == [True, False, False]
    assert "fxpasses.conv_channels_last.default" in seen[1]
    assert "aten.convolution.default" in seen[2]
