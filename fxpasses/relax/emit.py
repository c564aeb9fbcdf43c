"""`lower`: a `Program` becomes a TVM `IRModule`, one row of the table for each call.

The function ``main`` takes the user's tensors first, then one shape with the
sizes that no tensor shows (`size_parameters`, where there are any), then the
tensors of the program in placeholder order (``num_input`` says how many come
first), and returns a tuple of the computed outputs; `returned_nodes` lists them.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree

from fxpasses.errors import UnsupportedOperatorError, source_line
from fxpasses.fingerprint import target_name
from fxpasses.program import Program
from fxpasses.relax import tvm_api as T
from fxpasses.relax.builder import Builder, Emission
from fxpasses.relax.checks import Checks
from fxpasses.relax.control import compiled_bodies, control_refusal, declare
from fxpasses.relax.table import lowerings
from fxpasses.schema import SYMBOLIC_BUILTINS, is_complex, is_read, is_unbound
from fxpasses.signature import asserted_sizes, dtype_name

if TYPE_CHECKING:
    from fxpasses.codegen.island import Islands

__all__ = ["lower", "outside", "returned_nodes", "size_parameters", "unsupported"]

aten = torch.ops.aten


def lower(
    program: Program,
    *,
    islands: Islands | None = None,
    checks: Checks | None = None,
    origins: dict[tuple[str, str], fx.Node] | None = None,
) -> Any:
    """Emit *program* as a `tvm.IRModule` with the function ``main``.

    The program must be canonical (see `fxpasses.canonicalize`). With *islands*,
    an operator without a lowering becomes a call into PyTorch where it can.
    With *checks*, ``main`` has one more result: 0, or the number of a run-time
    check that failed. *origins* is given the node of each variable, by the names
    of function and variable.

    Raises:
        UnsupportedOperatorError: lists every operator without a lowering, with
            its count and the source lines, before anything is emitted.
        LoweringError: a lowering gave a dtype or shape that differs from the
            node's ``meta["val"]``.
    """
    reasons = outside(program)
    why_not = {node: None if islands is None else islands.refusal(node) for node in reasons}
    missing = _by_target(node for node, why in why_not.items() if islands is None or why is not None)
    if missing:
        raise UnsupportedOperatorError(_missing_text(missing, why_not))
    while True:
        emission = Emission(dict(reasons), islands, checks, program.ranges, asserted_sizes(program))
        module = _emit(program, emission)
        if not emission.refused:
            if origins is not None:
                origins.update(emission.origins)
            return module
        # Rows refused calls by their arguments: group these with the others.
        reasons.update(emission.refused)
        assert islands is not None
        islands.clear()
        if checks is not None:
            checks.rows.clear()


def _emit(program: Program, emission: Emission) -> Any:
    declare(emission, program.graph_module)
    builder = Builder(emission)
    user: list[Any] = []
    tensors: list[Any] = []
    for node in program.placeholders:
        val = node.meta["val"]
        if isinstance(val, torch.Tensor):
            var = T.relax.Var(node.name, builder.type(val))
            builder.env[node] = var
            (user if node.meta["role"].kind == "user" else tensors).append(var)
        else:
            builder.env[node] = builder.size(val) if isinstance(val, torch.SymInt) else val
    sizes = size_parameters(program)
    if sizes:
        shape = T.relax.ShapeType([builder.symbols.prim(expr) for expr in sizes])
        user.append(T.relax.Var("sizes", shape))
    builder.function(
        "main",
        user + tensors,
        program.graph,
        returned_nodes(program),
        attrs={"num_input": len(user)},
    )
    return emission.block.finalize()


def outside(program: Program) -> dict[fx.Node, str]:
    """The calls that cannot become TVM code, and why; those inside another such call left out."""
    table = lowerings()
    found: dict[fx.Node, str] = {}
    for module in compiled_bodies(program.graph_module):
        for node in module.graph.nodes:
            reason = _reason(node, table) if node.op == "call_function" else None
            if reason is not None:
                found[node] = reason
    return found


_SIZES = (
    operator.getitem,
    aten.sym_size.int,
    aten._local_scalar_dense.default,
    aten._assert_scalar.default,
    aten._assert_async.default,
    aten._assert_async.msg,
)


def _reason(node: fx.Node, table: Any) -> str | None:
    if isinstance(node.target, HigherOrderOperator):
        return control_refusal(node)
    if node.target in _SIZES:
        return None
    numbers = [operand for operand in node.all_input_nodes if _is_read(operand)]
    if numbers and not _fits(node, numbers):
        return "it takes a number that is read from a tensor"
    if _computes_complex(node):
        return "it computes with complex numbers"
    foreign = _foreign_dtype(node)
    if foreign is not None:
        return f"no kernel computes with {dtype_name(foreign)}"
    return None if node.target in table or node.target in SYMBOLIC_BUILTINS else "it has no lowering"


def _computes_complex(node: fx.Node) -> bool:
    """Whether *node* reads or makes complex numbers other than those of the program's inputs and outputs."""
    if node.target is aten.view_as_real.default and node.all_input_nodes[0].op == "placeholder":
        return False
    if node.target is aten.view_as_complex.default and all(user.op == "output" for user in node.users):
        return False
    return is_complex(node) or any(map(is_complex, node.all_input_nodes))


_DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)


def _foreign_dtype(node: fx.Node) -> torch.dtype | None:
    """A dtype of an operand or result that kernels are not written for; complex ones become pairs before."""
    vals = pytree.tree_leaves([n.meta.get("val") for n in (node, *node.all_input_nodes)])
    dtypes = [val.dtype for val in vals if isinstance(val, torch.Tensor) and not val.is_complex()]
    return next((dtype for dtype in dtypes if dtype not in _DTYPES), None)


def _is_read(node: fx.Node) -> bool:
    """Whether *node* is a floating-point number that depends on the values of tensors."""
    val = node.meta.get("val")
    return isinstance(val, torch.SymFloat | torch.SymBool | torch.SymInt) and is_read(val)


# Operators whose rows take a tensor without dims for the number that is their second argument.
_WITH_A_NUMBER = frozenset(
    {
        *(op.Scalar for op in (aten.add, aten.sub, aten.mul, aten.div)),
        *(op.Scalar for op in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)),
        aten.full.default,
    }
)


def _fits(node: fx.Node, numbers: list[fx.Node]) -> bool:
    """Whether *node* may take the tensor that its only number is read from in place of the number.

    So where the dtype that it computes in holds the elements of this tensor:
    no rounding of the number can differ then.
    """
    if node.target not in _WITH_A_NUMBER or [arg for arg in node.args if arg in numbers] != [node.args[1]]:
        return False
    (number,) = numbers
    if number.target is not aten._local_scalar_dense.default:
        return False
    computed = node if node.target is aten.full.default else node.args[0]
    dtype, own = (n.meta["val"].dtype for n in (computed, number.args[0]))  # type: ignore[union-attr]
    return own in _DTYPES and dtype.is_floating_point and torch.promote_types(own, dtype) == dtype


def unsupported(program: Program) -> dict[Any, list[fx.Node]]:
    """The calls that cannot become TVM code, by operator."""
    return _by_target(outside(program))


def _by_target(nodes: Iterable[fx.Node]) -> dict[Any, list[fx.Node]]:
    found: dict[Any, list[fx.Node]] = {}
    for node in nodes:
        found.setdefault(node.target, []).append(node)
    return found


def _missing_text(missing: dict[Any, list[fx.Node]], why_not: dict[fx.Node, str | None]) -> str:
    """What is missing, and where; *why_not* says why it cannot run in PyTorch instead, where that was asked for."""
    lines = [f"{len(missing)} operator(s) have no lowering:"]
    for target, nodes in sorted(missing.items(), key=lambda item: -len(item[1])):
        places = Counter(source_line(node) or f"node {node.name}" for node in nodes)
        why = "" if why_not[nodes[0]] is None else f"; no island, since {why_not[nodes[0]]}"
        lines.append(f"  {target_name(target)} ({len(nodes)} call{'s' if len(nodes) > 1 else ''}){why}")
        lines += [f"    {place}" for place, _ in places.most_common(3)]
    lines.append(
        "Run fxpasses.canonicalize first if the program is fresh from capture; else write a lowering "
        "(fxpasses.relax.table.lowering), or a @fxpasses.rewrite that spells it with other operators."
    )
    return "\n".join(lines)


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


def returned_nodes(program: Program) -> list[fx.Node]:
    """What ``main`` computes and returns, each once: tensors, and numbers that depend on values."""
    found: dict[fx.Node, None] = {}
    for _, value in program.outputs:
        if isinstance(value, fx.Node) and value.op != "placeholder":
            val = value.meta["val"]
            if isinstance(val, torch.Tensor) or is_unbound(val):
                found[value] = None
    return list(found)
