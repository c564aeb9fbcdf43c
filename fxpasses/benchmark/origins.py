"""`call_sites`: which calls of the graph each call of a kernel makes.

Fusion gives new names to what it groups, and equal groups share one function. So
each call after fusion is replayed by the operands it takes, and found again
among the calls before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fxpasses.relax import tvm_api as T

__all__ = ["Site", "call_sites"]


@dataclass(frozen=True)
class Site:
    """A place that calls a kernel.

    Attributes:
        kernel: its name.
        results: how many of its arguments, the last ones, are results.
        variables: what it computes, as (function, variable) of the module before fusion.
    """

    kernel: str
    results: int
    variables: tuple[tuple[str, str], ...]


def call_sites(before: Any, after: Any) -> list[Site]:
    """The sites of *after*, the module that `fuse_groups` made of *before*, in the order of their functions."""
    sites: list[Site] = []
    for name, function in _functions(after):
        if "Primitive" not in (function.attrs or {}):
            sites += _Replay(name, before[name], after).run(function)
    return sites


def _functions(module: Any) -> Iterator[tuple[str, Any]]:
    for variable, function in module.functions_items():
        if isinstance(function, T.relax.Function):
            yield variable.name_hint, function


def _bindings(function: Any) -> Iterator[tuple[Any, Any]]:
    for block in function.body.blocks:
        for binding in block.bindings:
            if hasattr(binding, "value"):
                yield binding.var, binding.value


class _Replay:
    """The calls of one function, known by what they are called with."""

    def __init__(self, name: str, before: Any, after: Any) -> None:
        self.name, self.after = name, after
        self.known: dict[Any, list[str]] = {}
        for variable, value in _bindings(before):
            self.known.setdefault(_key(value, {}), []).append(variable.name)

    def run(self, function: Any) -> list[Site]:
        env: dict[str, Any] = {}
        sites = []
        for variable, value in _bindings(function):
            callee = self._group(value)
            if callee is not None:
                names: list[str] = []
                env[variable.name] = self._enter(value, callee, env, names)
                sites.append(self._site(value.op.name_hint, variable, names))
            else:
                found = self._find(value, env)
                env[variable.name] = variable.name if found is None else found
                kernel = _called(value)
                if kernel is not None:
                    sites.append(self._site(kernel, variable, [] if found is None else [found]))
        return sites

    def _group(self, value: Any) -> Any:
        """The function that fusion made, if *value* calls one."""
        if not (isinstance(value, T.relax.Call) and isinstance(value.op, T.ir.GlobalVar)):
            return None
        callee = self.after[value.op]
        return callee if "Primitive" in (callee.attrs or {}) else None

    def _enter(self, call: Any, callee: Any, env: dict[str, Any], names: list[str]) -> Any:
        inner = {p.name: _key(arg, env) for p, arg in zip(callee.params, call.args, strict=True)}
        for variable, value in _bindings(callee):
            found = self._find(value, inner)
            if _called(value) is not None and found is not None:
                names.append(found)
            inner[variable.name] = _key(value, inner) if found is None else found
        return _key(callee.body.body, inner)

    def _find(self, value: Any, env: dict[str, Any]) -> str | None:
        """The variable that *value* had; equal calls are taken in turn."""
        found = self.known.get(_key(value, env))
        if not found:
            return None
        return found.pop(0) if len(found) > 1 else found[0]

    def _site(self, kernel: str, variable: Any, names: list[str]) -> Site:
        fields = getattr(variable.ty, "fields", None)
        return Site(
            kernel, 1 if fields is None else len(fields), tuple((self.name, variable) for variable in names)
        )


def _called(value: Any) -> str | None:
    """The kernel that *value* calls."""
    if isinstance(value, T.relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
        return value.args[0].name_hint
    return None


def _key(value: Any, env: dict[str, Any]) -> Any:
    """What *value* is, in terms of the variables before fusion."""
    relax = T.relax
    if isinstance(value, T.ir.GlobalVar):
        return value.name_hint
    if isinstance(value, relax.Var):
        return env.get(value.name, value.name)
    if isinstance(value, relax.Tuple):
        return tuple(_key(part, env) for part in value.fields)
    if isinstance(value, relax.TupleGetItem):
        whole = _key(value.tuple_value, env)
        return whole[value.index] if isinstance(whole, tuple) else ("item", whole, value.index)
    if isinstance(value, relax.Call):
        op = getattr(value.op, "name_hint", None) or str(value.op)
        return ("call", op, str(value.attrs), *(_key(arg, env) for arg in value.args))
    return str(value)
