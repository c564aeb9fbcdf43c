"""The order of TVM's passes from emitted Relax to code for a CPU."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules import schedule
from fxpasses.relax import tvm_api as T

__all__ = ["cpu_pipeline", "kernel_passes"]


def kernel_passes(target: Any) -> list[Any]:
    """From operators to scheduled kernels: legalise, fuse, schedule."""
    transform = T.relax.transform
    return [
        T.relax.backend.DispatchSampling(),
        T.relax.backend.DispatchSortScan(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.RewriteDataflowReshape(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(["main"]),
        schedule(target),
    ]


def cpu_pipeline(target: Any) -> Any:
    """The module pass that `fxpasses.codegen.build` gives to TVM."""
    transform = T.relax.transform
    passes = [
        *kernel_passes(target),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
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
