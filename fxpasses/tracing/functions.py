"""Functions of torch that no graph can hold as they are, and what is traced in their place.

Some look at values, to raise an error for them or to make a size of them, inside
of Python code or of an operator that a graph would hold whole. What they demand
of values becomes an assertion that the graph keeps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn import _reduction as _Reduction
from torch.overrides import TorchFunctionMode

from fxpasses.errors import CaptureError
from fxpasses.tracing.composites import tensor_split

__all__ = ["functions_in_graphs"]

aten = torch.ops.aten


class functions_in_graphs(TorchFunctionMode):
    """Where torch traces Python code, calls of the functions of this file are others that a graph can hold."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FUNCTIONS.get(func, func)(*args, **(kwargs or {}))


def _gaussian_nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """As torch's, which raises an error for the values of *var*; here an assertion stands in its place."""
    if not isinstance(var, torch.Tensor):
        return F.gaussian_nll_loss(input, target, var, full, eps, reduction)
    torch._assert_async(~(var < 0).any(), "var has negative entry/entries")
    if var.shape == input.shape[:-1] != input.shape:
        var = var.unsqueeze(-1)
    differing = [b for a, b in zip(input.shape, var.shape, strict=False) if a != b]
    if var.dim() != input.dim() or (differing and sum(differing) != 1):
        raise ValueError("var is of incorrect size")
    var = var.clamp(min=eps)
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    reductions = {"none": lambda: loss, "mean": loss.mean, "sum": loss.sum}
    if reduction not in reductions:
        raise ValueError(f"{reduction} is not valid")
    return reductions[reduction]()


def _multi_margin_loss(input: torch.Tensor, target: torch.Tensor, *options: Any, **more: Any) -> torch.Tensor:
    """As torch's, which traces a batch of one where *target* has no dims."""
    loss = F.multi_margin_loss(input, target, *options, **more)
    return loss.reshape(()) if target.dim() == 0 and loss.dim() else loss


def _l1_loss(input: torch.Tensor, target: torch.Tensor, *options: Any, **more: Any) -> torch.Tensor:
    """As torch's, which hands all arguments to a mode but the weight: it is where the call was made."""
    frame, weight = sys._getframe(), None
    while weight is None and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is F.l1_loss.__code__:
            weight = frame.f_locals["weight"]
    if weight is None:
        return F.l1_loss(input, target, *options, **more)
    reduction = more.get("reduction", "mean")
    if any(option is not None for option in (more.get("size_average"), more.get("reduce"))):
        reduction = _Reduction.legacy_get_string(more.get("size_average"), more.get("reduce"))
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    errors = (input - target).abs() * weight
    reductions = {"none": lambda: errors, "mean": lambda: errors.sum() / weight.sum(), "sum": errors.sum}
    if reduction not in reductions:
        raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    return reductions[reduction]()


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    if num_classes != -1 or tensor.numel() == 0 or tensor.dtype != torch.int64:
        return F.one_hot(tensor, num_classes)
    torch._assert_async((tensor >= 0).all(), "Class values must be non-negative.")
    classes = tensor.max().item() + 1
    torch._check(classes >= 0)
    return (tensor.unsqueeze(-1) == torch.arange(classes)).to(torch.int64)


def _ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> torch.Tensor:
    """What `ctc_loss` is made of: a result that it drops has a size that depends on values."""
    steps = log_probs if log_probs.dim() == 3 else log_probs.unsqueeze(1)
    lengths = input_lengths, target_lengths
    if isinstance(input_lengths, torch.Tensor) != isinstance(target_lengths, torch.Tensor):
        lengths = tuple(map(torch.as_tensor, lengths))
    loss = aten._ctc_loss(steps, targets, *lengths, blank, zero_infinity)[0]
    if zero_infinity:
        loss = torch.where(loss == math.inf, 0.0, loss)
    if reduction == "mean":
        return (loss / torch.as_tensor(target_lengths, dtype=loss.dtype).clamp(min=1)).mean()
    if reduction == "sum":
        return loss.sum()
    return loss if log_probs.dim() == 3 else loss.squeeze(0)


def _split_of(original: Callable[..., Any]) -> Callable[..., Any]:
    def split(*args: Any, **kwargs: Any) -> Any:
        places = args[1] if len(args) > 1 else next(iter(kwargs.values()), None)
        if not isinstance(places, torch.Tensor):
            return original(*args, **kwargs)
        return tensor_split(args[0], places, *args[2:], **{k: v for k, v in kwargs.items() if k == "dim"})

    return split


def _random(self: torch.Tensor, *bounds: int, **options: Any) -> torch.Tensor:
    """What `randint` draws: the operator's argument ``from`` cannot be written in the code of a graph."""
    if not bounds or options:
        return self.random_(*bounds, **options)
    low, high = bounds if len(bounds) == 2 else (0, *bounds)
    return self.copy_(torch.randint(low, high, self.shape, dtype=self.dtype))


def _exchange(self: torch.Tensor, value: torch.Tensor) -> None:
    raise CaptureError(
        "the code gives a tensor other data (x.data = value), which a graph cannot hold; "
        "write the value into it: x.copy_(value)"
    )


def _backward(*args: Any, **kwargs: Any) -> None:
    raise CaptureError(
        "the code calls backward(), which adds to the gradients of all parameters, and a graph cannot hold that; "
        "take the gradients that it needs: torch.autograd.grad(loss, inputs)"
    )


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.gaussian_nll_loss: _gaussian_nll_loss,
    F.multi_margin_loss: _multi_margin_loss,
    F.l1_loss: _l1_loss,
    F.one_hot: _one_hot,
    F.ctc_loss: _ctc_loss,
    torch.Tensor.backward: _backward,
    torch.autograd.backward: _backward,
    torch.Tensor.random_: _random,
    torch.Tensor.data.__get__: torch.Tensor.detach,  # on fake tensors torch gives one without its memory
    torch.Tensor.data.__set__: _exchange,
    torch.tensor_split: _split_of(torch.tensor_split),
    torch.Tensor.tensor_split: _split_of(torch.Tensor.tensor_split),
}
