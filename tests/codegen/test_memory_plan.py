"""`plan_memory`: tensors that are needed at once lie apart, and what it plans computes what it did."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.export import Dim

import fxpasses as fxp
from fxpasses.codegen.compile import lower_optimized
from fxpasses.codegen.memory_plan import Lifetime, places, plan_memory
from fxpasses.codegen.pipeline import fusion_passes
from fxpasses.codegen.target import resolve_target
from fxpasses.relax import tvm_api as T

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(64 * size, first, first + length),
        st.integers(1, 20),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    max_size=30,
)


@given(lifetimes)
def test_what_is_needed_at_once_lies_apart(tensors):
    at, end = places(tensors)
    for i, one in enumerate(tensors):
        assert 0 <= at[i] <= end - one.bytes
        for j, other in enumerate(tensors[:i]):
            if one.first <= other.last and other.first <= one.last:
                assert at[i] + one.bytes <= at[j] or at[j] + other.bytes <= at[i]


def test_a_tensor_lies_across_the_memory_of_several():
    at, end = places([Lifetime(64, 0, 1), Lifetime(64, 0, 1), Lifetime(128, 2, 3)])
    assert end == 128
    assert sorted(at) == [0, 0, 64]


def planned(function, *args, **options):
    """The offsets in one piece of memory, in order, and its size."""
    transform = T.relax.transform
    before = [transform.ToNonDataflow(), transform.RemovePurityChecking(), transform.CallTIRRewrite()]
    program = fxp.canonicalize(fxp.capture(function, args, **options))
    lowered = lower_optimized(program, resolve_target("llvm"))
    mod = T.tvm.transform.Sequential([*fusion_passes(), *before, plan_memory()])(lowered.module)
    offsets, sizes = [], []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            name = getattr(getattr(binding.value, "op", None), "name", "")
            if name == "relax.memory.alloc_tensor":
                offsets.append(int(binding.value.args[1].value))
            elif name == "relax.memory.alloc_storage":
                sizes.extend(int(size) for size in binding.value.args[0].values)
    assert len(sizes) <= 1
    return offsets, sum(sizes)


def chain(x):
    return x.softmax(-1).softmax(0).softmax(-1).softmax(0).softmax(-1)


def test_a_chain_takes_two_places():
    offsets, size = planned(chain, torch.randn(16, 64))
    assert (len(offsets), sorted(set(offsets)), size) == (4, [0, 4096], 8192)


def test_what_is_returned_or_leaves_the_kernels_has_memory_of_its_own():
    x = torch.randn(16, 64)
    assert planned(lambda x: (x.softmax(-1), x.softmax(0)), x) == ([], 0)
    assert planned(lambda x: x.softmax(-1).reshape(-1), x) == ([], 0)
    assert planned(lambda x: torch.histc(x.softmax(-1)).softmax(0).softmax(0), x) == ([], 0)


def test_dynamic_sizes_are_left_to_tvm():
    rows = {0: Dim("rows", min=2)}
    assert planned(chain, torch.randn(16, 64), dynamic_shapes=(rows,)) == ([], 0)


def views(x):
    half = x.softmax(-1).reshape(4, 4, 64)
    return half.permute(1, 0, 2).reshape(16, 64).softmax(-1) + half.reshape(16, 64).softmax(0)


def scans(x):
    """Kernels that are written as loops count on an offset of their own."""
    both = torch.cat([x.softmax(-1), x.sin().softmax(-1)], 1).softmax(-1)
    return both.cumsum(1).softmax(0).sort(1).values.cummax(1).values.softmax(0)


def island(x):
    return (torch.histc(x.softmax(-1).softmax(0), 64) + x.softmax(-1).softmax(0)).softmax(-1).softmax(0)


def branch(x):
    y = x.softmax(-1).softmax(0)
    z = torch.cond(y.sum() > 3, lambda y: y.softmax(0).softmax(-1).cumsum(0), lambda y: y.cumsum(0), (y,))
    return z.softmax(0).softmax(-1) + y


def partly_dynamic(x):
    y = x.softmax(-1).softmax(0)
    rows = x.gt(0).nonzero()
    return (y.softmax(-1)[rows[:, 0]] + y.softmax(0).softmax(-1).sum(0)).softmax(-1), y.cumsum(0).softmax(0)


@pytest.mark.parametrize(
    "function", [chain, views, scans, island, branch, partly_dynamic], ids=lambda f: f.__name__
)
def test_programs(function):
    torch.manual_seed(0)
    x, other = torch.randn(16, 64), torch.randn(16, 64)
    compiled = fxp.compile(function, (x,))
    want, first = function(x), compiled(x)
    torch.testing.assert_close(first, want)
    torch.testing.assert_close(compiled(other), function(other))
    torch.testing.assert_close(first, want)  # not in memory that another call uses


def test_recurrent_steps():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(16, 32, 2, batch_first=True).eval()
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        torch.testing.assert_close(fxp.compile(lstm, (x,))(x), lstm(x))
