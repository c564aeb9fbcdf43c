"""Code to paste that shows a difference again: programs as modules, inputs as literals."""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.fingerprint import target_name
from fxpasses.program import Program
from fxpasses.signature import dtype_name
from fxpasses.testing.values import Inputs

__all__ = ["module_code", "reproduction"]

_LITERAL = 128
"""Tensors with more elements are written to a file."""

_CALLS = 60
"""Programs with more calls are written to a file."""


def reproduction(
    a: Any, b: Any, arguments: Inputs, rtol: float | None, atol: float | None, calls: int
) -> str:
    """Python code that compares *a* and *b* again, as far as they can be written down."""
    folder = _Folder()
    lines = ["import torch", "import fxpasses as fxp", "from fxpasses.testing import assert_equivalent", ""]
    lines += ["aten, inf, nan = torch.ops.aten, float('inf'), float('nan')", ""]
    options = [f"{name}={value!r}" for name, value in (("rtol", rtol), ("atol", atol)) if value is not None]
    options += [f"calls={calls}"] if calls != 1 else []
    values = [_literal(value, folder, f"input{i}") for i, value in enumerate(arguments)]
    given = f"inputs = ({', '.join(values)}{',' if len(values) == 1 else ''})"
    if arguments.kwargs:
        named = ", ".join(f"{k!r}: {_literal(v, folder, k)}" for k, v in arguments.kwargs.items())
        options.insert(0, f"kwargs={{{named}}}")
    for name, subject in (("a", a), ("b", b)):
        lines += _subject_code(name, subject, folder)
    lines += [given, f"assert_equivalent({', '.join(['a', 'b', 'inputs', *options])})"]
    return "to see it again:\n\n" + "\n".join("    " + line if line else "" for line in lines)


def module_code(program: Program, name: str = "Model") -> str:
    """*program* as the source of an `nn.Module` class with literal weights; mutations are `copy_` calls.

    The outputs are a flat tuple. `fxpasses.capture` makes a program of it again.
    """
    return "\n".join(_class_code(program, name, _Folder()))


class _Folder:
    """A temporary folder that is made when the first file is put into it."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def path(self, name: str) -> Path:
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="fxpasses-"))
        return self._path / name


def _subject_code(name: str, subject: Any, folder: _Folder) -> list[str]:
    if isinstance(subject, Program):
        calls = [node for node in subject.nodes() if node.op == "call_function"]
        if len(calls) > _CALLS or any(node.op == "get_attr" for node in subject.nodes()):
            path = folder.path(f"{name}.pt2")
            subject.save(path)
            return [f"{name} = fxp.capture({str(path)!r})"]
        return [*_class_code(subject, name.upper(), folder), "", "", f"{name} = {name.upper()}()"]
    if isinstance(getattr(subject, "signature", None), object) and hasattr(subject, "islands"):
        return [f"{name} = fxp.compile({'b' if name == 'a' else 'a'}, inputs)  # put this line after inputs"]
    kind = (
        type(subject).__name__
        if isinstance(subject, torch.nn.Module)
        else getattr(subject, "__name__", "...")
    )
    return [f"{name} = ...  # {kind}, as in your code"]


def _class_code(program: Program, name: str, folder: _Folder) -> list[str]:
    fields: dict[fx.Node, str] = {}
    setup: list[str] = []
    for node in program.placeholders:
        role = node.meta["role"]
        if role.kind == "user":
            continue
        field = "".join(c if c.isalnum() else "_" for c in role.target)
        fields[node] = f"self.{field}"
        literal = _literal(program.tensors[role.target], folder, field)
        if role.kind == "param":
            setup.append(f"self.{field} = torch.nn.Parameter({literal}, requires_grad=False)")
        else:
            setup.append(f"self.register_buffer({field!r}, {literal})")
    lines = [f"class {name}(torch.nn.Module):"]
    if setup:
        lines += [
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {s}" for s in setup),
            "",
        ]
    lines.append(f"    def forward({', '.join(['self', *(node.name for node in program.inputs)])}):")

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return fields.get(value, value.name)
        return _plain(value, text)

    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is operator.getitem:
            lines.append(f"        {node.name} = {text(node.args[0])}[{text(node.args[1])}]")
            continue
        arguments = [text(arg) for arg in node.args] + [f"{k}={text(v)}" for k, v in node.kwargs.items()]
        if isinstance(node.target, OpOverload):
            call = str(node.target) if node.target.namespace == "aten" else f"torch.ops.{node.target}"
        else:
            call = target_name(node.target)
        lines.append(f"        {node.name} = {call}({', '.join(arguments)})")
    by_target = {node.meta["role"].target: node for node in program.placeholders}
    results = [text(value) for role, value in program.outputs if role.kind == "user"]
    writes = [(role.target, value) for role, value in program.outputs if role.kind != "user"]
    if writes:
        # Every new value is there before the first is written.
        tensors = [isinstance(v, fx.Node) for role, v in program.outputs if role.kind == "user"]
        results = [f"{r}.clone()" if is_node else r for r, is_node in zip(results, tensors, strict=True)]
        lines.append(f"        results = ({', '.join(results)}{',' if len(results) == 1 else ''})")
        lines.append(f"        new = ({', '.join(text(value) + '.clone()' for _, value in writes)},)")
        lines += [
            f"        {text(by_target[target])}.copy_(new[{i}])" for i, (target, _) in enumerate(writes)
        ]
        lines.append("        return results")
    else:
        lines.append(f"        return ({', '.join(results)}{',' if len(results) == 1 else ''})")
    return lines


def _plain(value: Any, text: Callable[[Any], str]) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, torch.device):
        return f"torch.{value!r}"
    if isinstance(value, torch.SymInt):
        return str(int(value))
    return repr(value)


def _literal(value: Any, folder: _Folder, name: str) -> str:
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.numel() > _LITERAL:
            path = folder.path(f"{name}.pt")
            torch.save(tensor, path)
            return f"torch.load({str(path)!r})"
        dtype = f"torch.{dtype_name(tensor.dtype)}"
        if math.prod(tensor.shape) == 0:
            return f"torch.empty({list(tensor.shape)}, dtype={dtype})"
        return f"torch.tensor({tensor.tolist()}, dtype={dtype})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {_literal(v, folder, name)}' for k, v in value.items())}}}"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = [_literal(v, folder, f"{name}_{i}") for i, v in enumerate(value)]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(_literal(v, folder, f'{name}_{i}') for i, v in enumerate(value))}]"
    return repr(value)
