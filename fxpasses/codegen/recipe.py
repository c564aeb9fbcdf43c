"""`Recipe`: how passes make the weights of a program from those of a model, as steps that can be made again.

Passes compute with the tensors of a program as anybody does: they transpose
and pack matrices and fold norms into convolutions. `Listener` writes down each
operator that they call on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from fxpasses.ambient import plainly
from fxpasses.capture.call_log import is_plain
from fxpasses.codegen.steps import Step, Where, encode, op_name, run_steps

__all__ = ["Listener", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Steps, and which of their results become which tensors.

    Attributes:
        steps: the calls.
        results: (step, position) for each tensor that a step makes, by name.
        inputs: the place of the input for each other tensor, by name.
    """

    steps: tuple[Step, ...]
    results: dict[str, Where]
    inputs: dict[str, int]

    def run(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors by name, made of *tensors*."""
        with plainly():
            made = run_steps(self.steps, list(self.results.values()))(tensors, ())
        return {
            **{name: tensors[place] for name, place in self.inputs.items()},
            **dict(zip(self.results, made, strict=True)),
        }

    def to_data(self) -> dict[str, Any]:
        """Lists and dicts for JSON."""
        return asdict(self)

    @staticmethod
    def from_data(data: dict[str, Any]) -> Recipe:
        """Inverse of `to_data`."""
        steps = tuple(Step(**step) for step in data["steps"])
        return Recipe(
            steps, {name: (step, at) for name, (step, at) in data["results"].items()}, data["inputs"]
        )


@dataclass(frozen=True)
class _Call:
    """A call, None where it is no data, the storages that it reads, and those that it may change."""

    step: Step | None
    reads: frozenset[int]
    changes: frozenset[int]


class Listener(TorchDispatchMode):
    """Writes down the calls on plain tensors in the body of its ``with``.

    Attributes:
        inputs: the tensors that were there before: those given, then those that a call has met.
    """

    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []
        self._calls: list[_Call] = []
        self._places: WeakIdKeyDictionary = WeakIdKeyDictionary()  # type: ignore[type-arg]
        for tensor in tensors:
            self._enter(tensor, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if not isinstance(func, OpOverload) or not all(map(is_plain, given)):
            return func(*args, **kwargs)
        for tensor in given:
            if tensor not in self._places:
                with _disable_current_modes():  # where a pass traces, a mode would make it a fake tensor
                    copy = tensor.clone()  # it may be changed later on
                self._enter(tensor, copy)
        call: Step | None = None
        with suppress(TypeError):  # no data can stand for an argument
            call = Step(op_name(func), encode(list(args), self._refer), encode(kwargs, self._refer)["dict"])
        result = func(*args, **kwargs)
        made, changes = _tensors(result), func._schema.is_mutable
        if changes or (made and all(map(is_plain, made))):
            self._add(_Call(call, _storages(given), _storages(given if changes else ())), result)
        return result

    def _add(self, call: _Call, result: Any) -> None:
        for position, tensor in enumerate(result if isinstance(result, tuple | list) else (result,)):
            if isinstance(tensor, torch.Tensor) and tensor not in self._places:
                self._places[tensor] = {"result": [len(self._calls), position]}
        self._calls.append(call)

    def recipe(self, tensors: Mapping[str, torch.Tensor]) -> Recipe:
        """How to make *tensors*.

        Raises:
            KeyError: one of them came about without a call.
        """
        places = {name: self._places[tensor] for name, tensor in tensors.items()}
        needed = self._needed(places.values(), _storages(tensors.values()))
        number = {old: new for new, old in enumerate(needed)}
        steps = []
        for step in (self._calls[index].step for index in needed):
            if step is None:
                raise KeyError("a call that is no data")
            steps.append(Step(step.op, _renumbered(step.args, number), _renumbered(step.kwargs, number)))
        results, inputs = {}, {}
        for name, place in places.items():
            if "result" in place:
                step_made, position = place["result"]
                results[name] = number[step_made], position
            else:
                inputs[name] = place["tensor"]
        return Recipe(tuple(steps), results, inputs)

    def _needed(self, places: Iterable[dict[str, Any]], storages: frozenset[int]) -> list[int]:
        """The calls that tensors at *places*, in *storages*, come from, in order.

        They are those whose results are read, and those that change what is read.
        """
        read = {place["result"][0] for place in places if "result" in place}
        live, found = set(storages), []
        for index in reversed(range(len(self._calls))):
            call = self._calls[index]
            if index in read or not live.isdisjoint(call.changes):
                live |= call.reads
                read.update(call.step.reads() if call.step is not None else ())
                found.append(index)
        return found[::-1]

    def _enter(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        self._places[tensor] = {"tensor": len(self.inputs)}
        self.inputs.append(value)

    def _refer(self, value: Any) -> Any:
        return dict(self._places[value]) if isinstance(value, torch.Tensor) else NotImplemented


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storages(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    return frozenset(tensor.untyped_storage()._cdata for tensor in tensors)


def _renumbered(data: Any, number: Mapping[int, int]) -> Any:
    if isinstance(data, list):
        return [_renumbered(item, number) for item in data]
    if isinstance(data, dict):
        if data.keys() == {"result"}:
            step, position = data["result"]
            return {"result": [number[step], position]}
        return {key: _renumbered(value, number) for key, value in data.items()}
    return data
