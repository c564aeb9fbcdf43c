"""`lower`: a `Program` becomes a TVM `IRModule`, one row of the table for each call.

The function ``main`` takes the user's tensors first, then one shape with the
sizes that no tensor shows (`size_parameters`, where there are any), then the
tensors of the program in placeholder order (``num_input`` says how many come
first), and returns a tuple of the computed outputs; `returned_nodes` lists them.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from fxpasses.errors import FxpassesError, LoweringError, UnsupportedOperatorError, source_line
from fxpasses.fingerprint import target_name
from fxpasses.program import Program
from fxpasses.relax import tvm_api as T
from fxpasses.relax.symbols import SymbolTable
from fxpasses.relax.table import lowerings
from fxpasses.schema import SYMBOLIC_BUILTINS, bind
from fxpasses.signature import dtype_name

if TYPE_CHECKING:
    from fxpasses.codegen.island import Islands

__all__ = ["Builder", "lower", "returned_nodes", "size_parameters", "unsupported"]


def lower(program: Program, *, islands: Islands | None = None) -> Any:
    """Emit *program* as a `tvm.IRModule` with the function ``main``.

    The program must be canonical (see `fxpasses.canonicalize`). With *islands*,
    an operator without a lowering becomes a call into PyTorch where it can.

    Raises:
        UnsupportedOperatorError: lists every operator without a lowering, with
            its count and the source lines, before anything is emitted.
        LoweringError: a lowering gave a dtype or shape that differs from the
            node's ``meta["val"]``.
    """
    missing = unsupported(program)
    if islands is not None:
        missing = {
            target: refused
            for target, nodes in missing.items()
            if (refused := [node for node in nodes if islands.refusal(node) is not None])
        }
    if missing:
        raise UnsupportedOperatorError(_missing_text(missing))
    return Builder(program, islands).build()


def unsupported(program: Program) -> dict[Any, list[fx.Node]]:
    """The nodes that no row of the table covers, by operator."""
    table = lowerings()
    missing: dict[Any, list[fx.Node]] = {}
    for node in program.nodes():
        if node.op == "call_function" and not (
            node.target in table
            or node.target is operator.getitem
            or node.target is torch.ops.aten.sym_size.int
            or node.target in SYMBOLIC_BUILTINS
        ):
            missing.setdefault(node.target, []).append(node)
    return missing


def _missing_text(missing: dict[Any, list[fx.Node]]) -> str:
    lines = [f"{len(missing)} operator(s) have no lowering:"]
    for target, nodes in sorted(missing.items(), key=lambda item: -len(item[1])):
        places = Counter(source_line(node) or f"node {node.name}" for node in nodes)
        lines.append(f"  {target_name(target)} ({len(nodes)} call{'s' if len(nodes) > 1 else ''})")
        lines += [f"    {place}" for place, _ in places.most_common(3)]
    lines.append(
        "Run fxpasses.canonicalize first if the program is fresh from capture; else write a lowering "
        "(fxpasses.relax.table.lowering), or a @fxpasses.rewrite that spells it with other operators."
    )
    return "\n".join(lines)


class Builder:
    """Emits one program; a lowering gets it as its first argument ``b``.

    Attributes:
        node: the call that is being lowered.
        val: its ``meta["val"]``: the dtype and shape that the result must have.
    """

    def __init__(self, program: Program, islands: Islands | None = None) -> None:
        self.program = program
        self.islands = islands
        self.block = T.relax.BlockBuilder()
        self.symbols = SymbolTable()
        self.analyzer = T.Analyzer()
        self.env: dict[fx.Node, Any] = {}
        self.node: fx.Node
        self.val: Any

    # -- for lowerings -------------------------------------------------------------

    def emit(self, expr: Any) -> Any:
        """Bind a Relax expression to a variable."""
        return self.block.emit(expr)

    def te(self, function: Callable[..., Any], *args: Any, name: str | None = None, **attrs: Any) -> Any:
        """Call a kernel given as a tensor expression: ``function(*te_tensors, **attrs)``."""
        hint = name or self.node.target._schema.name.split("::")[-1]  # type: ignore[union-attr]
        return self.block.emit_te(function, *args, primfunc_name_hint=hint, **attrs)

    def match_cast(self, value: Any, val: Any = None) -> Any:
        """State the type of a value that Relax cannot infer, checked when it runs."""
        return self.block.match_cast(value, self.type(self.val if val is None else val))

    def type(self, val: torch.Tensor) -> Any:
        """The Relax type of a fake tensor."""
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

    # -- the walk --------------------------------------------------------------------

    def build(self) -> Any:
        program, relax = self.program, T.relax
        user: list[Any] = []
        tensors: list[Any] = []
        for node in program.placeholders:
            val = node.meta["val"]
            if isinstance(val, torch.Tensor):
                var = relax.Var(node.name, self.type(val))
                self.env[node] = var
                (user if node.meta["role"].kind == "user" else tensors).append(var)
            else:
                self.env[node] = self.size(val) if isinstance(val, torch.SymInt) else val
        sizes = size_parameters(program)
        if sizes:
            user.append(relax.Var("sizes", relax.ShapeType([self.symbols.prim(expr) for expr in sizes])))
        parameters = user + tensors
        with self.block.function("main", parameters, attrs={"num_input": len(user)}):
            with self.block.dataflow():
                for node in program.graph.nodes:
                    if node.op == "call_function":
                        self._lower(node)
                results = [self.env[value] for value in returned_nodes(program)]
                output = self.block.emit_output(relax.Tuple(results))
            self.block.emit_func_output(output)
        return self.block.finalize()

    def _lower(self, node: fx.Node) -> None:
        self.node, self.val = node, node.meta["val"]
        if isinstance(self.val, torch.SymInt):
            self.env[node] = self.size(self.val)
            return
        if isinstance(self.val, torch.SymFloat | torch.SymBool | bool | int | float):
            self.env[node] = self.val
            return
        if node.target is operator.getitem:
            self.env[node] = self.env[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        vals = self.val if isinstance(self.val, tuple | list) else (self.val,)
        if all(_is_empty(val) for val in vals):  # no row has to think of loops over nothing
            empty = tuple(self.emit(T.relax.op.zeros(self.shape(v), dtype_name(v.dtype))) for v in vals)
            self.env[node] = empty if isinstance(self.val, tuple | list) else empty[0]
            return
        value = self._call(node)
        values = value if isinstance(value, tuple | list) else (value,)
        if len(values) != len(vals):
            raise LoweringError(self._where(f"{len(vals)} results expected, the lowering gave {len(values)}"))
        checked = tuple(
            self._checked(v, val) if isinstance(val, torch.Tensor) else v
            for v, val in zip(values, vals, strict=True)
        )
        self.env[node] = checked if isinstance(self.val, tuple | list) else checked[0]

    def _call(self, node: fx.Node) -> Any:
        """What the row of the table gives, or the island where there is none."""
        row = lowerings().get(node.target)  # type: ignore[call-overload]
        if row is None:
            assert self.islands is not None, node
            return self.islands.emit(self, node, "it has no lowering")
        args, kwargs = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        args, kwargs = map_aggregate((args, kwargs), self._operand)  # type: ignore[misc]
        try:
            return row(self, *args, **kwargs)
        except UnsupportedOperatorError as error:
            if self.islands is None or self.islands.refusal(node) is not None:
                raise UnsupportedOperatorError(self._where(str(error))) from error
            return self.islands.emit(self, node, str(error))
        except FxpassesError:
            raise
        except Exception as error:
            raise LoweringError(self._where(f"the lowering of {node.target} failed: {error}")) from error

    def _operand(self, arg: Any) -> Any:
        return self.env[arg] if isinstance(arg, fx.Node) else arg

    def _checked(self, value: Any, val: torch.Tensor) -> Any:
        """*value* as a variable, after its Relax type was held against *val*."""
        if value is None:
            return None  # a result that nobody uses and the lowering does not compute
        if not isinstance(value, T.relax.Var):
            value = self.emit(value)
        expected, got = self.type(val), value.ty
        problem = None
        if not isinstance(got, T.TensorType) or str(got.dtype) != dtype_name(val.dtype):
            problem = "dtype"
        elif got.shape is None or len(got.shape.values) != val.dim():
            problem = "rank"
        elif not all(
            self.analyzer.can_prove_equal(a, b)
            for a, b in zip(got.shape.values, expected.shape.values, strict=True)
        ):
            problem = "shape"
        if problem is not None:
            raise LoweringError(
                self._where(
                    f"the lowering of {self.node.target} gave another {problem}: {got}, expected {expected}"
                )
            )
        return value

    def _where(self, message: str) -> str:
        return f"node {self.node.name!r}: {message} ({source_line(self.node) or 'no source line'})"


def size_parameters(program: Program) -> list[Any]:
    """The sizes (sympy expressions) that ``main`` takes as one shape after the user's tensors.

    The user's symbolic ints come first, then each symbol that is not itself a
    dim of any tensor, because an input has the shape ``[2*s0]`` only.
    """
    given: list[Any] = []
    bare: set[Any] = set()
    used: set[Any] = set()
    for node in program.placeholders:
        val = node.meta["val"]
        if isinstance(val, torch.SymInt):
            given.append(val.node.expr)
        elif isinstance(val, torch.Tensor):
            for size in val.shape:
                if isinstance(size, torch.SymInt):
                    (bare if size.node.expr.is_Symbol else used).update(size.node.expr.free_symbols)
    bare.update(expr for expr in given if expr.is_Symbol)
    return given + sorted(used - bare, key=str)


def _is_empty(val: Any) -> bool:
    """Whether *val* is a tensor known to have no elements."""
    return isinstance(val, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in val.shape)


def returned_nodes(program: Program) -> list[fx.Node]:
    """The computed tensors that ``main`` returns: each once, no placeholders, no sizes."""
    found: dict[fx.Node, None] = {}
    for _, value in program.outputs:
        if (
            isinstance(value, fx.Node)
            and value.op != "placeholder"
            and isinstance(value.meta["val"], torch.Tensor)
        ):
            found[value] = None
    return list(found)
