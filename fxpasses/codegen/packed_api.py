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

from fxpasses.codegen.schedules.expressions import int_value, op_name
from fxpasses.relax import tvm_api as T

__all__ = ["has_known_sizes", "make_packed_api"]


def make_packed_api() -> Any:
    """The pass, in the place of TVM's own."""

    def run(mod: Any, _context: Any) -> Any:
        known = {var.name_hint for var, function in mod.functions.items() if has_known_sizes(function)}
        packed = T.tirx.transform.MakePackedAPI()(mod)
        trusted = {var: function for var, function in packed.functions.items() if var.name_hint in known}
        unchecked = T.tirx.transform.SkipAssert()(T.tvm.IRModule(trusted))
        for var, function in unchecked.functions.items():
            packed.update_func(var, function.with_body(_from_offsets(function.body)))
        return packed

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.make_packed_api")


_DATA, _BYTE_OFFSET = 1, 8
"""Members of a tensor, as TVM counts them."""


def _from_offsets(body: Any) -> Any:
    """*body*, with tensors that begin at their offset in the memory, whether a kernel counts on one or not."""
    tirx = T.tirx

    def start(call: Any) -> Any:
        field = int_value(call.args[2]) if op_name(call) == "tvm_struct_get" else None
        if field == _BYTE_OFFSET:
            return tirx.const(0, "uint64")  # it is in the address already
        if field == _DATA:
            offset = tirx.tvm_struct_get(call.args[0], 0, _BYTE_OFFSET, "uint64")
            return tirx.handle_add_byte_offset(call, offset.astype("int64"))
        return call

    return T.tvm_ffi.structural_map(body, [(T.ir.Call, start)])


def has_known_sizes(function: Any) -> bool:
    """Whether the parameters are tensors, and all their sizes numbers."""
    shapes = [getattr(param, "shape", None) for param in function.params]
    return all(shape is not None and all(int_value(size) is not None for size in shape) for shape in shapes)
