"""`Subject`: a program as rules see it, and small questions that several rules ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from fxpasses.fingerprint import SymbolNames
from fxpasses.graph_modules import body_of
from fxpasses.program import Input, Output, Program
from fxpasses.rules.table import RULES, Rule

if TYPE_CHECKING:
    import sympy

__all__ = [
    "NUMBER",
    "SYMBOLIC",
    "Argument",
    "Call",
    "Subject",
    "flat",
    "free_symbols",
    "ints",
    "is_unbacked",
    "show",
    "type_text",
]


@dataclass(frozen=True)
class Argument:
    """An argument of a schema, read once for each operator."""

    name: str
    kwarg_only: bool
    type_text: str
    takes_tensor: bool
    may_be_empty: bool
    fits: Callable[[Any], bool] = field(repr=False)


@dataclass(frozen=True)
class Call:
    """A call of an operator with a schema; `given` are the arguments that it has, by name."""

    node: fx.Node
    op: OpOverload
    given: dict[str, Any]
    arguments: tuple[Argument, ...]

    def tensors(self) -> list[tuple[str, fx.Node]]:
        """The operands with a tensor value, by argument name, those of lists included."""
        return [
            (name, item)
            for name, value in self.given.items()
            for item in (value if isinstance(value, list | tuple) else (value,))
            if isinstance(item, fx.Node) and isinstance(item.meta.get("val"), torch.Tensor)
        ]


class Subject:
    """A program as rules see it: its nodes and calls, gathered once.

    Nothing here relies on the program being well formed.
    """

    def __init__(self, program: Program, before: Program | None = None) -> None:
        self.program = program
        self.before = before
        self._findings: dict[str, list[tuple[fx.Node | None, str]]] = {}
        self.modules: list[fx.GraphModule] = []
        self._paths: dict[fx.Graph, str] = {}
        self._enter(program.graph_module, "")
        self.nodes = [node for module in self.modules for node in module.graph.nodes]
        self.calls = [
            _call(n) for n in self.nodes if n.op == "call_function" and isinstance(n.target, OpOverload)
        ]
        self.fake_mode = next(
            (
                val.fake_mode
                for n in self.nodes
                for val in flat(n.meta.get("val"))
                if isinstance(val, FakeTensor)
            ),
            None,
        )
        self.placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        self.inputs = [
            (n, n.meta["role"]) for n in self.placeholders if isinstance(n.meta.get("role"), Input)
        ]

    def findings(self, rule_: Rule) -> list[tuple[fx.Node | None, str]]:
        """What a rule finds, computed once."""
        if rule_.name not in self._findings:
            self._findings[rule_.name] = list(rule_.check(self))
        return self._findings[rule_.name]

    @property
    def broken(self) -> bool:
        """Whether the program is not well formed; then no rule can run a pass on it."""
        return any(self.findings(r) for r in RULES.values() if r.level == "well-formed")

    def _enter(self, module: fx.GraphModule, path: str) -> None:
        if module.graph in self._paths:
            return
        self.modules.append(module)
        self._paths[module.graph] = path
        for node in module.graph.nodes:
            body = body_of(node)
            if body is not None:
                self._enter(body, f"{path}{node.name}/")

    def place(self, node: fx.Node | None) -> str:
        return "" if node is None else self._paths.get(node.graph, "?/") + node.name

    def outputs(self) -> list[tuple[Output, Any]]:
        """Returned values with their roles, as far as both are there."""
        node = next(iter(reversed(self.program.graph.find_nodes(op="output"))), None)
        if node is None or not node.args or not isinstance(node.args[0], tuple | list):
            return []
        roles = node.meta.get("roles") or ()
        return [(r, v) for r, v in zip(roles, node.args[0], strict=False) if isinstance(r, Output)]


def _call(node: fx.Node) -> Call:
    arguments = _arguments(node.target)  # type: ignore[arg-type]
    positional = [argument.name for argument in arguments if not argument.kwarg_only]
    given = dict(zip(positional, node.args, strict=False))
    given.update(node.kwargs)
    return Call(node, node.target, given, arguments)  # type: ignore[arg-type]


@cache
def _arguments(op: OpOverload) -> tuple[Argument, ...]:
    return tuple(
        Argument(
            name=a.name,
            kwarg_only=a.kwarg_only,
            type_text=str(a.real_type),
            takes_tensor=_innermost(a.real_type).kind() == "TensorType",
            may_be_empty=_is_list(a.real_type)
            and (a.real_type.kind() == "OptionalType" or (a.has_default_value() and a.default_value == [])),
            fits=_fits(a.real_type, a.N is not None),
        )
        for a in op._schema.arguments
    )


def _innermost(kind: Any) -> Any:
    while kind.kind() in ("OptionalType", "ListType"):
        kind = kind.getElementType()
    return kind


def _is_list(kind: Any) -> bool:
    return kind.kind() == "ListType" or (kind.kind() == "OptionalType" and _is_list(kind.getElementType()))


_INT = (int, torch.SymInt)
NUMBER = (int, float, complex, bool, torch.SymInt, torch.SymFloat, torch.SymBool)

# Values that torch takes for an argument of each kind (it converts between ints and bools). A tensor
# may be given as a number; the canonical rule "scalars" is stricter.
_ACCEPTED: dict[str, tuple[type, ...]] = {
    "TensorType": (torch.Tensor, *NUMBER),
    "IntType": _INT,
    "SymIntType": _INT,
    "FloatType": (float, int, torch.SymFloat, torch.SymInt),
    "BoolType": (bool, int, torch.SymBool),
    "NumberType": NUMBER,
    "ComplexType": (complex, float, int),
    "StringType": (str,),
    "ScalarTypeType": (torch.dtype, int),
    "LayoutType": (torch.layout, int),
    "MemoryFormatType": (torch.memory_format, int),
    "DeviceObjType": (torch.device, str),
    "GeneratorType": (torch.Generator,),
}
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def _fits(kind: Any, single: bool = False) -> Callable[[Any], bool]:
    """Whether a value may stand for an argument; *single*: one int may stand for a list."""
    name = kind.kind()
    if name == "OptionalType":
        inner = _fits(kind.getElementType(), single)
        return lambda value: value is None or inner(value)
    if name == "ListType":
        element = _fits(kind.getElementType())

        def fits_list(value: Any) -> bool:
            if isinstance(value, fx.Node):
                value = value.meta.get("val", ())
            if isinstance(value, tuple | list):
                return all(map(element, value))
            return single and element(value)

        return fits_list
    accepted = _ACCEPTED.get(name)
    if accepted is None:  # a custom class, Any: nothing is known
        return lambda value: True

    def fits(value: Any) -> bool:
        if isinstance(value, fx.Node):
            return "val" not in value.meta or isinstance(value.meta["val"], accepted)
        return isinstance(value, accepted) and not isinstance(value, SYMBOLIC)

    return fits


def show(value: Any) -> str:
    """An argument for a message."""
    if isinstance(value, fx.Node):
        return f"{value.name} ({type_text(value.meta.get('val'))})"
    return f"{value!r} ({type(value).__name__})"


def type_text(val: Any) -> str:
    return SymbolNames().type_text(val)


def flat(val: Any) -> Iterator[Any]:
    if isinstance(val, tuple | list):
        for item in val:
            yield from flat(item)
    else:
        yield val


def ints(value: Any) -> list[int]:
    """The constant ints of an argument that is an int or a list."""
    items = value if isinstance(value, tuple | list) else (value,)
    return [item for item in items if isinstance(item, int) and not isinstance(item, bool)]


def free_symbols(val: Any) -> list[sympy.Symbol]:
    found: set[sympy.Symbol] = set()
    for item in flat(val):
        sizes = item.shape if isinstance(item, torch.Tensor) else (item,)
        for size in sizes:
            if isinstance(size, SYMBOLIC):
                found |= size.node.expr.free_symbols
    return sorted(found, key=str)


def is_unbacked(symbol: sympy.Symbol) -> bool:
    from torch.utils._sympy.symbol import SymT, symbol_is_type

    return symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT))
