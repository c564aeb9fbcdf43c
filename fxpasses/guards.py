"""What a capture takes for granted about sizes: ranges where these can say it, else assertions in the graph.

Torch writes a guard as a Python expression of ``L["name"].size()[i]``. Outside of it the
code would take another branch, or fail, so each call of the program is held to it.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.errors import CaptureError
from fxpasses.fingerprint import SymbolNames
from fxpasses.sizes import holds

if TYPE_CHECKING:
    import sympy

    from fxpasses.program import Program

__all__ = ["assert_conditions", "hold", "points", "restricted", "test", "violations"]

aten = torch.ops.aten

Scope = Callable[[tuple[Any, ...], dict[str, Any]], Mapping[str, Any]]
"""From the arguments of a call to the names that guards know them by."""

_POINTS = 10_000
"""How many combinations of sizes a guard over several of them is tried on, about."""


def hold(program: Program, guards: Sequence[str], scope: Scope) -> Program:
    """*program* that is called only with sizes for which *guards* hold.

    Raises:
        CaptureError: a guard does not hold for the example, fixes a size that is to vary, or
            cannot be read.
    """
    if not program.ranges:
        return program
    # The tensor that an argument is a view of is no part of a call.
    own = [guard for guard in guards if "._base" not in guard]
    return restricted(
        program, [(guard, part) for guard in own for part in _conditions(guard, program, scope)]
    )


def restricted(program: Program, conditions: Sequence[tuple[str, sympy.Basic]]) -> Program:
    """*program* that is called only with sizes for which *conditions*, each with its text, hold.

    Raises:
        CaptureError: as `hold`.
    """
    if not conditions:
        return program
    ranges = dict(program.ranges)
    for guard, condition in conditions:
        if condition == False:  # noqa: E712, of sympy
            raise CaptureError(f"the code needs {guard} to hold, which it does not for the example")
        if len(condition.free_symbols) == 1:
            (symbol,) = condition.free_symbols
            ranges[symbol] = _narrowed(condition, symbol, ranges[symbol], guard)
    return assert_conditions(program.replace(ranges=ranges), [condition for _, condition in conditions])


def assert_conditions(program: Program, conditions: Sequence[sympy.Basic]) -> Program:
    """*program* that asserts those of *conditions* which its ranges and assertions do not say."""
    from fxpasses.signature import asserted_sizes

    asserted = list(asserted_sizes(program).values())
    kept: list[sympy.Basic] = []
    for condition in _in_order(conditions, program):
        known = [other for other in (*asserted, *kept) if other.free_symbols <= condition.free_symbols]
        if any(condition == other or _follows(condition, other) for other in known):
            continue
        if not _always_holds(condition, program, known if len(condition.free_symbols) == 1 else []):
            kept.append(condition)
    return _asserting(program, kept)


# -- from text to expressions ------------------------------------------------------------


def _conditions(guard: str, program: Program, scope: Scope) -> Iterator[sympy.Basic]:
    """The expressions of the program's symbols that all have to hold."""
    import sympy

    truth = _evaluated(guard, program, scope)
    expression = sympy.sympify(truth.node.expr if isinstance(truth, torch.SymBool) else truth)
    if expression != True:  # noqa: E712, of sympy
        yield from expression.args if isinstance(expression, sympy.And) else [expression]


def _evaluated(guard: str, program: Program, scope: Scope) -> Any:
    vals = [node.meta.get("val") for node in program.inputs]
    leaves = [_Sizes(val) if isinstance(val, torch.Tensor) else val for val in vals]
    args, kwargs = pytree.tree_unflatten(leaves, _subscriptable(program.in_spec))
    names = {"L": {**scope(args, kwargs), "flat_args": leaves}}  # the last name is dynamo's
    try:
        tree = ast.fix_missing_locations(_Symbolic().visit(ast.parse(guard.strip(), mode="eval")))
        return eval(compile(tree, "<guard>", "eval"), {"__builtins__": {}, **_FUNCTIONS, **names})
    except Exception as error:
        raise CaptureError(
            f"torch says that the capture holds under {guard!r}, which cannot be checked"
        ) from error


class _Sizes:
    """Stands for a tensor in a guard."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._shape = tuple(tensor.shape)

    def size(self) -> tuple[Any, ...]:
        return self._shape


class _Symbolic(ast.NodeTransformer):
    """Spells what would ask for the truth of a comparison as calls of `_FUNCTIONS`."""

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        return _call("all_of" if isinstance(node.op, ast.And) else "any_of", *node.values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        return _call("none_of", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        operands = [node.left, *node.comparators]
        pairs = zip(operands, node.ops, operands[1:], strict=False)
        links = [ast.Compare(left, [op], [right]) for left, op, right in pairs]
        return links[0] if len(links) == 1 else _call("all_of", *links)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        raise NotImplementedError("a choice")


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _all_of(*truths: Any) -> Any:
    from torch.fx.experimental.symbolic_shapes import sym_and

    return sym_and(*truths)


def _any_of(*truths: Any) -> Any:
    from torch.fx.experimental.symbolic_shapes import sym_or

    return sym_or(*truths)


_FUNCTIONS = {
    "all_of": _all_of,
    "any_of": _any_of,
    "none_of": torch.sym_not,
    "max": torch.sym_max,
    "min": torch.sym_min,
    "abs": abs,
    "math": math,
    "torch": torch,
}


def _subscriptable(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """*spec* with lists in the place of containers such as caches, whose items guards number."""
    if spec.is_leaf():
        return spec
    children = [_subscriptable(child) for child in spec.children()]
    if issubclass(spec.type, tuple | list | dict) or dataclasses.is_dataclass(spec.type):
        return pytree.TreeSpec(spec.type, spec.context, children)
    return pytree.TreeSpec(list, None, children)


# -- what ranges say -----------------------------------------------------------------------


def _narrowed(condition: Any, symbol: Any, bounds: Any, guard: str) -> Any:
    """*bounds* of *symbol* within which *condition* holds, or as they are where no bounds can say it."""
    from torch.utils._sympy.value_ranges import ValueRanges

    limits = _limits(condition, symbol)
    if limits is None:
        tried, accepts = _tried(bounds), test(condition)
        wrong = [size for size in tried if not accepts({symbol: size})]
        if wrong and len(wrong) <= 5 and wrong == tried[: len(wrong)]:
            limits = ValueRanges(wrong[-1] + 1, bounds.upper)
        elif len(wrong) >= len(tried) - 1 > 0:
            raise CaptureError(
                f"the code holds only for sizes with {_plain(guard)}, which fixes a size that dynamic_shapes lets "
                "vary; leave it static"
            )
        else:
            return bounds
    lower, upper = max(bounds.lower, limits.lower), min(bounds.upper, limits.upper)
    if lower > upper:
        raise CaptureError(
            f"the code holds only for sizes with {_plain(guard)}, and dynamic_shapes lets the size be between "
            f"{bounds.lower} and {bounds.upper}"
        )
    return ValueRanges(lower, upper)


def _limits(condition: Any, symbol: Any) -> Any:
    """The range that *condition* is, or None."""
    import sympy
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    if isinstance(condition, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        if condition.rhs == symbol:
            condition = condition.reversed
        number = condition.rhs
        if condition.lhs == symbol and number.is_Integer:
            if isinstance(condition, sympy.Ge | sympy.Gt):
                return ValueRanges(number + isinstance(condition, sympy.Gt), int_oo)
            return ValueRanges(-int_oo, number - isinstance(condition, sympy.Lt))
    return None


def _plain(guard: str) -> str:
    return re.sub(r"L\['(\w+)'\]", r"\1", guard)


# -- what they do not say ------------------------------------------------------------------


def _in_order(conditions: Sequence[Any], program: Program) -> list[Any]:
    """Each condition once, the simple ones first, in an order that does not depend on names."""
    import sympy

    names = SymbolNames()
    for node in program.inputs:
        names.type_text(node.meta.get("val"))
    return sorted(dict.fromkeys(conditions), key=lambda c: (sympy.count_ops(c), names.text(c)))


def _follows(condition: Any, known: Any) -> bool:
    """Whether *condition* plainly holds wherever *known* does: ``a >= b - 1`` where ``a >= b``."""
    import sympy

    if isinstance(condition, sympy.Or):
        return any(_follows(part, known) for part in condition.args)
    least = _least_zero(known)
    if least is None:
        return False
    if isinstance(condition, sympy.Ne):
        difference = condition.lhs - condition.rhs
        return any(sympy.expand(side - least).is_positive for side in (difference, -difference))
    side = _least_zero(condition)
    return side is not None and bool(sympy.expand(side - least).is_nonnegative)


def _least_zero(condition: Any) -> Any:
    """What *condition* says to be 0 or more, or None; the sizes are integers."""
    import sympy

    if isinstance(condition, sympy.Le | sympy.Lt):
        condition = condition.reversed
    if isinstance(condition, sympy.Ge | sympy.Gt):
        return condition.lhs - condition.rhs - int(isinstance(condition, sympy.Gt))
    return None


def _tried(bounds: Any) -> list[int]:
    start = int(bounds.lower) if bounds.lower.is_Integer else -64
    return [n for n in (*range(start, start + 130), 257, 1000, 1023, 4096, 100_003) if n <= bounds.upper]


def points(symbols: Sequence[Any], ranges: Mapping[Any, Any]) -> Iterator[dict[Any, int]]:
    """Combinations of sizes within *ranges* on which conditions are tried, the ends of the ranges among them."""
    choices = [_tried(ranges[symbol]) for symbol in symbols]
    if len(symbols) > 1:
        count = max(2, int(_POINTS ** (1 / len(symbols))))
        few = [0, -1, 1, 31, 2, 16, 5]
        choices = [
            list(dict.fromkeys(sizes[min(i, len(sizes) - 1)] for i in few))[:count] for sizes in choices
        ]
    for point in itertools.product(*choices):
        yield dict(zip(symbols, point, strict=True))


def _always_holds(condition: Any, program: Program, known: list[Any]) -> bool:
    """Whether *condition* holds for all sizes that are tried, within the ranges and where *known* holds."""
    symbols = sorted(condition.free_symbols, key=str)
    accepts, others = test(condition), list(map(test, known))
    for sizes in points(symbols, program.ranges):
        if all(other(sizes) for other in others) and not accepts(sizes):
            return False
    return True


def violations(condition: Any, program: Program, example: Mapping[Any, int]) -> Iterator[dict[Any, int]]:
    """Sizes above 1, within the ranges, for which *condition* does not hold: of *example*, but for up to two."""
    symbols, accepts = sorted(condition.free_symbols, key=str), test(condition)
    choices = {symbol: [n for n in _tried(program.ranges[symbol]) if n in _FEW] for symbol in symbols}
    for count in (1, 2):
        for changed in itertools.combinations(symbols, count):
            for sizes in itertools.product(*(choices[symbol] for symbol in changed)):
                point = {**example, **dict(zip(changed, sizes, strict=True))}
                if not accepts({symbol: point[symbol] for symbol in symbols}):
                    yield point


_FEW = frozenset({2, 3, 4, 5, 8, 31, 64})


def test(condition: Any) -> Callable[[dict[Any, int]], bool]:
    """Whether *condition* holds for sizes, by symbol."""
    import sympy

    text = sympy.sstr(condition)
    return lambda sizes: holds(text, {str(symbol): size for symbol, size in sizes.items()})


def _asserting(program: Program, conditions: list[Any]) -> Program:
    """*program* with an ``_assert_scalar`` for each of *conditions*, as early as their sizes are known."""
    if not conditions:
        return program
    g = program.edit()
    start = next(node for node in g.graph.nodes if node.op != "placeholder")
    for condition in conditions:
        with g.at(start):
            truth = g.expression(condition)
        with g.at(max(start, truth.next)):
            g.call(aten._assert_scalar.default, truth, "")
    return g.finish()
