"""Programs as text that a person reads and diffs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import source_line
from fxpasses.fingerprint import SymbolNames, target_name

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["call_text", "keyword_defaults", "program_text", "short_source"]


def program_text(program: Program, *, provenance: bool) -> str:
    """The program as Python-like code, a line a node.

    With *provenance*, placeholders show the tensor or argument that they stand
    for, and nodes the source line that they came from.
    """
    symbols = SymbolNames()
    lines = ["def forward("]
    for node in program.placeholders:
        role = node.meta["role"]
        kind = "user" if role.kind == "user" else "tensor"
        line = f"    {node.name}: {symbols.type_text(node.meta.get('val'))},"
        if provenance:
            label = role.kind + ("" if role.persistent else " (not persistent)")
            lines.append(f"{line}  # {label} {role.target}")
        else:
            lines.append(f"{line}  # {kind}")
    lines.append("):")
    lines += _body_lines(program.graph_module, symbols, provenance, "    ")
    parts = []
    names = {node.meta["role"].target: node.name for node in program.placeholders}
    for role, value in program.outputs:
        text = _argument(value, symbols)
        parts.append(text if role.kind == "user" else f"{names.get(role.target, role.target)} := {text}")
    lines.append(f"    return ({', '.join(parts)}{',' if len(parts) == 1 else ''})")
    if provenance:
        for symbol, bounds in program.ranges.items():
            lines.append(f"# {symbols.text(symbol)} in [{bounds.lower}, {bounds.upper}]")
    return "\n".join(lines)


def call_text(node: fx.Node, symbols: SymbolNames | None = None) -> str:
    """One node as ``name: type = op(args)``; keyword-only defaults are left out."""
    symbols = symbols or SymbolNames()
    arguments = [_argument(arg, symbols) for arg in node.args]
    defaults = keyword_defaults(node.target)
    arguments += [
        f"{name}={_argument(arg, symbols)}"
        for name, arg in node.kwargs.items()
        if name not in defaults or isinstance(arg, fx.Node) or arg != defaults[name]
    ]
    kind = symbols.type_text(node.meta.get("val"))
    return f"{node.name}: {kind} = {target_name(node.target)}({', '.join(arguments)})"


def _body_lines(module: fx.GraphModule, symbols: SymbolNames, provenance: bool, indent: str) -> list[str]:
    from fxpasses.graph_modules import body_of

    lines = []
    for node in module.graph.nodes:
        if node.op == "call_function":
            line = indent + call_text(node, symbols)
            source = source_line(node) if provenance else None
            lines.append(f"{line}  # {short_source(source)}" if source else line)
        elif node.op == "get_attr":
            body = body_of(node)
            parameters = (
                ", ".join(
                    f"{n.name}: {symbols.type_text(n.meta.get('val'))}"
                    for n in body.graph.find_nodes(op="placeholder")
                )
                if body is not None
                else ""
            )
            lines.append(f"{indent}def {node.name}({parameters}):")
            if body is not None:
                lines += _body_lines(body, symbols, provenance, indent + "    ")
                values = _argument(body.graph.output_node().args[0], symbols)
                lines.append(f"{indent}    return {values}")
    return lines


@cache
def keyword_defaults(target: Any) -> dict[str, Any]:
    """Defaults of the keyword-only arguments of an operator, which texts leave out."""
    if not isinstance(target, OpOverload):
        return {}
    return {
        argument.name: argument.default_value
        for argument in target._schema.arguments
        if argument.kwarg_only and argument.has_default_value()
    }


def _argument(arg: Any, symbols: SymbolNames) -> str:
    if isinstance(arg, fx.Node):
        return arg.name
    if isinstance(arg, tuple | list):
        return f"[{', '.join(_argument(item, symbols) for item in arg)}]"
    if isinstance(arg, torch.SymInt | torch.SymFloat | torch.SymBool):
        return symbols.text(arg)
    if isinstance(arg, torch.dtype | torch.memory_format | torch.layout):
        return str(arg)
    if isinstance(arg, torch.device):
        return repr(str(arg))
    return repr(arg)


def short_source(source: str) -> str:
    """``file.py:12 in forward`` from a line of `fxpasses.errors.source_line`."""
    place, _, _ = source.partition(", code:")
    path, _, rest = place.partition(":")
    return f"{path.rsplit('/', 1)[-1]}:{rest}"
