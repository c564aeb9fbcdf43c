"""`rewrite_reshapes`: kernels that move no element, such as those of ``unsqueeze``, made views.

It is TVM's `RewriteDataflowReshape` but for kernels that TVM's analysis cannot
read: at the transposition of a tensor of n + 5 columns it raises. These stay as
they are.
"""

from __future__ import annotations

from typing import Any

from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import product

__all__ = ["rewrite_reshapes"]


def rewrite_reshapes() -> Any:
    """The pass, for a module of kernels that are called with `relax.call_tir`."""

    def run(mod: Any, _context: Any) -> Any:
        reshapes = {var for var, function in mod.functions_items() if _is_reshape(function)}
        for var, function in mod.functions_items():
            if reshapes and isinstance(function, T.relax.Function):
                mod.update_func(var, _with_views(function, reshapes))
        return mod

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.rewrite_reshapes")


def _is_reshape(function: Any) -> bool:
    if not isinstance(function, T.tirx.PrimFunc):
        return False
    try:
        return bool(T.relax.analysis.has_reshape_pattern(function))
    except T.InternalError:
        return False


def _with_views(function: Any, reshapes: set[Any]) -> Any:
    """*function* with a reshape in the place of each call of one of *reshapes* whose result stays inside."""

    def view(binding: Any) -> Any:
        call = binding.value
        if not isinstance(binding.var, T.relax.DataflowVar) or not isinstance(call, T.ir.Call):
            return binding
        if getattr(call.op, "name", "") != "relax.call_tir" or call.args[0] not in reshapes:
            return binding
        # The numbers that a kernel gets are sizes, which the new shape has as well.
        tensors = [argument for argument in call.args[1].fields if isinstance(argument.ty, T.TensorType)]
        if len(tensors) != 1 or not _as_many(tensors[0].ty, call.ty):
            return binding
        reshape = T.relax.op.reshape(tensors[0], call.ty.shape)
        return T.relax.VarBinding(
            binding.var, T.ir.Call(reshape.op, reshape.args, reshape.attrs, ret_ty=call.ty)
        )

    return T.tvm_ffi.structural_map(function, [(T.relax.VarBinding, view)])


def _as_many(one: Any, other: Any) -> bool:
    """Whether there are tensors of both types, with as many elements: a slice that begins the first has not."""
    if not isinstance(other, T.TensorType):
        return False
    analyzer = T.Analyzer()
    return analyzer.can_prove_equal(product(one.shape.values), product(other.shape.values))
