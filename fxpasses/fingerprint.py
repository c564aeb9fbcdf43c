"""`fingerprint`: a hash of what a program computes, not of how it is spelled.

Names of nodes, tensors, symbols and files do not count; operators, arguments,
dtypes, shapes and roles do. Two captures of one model that reach the same
canonical form have the same fingerprint, whatever door they came through.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["SymbolNames", "fingerprint", "target_name"]


def fingerprint(program: Program) -> str:
    """Hex digest (64 characters) of the structure of *program*.

    Values of tensors are left out: the compiled code of two programs with one
    fingerprint is the same, their weights may differ.
    """
    digest = hashlib.sha256()
    symbols = SymbolNames()
    targets = {node.meta["role"].target: i for i, node in enumerate(program.placeholders)}
    mutated = program.mutations
    for line in _graph_lines(program.graph_module, symbols, mutated):
        digest.update(line.encode())
        digest.update(b"\n")
    for role, _ in program.outputs:
        target = targets.get(role.target) if role.target is not None else None
        digest.update(f"{role.kind} {target}\n".encode())
    return digest.hexdigest()


class SymbolNames:
    """Structural names ``s0, s1, ...`` for symbols in order of first appearance."""

    def __init__(self) -> None:
        self._names: dict[Any, Any] = {}

    def text(self, value: Any) -> str:
        """The text of a size, a symbolic number or a sympy expression."""
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            value = value.node.expr
        if not hasattr(value, "free_symbols"):
            return repr(value)
        import sympy

        for symbol in sorted(value.free_symbols - self._names.keys(), key=str):
            name = f"{'u' if str(symbol).startswith('u') else 's'}{len(self._names)}"
            self._names[symbol] = sympy.Symbol(name, integer=True, nonnegative=symbol.is_nonnegative)
        return sympy.sstr(value.xreplace(self._names))

    def type_text(self, val: Any) -> str:
        """``f32[s0, 64]`` for a tensor, in the short dtype names of `fx`."""
        if isinstance(val, torch.Tensor):
            from torch.fx.graph import dtype_abbrs

            return f"{dtype_abbrs[val.dtype]}[{', '.join(self.text(size) for size in val.shape)}]"
        if isinstance(val, tuple | list):
            return f"({', '.join(self.type_text(item) for item in val)})"
        return self.text(val)


def target_name(target: Any) -> str:
    """``aten.addmm.default``; builtins as ``operator.mul``."""
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    name = getattr(target, "__name__", str(target))
    return f"{module.removeprefix('_')}.{name}" if module else name


def _graph_lines(module: fx.GraphModule, symbols: SymbolNames, mutated: Any = ()) -> Any:
    from fxpasses.graph_modules import body_of

    index: dict[fx.Node, int] = {}

    def text(arg: Any) -> str:
        if isinstance(arg, fx.Node):
            return f"%{index[arg]}"
        if isinstance(arg, tuple | list):
            return f"[{','.join(map(text, arg))}]"
        if isinstance(arg, dict):
            return f"{{{','.join(f'{k}:{text(v)}' for k, v in arg.items())}}}"
        if isinstance(arg, slice):
            return f"slice({text(arg.start)},{text(arg.stop)},{text(arg.step)})"
        if isinstance(arg, float | int | str | bool | None):
            return repr(arg)
        if isinstance(arg, torch.SymInt | torch.SymFloat | torch.SymBool):
            return symbols.text(arg)
        return str(arg)

    for number, node in enumerate(module.graph.nodes):
        index[node] = number
        kind = symbols.type_text(node.meta.get("val"))
        if node.op == "placeholder":
            role = node.meta.get("role")
            label = "" if role is None else ("user" if role.kind == "user" else "tensor")
            if role is not None and role.target in mutated:
                label += " mutated"
            yield f"placeholder {label} {kind}"
        elif node.op == "get_attr":
            body = body_of(node)
            yield f"body {node.target if body is None else ''}"
            if body is not None:
                yield from _graph_lines(body, symbols)
                yield "end"
        elif node.op == "output":
            yield f"output {text(node.args)}"
        else:
            yield f"{target_name(node.target)}{text(node.args)}{text(node.kwargs)} {kind}"
