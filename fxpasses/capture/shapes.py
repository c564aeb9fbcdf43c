"""Dynamic sizes: which sizes a capture serves, and how it is made sure of.

`torch.export` takes it for granted that a dynamic size is neither 0 nor 1, and
says nothing when code treats these sizes differently. Here a door is first run
without the assumption about 1, and with it where it does not go through. Both
sizes are then tried: program and code must agree on them (`squeeze` takes a
dim of one element away, and no guard says so). What the program does not serve
is outside of its ranges, and refused at run time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree

from fxpasses.capture.source import Source
from fxpasses.errors import CaptureError, InputError
from fxpasses.guards import hold
from fxpasses.program import Program
from fxpasses.signature import asserted_sizes

__all__ = ["Captured", "capture_dynamic", "combined", "settle"]


@dataclass(frozen=True)
class Captured:
    """What a door returns: a program, and conditions on sizes that it holds under.

    `guards` are Python expressions of ``L["name"].size()[i]`` as torch writes them.
    """

    program: Program
    guards: tuple[str, ...] = ()


Door = Callable[[Source], Captured]

_Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments."""

_Place = tuple[int, int]
"""The id of a tensor, and a dim of it."""


def capture_dynamic(door: Door, source: Source) -> Program:
    """Run *door*; its program is right for every size within its ranges.

    Raises:
        InputError: dynamic_shapes does not fit the arguments.
        CaptureError: no program serves the sizes that dynamic_shapes asks for.
    """
    if source.dynamic_shapes is None:
        return door(source).program
    source = _with_resolved_shapes(source)
    from fxpasses.capture.effects import agree

    example = source.args, source.kwargs
    for settled in _settled(door, source):
        with suppress(Exception):  # what is refused with fewer dynamic dims, too, is told below
            grown = _with_bigger_examples(settled)
            program = _captured_dynamic(door, grown)
            runs = grown is settled or agree(program, grown, (grown.args, grown.kwargs))
            if runs and _admits(program, example):
                return program
    return _captured_dynamic(door, _with_bigger_examples(source))


def _settled(door: Door, source: Source) -> Iterator[Source]:
    """*source* where each dim of size 0 or 1 that may be static is so, or else dynamic; none without such dims.

    First those are dynamic that tracing leaves so, then none. As they are, a size of 1 would stay the one that
    torch's shape rules go by, and they take it for a size that is broadcast.
    """
    single = {
        (id(tensor), dim % tensor.dim()): what
        for tensor, dim, what in _each_dim(source)
        if _may_be_static(what) and tensor.shape[dim] < 2
    }
    if single:
        dynamic: set[_Place] = set()
        with suppress(Exception), _sizes_of_one():
            dynamic = _dynamic_dims(_captured(door, source).program, source) & single.keys()
        for dims in (dynamic, set()) if dynamic else (dynamic,):
            yield _with_settled(source, single, dims)


def _with_settled(source: Source, single: dict[_Place, Any], dynamic: set[_Place]) -> Source:
    from torch.export import Dim
    from torch.export.dynamic_shapes import _tree_map_with_path

    def settled(path: Any, value: Any, spec: Any) -> Any:
        if not isinstance(value, torch.Tensor) or spec is None:
            return spec
        dims = dict(spec.items() if isinstance(spec, dict) else enumerate(spec))
        for dim in dims:
            place = id(value), dim % value.dim()
            if place in single:
                bounds = {"min": single[place].min, "max": single[place].max}
                dims[dim] = Dim.DYNAMIC(**bounds) if place in dynamic else Dim.STATIC
        return dims

    shapes = _tree_map_with_path(settled, combined(source), source.dynamic_shapes, tree_name="inputs")
    return source.replace(dynamic_shapes=shapes)


def _dynamic_dims(program: Program, source: Source) -> set[_Place]:
    leaves = pytree.tree_leaves((source.args, source.kwargs))
    return {(id(leaves[index]), dim) for index, dim, _ in _dynamic_sizes(program)}


def _captured_dynamic(door: Door, source: Source) -> Program:
    first: Exception | None = None
    try:
        with _sizes_of_one():
            narrowed = _with_elements(source)
            program = settle(_captured(door, narrowed), narrowed, 1)
    except Exception as error:  # every error of tracing, to try again in another way
        first = error
        try:
            captured = _captured(door, source)
        except Exception as error:
            raise error from first
        program = settle(captured, source, 2)
    program = _serving_less(_from_two(program), source)
    symbols = _symbols_by_name(program, source)
    why = "" if first is None else f": {_last_line(first)}"
    for name, dim in _dims(source):
        starts = [program.ranges[symbol].lower for symbol in symbols.get(name, ())]
        if getattr(dim, "min", 0) == 1 and 2 in starts:
            raise CaptureError(
                f"the dim {name!r} is to start at 1, but the code treats a size of 1 differently{why}\n"
                f"Capture that size on its own, or let the range start at 2: Dim({name!r}, min=2)"
            ) from first
    return program


def _captured(door: Door, source: Source) -> Captured:
    """What *door* returns, also where the code tells a single size of a named dim from the others.

    Torch refuses that of a named dim, and has a guard for it where the dim has no name.
    """
    try:
        return door(source)
    except Exception as error:
        guards = _GUARD.findall(str(error))
        derived = any(hasattr(dim, "root") for _, _, dim in _each_dim(source))
        if derived or not guards or not all(_OTHER_THAN.fullmatch(guard) for guard in guards):
            raise
    return door(source.replace(dynamic_shapes=pytree.tree_map(_unnamed, source.dynamic_shapes)))


_GUARD = re.compile(r"satisfy the generated guard (.*)\.")

_OTHER_THAN = re.compile(r"\S+ != (?![01]$)\d+")


def _unnamed(dim: Any) -> Any:
    from torch.export import Dim

    return Dim.DYNAMIC(min=dim.min, max=dim.max) if hasattr(dim, "__name__") else dim


def _from_two(program: Program) -> Program:
    """*program* with no range of an input's sizes that starts at 1."""
    from torch.utils._sympy.value_ranges import ValueRanges

    starts = {symbol: program.ranges.get(symbol) for symbol in _input_symbols(program)}
    raised = {
        symbol: ValueRanges(2, bounds.upper)
        for symbol, bounds in starts.items()
        if bounds is not None and bounds.lower == 1 and bounds.upper > 1
    }
    return program.replace(ranges={**program.ranges, **raised})


def _serving_less(program: Program, source: Source) -> Program:
    """*program* with ranges that start at 1 or 0, for each size on which it agrees with the code there.

    A size is tried alone and beside the sizes that are accepted already: 1 beside 1 for all others,
    and 0 beside 1 for all others and beside 0 for up to three of them. Where program and code refuse
    all that, it is tried beside the same size of others.

    Where the example's values are refused at a size of 1, as an index out of range, shapes tell what the
    program does with others. At 0 only values do: a maximum of nothing has a shape, and raises.
    """
    from torch.utils._sympy.value_ranges import ValueRanges

    program = _serving_single(program, source)
    wanted = _wanted_lowest(program, source)
    accepted: dict[int, list[Any]] = {1: [], 0: []}
    for size in accepted:
        lower = {
            symbol: ValueRanges(size, program.ranges[symbol].upper)
            for symbol in _input_symbols(program)
            if symbol in program.ranges
            and program.ranges[symbol].lower == size + 1
            and wanted.get(symbol, size + 1) <= size
        }
        trial = program.replace(ranges={**program.ranges, **lower})

        def answers(
            tried: Iterable[dict[Any, int]], trial: Program = trial, size: int = size
        ) -> Iterator[bool]:
            calls = (_at(trial, source, sizes) for sizes in tried)
            found = (
                _agrees(trial, source, call, size)
                for call in calls
                if call is not None and _admits(trial, call)
            )
            return (answer for answer in found if answer is not None)

        for symbol in lower:
            others = [other for other in lower if other is not symbol]
            said = list(answers({**beside, symbol: size} for beside in _beside(accepted, size, symbol)))
            alike = ({other: size, symbol: size} for other in others)
            said = said or list(itertools.islice(answers([*alike, dict.fromkeys(lower, size)]), 1))
            if said and all(said):
                accepted[size].append(symbol)
        served = {symbol: lower[symbol] for symbol in accepted[size]}
        program = program.replace(ranges={**program.ranges, **served})
    return program


def _agrees(program: Program, source: Source, call: _Call, size: int) -> bool | None:
    """Whether program and code agree for a *call* where some size is *size*; None where it says nothing."""
    from fxpasses.capture.effects import agree, agree_in_shape

    answer = agree(program, source, call)
    if answer is not None:
        return answer
    return agree_in_shape(program, source, call) if size else None


def _beside(accepted: dict[int, list[Any]], size: int, symbol: Any) -> Iterator[dict[Any, int]]:
    """The sizes of other symbols that *size* of *symbol* is tried with."""
    yield {}
    ones = [other for other in accepted[1] if other is not symbol]
    if ones:
        yield dict.fromkeys(ones, 1)
    if size == 0:
        for count in range(1, min(len(accepted[0]), 3) + 1):
            yield from (dict.fromkeys(others, 0) for others in itertools.combinations(accepted[0], count))


def _admits(program: Program, call: _Call) -> bool:
    """Whether *call* is within the ranges and conditions of *program*."""
    try:
        program.signature.check(program.signature.flatten(*call))
    except InputError:
        return False
    return True


def _serving_single(program: Program, source: Source) -> Program:
    """*program* without the conditions ``size != n`` for each n at which it agrees with the code."""
    for node, condition in asserted_sizes(program).items():
        if isinstance(condition, sympy.Ne) and condition.lhs.is_Symbol and condition.rhs.is_Integer:
            g = program.edit()
            g.erase(next(n for n in g.graph.nodes if n.name == node.name))
            wider = g.finish()
            size = int(condition.rhs)
            case = _at(wider, source, {condition.lhs: size})
            if case is not None and _agrees(wider, source, case, size):
                program = wider
    return program


def _wanted_lowest(program: Program, source: Source) -> dict[Any, int]:
    """The least size that the caller wants, for each symbol that is the size of an input."""
    asked = {(id(tensor), dim): getattr(what, "min", None) or 0 for tensor, dim, what in _each_dim(source)}
    leaves = pytree.tree_leaves((source.args, source.kwargs))
    wanted: dict[Any, int] = {}
    for index, dim, size in _dynamic_sizes(program):
        if size.is_Symbol:
            wanted[size] = max(wanted.get(size, 0), asked.get((id(leaves[index]), dim), 0))
    return wanted


def _dynamic_sizes(program: Program) -> Iterator[tuple[int, int, Any]]:
    """Each dynamic dim of an input, as the position of the input, the dim, and the expression of its size."""
    for index, node in enumerate(program.inputs):
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            for dim, size in enumerate(val.shape):
                if isinstance(size, torch.SymInt):
                    yield index, dim, size.node.expr


def _symbols_by_name(program: Program, source: Source) -> dict[str, set[Any]]:
    """The symbols of the sizes that each named dim, or what is derived from it, stands for."""
    position = {id(leaf): at for at, leaf in enumerate(pytree.tree_leaves((source.args, source.kwargs)))}
    found: dict[str, set[Any]] = {}
    for tensor, dim, what in _each_dim(source):
        val = program.inputs[position[id(tensor)]].meta["val"]
        size = val.shape[dim] if isinstance(val, torch.Tensor) else None
        name = getattr(getattr(what, "root", what), "__name__", None)
        if name is not None and isinstance(size, torch.SymInt):
            found.setdefault(name, set()).update(size.node.expr.free_symbols)
    return found


def _at(program: Program, source: Source, sizes: dict[Any, int]) -> _Call | None:
    """The example arguments with other sizes for some symbols; None where a size has no such value."""
    leaves, spec = pytree.tree_flatten((source.args, source.kwargs))
    for index, dim, size in _dynamic_sizes(program):
        if not size.free_symbols & set(sizes):
            continue
        length = size.xreplace({symbol: sympy.Integer(n) for symbol, n in sizes.items()})
        if not length.is_Integer or length < 0:
            return None
        leaf = leaves[index]
        if leaf.shape[dim]:
            places = torch.arange(int(length)) % leaf.shape[dim]
            leaves[index] = leaf.index_select(dim, places.to(leaf.device))
        else:
            leaves[index] = leaf.new_zeros([*leaf.shape[:dim], int(length), *leaf.shape[dim + 1 :]])
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return args, kwargs


@contextmanager
def _sizes_of_one() -> Iterator[None]:
    """Trace without the assumption that dynamic sizes differ from 0 and 1."""
    from torch.fx.experimental import _config

    with _config.patch(backed_size_oblivious=True):
        yield


def _last_line(error: Exception) -> str:
    guards = _GUARD.findall(str(error))
    if guards:
        return f"it needs {' and '.join(guards)}"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


# -- dynamic_shapes ------------------------------------------------------------------


def _with_resolved_shapes(source: Source) -> Source:
    from torch.export.dynamic_shapes import (
        AdditionalInputs,
        ShapesCollection,
        _check_dynamic_shapes,
        _IntWrapper,
    )

    shapes = source.dynamic_shapes
    if isinstance(shapes, AdditionalInputs | ShapesCollection):
        shapes = shapes.dynamic_shapes(source.root, source.args, source.kwargs)
    names = list(combined(source))
    if isinstance(shapes, dict) and not set(shapes) <= set(names):
        unknown = next(name for name in shapes if name not in names)
        raise InputError(
            f"dynamic_shapes names {unknown!r}, but the arguments of {source.label} are "
            f"{', '.join(names) or 'none'}; a tuple in the order of the arguments is taken too"
        )
    if isinstance(shapes, tuple | list):
        if len(shapes) > len(names):
            raise InputError(
                f"dynamic_shapes has {len(shapes)} entries, {source.label} is called with {len(names)} arguments: "
                f"{', '.join(names)}"
            )
        shapes = dict(zip(names, shapes, strict=False))
    # torch wants every argument, in order
    source = source.replace(dynamic_shapes={name: shapes.get(name) for name in names})
    wrapped = pytree.tree_map_only(int, _IntWrapper, (source.args, source.kwargs))
    try:
        _check_dynamic_shapes(
            combined(source.replace(args=wrapped[0], kwargs=wrapped[1])), source.dynamic_shapes
        )
    except Exception as error:
        raise InputError(
            f"dynamic_shapes does not fit the arguments of {source.label}: {str(error).splitlines()[0]}"
        ) from error
    return source


def combined(source: Source) -> dict[str, Any]:
    from torch.export.dynamic_shapes import _combine_args

    return _combine_args(source.root, source.args, source.kwargs)


def _each_dim(source: Source) -> Iterator[tuple[torch.Tensor, int, Any]]:
    """Each tensor with each of its dims that dynamic_shapes says something about."""
    from torch.export.dynamic_shapes import _tree_map_with_path

    found: list[tuple[torch.Tensor, int, Any]] = []

    def visit(path: Any, value: Any, spec: Any) -> None:
        if not isinstance(value, torch.Tensor) or spec is None:
            return
        for dim, what in spec.items() if isinstance(spec, dict) else enumerate(spec):
            if what is None:
                continue
            if not -value.dim() <= dim < value.dim():
                raise InputError(
                    f"dynamic_shapes names dim {dim} of an argument of {source.label} that has {value.dim()} dims"
                )
            found.append((value, dim, what))

    _tree_map_with_path(visit, combined(source), source.dynamic_shapes, tree_name="inputs")
    return iter(found)


def _dims(source: Source) -> list[tuple[str, Any]]:
    return sorted({d.__name__: d for _, _, d in _each_dim(source) if hasattr(d, "__name__")}.items())


def _with_elements(source: Source) -> Source:
    """*source* whose dims start at 1: an empty size is looked at in the end."""
    from torch.export import Dim

    new = {
        name: Dim(name, min=1, max=dim.max)
        for name, dim in _dims(source)
        if not hasattr(dim, "root") and dim.min == 0
    }

    def exchange(dim: Any) -> Any:
        root = getattr(dim, "root", None)
        if root is not None and root.__name__ in new:
            return type(dim)(dim.__name__, exchange(root), dim.fn)
        return new.get(getattr(dim, "__name__", ""), dim)

    return source.replace(dynamic_shapes=pytree.tree_map(exchange, source.dynamic_shapes))


# -- examples of size 0 and 1 -----------------------------------------------------------


def _with_bigger_examples(source: Source) -> Source:
    """*source* with dynamic dims of size 0 or 1 made 2.

    Torch takes a size of 0 or 1 in an example as fixed. The values of an
    example play no part in a capture, so a bigger one serves as well.
    """
    roots: set[str] = set()
    grown: dict[int, dict[int, int]] = {}
    tensors: dict[int, torch.Tensor] = {}
    dims = list(_each_dim(source))
    for tensor, dim, what in dims:
        size = tensor.shape[dim]
        if hasattr(what, "__name__") and not hasattr(what, "fn") and size < 2 and what.max >= 2:
            roots.add(what.__name__)
    for tensor, dim, what in dims:
        root = getattr(what, "root", what)
        if getattr(root, "__name__", None) in roots:
            size = max(2, root.min)
            size = what.fn(size) if hasattr(what, "fn") else size
        elif _is_dynamic_hint(what) and tensor.shape[dim] < 2:
            size = 2
        else:
            continue
        tensors[id(tensor)] = tensor
        grown.setdefault(id(tensor), {})[dim] = size
    if not grown:
        return source

    def grow(tensor: torch.Tensor) -> torch.Tensor:
        sizes = grown.get(id(tensor))
        if sizes is None:
            return tensor
        with torch.no_grad():
            for dim, size in sizes.items():
                index = torch.zeros(size, dtype=torch.long)
                if tensor.shape[dim] == 0:
                    shape = [size if i == dim else n for i, n in enumerate(tensor.shape)]
                    tensor = tensor.new_zeros(shape)
                else:
                    tensor = tensor.index_select(dim, index.to(tensor.device))
        return tensor

    args, kwargs = pytree.tree_map_only(torch.Tensor, grow, (source.args, source.kwargs))
    return source.replace(args=args, kwargs=kwargs)


def _is_dynamic_hint(what: Any) -> bool:
    from torch.export import Dim

    return what is Dim.DYNAMIC or (
        type(what) is type(Dim.DYNAMIC)
        and what.type == Dim.DYNAMIC.type
        and (what.max is None or what.max > 1)
    )


def _may_be_static(what: Any) -> bool:
    from torch.export import Dim

    return type(what) is type(Dim.AUTO) and what.type == Dim.AUTO.type


# -- ranges and guards --------------------------------------------------------------------


def settle(captured: Captured, source: Source, lowest: int) -> Program:
    """Raise the ranges to *lowest*, and hold the program to what the guards say."""
    from torch.utils._sympy.value_ranges import ValueRanges

    program = captured.program
    ranges = dict(program.ranges)
    sizes = _input_symbols(program)
    for symbol, least in _least(program, source).items():
        ranges[symbol] = ValueRanges(max(least, ranges[symbol].lower), ranges[symbol].upper)
    for symbol in sizes:
        bounds = ranges.get(symbol)
        if bounds is not None and lowest and bounds.lower < lowest:
            ranges[symbol] = ValueRanges(lowest, bounds.upper)
    return hold(
        program.replace(ranges=ranges),
        captured.guards,
        lambda args, kwargs: combined(source.replace(args=args, kwargs=kwargs)),
    )


def _least(program: Program, source: Source) -> dict[Any, int]:
    """The ``min`` of each named dim; tracing that admits sizes of 0 and 1 forgets it."""
    position = {id(leaf): at for at, leaf in enumerate(pytree.tree_leaves((source.args, source.kwargs)))}
    found: dict[Any, int] = {}
    for tensor, dim, what in _each_dim(source):
        val = program.inputs[position[id(tensor)]].meta["val"]
        size = val.shape[dim] if isinstance(val, torch.Tensor) else None
        if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and not hasattr(what, "root"):
            found[size.node.expr] = max(getattr(what, "min", None) or 0, found.get(size.node.expr, 0))
    return found


def _input_symbols(program: Program) -> list[Any]:
    return list(dict.fromkeys(symbol for *_, size in _dynamic_sizes(program) for symbol in size.free_symbols))
