"""What answers calls: fxpasses, and for comparison TVM's own importer and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.codegen.compile import compile_canonical
from fxpasses.errors import FxpassesError
from fxpasses.fingerprint import target_name
from fxpasses.passes import CheckInference, canonicalize
from fxpasses.pipeline import Pipeline
from fxpasses.program import Program
from fxpasses.signature import dtype_name
from fxpasses.testing.single import Call, calls_program

__all__ = ["Answer", "System", "dynamic_answers", "eager_answers", "fxpasses_answers", "tvm_answers"]

EAGER_RUNS = 50

# Random numbers are asked for. Those that PyTorch's operators draw are equal for equal seeds.
_CANONICALIZE = Pipeline(CheckInference(allow_random=True), *list(canonicalize)[1:], name="canonicalize")


@dataclass(frozen=True)
class Answer:
    """The tensors that a call gave; `island` says why it ran in PyTorch, where it did."""

    tensors: list[torch.Tensor]
    island: str = ""


System = Callable[[Sequence[Call]], list[Answer]]


class NotTraced(FxpassesError):
    """An operator that asks for values of its operands."""


class NotImported(FxpassesError):
    """What the importer of TVM says instead of a result."""


def _traced(calls: Sequence[Call]) -> tuple[Program, tuple[torch.Tensor, ...]]:
    try:
        return calls_program(calls)
    except Exception as error:
        raise NotTraced(f"on fake tensors: {error}") from error


def fxpasses_answers(calls: Sequence[Call]) -> list[Answer]:
    """The answers of one program of all *calls*, which is compiled as a whole."""
    program, tensors = _traced(calls)
    compiled = compile_canonical(_CANONICALIZE(program))
    results = compiled(*tensors)
    reasons = compiled.islands.reasons if compiled.islands is not None else {}
    why = _islands(reasons, [len(pytree.tree_leaves(result)) for result in results])
    return [Answer(pytree.tree_leaves(result), reason) for result, reason in zip(results, why, strict=True)]


def _islands(reasons: dict[fx.Node, str], lengths: Sequence[int]) -> Iterator[str]:
    """For each call, which has so many results: why something that they need runs in PyTorch."""
    if not reasons:
        yield from ("" for _ in lengths)
        return
    graph = next(iter(reasons)).graph
    outputs: list[Any] = list(graph.output_node().args[0])  # type: ignore[call-overload]
    for length in lengths:
        taken, outputs = outputs[:length], outputs[length:]
        yield next(
            (f"{target_name(node.target)}: {reasons[node]}" for node in _needed(taken) if node in reasons), ""
        )


def _needed(nodes: list[Any]) -> Iterator[fx.Node]:
    seen: set[fx.Node] = set()
    todo = [node for node in nodes if isinstance(node, fx.Node)]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += node.all_input_nodes


def dynamic_answers(calls: Sequence[Call]) -> list[Answer]:
    """The answers of the programs for any sizes that the calls are of; see `tests.sweep.dynamic`."""
    answers = []
    for op, args, kwargs in calls:
        compiled = op.compiled
        results = compiled(*_tensors((args, kwargs)))
        reasons = compiled.islands.reasons.items() if compiled.islands is not None else ()
        why = next((f"{target_name(node.target)}: {reason}" for node, reason in reasons), "")
        answers.append(Answer(_tensors(results), why))
    return answers


def eager_answers(calls: Sequence[Call]) -> list[Answer]:
    """PyTorch's own answers; given often, since a read of foreign memory does not end every process."""
    for _ in range(EAGER_RUNS):
        answers = []
        for op, args, kwargs in calls:
            args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
            answers.append(Answer(_tensors(op(*args, **kwargs))))
    return answers


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


# -- TVM's own importer ----------------------------------------------------------------


def tvm_answers(calls: Sequence[Call]) -> list[Answer]:
    """The answers of TVM's importer of exported programs and its default pipeline."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    program, tensors = _traced(calls)
    try:
        module = from_exported_program(program.to_exported_program())
    except Exception as error:
        raise NotImported(f"{type(error).__name__}: {error}") from error
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    # Memory of its own, which is aligned; TVM does not take torch's strides of empty tensors.
    operands = [
        tvm.runtime.from_dlpack(tensor.clone(memory_format=torch.contiguous_format))
        if tensor.numel()
        else tvm.runtime.empty(tuple(tensor.shape), dtype_name(tensor.dtype))
        for tensor in tensors
    ]
    given = machine["main"](*operands)
    flat = iter([given] if isinstance(given, tvm.runtime.Tensor) else given)
    results = program.signature.unflatten([torch.from_dlpack(next(flat)) for _ in program.outputs])
    return [Answer(pytree.tree_leaves(result)) for result in results]
