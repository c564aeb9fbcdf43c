"""Whether the metadata of a graph is right for a size: a run that looks at the shape of each value.

`torch.export` takes dynamic sizes for larger than 1 where an operator asks whether
they are 1. ``squeeze`` takes such a dim away in a run and not in the metadata, and
no guard says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from fxpasses.errors import CaptureError
from fxpasses.program import Program

__all__ = ["AsDescribed", "NotDescribedError", "as_described", "run_on_fakes"]


class NotDescribedError(CaptureError):
    """A value has another shape than its metadata says."""


class AsDescribed(fx.Interpreter):
    """Runs a graph for *sizes*, the values of its symbols by name.

    Raises:
        NotDescribedError: names the node whose metadata is wrong for them.
    """

    def __init__(self, module: fx.GraphModule, sizes: Mapping[str, int]) -> None:
        super().__init__(module)
        self._sizes = sizes

    def run_node(self, n: fx.Node) -> Any:
        value, val = super().run_node(n), n.meta.get("val")
        # of several results those that are used: kernels and their meta functions differ in what is for training
        tensors = isinstance(value, torch.Tensor) and isinstance(val, torch.Tensor)
        if tensors and n.users and not self._fits(value, val):
            raise NotDescribedError(f"{n.name} is of shape {tuple(value.shape)}, not {tuple(val.shape)}")
        return value

    def _fits(self, tensor: torch.Tensor, val: torch.Tensor) -> bool:
        return tensor.dim() == val.dim() and all(
            self._size(expected) in (size, None)
            for size, expected in zip(tensor.shape, val.shape, strict=True)
            if isinstance(size, int)
        )

    def _size(self, size: Any) -> int | None:
        """The number that *size* is; None where it holds a symbol that is counted in the run."""
        if not isinstance(size, torch.SymInt):
            return size
        import sympy

        symbols = [s for s in size.node.expr.free_symbols if s.name in self._sizes]
        known = {symbol: sympy.Integer(self._sizes[symbol.name]) for symbol in symbols}
        value = size.node.expr.xreplace(known)
        return int(value) if value.is_Integer else None


def as_described(program: Program) -> Program:
    """*program* with no size of 1 or 0 in its ranges for which its metadata is wrong."""
    from torch.utils._sympy.value_ranges import ValueRanges

    for size in (1, 0):
        symbols = [s for s in _sizes_of(program) if program.ranges[s].lower <= size < program.ranges[s].upper]
        served = [symbol for symbol in symbols if _is_described(program, {symbol: size})]
        if size == 1 and len(served) > 1 and not _is_described(program, dict.fromkeys(served, 1)):
            served = []
        above = {s: ValueRanges(size + 1, program.ranges[s].upper) for s in symbols if s not in served}
        program = program.replace(ranges={**program.ranges, **above})
    return program


def _sizes_of(program: Program) -> dict[Any, int]:
    """The symbols that are sizes of inputs, with their values in the example."""
    found: dict[Any, int] = {}
    for node in program.inputs:
        val = node.meta.get("val")
        for size in val.shape if isinstance(val, torch.Tensor) else ():
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and size.node.has_hint():
                found[size.node.expr] = size.node.hint
    return {symbol: size for symbol, size in found.items() if symbol in program.ranges}


def _is_described(program: Program, sizes: Mapping[Any, int]) -> bool:
    """Whether a run on fake tensors of *sizes*, and else those of the example, is as the metadata says."""
    numbers = {symbol.name: size for symbol, size in {**_sizes_of(program), **sizes}.items()}
    try:
        run_on_fakes(program, numbers)
    except NotDescribedError:
        return False
    except (
        Exception
    ):  # it looks at values, or refuses the size; what a call does then is not for the shapes to say
        return True
    return True


def run_on_fakes(program: Program, sizes: Mapping[str, int]) -> list[Any]:
    """Run the graph of *program* on fake tensors of *sizes*, the values of its symbols by name.

    Raises:
        NotDescribedError: a value has another shape than its metadata says.
        Exception: what an operator raises that refuses the sizes, or looks at values.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    run = AsDescribed(program.graph_module, sizes)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        return list(run.run(*_fake_inputs(program, run, mode)))


def _fake_inputs(program: Program, run: AsDescribed, mode: Any) -> Iterator[Any]:
    for node in program.placeholders:
        val, role = node.meta.get("val"), node.meta["role"]
        if role.kind != "user":
            yield mode.from_tensor(program.tensors[role.target], static_shapes=True)
        elif isinstance(val, torch.Tensor):
            shape = [run._size(size) for size in val.shape]
            yield torch.empty(shape, dtype=val.dtype, device=val.device)  # type: ignore[arg-type]
        else:
            yield run._size(val)
