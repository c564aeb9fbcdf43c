"""`first_divergence`: the first value that two programs do not agree on."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import fx

from fxpasses.errors import source_line
from fxpasses.fingerprint import target_name
from fxpasses.program import Program
from fxpasses.testing.numerics import NoOracle, RoundingNoise, widened
from fxpasses.testing.subjects import seeded
from fxpasses.testing.tolerance import Difference, Reference, compare_tensors
from fxpasses.testing.values import Inputs, sample_inputs
from fxpasses.tracing.fake_values import same_type
from fxpasses.view.text import call_text

__all__ = ["Divergence", "first_divergence"]

_NOISE_RUNS = 4


@dataclass(frozen=True)
class Divergence:
    """Where two programs part.

    Attributes:
        a, b: the two nodes (in an output, what is returned there).
        matched_by: why they should agree: ``"name"``, ``"structure"``, ``"source line"``, ``"output 0"`` or
            ``"new value of 'cache'"``.
        difference: how their values differ; None where dtype or shape do.
        arguments: the arguments of the node in *a*, with whether *b* has the
            same value somewhere. If all do, the fault is in this very call.
    """

    a: Any
    b: Any
    matched_by: str
    difference: Difference | None
    arguments: tuple[tuple[str, bool], ...] = ()

    def __str__(self) -> str:
        lines = [
            f"first divergence: {_name(self.a)} of a, {_name(self.b)} of b (matched by {self.matched_by})"
        ]
        for side, value in (("a", self.a), ("b", self.b)):
            if isinstance(value, fx.Node) and value.op == "call_function":
                source = source_line(value)
                lines.append(f"  {side}: {call_text(value)}" + (f"  # {source}" if source else ""))
            else:
                lines.append(f"  {side}: {_name(value)}")
        d = self.difference
        if d is None:
            lines.append("  their types differ")
        else:
            lines.append(
                f"  {d.count} of {d.total} elements differ, worst at {list(d.index)}: a has {d.reference!r}, "
                f"b has {d.other!r}" + (f", float64 oracle {d.oracle!r}" if d.oracle is not None else "")
            )
            lines.append(f"  off by {d.error:.3g}, allowed {d.allowed:.3g} ({d.rule})")
        if self.arguments:
            same = [name for name, agrees in self.arguments if agrees]
            other = [name for name, agrees in self.arguments if not agrees]
            parts = [
                f"{', '.join(same)} agree" if same else "",
                f"{', '.join(other)} have no equal in b" if other else "",
            ]
            lines.append(f"  arguments: {'; '.join(filter(None, parts))}")
        return "\n".join(lines)

    __repr__ = __str__


def first_divergence(
    a: Program, b: Program, args: Any = None, kwargs: dict[str, Any] | None = None
) -> Divergence | None:
    """Run two programs, such as those before and after a pass, value by value.

    Nodes of *a* are taken in order, and matched with those of *b* by name, by
    structure (same operator, equal arguments) or by source line, in that order,
    where operator or type agree. A node whose value *b* has under another name
    does not count, nor do nodes without a match: passes may rename, merge and
    split them. At last the outputs are compared.

    Args:
        args: the arguments, or the only one; None: made by `sample_inputs`.

    Returns:
        A report that prints, or None if nothing differs by more than rounding
        (see `fxpasses.testing.tolerance`).
    """
    arguments = _inputs(a, args, kwargs)
    left, right = _Trace(a, arguments, follow=True), _Trace(b, arguments, follow=False)
    for node, candidates in _matches(a, b):
        verdict = _judge(left, right, node, candidates)
        if verdict is not None:
            return verdict
    for name, x, y in _returned(a, b):
        agree, difference = _compare_outputs(left, right, x, y)
        if not agree:
            return Divergence(x, y, name, difference, left.arguments_in(x, right))
    return None


def _inputs(program: Program, args: Any, kwargs: dict[str, Any] | None) -> Inputs:
    if args is None:
        return sample_inputs(program)
    if isinstance(args, torch.Tensor):
        args = (args,)
    return Inputs(args, {**getattr(args, "kwargs", {}), **(kwargs or {})})


class _Trace:
    """All values of one run of a program; for the reference also in float64 and with noise."""

    def __init__(self, program: Program, arguments: Inputs, follow: bool) -> None:
        leaves = program.signature.flatten(arguments.args, arguments.kwargs)
        program.signature.check(leaves)
        leaves = [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.values = _record(program, leaves)
        self.oracle: dict[fx.Node, Any] = {}
        self.noisy: list[dict[fx.Node, Any]] = []
        if follow:
            with suppress(NoOracle):  # the reference stands for itself then
                self.oracle = _record(program, leaves, widened, wide=True)
            self.noisy = [_record(program, leaves, RoundingNoise(s).again) for s in range(_NOISE_RUNS)]

    def reference(self, node: fx.Node) -> Reference:
        value = self.values[node]
        oracle = self.oracle.get(node)
        noisy = [run[node] for run in self.noisy if run[node].shape == value.shape]
        usable = isinstance(oracle, torch.Tensor) and oracle.shape == value.shape
        return Reference(value, oracle if usable else None, noisy, followed=True)

    def arguments_in(self, node: Any, other: _Trace) -> tuple[tuple[str, bool], ...]:
        """The tensor arguments of *node*, and whether *other* has their values."""
        if not isinstance(node, fx.Node):
            return ()
        found = []
        for argument in node.all_input_nodes:
            if isinstance(self.values.get(argument), torch.Tensor):
                found.append((argument.name, other.has(self, argument)))
        return tuple(found)

    def has(self, other: _Trace, node: fx.Node) -> bool:
        """Whether some value of this trace equals that of *node* in *other*."""
        reference = other.reference(node)
        return any(
            isinstance(value, torch.Tensor)
            and value.dtype == reference.value.dtype
            and value.shape == reference.value.shape
            and compare_tensors(reference, value) is None
            for value in self.values.values()
        )


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.record: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.record[n] = result = super().run_node(n)
        return result


def _record(
    program: Program, leaves: list[Any], context: Any = nullcontext, wide: bool = False
) -> dict[fx.Node, Any]:
    user = iter(leaves)
    flat = [
        next(user) if node.meta["role"].kind == "user" else program.tensors[node.meta["role"].target].detach()
        for node in program.placeholders
    ]
    if wide:
        flat = [v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in flat]
    recorder = _Recorder(program.graph_module)
    try:
        with seeded(context):
            recorder.run(*flat)
    except NoOracle:
        raise
    except Exception as error:
        if not wide:
            raise
        raise NoOracle(str(error)) from error
    return recorder.record


# -- which nodes should agree --------------------------------------------------------------


def _matches(a: Program, b: Program) -> Iterator[tuple[fx.Node, list[tuple[fx.Node, str]]]]:
    """Each call of *a* with its counterparts in *b*, the likeliest first."""
    names = {node.name: node for node in b.graph.nodes if node.op == "call_function"}
    numbers: dict[Any, int] = {}
    structure_a, structure_b = _structure(a, numbers), _structure(b, numbers)
    by_structure: dict[int, fx.Node] = {}
    for node, number in structure_b.items():
        by_structure.setdefault(number, node)
    last_a, last_b = _last_of_line(a), _last_of_line(b)
    for node in a.graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        found: list[tuple[fx.Node | None, str]] = []
        twin = names.get(node.name)
        if twin is not None and _operation(twin) == _operation(node):
            found.append((twin, "name"))
        found.append((by_structure.get(structure_a[node]), "structure"))
        line = source_line(node)
        if line is not None and last_a[line] is node:
            found.append((last_b.get(line), "source line"))
        yield (
            node,
            [
                (other, how)
                for other, how in found
                if other is not None and same_type(node.meta["val"], other.meta["val"])
            ],
        )


def _operation(node: fx.Node) -> Any:
    """What is called; of a result that is picked, also from what."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.target, node.args[1], node.args[0].target
    return node.target


def _structure(program: Program, numbers: dict[Any, int]) -> dict[fx.Node, int]:
    """A number for each node; equal where the same operators are applied to the same inputs."""
    found: dict[fx.Node, int] = {}

    def key(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return ("node", found[arg])
        if isinstance(arg, tuple | list):
            return tuple(map(key, arg))
        return repr(arg)

    for node in program.graph.nodes:
        if node.op == "placeholder":
            mine: Any = ("placeholder", node.meta["role"].target)
        elif node.op == "call_function":
            arguments = tuple(sorted((name, key(arg)) for name, arg in node.kwargs.items()))
            mine = (target_name(node.target), key(node.args), arguments)
        else:
            mine = (node.op, node.name, id(program))
        found[node] = numbers.setdefault(mine, len(numbers))
    return found


def _last_of_line(program: Program) -> dict[str, fx.Node]:
    lines: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        line = source_line(node) if node.op == "call_function" else None
        if line is not None and node.target is not operator.getitem:
            lines[line] = node
    return lines


_MISSING = "nothing"


def _returned(a: Program, b: Program) -> list[tuple[str, Any, Any]]:
    """What the two return in the same place, user outputs first, then mutations by name."""
    users = [[value for role, value in p.outputs if role.kind == "user"] for p in (a, b)]
    rows = [(f"output {i}", x, y) for i, (x, y) in enumerate(zip_longest(*users, fillvalue=_MISSING))]
    for name in sorted(a.mutations.keys() | b.mutations.keys()):
        rows.append(
            (f"new value of {name!r}", a.mutations.get(name, _MISSING), b.mutations.get(name, _MISSING))
        )
    return rows


def _judge(
    left: _Trace, right: _Trace, node: fx.Node, candidates: list[tuple[fx.Node, str]]
) -> Divergence | None:
    reference = None
    first = None
    for other, how in candidates:
        reference = reference or left.reference(node)
        difference = compare_tensors(reference, right.values[other])
        if difference is None:
            return None
        first = first or (other, how, difference)
    if first is None or right.has(left, node):
        return None
    other, how, difference = first
    return Divergence(node, other, how, difference, left.arguments_in(node, right))


def _compare_outputs(left: _Trace, right: _Trace, x: Any, y: Any) -> tuple[bool, Difference | None]:
    """Whether two returned values agree; if not, how they differ, or None if their types do."""
    first = left.values[x] if isinstance(x, fx.Node) else x
    second = right.values[y] if isinstance(y, fx.Node) else y
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return False, None
        difference = compare_tensors(left.reference(x), second)
        return difference is None, difference
    tensors = isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor)
    return not tensors and bool(first == second), None


def _name(value: Any) -> str:
    return value.name if isinstance(value, fx.Node) else repr(value)
