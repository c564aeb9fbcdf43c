"""Kernels trust arguments whose sizes are known, and no others."""

from __future__ import annotations

import torch
from torch.export import Dim

from fxpasses.codegen.compile import lower_optimized, to_canonical
from fxpasses.codegen.pipeline import kernel_passes, lower_kernel
from fxpasses.codegen.schedules.expressions import returning_none
from fxpasses.codegen.target import host_target
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of, program_of


def assertions(*args, dynamic_shapes=None):
    """How many each kernel of ``a + 2 * b`` has."""
    program = to_canonical(program_of(lambda a, b: a + 2 * b, *args, dynamic_shapes=dynamic_shapes))
    target = host_target()
    with target:
        mod = T.tvm.transform.Sequential(kernel_passes(target))(lower_optimized(program, target).module)
    counts = []
    for function in mod.functions.values():
        if isinstance(function, T.tirx.PrimFunc):
            found = []
            T.tvm_ffi.structural_walk(
                lower_kernel(function, target), (T.tirx.AssertStmt, returning_none(found.append))
            )
            counts.append(len(found))
    return counts


def test_known_sizes_need_no_assertions():
    assert assertions(torch.ones(3, 4), torch.ones(3, 4)) == [0]


def test_sizes_that_vary_keep_them():
    (count,) = assertions(torch.ones(3, 4), torch.ones(3, 4), dynamic_shapes=({0: Dim("n")}, {0: Dim("n")}))
    assert count > 0


def test_sizes_that_are_arguments_themselves():
    compiled = compiled_of(
        lambda x: torch.arange(x.shape[0] // 2), torch.ones(6), dynamic_shapes=({0: Dim("n", min=2)},)
    )
    assert torch.equal(compiled(torch.ones(9)), torch.arange(4))


def test_parts_of_tensors_are_read_where_they_are():
    whole, other = torch.arange(40.0), torch.arange(24.0).view(2, 3, 4)
    compiled = compiled_of(lambda a, b: a + b, torch.ones(3, 4), torch.ones(3, 4))
    for a in (whole[16:28].view(3, 4), whole[1:13].view(3, 4), whole[:12].view(4, 3).T):
        for b in other:
            assert torch.equal(compiled(a, b), a + b)
