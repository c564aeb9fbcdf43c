"""From PyTorch's operator samples to the operator calls that they reach."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses import capture
from fxpasses.passes.check_inference import is_training
from fxpasses.program import Program
from fxpasses.signature import dtype_name
from fxpasses.testing.single import Call

__all__ = ["DTYPES", "Reached", "Samples", "made", "operator_of", "reach", "samples", "units"]

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
)
LARGEST = 20_000
"""Samples with more elements than this are left out, as are sparse ones."""


@dataclass
class Reached:
    """The distinct operator calls of a unit's samples.

    Attributes:
        calls: the calls.
        refused: why samples cannot be captured, one line each.
        left_out: why samples say nothing: PyTorch cannot make them, raises an
            error for them, or gives no tensor (``torch.equal`` gives a Python
            bool, which decides how code goes on and is no part of a graph);
            or the call asks for training (dropout, batch norm that learns).
    """

    calls: list[Call] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@cache
def _infos() -> dict[str, Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return {".".join(filter(None, (info.name, info.variant_test_name))): info for info in op_db}


@cache
def units(dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[str]:
    """``"operator dtype"`` for every operator of `op_db` and dtype that it supports on the CPU."""
    return [
        f"{name} {dtype_name(dtype)}"
        for name, info in _infos().items()
        for dtype in dtypes
        if dtype in info.supported_dtypes("cpu")
    ]


def operator_of(unit: str) -> str:
    """The name in `op_db` of a unit's operator."""
    return unit.split(" ")[0]


def reach(unit: str, count: int) -> Reached:
    """What the samples of *unit* reach: at most *count* plain samples, and half as many of the edge cases."""
    reached = Reached()
    calls: dict[Any, Call] = {}
    for call in _record(*samples(unit, count, reached), reached):
        if is_training(*call):
            reached.left_out.append("asks for training")
        else:
            calls.setdefault(_key(call), call)
    reached.calls = list(calls.values())
    return reached


# -- samples ---------------------------------------------------------------------------


def samples(unit: str, count: int, reached: Reached) -> tuple[Any, list[Any]]:
    """The operator of *unit*, a Python function, and the samples of it that say something."""
    name, dtype = unit.split(" ")
    info = _infos()[name]
    torch.manual_seed(0)
    found = _samples(info, getattr(torch, dtype), count, reached)
    return info.op, [sample for sample in found if _says_something(info.op, sample, reached)]


def made(samples: Iterable[Any], lost: list[str]) -> Iterator[Any]:
    """The samples up to the first that PyTorch itself cannot make; *lost* is told why."""
    try:
        yield from samples
    except Exception as error:
        lost.append(f"cannot be made: {type(error).__name__}: {error}")


def _samples(info: Any, dtype: torch.dtype, count: int, reached: Reached) -> Iterator[Any]:
    """Samples spread evenly over those there are; every third one with tensors that are not contiguous."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = made(info.sample_inputs("cpu", dtype, requires_grad=False), reached.left_out)
        edges = made(info.reference_inputs("cpu", dtype, requires_grad=False), reached.left_out)
        for number, sample in enumerate([*_spread(plain, count), *_spread(edges, count // 2)]):
            yield sample.noncontiguous() if number % 3 == 2 else sample


def _spread(samples: Iterator[Any], count: int) -> list[Any]:
    found = [sample for sample in itertools.islice(samples, 400) if _is_fit(sample)]
    return found[:: max(1, -(-len(found) // max(1, count)))][:count]


def _is_fit(sample: Any) -> bool:
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return all(tensor.layout == torch.strided and tensor.numel() <= LARGEST for tensor in tensors)


def _says_something(op: Any, sample: Any, reached: Reached) -> bool:
    """Whether eager PyTorch runs the sample and gives a tensor."""
    module = Samples(op, [sample])
    try:
        with torch.no_grad():
            leaves = pytree.tree_leaves(module(*module.tensors))
    except Exception as error:
        reached.left_out.append(f"raises in eager: {type(error).__name__}: {error}")
        return False
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        reached.left_out.append("gives no tensor")
        return False
    return True


# -- capture ---------------------------------------------------------------------------


class Samples(torch.nn.Module):
    """Runs an operator on several samples, whose tensors are its arguments."""

    def __init__(self, op: Any, samples: list[Any]) -> None:
        super().__init__()
        self.op = op
        leaves, self.spec = pytree.tree_flatten([(s.input, s.args, s.kwargs) for s in samples])
        self.leaves = [_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.tensors = tuple(leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor))

    def forward(self, *tensors: torch.Tensor) -> list[Any]:
        # A list index and not an iterator, which dynamo cannot follow.
        leaves, taken = list(self.leaves), 0
        for place, leaf in enumerate(leaves):
            if leaf is _TENSOR:
                leaves[place] = tensors[taken]
                taken += 1
        samples = pytree.tree_unflatten(leaves, self.spec)
        return [self.op(input, *args, **kwargs) for input, args, kwargs in samples]


_TENSOR = "a tensor stands here"


def _record(op: Any, samples: list[Any], reached: Reached) -> list[Call]:
    """The calls of all samples in one program; of halves of them where that fails."""
    if not samples:
        return []
    module = Samples(op, samples)
    try:
        # One that fails goes through all doors by itself.
        program = capture(module, module.tensors, via=None if len(samples) == 1 else "export")
        recorder = _Recorder(program.graph_module)
        with torch.no_grad():
            recorder.run(*_operands(program, module.tensors))
        return recorder.calls
    except Exception as error:
        if len(samples) > 1:
            half = len(samples) // 2
            return _record(op, samples[:half], reached) + _record(op, samples[half:], reached)
        reached.refused.append(f"{type(error).__name__}: {error}")
        return []


def _operands(program: Program, tensors: tuple[torch.Tensor, ...]) -> Iterator[torch.Tensor]:
    user = iter(tensors)
    for node in program.placeholders:
        role = node.meta["role"]
        yield next(user) if role.kind == "user" else program.tensors[role.target]


class _Recorder(fx.Interpreter):
    """Keeps every operator call with its arguments."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.calls: list[Call] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if isinstance(target, OpOverload) and _has_tensor_result(target):
            tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            if all(tensor.layout == torch.strided for tensor in tensors):
                self.calls.append((target, args, kwargs))
        return result


def _has_tensor_result(op: OpOverload) -> bool:
    return any("Tensor" in str(result.type) for result in op._schema.returns)


def _key(call: Call) -> Any:
    def kind(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.dtype, tuple(leaf.shape), leaf.is_contiguous()
        return leaf

    op, args, kwargs = call
    return op, str(pytree.tree_map(kind, (args, kwargs)))
