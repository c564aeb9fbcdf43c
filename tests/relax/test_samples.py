"""Rows of the table on the sample inputs of PyTorch's own operator tests (about 4,000 calls).

Each sample of `op_db` is run while the operators that it reaches are recorded;
the recorded calls are then compiled and compared with eager.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxpasses import lower
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax.table import lowerings
from fxpasses.schema import bind
from fxpasses.testing.single import Call, single_op_program
from tests.relax.helpers import DTYPES, compiled, difference, eager
from tests.sweep.samples import made

aten = torch.ops.aten

# The samples of no operator reach the recurrent layers.
FAMILIES = (
    *("matmul", "views", "indexing", "creation", "normalization"),
    *("convolution", "pooling", "attention", "resample"),
)
# Composites: a dispatch mode sees only what they are made of.
COMPOSITES = {"nn.functional.scaled_dot_product_attention": aten.scaled_dot_product_attention.default}
# Data movement: equal to the bit. Sums in another order elsewhere; a half type is rounded once.
EXACT = ("views", "creation")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
HALF = (torch.float16, torch.bfloat16)

SAMPLED = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SAMPLES_OF_EACH = 40
CALLS_OF_EACH = 25
IN_ONE_MODULE = 30


class Recorder(TorchDispatchMode):
    """Keeps a copy of each distinct call of an operator that has a row."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, Call] = {}
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = aten.reshape.default if func in (aten.view.default, aten._unsafe_view.default) else func
        if op in lowerings() and _family(op) in FAMILIES:
            self.keep(op, args, kwargs)
        return func(*args, **kwargs)

    def keep(self, op: Any, args: Any, kwargs: Any) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(t.dtype not in DTYPES or t.numel() > 20_000 for t in tensors):
            return
        sort = (op, tensors[0].dtype if tensors else None)
        if self.counts[sort] >= CALLS_OF_EACH:
            return
        key = (op, str(pytree.tree_map(_type, (args, kwargs))))
        if key not in self.calls:
            self.counts[sort] += 1
            self.calls[key] = (op, *pytree.tree_map(_copy, (args, kwargs)))


def _type(leaf: Any) -> Any:
    return (leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, torch.Tensor) else leaf


def _copy(leaf: Any) -> Any:
    return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, torch.Tensor) else leaf


@functools.cache
def recorded() -> list[Call]:
    from torch.testing._internal.common_methods_invocations import op_db

    recorder = Recorder()
    for info in op_db:
        for dtype in SAMPLED:
            if dtype not in info.supported_dtypes("cpu"):
                continue
            torch.manual_seed(0)
            samples = info.sample_inputs("cpu", dtype, requires_grad=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for sample in itertools.islice(made(samples, []), SAMPLES_OF_EACH):
                    if info.name in COMPOSITES:
                        args = (sample.input, *sample.args)
                        recorder.keep(
                            COMPOSITES[info.name], *bind(COMPOSITES[info.name], args, sample.kwargs)
                        )
                        continue
                    try:
                        with recorder, torch.no_grad():
                            info.op(sample.input, *sample.args, **sample.kwargs)
                    except Exception:  # whatever eager says to a sample under a dispatch mode
                        continue
    return list(recorder.calls.values())


def _family(op: Any) -> str:
    return lowerings()[op].__module__.rsplit(".", 1)[1]


def _expected(call: Call, exact: bool) -> list[torch.Tensor]:
    """What eager gives; where a half type is computed with, what it gives in float32, rounded once."""
    op, args, kwargs = call
    results = eager(call)
    if exact or not any(result.dtype in HALF for result in results):
        return results
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype in HALF else leaf,
        (args, kwargs),
    )
    wide = eager((op, args, kwargs))
    return [w.to(r.dtype) for w, r in zip(wide, results, strict=True)]


def _refused(call: Call) -> bool:
    try:
        lower(single_op_program(call[0], *call[1], **call[2])[0])
    except UnsupportedOperatorError:
        return True
    return False


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_torch(family: str) -> None:
    """The figure that `-rP` prints says how many calls were compared."""
    exact = family in EXACT
    calls = [call for call in recorded() if _family(call[0]) == family and not _refused(call)]
    assert calls
    problems = []
    for start in range(0, len(calls), IN_ONE_MODULE):
        group = calls[start : start + IN_ONE_MODULE]
        for call, got in zip(group, compiled(group), strict=True):
            problem = difference(got, _expected(call, exact), None if exact else TOLERANCE)
            if problem is not None:
                problems.append(f"{call[0]} {pytree.tree_map(_type, call[1:])}: {problem}")
    print(f"{family}: {len(calls)} calls, {len(problems)} differ")
    assert not problems, "\n".join(problems)
