"""The order of TVM's passes from emitted Relax to code for a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

from fxpasses.codegen.axes_apart import axes_apart
from fxpasses.codegen.bfloat16_constants import bfloat16_constants
from fxpasses.codegen.binding_order import order_bindings
from fxpasses.codegen.columns import run_by_columns
from fxpasses.codegen.compact_buffers import compact_buffers
from fxpasses.codegen.dots import run_dots
from fxpasses.codegen.fused_groups import fuse_groups
from fxpasses.codegen.honest_shapes import honest_shapes
from fxpasses.codegen.lanes import run_in_lanes
from fxpasses.codegen.loop_partition import partition_loops
from fxpasses.codegen.masked_logic import guard_masked_logic
from fxpasses.codegen.masked_vectors import mask_vectors
from fxpasses.codegen.memory_plan import plan_memory
from fxpasses.codegen.narrow_tiles import run_narrow_tiles
from fxpasses.codegen.one_plus_erf import one_plus_erf
from fxpasses.codegen.opaque_floats import opaque_floats
from fxpasses.codegen.outer_conditions import conditions_outside
from fxpasses.codegen.packed_api import make_packed_api
from fxpasses.codegen.plain_indices import plain_indices
from fxpasses.codegen.reshapes import rewrite_reshapes
from fxpasses.codegen.safe_divisors import safe_divisors
from fxpasses.codegen.scaling import scale_in_vectors
from fxpasses.codegen.schedules import schedule
from fxpasses.codegen.schedules.empty import init_first
from fxpasses.codegen.stack import local_on_stack
from fxpasses.codegen.start_tiles import start_whole_tiles
from fxpasses.codegen.turned import run_turned
from fxpasses.codegen.variables_in_memory import variables_in_memory
from fxpasses.codegen.vector_math import vector_math
from fxpasses.codegen.vectors import run_in_vectors
from fxpasses.relax import tvm_api as T

__all__ = ["cpu_pipeline", "fusion_passes", "kernel_passes", "lower_kernel", "tir_pipeline"]


def fusion_passes() -> list[Any]:
    """From operators to kernels without schedules: legalise, fuse."""
    transform = T.relax.transform
    return [
        T.relax.backend.DispatchSampling(),
        T.relax.backend.DispatchSortScan(),
        transform.LegalizeOps(skip_ops=_VIEWS),
        transform.AnnotateTIROpPattern(),
        rewrite_reshapes(),
        transform.DeadCodeElimination(["main"]),  # FuseOps prints a warning otherwise
        fuse_groups(),
        order_bindings(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(["main"]),
        honest_shapes(),
    ]


_VIEWS = ["relax.reshape"]
"""What the virtual machine makes of a tensor without a kernel, whatever the sizes."""


def kernel_passes(target: Any, *, careful: bool = False) -> list[Any]:
    """From operators to scheduled kernels: legalise, fuse, schedule.

    With *careful*, each schedule is tried through the passes that follow, and
    left out where they fail.
    """
    trial = (lambda function: lower_kernel(function, target)) if careful else None
    return [
        *fusion_passes(),
        schedule(target, trial),
        init_first(),
    ]


def cpu_pipeline(target: Any, *, careful: bool = False) -> Any:
    """The module pass from Relax to instructions of the virtual machine and kernels."""
    transform = T.relax.transform
    passes = [
        *kernel_passes(target, careful=careful),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        plan_memory(),
        transform.StaticPlanBlockMemory(),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]

    def run(mod: Any, _context: Any) -> Any:
        with target:
            return T.tvm.transform.Sequential(passes)(mod)

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.cpu_pipeline")


@cache
def tir_pipeline(*, vectors: bool = True) -> str:
    """The name under which TVM finds the passes from scheduled kernels to code.

    They are those of TVM that a CPU needs, and `vector_math` if *vectors*.
    Indices are not narrowed to 32 bits.
    """
    name = "fxpasses" if vectors else "fxpasses_libm"
    _allow_vectors()
    s_tir, tirx = T.s_tir.transform, T.tirx.transform

    def passes() -> tuple[Any, Any, Any]:
        kernels = T.tvm.transform.Sequential(
            [
                honest_shapes(),
                s_tir.CanonicalizeLoop(),
                s_tir.LowerInitBlock(),
                s_tir.PlanAndUpdateBufferAllocationLocation(),
                s_tir.ConvertBlocksToOpaque(),
                compact_buffers(),
                s_tir.LowerMatchBuffer(),
                s_tir.StmtSimplify(),
                s_tir.LowerOpaqueBlock(),
                tirx.FlattenBuffer(),
                plain_indices(),
                tirx.BF16ComputeLegalize(),
                partition_loops(),
                run_narrow_tiles(),
                conditions_outside(),
                start_whole_tiles(),
                run_dots(),
                run_in_lanes(),
                run_by_columns(),
                run_in_vectors(),
                run_turned(),
                *([one_plus_erf(), vector_math()] if vectors else []),
                tirx.VectorizeLoop(True),
                mask_vectors(),
                bfloat16_constants(),
                tirx.StorageRewrite(),
                s_tir.RewriteUnsafeSelect(),
                variables_in_memory(),
                safe_divisors(),
                s_tir.HoistIfThenElse(),
                tirx.UnrollLoop(),
                s_tir.RenormalizeSplitPattern(),
                tirx.StmtSimplify(),
                tirx.RemoveNoOp(),
                axes_apart(),
                safe_divisors(),
                tirx.CommonSubexprElim(),
                opaque_floats(),
                tirx.FP8ComputeLegalize(),
                tirx.VerifyMemory(),
                tirx.AnnotateEntryFunc(),
                make_packed_api(),
                tirx.FP8StorageLegalize(),
                tirx.BF16StorageLegalize(),
            ]
        )
        host = T.tvm.transform.Sequential(
            [
                local_on_stack(),
                tirx.LowerTVMBuiltin(),
                guard_masked_logic(),
                scale_in_vectors(),
                tirx.LowerIntrin(),
            ]
        )
        return kernels, lambda: host, lambda: T.tvm.transform.Sequential([])

    T.register_tir_pipeline(name, passes)
    return name


_VECTOR_OPS = ("fmod", "isnan", "ldexp", "nearbyint")
"""What LLVM or `variables_in_memory` has for vectors, while TVM 0.27 takes a loop with it apart."""


def _allow_vectors() -> None:
    for name in _VECTOR_OPS:
        op = T.ir.Op.get(f"tirx.{name}")
        if not op.get_attr("TVectorizable"):
            op.set_attr("TVectorizable", True)


def lower_kernel(function: Any, target: Any) -> Any:
    """The module of one kernel, lowered as far as TVM does before it calls LLVM."""
    mod = T.tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    mod = T.tirx.transform.BindTarget(target.with_host(target))(mod)
    kernels, host, _ = T.tirx.get_tir_pipeline(tir_pipeline())
    return host()(kernels(mod))
