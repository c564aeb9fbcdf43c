"""`Builder`: emits one graph as one Relax function, one row of the table for each call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import sympy
import torch
from torch import fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxpasses.errors import FxpassesError, LoweringError, UnsupportedOperatorError, source_line
from fxpasses.relax import tvm_api as T
from fxpasses.relax.checks import Check, Checks, condition_of
from fxpasses.relax.control import CONTROL, Choice
from fxpasses.relax.kernel import used
from fxpasses.relax.partition import Group, schedule
from fxpasses.relax.symbols import SymbolTable
from fxpasses.relax.table import lowerings
from fxpasses.schema import bind, checks_tensor, checks_values, is_read, unbound_symbols
from fxpasses.signature import dtype_name

if TYPE_CHECKING:
    from fxpasses.codegen.island import Islands

__all__ = ["Builder", "Emission"]

aten = torch.ops.aten


@dataclass
class Emission:
    """What the functions of one module share while they are emitted.

    Attributes:
        outside: the nodes that run in PyTorch, and why; rows that refuse a call add to it.
        islands: takes the groups of these; None where none are allowed.
        checks: the run-time checks; None where none are wanted.
        ranges: bounds of the symbols.
        asserted: the assertions that each call is held to before ``main`` is entered, and what they say.
        refused: the calls that a row refused while this module was emitted, and why.
        choices: the function of each `torch.cond`.
        origins: the node that each variable (of a function, by name) was emitted for.
    """

    outside: dict[fx.Node, str]
    islands: Islands | None
    checks: Checks | None
    ranges: Mapping[Any, Any]
    asserted: Mapping[fx.Node, Any] = field(default_factory=dict)
    block: Any = field(default_factory=lambda: T.relax.BlockBuilder())
    refused: dict[fx.Node, str] = field(default_factory=dict)
    choices: dict[fx.Node, Choice] = field(default_factory=dict)
    origins: dict[tuple[str, str], fx.Node] = field(default_factory=dict)


class Builder:
    """Emits one graph; a lowering gets it as its first argument ``b``.

    Attributes:
        node: the call that is being lowered.
        val: its ``meta["val"]``: the dtype and shape that the result must have.
    """

    def __init__(self, emission: Emission) -> None:
        self.emission = emission
        self.block = emission.block
        self.symbols = SymbolTable(emission.asserted.values())
        self.analyzer = T.Analyzer()
        self.env: dict[fx.Node, Any] = {}
        self.codes: list[Any] = []
        self._pending: list[fx.Node] = []
        self._bound: set[Any] = set()
        self._done: set[fx.Node] = set()
        self._region: Any = None
        self._name = ""
        self.node: fx.Node
        self.val: Any

    # -- for lowerings -------------------------------------------------------------

    def emit(self, expr: Any) -> Any:
        """Bind a Relax expression to a variable, named like the node that is being lowered."""
        node = getattr(self, "node", None)  # a function may return before the first of them
        variable = self.block.emit(self._simplified(expr), name_hint="" if node is None else node.name)
        if node is not None:
            self.emission.origins[self._name, variable.name] = node
        return variable

    def _simplified(self, expr: Any) -> Any:
        """*expr*, whose type has sizes as `Symbols.prim` writes them: TVM infers 2 + n, and n + 2 is another to it."""
        expr = self.block.normalize(expr)
        if not isinstance(expr, T.ir.Call) or not isinstance(expr.ty, T.TensorType) or expr.ty.shape is None:
            return expr
        sizes = expr.ty.shape.values
        simple = [self.analyzer.simplify(size) for size in sizes]
        if all(map(T.tvm_ffi.structural_equal, sizes, simple)):
            return expr
        kind = T.TensorType(simple, str(expr.ty.dtype))
        return T.ir.Call(expr.op, expr.args, expr.attrs, expr.ty_args, ret_ty=kind)

    def te(self, function: Callable[..., Any], *args: Any, name: str | None = None, **attrs: Any) -> Any:
        """Call a kernel given as a tensor expression: ``function(*te_tensors, **attrs)``."""
        hint = name or self.node.target._schema.name.split("::")[-1]  # type: ignore[union-attr]
        return self.emit(self.block.call_te(function, *args, primfunc_name_hint=hint, **attrs))

    def match_cast(self, value: Any, val: Any = None) -> Any:
        """State the type of a value that Relax cannot infer, checked when it runs."""
        return self.block.match_cast(value, self.type(self.val if val is None else val))

    def of_shape(self, value: Any, shape: Sequence[Any]) -> Any:
        """*value*, which is broadcast to *shape*, with the sizes of it that Relax cannot tell to be the same."""
        own = self.shape_of(value)
        aligned = shape[len(shape) - len(own) :]
        is_one = [isinstance(size, T.tirx.IntImm) and int(size) == 1 for size in own]
        sizes = [size if one else wide for size, wide, one in zip(own, aligned, is_one, strict=True)]
        if all(self.analyzer.can_prove_equal(a, b) for a, b in zip(own, sizes, strict=True)):
            return value
        return self.block.match_cast(value, T.TensorType(sizes, self.dtype_of(value)))

    def type(self, val: torch.Tensor) -> Any:
        """The Relax type of a fake tensor; a complex one has a last dim of two, its parts."""
        if val.dtype.is_complex:
            return T.TensorType([*self.shape(val), self.size(2)], dtype_name(val.dtype.to_real()))
        return T.TensorType(self.shape(val), dtype_name(val.dtype))

    def shape(self, val: torch.Tensor | Sequence[Any]) -> list[Any]:
        """The sizes of a fake tensor (or a list of sizes) as TIR expressions."""
        sizes = val.shape if isinstance(val, torch.Tensor) else val
        return [self.size(size) for size in sizes]

    def size(self, size: Any) -> Any:
        """An int, SymInt or TIR expression as an int64 TIR expression."""
        if isinstance(size, torch.SymInt):
            return self.symbols.prim(size.node.expr)
        if isinstance(size, int):
            return T.tirx.IntImm("int64", size)
        return size

    def dtype(self, dtype: torch.dtype) -> str:
        """``torch.float32`` to ``"float32"``."""
        return dtype_name(dtype)

    def cast(self, value: Any, dtype: torch.dtype | str) -> Any:
        """*value* in another dtype; nothing is emitted where it has it already."""
        name = dtype if isinstance(dtype, str) else dtype_name(dtype)
        if self.dtype_of(value) == name:
            return value
        return self.emit(T.relax.op.astype(value, name))

    def dtype_of(self, value: Any) -> str:
        """The dtype name of an emitted value."""
        return str(value.ty.dtype)

    def shape_of(self, value: Any) -> list[Any]:
        """The sizes of an emitted value as TIR expressions."""
        return list(value.ty.shape.values)

    def behind_expand(self, value: Any) -> Any:
        """The tensor of as many dims that *value* repeats along some of them; *value* itself if it does not."""
        bound = self.block.lookup_binding(value)
        if isinstance(bound, T.relax.Call) and getattr(bound.op, "name", "") == "relax.broadcast_to":
            (source, _) = bound.args
            if len(self.shape_of(source)) == len(self.shape_of(value)):
                return source
        return value

    def behind_turn(self, value: Any) -> Any:
        """The tensor of which *value* exchanges the last two dims, None where it is another."""
        bound = self.block.lookup_binding(value)
        if not isinstance(bound, T.relax.Call) or getattr(bound.op, "name", "") != "relax.permute_dims":
            return None
        rank = len(self.shape_of(value))
        axes = [int(axis) for axis in bound.attrs.axes or range(rank)[::-1]]
        return bound.args[0] if axes == [*range(rank - 2), rank - 1, rank - 2] else None

    def bind_size(
        self,
        size: int | torch.SymInt | torch.SymBool,
        value: Any,
        most: Any = None,
        least: int | None = None,
    ) -> None:
        """Give a size (or truth) that depends on values its value, from a tensor of one integer.

        *most* is the largest value that it can take, where that is known; *least* is then 0,
        if it is not given. What capture found out about the size is checked: its range, or what
        it equals (``torch._check(x.nonzero().shape[0] == 4)``).
        """
        expr = size.node.expr if isinstance(size, torch.SymInt | torch.SymBool) else sympy.Integer(size)
        known = not isinstance(size, torch.SymBool) and not expr.is_Symbol
        symbol = sympy.Symbol(f"{self.node.name}_size", integer=True) if known else None
        if symbol is None:
            (symbol,) = expr.free_symbols
        relax = T.relax
        line = self.emit(relax.op.reshape(self.cast(value, "int64"), [1]))
        shape = self.emit(relax.op.tensor_to_shape(line))
        self.block.match_cast(shape, relax.ShapeType([self.symbols.prim(symbol)]))
        if known and is_read(size):
            self.symbols.enter(expr, symbol)
            return
        condition = (
            sympy.Eq(symbol, expr)
            if known
            else _range_condition(symbol, self.emission.ranges.get(symbol), most, least)
        )
        if condition is not None:
            self.require(condition)

    def require(self, condition: Any, kind: Literal["index", "value"] = "value") -> None:
        """Let the program end with an error of *kind* here unless *condition*, of sizes, holds."""
        checks = self.emission.checks
        if checks is None or condition == sympy.true:
            return
        from fxpasses.codegen.callbacks import REQUIRE

        relax, symbols = T.relax, sorted(condition.free_symbols, key=str)
        text, source = sympy.sstr(condition), source_line(self.node)
        checks.number(Check("condition", str(self.node.target), source, low=text))
        call = relax.op.call_pure_packed(
            REQUIRE,
            T.ir.StringImm(text),
            T.ir.StringImm(",".join(map(str, symbols))),
            T.ir.StringImm(source or ""),
            T.ir.StringImm(kind),
            relax.ShapeExpr([self.symbols.prim(symbol) for symbol in symbols]),
            ty_args=[T.TensorType((), "int32")],
        )
        # The result, a zero, is one of the codes: else the call would be taken for dead.
        self.codes.append(self.emit(call))

    def number(self, value: Any, dtype: str) -> Any:
        """A number that is an expression of sizes, as a tensor without dims."""

        def kernel(x: Any) -> Any:
            return T.te.compute((), lambda: x.astype(dtype), name="number")

        return self.te(kernel, value, name="number")

    def truth(self, predicate: Any) -> Any:
        """A predicate, a tensor of one element or an expression of sizes, as a truth value without dims."""
        if not isinstance(predicate, fx.Node):
            return self.emit(T.relax.const(bool(predicate), "bool"))
        value = self.env[predicate]
        if T.ir.is_prim_expr(value):
            return self.number(value, "bool")
        dtype = self.dtype_of(value)
        if dtype != "bool":
            value = self.emit(T.relax.op.not_equal(value, T.relax.const(0, dtype)))
        return value if not self.shape_of(value) else self.emit(T.relax.op.reshape(value, []))

    def where(self, message: str) -> str:
        """*message* with the node that is being lowered, and its line."""
        return f"node {self.node.name!r}: {message} ({source_line(self.node) or 'no source line'})"

    # -- functions -------------------------------------------------------------------

    def function(
        self,
        name: str,
        parameters: Sequence[Any],
        graph: fx.Graph,
        returned: Iterable[fx.Node | int],
        *,
        checked: bool | None = None,
        attrs: dict[str, Any] | None = None,
    ) -> Any:
        """Emit the function. It returns a tuple of *returned*, and with *checked* the code of the checks.

        By default there is a code where something is checked.
        """
        self._name = name
        with self.block.function(name, list(parameters), attrs=attrs, private=name != "main"):
            self._region = self.block.dataflow()
            self._region.__enter__()
            self._pending = [
                node
                for node in graph.nodes
                if checks_values(node) and not checks_tensor(node) and node not in self.emission.asserted
            ]
            if any(
                not unbound_symbols(node.args[0].meta["val"]) for node in self._pending
            ):  # of the arguments of a branch
                self._assert()
                self._fence()
            for item in schedule(graph, self.emission.outside):
                self._emit_item(item)
            results = [self._result(value) for value in returned]
            for value, result in zip(returned, results, strict=True):
                if result is None:  # TVM would crash
                    raise LoweringError(f"{value} is returned, and nothing was emitted for it")
            if checked is None:
                checked = bool(self.codes)
            if checked:
                results.append(self._code())
            elif self.codes:
                raise LoweringError(f"{name} checks values, and was not expected to")
            output = self.block.emit_output(T.relax.Tuple(results))
            self._region.__exit__(None, None, None)
            return self.block.emit_func_output(output)

    def _emit_item(self, item: fx.Node | Group) -> None:
        nodes = item.nodes if isinstance(item, Group) else [item]
        if isinstance(item, Group):
            assert self.emission.islands is not None
            self.emission.islands.emit(self, item.nodes, self.emission.outside)
        elif item.target is not aten._assert_scalar.default:
            condition, kind = condition_of(item, self.emission.ranges)
            if condition is not None:
                self.node = item
                self.require(condition, kind)
                self._fence()
            self._lower(item)
        self._done.update(nodes)
        vals = [val for node in nodes for val in pytree.tree_leaves(node.meta.get("val"))]
        new = {symbol for val in vals for symbol in unbound_symbols(val)} - self._bound
        if new:
            self._bound |= new
            self._assert()
            self._fence()

    def _fence(self) -> None:
        """Let no call that follows be moved before those that are here.

        TVM moves calls within a dataflow block by the tensors they take, and
        does not see that their sizes must be bound and checked before.
        """
        waiting = [node for node in self.env if any(user not in self._done for user in node.users)]
        values = [*pytree.tree_leaves([self.env[node] for node in waiting]), *self.codes]
        outputs: dict[Any, Any] = {}
        repeated: dict[Any, Any] = {}
        for value in values:
            if isinstance(value, T.relax.DataflowVar) and value not in repeated:
                source = self.behind_expand(value)
                if isinstance(source, T.relax.DataflowVar) and source not in outputs:
                    outputs[source] = self.block.emit_output(source)
                repeated[value] = source, self.block.lookup_binding(value)
        self._region.__exit__(None, None, None)
        self._region = self.block.dataflow()
        self._region.__enter__()

        found: dict[Any, Any] = {}
        for value, (source, call) in repeated.items():
            here = outputs.get(source, source)
            # What repeats elements does so here, and need not be in memory.
            expanded = not source.same_as(value)
            found[value] = self.block.emit(T.relax.op.broadcast_to(here, call.args[1])) if expanded else here

        def kept(value: Any) -> Any:
            return found.get(value, value) if isinstance(value, T.relax.DataflowVar) else value

        for node in waiting:
            value = self.env[node]
            self.env[node] = pytree.tree_map(kept, value) if isinstance(value, tuple | list) else kept(value)
        self.codes = [kept(code) for code in self.codes]

    def _assert(self) -> None:
        """Emit the assertions whose numbers have their values now."""
        for node in list(self._pending):
            val = node.args[0].meta["val"]  # type: ignore[union-attr]
            if unbound_symbols(val) <= self._bound:
                self._pending.remove(node)
                self.node = node
                self.require(val.node.expr)

    def _result(self, node: fx.Node | int) -> Any:
        if isinstance(node, int):
            return self.emit(T.relax.const(node, "int64"))
        value = self.env[node]
        kind = _NUMBERS.get(type(node.meta["val"]))
        if kind is None or not T.ir.is_prim_expr(value):
            return value
        return self.number(value, kind)

    def _code(self) -> Any:
        if not self.codes:
            return self.emit(T.relax.const(0, "int32"))
        if len(self.codes) == 1:
            return self.codes[0]

        def largest(*codes: Any) -> Any:
            def element() -> Any:
                code = codes[0]()
                for other in codes[1:]:
                    code = T.tirx.max(code, other())
                return code

            return T.te.compute((), element, name="failed")

        return self.te(largest, *self.codes, name="failed")

    # -- the walk --------------------------------------------------------------------

    def _lower(self, node: fx.Node) -> None:
        self.node, self.val = node, node.meta.get("val")
        if isinstance(self.val, torch.SymInt | torch.SymFloat | torch.SymBool):
            self.env[node] = self._number(node)
            return
        if isinstance(self.val, bool | int | float):
            self.env[node] = self.val
            return
        if node.target is operator.getitem:
            self.env[node] = self.env[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        if checks_tensor(node):
            self._check(node)
            return
        several = isinstance(self.val, tuple | list)
        vals = self.val if several else (self.val,)
        # No row has to think of loops over nothing.
        asked = [not several or used(self, place) for place in range(len(vals))]
        if all(
            _is_empty(val) and not unbound_symbols(val)
            for val, is_asked in zip(vals, asked, strict=True)
            if is_asked or not any(asked)
        ):
            empty = tuple(
                self._zeros(self.type(val)) if is_asked else None
                for val, is_asked in zip(vals, asked, strict=True)
            )
            self.env[node] = empty if several else empty[0]
            return
        value = self._call(node)
        values = value if isinstance(value, tuple | list) else (value,)
        if len(values) != len(vals):
            raise LoweringError(self.where(f"{len(vals)} results expected, the lowering gave {len(values)}"))
        checked = tuple(
            self._checked(v, val) if isinstance(val, torch.Tensor) else v
            for v, val in zip(values, vals, strict=True)
        )
        self.env[node] = checked if isinstance(self.val, tuple | list) else checked[0]

    def _number(self, node: fx.Node) -> Any:
        """A number: a TIR expression, or the tensor it is read from where TIR has no symbol for it."""
        if is_read(self.val):
            value = self.env[node.args[0]]
            return self.emit(T.relax.op.reshape(value, [])) if self.shape_of(value) else value
        if node.target is aten._local_scalar_dense.default:
            self.bind_size(self.val, self.env[node.args[0]])
        return self.symbols.prim(self.val.node.expr)

    def _call(self, node: fx.Node) -> Any:
        """What the row of the table gives, or the island where it refuses."""
        if node.target in CONTROL:
            return CONTROL[node.target](self, node)
        row = lowerings()[node.target]  # type: ignore[index]
        args, kwargs = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        args, kwargs = map_aggregate((args, kwargs), self._operand)  # type: ignore[misc]
        try:
            value = row(self, *args, **kwargs)
        except UnsupportedOperatorError as error:
            islands = self.emission.islands
            if islands is None or islands.refusal(node) is not None:
                raise UnsupportedOperatorError(self.where(str(error))) from error
            # Emitted by itself now; `lower` starts again with this node among those outside.
            self.emission.refused[node] = str(error)
            picked = [user for user in node.users if user.target is operator.getitem]
            islands.emit(self, [node, *picked], self.emission.refused)
            return self.env[node]
        except FxpassesError:
            raise
        except Exception as error:
            raise LoweringError(self.where(f"the lowering of {node.target} failed: {error}")) from error
        self._check(node)
        return value

    def _check(self, node: fx.Node) -> None:
        if self.emission.checks is not None:
            self.codes += self.emission.checks.emit(self, node)

    def _operand(self, arg: Any) -> Any:
        return self.env[arg] if isinstance(arg, fx.Node) else arg

    def _zeros(self, kind: Any) -> Any:
        return self.emit(T.relax.op.zeros(list(kind.shape.values), str(kind.dtype)))

    def _checked(self, value: Any, val: torch.Tensor) -> Any:
        """*value* as a variable, after its Relax type was held against *val*."""
        if value is None:
            return None  # a result that nobody uses and the lowering does not compute
        if not isinstance(value, T.relax.Var):
            value = self.emit(value)
        expected, got = self.type(val), value.ty
        problem = None
        if not isinstance(got, T.TensorType) or str(got.dtype) != str(expected.dtype):
            problem = "dtype"
        elif got.shape is None or len(got.shape.values) != len(expected.shape.values):
            problem = "rank"
        elif not all(
            self.analyzer.can_prove_equal(a, b)
            for a, b in zip(got.shape.values, expected.shape.values, strict=True)
        ):
            problem = "shape"
        if problem is not None:
            raise LoweringError(
                self.where(
                    f"the lowering of {self.node.target} gave another {problem}: {got}, expected {expected}"
                )
            )
        return value


_NUMBERS = {torch.SymInt: "int64", torch.SymFloat: "float64", torch.SymBool: "bool"}


_ENDLESS = 2**62
"""Larger bounds are none: torch writes them for sizes that nothing bounds."""


def _range_condition(symbol: Any, bounds: Any, most: Any, least: int | None) -> Any:
    """The condition that *bounds* put on *symbol*, from *least* to *most*; None where it always holds."""
    if bounds is None:
        return None
    if least is None and most is not None:
        least = 0
    parts = []
    low, high = (int(bound) if bound.is_Integer else None for bound in (bounds.lower, bounds.upper))
    if low is not None and (least is None or low > least):
        parts.append(symbol >= low)
    known = isinstance(most, T.tirx.IntImm) and high is not None and int(most) <= high
    if high is not None and high < _ENDLESS and not known:
        parts.append(symbol <= high)
    return sympy.And(*parts) if parts else None


def _is_empty(val: Any) -> bool:
    """Whether *val* is a tensor known to have no elements."""
    return isinstance(val, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in val.shape)
