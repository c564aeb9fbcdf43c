"""`optimizations`: the passes between the canonical form and the kernels of a target."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.target import CpuInfo, resolve_target
from fxpasses.passes import (
    ChannelsLast,
    FuseAttention,
    PackLinear,
    TurnRecurrentWeights,
    eliminate_common_subexpressions,
    freeze,
    merge_rows,
    turn_single_row,
    widen_convolutions,
    winograd,
)
from fxpasses.pipeline import Pipeline

__all__ = ["optimizations"]


def optimizations(target: Any = "llvm") -> Pipeline:
    """The passes that bring a canonical program into the layouts that suit a TVM *target*.

    They are what `fxpasses.compile` does by default. Another pipeline, of some
    of them or with one's own, goes in as ``compile(..., optimize=pipeline)``.
    """
    cpu = CpuInfo.of(resolve_target(target))
    return Pipeline(
        freeze,
        widen_convolutions,
        ChannelsLast(cpu.vector_bytes),
        winograd,
        FuseAttention(cpu.vector_bytes, cpu.registers),
        merge_rows,
        eliminate_common_subexpressions,
        freeze,
        PackLinear(cpu.vector_bytes, cpu.registers),
        freeze,
        TurnRecurrentWeights(cpu.vector_bytes),
        turn_single_row,
        name="optimize",
    )
