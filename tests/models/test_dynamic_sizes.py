"""One compile serves every size: batches of all kinds of models, lengths of those that read sequences."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.testing import assert_equivalent
from tests.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.sweep

BATCH, LENGTH, DECODED = (
    Dim("batch", min=1, max=64),
    Dim("length", min=2, max=48),
    Dim("decoded", min=2, max=48),
)

BATCHES = (
    "clip", "detr", "levit", "mamba", "poolformer", "quantized_static", "segformer", "swin_v2", "wav2vec2",
    "whisper_encoder",
)  # fmt: skip
SEQUENCES = (
    "albert", "bart", "bloom", "deberta_v2", "falcon", "gpt_neox", "gru_tagger", "mistral", "mixtral",
    "modernbert", "mpnet", "qwen2", "roberta", "t5",
)  # fmt: skip


def named(case) -> dict[str, torch.Tensor]:
    """The tensors of the call, by the names of their parameters."""
    return {
        **dict(zip(inspect.signature(case.model.forward).parameters, case.args, strict=False)),
        **case.kwargs,
    }


def resized(name: str, tensor: torch.Tensor, shape: list[int]) -> torch.Tensor:
    if tensor.is_floating_point():
        return torch.randn(shape)
    if "mask" not in name:
        return torch.randint(3, 99, shape)
    mask = torch.ones(shape, dtype=tensor.dtype)
    mask[-1, max(1, shape[1] // 2) :] = 0
    return mask


def check(name: str, shapes: Any, calls: list[dict[int, int]]) -> None:
    """Capture with ``shapes(argument)`` and call with the dims of *calls* exchanged."""
    case = ARCHITECTURES[name]()
    tensors = named(case)
    dynamic = {argument: shapes(argument) for argument in tensors}
    compiled = fxp.compile(case.model, case.args, case.kwargs, dynamic_shapes=dynamic, strict=True)
    for sizes in calls:
        made = {}
        for argument, tensor in tensors.items():
            varied = {dim: sizes[dim] for dim in dynamic[argument]}
            shape = [varied.get(dim, size) for dim, size in enumerate(tensor.shape)]
            made[argument] = resized(argument, tensor, shape)
        args = tuple(made.pop(argument) for argument in list(made)[: len(case.args)])
        assert_equivalent(case.model, compiled, args, kwargs=made)


@pytest.mark.parametrize("name", BATCHES)
def test_every_batch(name):
    check(name, lambda argument: {0: BATCH}, [{0: 1}, {0: 5}, {0: 8}])


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_batch_and_length(name):
    def shapes(argument: str) -> dict[int, Any]:
        return {0: BATCH, 1: DECODED if argument.startswith("decoder") else LENGTH}

    check(name, shapes, [{0: 1, 1: 5}, {0: 3, 1: 20}, {0: 7, 1: 2}, {0: 2, 1: 33}])
