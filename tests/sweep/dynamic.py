"""Samples captured for any sizes, and the calls that programs of them then have to answer.

A sample's tensors get `Dim.AUTO` in every dim, so that the capture says what
varies and within which ranges. The program is compiled once and called with
tensors of other sizes; those that the ranges leave out are not tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import Dim
from torch.utils import _pytree as pytree

import fxpasses as fxp
from fxpasses.codegen.runtime import Compiled
from fxpasses.passes.check_inference import is_training
from fxpasses.program import Program
from fxpasses.schema import draws_random
from fxpasses.sizes import evaluate
from fxpasses.testing.single import Call
from tests.sweep.samples import Reached, Samples, operator_of, samples

__all__ = ["DTYPES", "SIZES", "AnySize", "reach", "resized"]

DTYPES = (torch.float32, torch.float16, torch.complex64, torch.int64, torch.bool)
"""One of each kind: sizes are dealt with alike in those that differ by their width."""

LARGEST = 50_000
"""Calls with more elements in a tensor are left out."""

SIZES: tuple[Callable[[int, int], int], ...] = (
    lambda number, size: size,
    lambda number, size: size + 1 + number,
    lambda number, size: 2 * size + 3,
    lambda number, size: max(1, size - 1),
    lambda number, size: 1,
    lambda number, size: size + 7 * (number % 2),
    lambda number, size: 17,
    lambda number, size: 0,
)
"""The sizes of a call, from the number of each size that varies and its value in the example."""


class AnySize:
    """An operator with its sample's tensors of any sizes: in eager PyTorch when called, and as a program.

    It stands in the place of an operator in a `Call`, under the name of the unit.

    Attributes:
        overload: the operator that the program calls, where it is a single one.
    """

    def __init__(self, name: str, op: Callable[..., Any], program: Program) -> None:
        self.__module__, self.__name__ = "torch", name
        self.op, self.program = op, program
        called = [node.target for node in program.nodes() if isinstance(node.target, OpOverload)]
        self.overload = called[0] if len(called) == 1 else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs)

    @property
    def compiled(self) -> Compiled:
        """The program, which is compiled once; an error that this raises is raised each time."""
        if isinstance(self._compiled, Exception):
            raise self._compiled
        return self._compiled

    @cached_property
    def _compiled(self) -> Compiled | Exception:
        try:
            return fxp.compile(self.program)
        except Exception as error:
            return error


def reach(unit: str, count: int) -> Reached:
    """The calls with other sizes that the samples of *unit* give."""
    reached = Reached()
    op, found = samples(unit, count, reached)
    for sample in found:
        module = Samples(op, [sample])
        shapes = tuple(dict.fromkeys(range(tensor.dim()), Dim.AUTO) for tensor in module.tensors)
        if not any(shapes):
            reached.left_out.append("no tensor has a size")
            continue
        try:
            program = fxp.capture(module, module.tensors, dynamic_shapes=(shapes,))
        except Exception as error:
            reached.refused.append(f"{type(error).__name__}: {error}")
            continue
        calls = [_call(node) for node in program.nodes() if isinstance(node.target, OpOverload)]
        if any(draws_random(*call) or is_training(*call) for call in calls):
            reached.left_out.append("draws random numbers, or asks for training")
            continue
        op_of_any_size = AnySize(operator_of(unit), op, program)
        before = len(reached.calls)
        for tensors in resized(program, module.tensors):
            reached.calls.append((op_of_any_size, *_with(tensors, sample)))
        if len(reached.calls) == before:
            reached.left_out.append("no size varies")
    return reached


def _call(node: Any) -> Call:
    return node.target, node.args, node.kwargs


def _with(tensors: Sequence[torch.Tensor], sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of *sample* with these tensors."""
    taken = iter(tensors)
    call = (sample.input, *sample.args), sample.kwargs
    return pytree.tree_map_only(torch.Tensor, lambda _: next(taken), call)


def resized(program: Program, tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """*tensors*, the example of *program*, in each of `SIZES` within the ranges; the values are the example's own."""
    shapes = [tuple(node.meta["val"].shape) for node in program.inputs]
    example = _symbols(shapes, tensors)
    tried = set()
    for number, size_of in enumerate(SIZES):
        sizes = {
            symbol: _within(program.ranges[symbol], size_of(place, size))
            for place, (symbol, size) in enumerate(example.items())
        }
        by_name = {str(symbol): size for symbol, size in sizes.items()}
        new = [[_size(size, by_name) for size in shape] for shape in shapes]
        if not sizes or str(new) in tried or max(map(math.prod, new)) > LARGEST:
            continue
        tried.add(str(new))
        generator = torch.Generator().manual_seed(number)
        yield [_drawn(tensor, shape, generator) for tensor, shape in zip(tensors, new, strict=True)]


def _symbols(shapes: Sequence[Sequence[Any]], tensors: Sequence[torch.Tensor]) -> dict[Any, int]:
    """The symbols that are a size by themselves, with their values in the example."""
    found = {}
    for shape, tensor in zip(shapes, tensors, strict=True):
        for size, value in zip(shape, tensor.shape, strict=True):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                found[size.node.expr] = value
    return found


def _within(range_: Any, size: int) -> int:
    size = max(size, int(range_.lower))
    return min(size, int(range_.upper)) if range_.upper.is_Integer else size


def _size(size: Any, symbols: dict[str, int]) -> int:
    return size if isinstance(size, int) else int(evaluate(str(size.node.expr), symbols))


def _drawn(tensor: torch.Tensor, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """A tensor of *shape* with elements of *tensor*, or with zeros where that has none."""
    if list(tensor.shape) == list(shape):
        return tensor
    if not tensor.numel():
        return tensor.new_zeros(shape)
    places = torch.randint(tensor.numel(), shape, generator=generator)
    return tensor.flatten()[places]
