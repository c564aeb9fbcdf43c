"""`fuse_groups`: TVM's `FuseOps`, for programs whose kernels compute with sizes.

A group gets a size that one of its kernels computes with as a number, and the
sizes of results that no operand has as a shape: ``torch.arange(n) * m`` gets m
and n so. `FuseTIR` of TVM 0.27 raises for a group that gets both. There the
kernels that take numbers are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import ALONE

__all__ = ["fuse_groups"]


def fuse_groups() -> Any:
    """The pass."""

    def run(mod: Any, _context: Any) -> Any:
        fused = T.relax.transform.FuseOps()(mod)
        names = {name for group in fused.functions.values() if _gets_both(group) for name in _numeric(group)}
        if not names:
            return fused
        for name in names:
            mod.update_func(name, mod[name].with_attr(ALONE))
        return T.relax.transform.FuseOps()(mod)

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.fuse_groups")


def _gets_both(function: Any) -> bool:
    """Whether *function* is a group that gets a number and a shape."""
    if not isinstance(function, T.relax.Function) or "Primitive" not in (function.attrs or {}):
        return False
    types = [parameter.ty for parameter in function.params]
    return any(map(_is_number, types)) and any(isinstance(type, T.relax.ShapeType) for type in types)


def _numeric(group: Any) -> Iterator[Any]:
    """The names of the kernels in *group* that take numbers."""
    for block in group.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if getattr(getattr(call, "op", None), "name", "") == "relax.call_tir":
                name, operands = call.args[:2]
                if any(_is_number(operand.ty) for operand in operands):
                    yield name


def _is_number(type: Any) -> bool:
    return isinstance(type, T.ir.PrimType)
