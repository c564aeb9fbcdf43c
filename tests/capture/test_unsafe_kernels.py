"""Sizes of 0 and 1 are tried for real; where PyTorch's own kernels would end the process, they are not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fxpasses.capture.unsafe_kernels import _UNSAFE, UnsafeCall, Watched

aten = torch.ops.aten

MODELS = '''
import torch
from torch import nn
from torch.export import Dim

import fxpasses as fxp


BAGS = torch.randint(0, 10, (12,)), torch.tensor([0, 4, 8, 12])
CASES = {
    "bag_max": (nn.EmbeddingBag(10, 4, mode="max"), BAGS),
    "bag_double": (nn.EmbeddingBag(10, 4, mode="sum").double(), BAGS),
    "bag_padded": (nn.EmbeddingBag(10, 4, mode="sum", padding_idx=0), BAGS),
}


def lowest(name):
    """Where the range of the number of bags starts."""
    model, args = CASES[name]
    program = fxp.capture(model.eval(), args, dynamic_shapes=({0: Dim.AUTO}, {0: Dim.AUTO}))
    with torch.no_grad():
        torch.testing.assert_close(program(*args), model(*args))
    (size,) = program.inputs[-1].meta["val"].shape
    return int(program.ranges[size.node.expr].lower)
'''


def test_sizes_that_pytorch_cannot_run_are_not_tried() -> None:
    script = f"{MODELS}\nprint(*map(lowest, CASES))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, ["1"] * 3), run.stderr


def test_an_lstm_is_tried_without_elements() -> None:
    """PyTorch's kernel in Python of a layer would end the process; the layer itself is safe."""
    script = """
import torch
from torch.export import Dim
import fxpasses as fxp

for batch_first in (False, True):
    model, auto = torch.nn.LSTM(3, 4, batch_first=batch_first).eval(), {0: Dim.AUTO, 1: Dim.AUTO}
    program = fxp.capture(model, (torch.randn(4, 6, 3),), dynamic_shapes=(auto,))
    sizes = program.inputs[-1].meta["val"].shape
    for size in sizes[:2] if batch_first else sizes[1::-1]:  # of the batch, and of the time
        print(int(program.ranges[size.node.expr].lower))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, ["0", "1"] * 2), run.stderr


def x(*sizes: int) -> torch.Tensor:
    return torch.ones(sizes)


def whole(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)


def norm(channels: int, *rest: Any) -> tuple[Any, ...]:
    return (x(2, 3, 5), x(3), x(3), x(channels), x(channels), *rest)


def pooled(index: int) -> tuple[Any, ...]:
    indices = torch.full((1, 2, 2, 2), index)
    return x(1, 2, 2, 2), x(1, 2, 4, 4), [2, 2], [2, 2], [0, 0], [1, 1], False, indices


def segments(*lengths: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x(4), "max"), {"lengths": whole(*lengths), "unsafe": True}


def scored(target: int, *sizes: int) -> tuple[Any, ...]:
    return x(2, *sizes), x(2, 3, *sizes), torch.full((2, *sizes), target), None, 0, -100, torch.tensor(2.0)


CALLS: list[tuple[Any, Any, Any]] = [
    (aten._scaled_dot_product_flash_attention_for_cpu, (x(1, 1, 0, 8),) * 3, (x(1, 1, 2, 8),) * 3),
    *(
        (op, (x(9, 4), whole(1, 2), whole(), False, 2), (x(9, 4), whole(1, 2), whole(0), False, 2))
        for op in (aten._embedding_bag, aten._embedding_bag_forward_only)
    ),
    (
        aten._embedding_bag,
        (x(9, 4), whole(1, 2), whole(0), False, 2, False, None, True),
        (x(9, 4), whole(1, 2), whole(0, 2), False, 2, False, None, True),
    ),
    (aten._embedding_bag, (x(9, 4), whole(1), whole(), False, 2), (x(9, 4), whole(), whole(), False, 2)),
    (aten.lu_unpack, (x(3, 5), x(0).int()), (x(3, 5), x(3).int())),
    *(
        (op, norm(0, True, 0.1, 1e-5), norm(3, True, 0.1, 1e-5))
        for op in (
            aten.native_batch_norm,
            aten._native_batch_norm_legit,
            aten._native_batch_norm_legit_functional,
        )
    ),
    *(
        (op, norm(0, 0.1, 1e-5), norm(3, 0.1, 1e-5))
        for op in (
            aten._native_batch_norm_legit_no_training,
            aten._batch_norm_with_update,
            aten._batch_norm_no_update,
        )
    ),
    (aten.max_pool2d_with_indices_backward, pooled(16), pooled(15)),
    (aten.segment_reduce, segments(3, 2), segments(3, 1)),
    (
        aten.segment_reduce,
        ((x(2), "max"), {"offsets": whole(0, 2, 3), "unsafe": True}),
        ((x(3), "max"), {"offsets": whole(0, 2, 3), "unsafe": True}),
    ),
    *((aten.nll_loss_backward, scored(wrong), scored(right)) for wrong, right in ((3, 2), (-1, -100))),
    (aten.nll_loss2d_backward, scored(3, 4, 5), scored(0, 4, 5)),
    (aten.linalg_lstsq, (x(3, 4, 3), x(3, 4, 0)), (x(3, 4, 3), x(3, 4, 1))),
    (aten._weight_norm_interface, (x(0, 3), x(0, 1), 0), (x(3, 0), x(3, 1), 0)),
    (aten._weight_norm_interface, (x(2, 3), x(1, 1), 1), (x(2, 3), x(1, 3), 1)),
]


def call(op: Any, arguments: Any) -> Any:
    args, kwargs = arguments if isinstance(arguments[-1], dict) else (arguments, {})
    with torch.no_grad():
        return op(*args, **kwargs)


def test_every_row_has_a_call() -> None:
    assert {op for op, _, _ in CALLS} == set(_UNSAFE)


@pytest.mark.parametrize(("op", "unsafe", "safe"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_only_an_unsafe_call_raises(op: Any, unsafe: Any, safe: Any) -> None:
    expected = call(op, safe)
    with Watched():
        torch.testing.assert_close(call(op, safe), expected, equal_nan=True)
        with pytest.raises(UnsafeCall, match=op.__name__):
            call(op, unsafe)


def bags(index: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(index, x(9, 4), offsets, mode="max")


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_a_composite_is_looked_into(context: Any) -> None:
    with context(), Watched(), pytest.raises(UnsafeCall):
        bags(whole(1, 2), whole())


def test_a_body_is_looked_into() -> None:
    def nothing(index: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return x(offsets.shape[0], 4)

    with torch.no_grad(), Watched():
        torch.ops.higher_order.cond(torch.tensor(False), bags, nothing, (whole(1, 2), whole()))
        with pytest.raises(UnsafeCall):
            torch.ops.higher_order.cond(torch.tensor(True), bags, nothing, (whole(1, 2), whole()))
