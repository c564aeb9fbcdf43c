"""`make_packed_api`: kernels as functions that the virtual machine calls, without checks of what it knows.

TVM 0.27 begins each kernel with a dozen assertions for every argument: not null,
its dtype, each size, each stride, the device. Beside a small kernel they are
most of the code and of the time that it takes to compile.

Where all sizes of a kernel are numbers there is nothing to find out: arguments
of a program are checked and laid out when it is called, results of islands when
they come back, and the memory of all other tensors is planned by the types from
which the kernel was made. Kernels whose sizes vary keep their assertions, since
two sizes that must agree may first meet there.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.relax import tvm_api as T

__all__ = ["make_packed_api"]


def make_packed_api() -> Any:
    """The pass, in the place of TVM's own."""

    def run(mod: Any, _context: Any) -> Any:
        known = {var.name_hint for var, function in mod.functions.items() if _has_known_sizes(function)}
        packed = T.tirx.transform.MakePackedAPI()(mod)
        trusted = {var: function for var, function in packed.functions.items() if var.name_hint in known}
        packed.update(T.tirx.transform.SkipAssert()(T.tvm.IRModule(trusted)))
        return packed

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.make_packed_api")


def _has_known_sizes(function: Any) -> bool:
    """Whether the parameters are tensors, and all their sizes numbers."""
    shapes = [getattr(param, "shape", None) for param in function.params]
    return all(shape is not None and all(int_value(size) is not None for size in shape) for shape in shapes)
