"""What a program needs has its value before it is used, sizes that depend on values included."""

from __future__ import annotations

import torch
from torch import nn

import fxpasses as fxp


class Coupling(nn.Module):
    """Half of the columns scale and move the others, as in a normalising flow."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masks", torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.bool))
        self.net = nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for mask in self.masks:
            kept, moved = x[:, mask], x[:, ~mask]
            scale, shift = self.net(kept).chunk(2, 1)
            x = torch.empty_like(x)
            x[:, mask] = kept
            x[:, ~mask] = moved * scale.exp() + shift
        return x


def test_a_check_of_a_size_comes_behind_the_size():
    model, batch = Coupling(), torch.export.Dim("batch")
    static = fxp.compile(model, (torch.randn(5, 4),))
    dynamic = fxp.compile(model, (torch.randn(5, 4),), dynamic_shapes=({0: batch},))
    for rows, compiled in ((5, static), (5, dynamic), (1, dynamic), (9, dynamic)):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), model(x))


def test_a_size_that_a_fused_kernel_needs():
    def count(x, flags):
        scaled = x.relu()
        found = flags.nonzero()
        return scaled * (torch.arange(found.shape[0]).float().sum() + 1), found

    args = torch.randn(5), torch.tensor([1, 0, 2, 0, 3])
    for got, want in zip(fxp.compile(count, args)(*args), count(*args), strict=True):
        torch.testing.assert_close(got, want)
