"""Losses whose kernels in PyTorch look at values where what torch traces for them does not."""

from __future__ import annotations

from typing import Any

import torch
from torch._decomp.decompositions import binary_cross_entropy as _traced_cross_entropy

__all__ = ["binary_cross_entropy", "multi_margin_loss"]


def binary_cross_entropy(
    self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: int = 1
) -> torch.Tensor:
    """As torch's, of probabilities alone."""
    for name, values in (("input", self), ("target", target)):
        is_fit = ((values >= 0) & (values <= 1)).all()
        torch._assert_async(is_fit, f"all elements of {name} should be between 0 and 1")
    return _traced_cross_entropy(self, target, weight, reduction)  # type: ignore[no-any-return]


def multi_margin_loss(
    self: torch.Tensor,
    target: torch.Tensor,
    p: Any = 1,
    margin: Any = 1,
    weight: torch.Tensor | None = None,
    reduction: int = 1,
) -> torch.Tensor:
    """As torch's, which adds up the margins above zero: NaN is not."""
    scores, targets = torch.atleast_2d(self), torch.atleast_1d(target).unsqueeze(1)
    margins = margin - scores.gather(1, targets) + scores
    counted = (margins > 0) & (torch.arange(scores.shape[1]) != targets)
    terms = margins if p == 1 else margins * margins
    if weight is not None:
        terms = terms * weight.reshape(-1)[targets]
    losses = torch.where(counted, terms, 0).sum(1) / scores.shape[1]
    if reduction == 0:
        return losses
    return losses.mean() if reduction == 1 else losses.sum()
