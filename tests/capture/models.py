"""Small models for the tests of capture."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SomeOps(torch.autograd.Function):
    """The custom function of the TVM discussion: a matrix product with a changed weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.mm(x, ((w + 10) * 2).t())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError


def some_ops(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return SomeOps.apply(x, w)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(8, 8, 3, groups=2)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm(self.first(x)), inplace=True))
        x = F.adaptive_avg_pool2d(F.gelu(self.second(x)), 1)
        return self.last(torch.flatten(x, 1)).softmax(-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).view(x.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(x.shape[0], -1, 16))


class TiedEmbedding(nn.Module):
    """Tied weights, an optional argument, a constant made in forward, a nested result with None."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.places = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, Any]:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        if mask is not None:
            x = x.masked_fill(mask[..., None] == 0, 0.0)
        return {"logits": self.head(x.mean(1)), "hidden": (x, None)}


class InPlace(nn.Module):
    """Views, in-place operators, and a change of the argument."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.clone()
        y[:, 0] = 1.0
        y[:, 1:].mul_(2)
        y.add_(x.sum())
        y.relu_()
        x.mul_(3)
        return y, x + 1


class Counter(nn.Module):
    """Buffers that are changed, one of them not persistent, and a plain tensor attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4), persistent=False)
        self.steps = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        self.mean.copy_(self.mean * 0.9 + x.mean(0) * 0.1)
        return x - self.mean * self.count + self.steps


class Assigned(nn.Module):
    """A buffer that is assigned rather than changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        return x * self.count


class Mixed(nn.Module):
    """A region of autocast and one without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x)
        with torch.no_grad():
            return y.float() + 1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, (hidden, _) = self.lstm(x)
        return self.head(hidden[-1]), out


@dataclasses.dataclass
class Result:
    value: torch.Tensor
    parts: dict[str, Any]
    nothing: Any = None


class Structured(nn.Module):
    """Ints, strings, None and keywords in; a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self,
        x: torch.Tensor,
        times: int = 3,
        mode: str | None = None,
        *pairs: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> Result:
        y = self.linear(x) * times
        if mode == "negate":
            y = -y
        for pair in pairs:
            y = y + pair
        if scale is not None:
            y = y * scale
        return Result(y, {"sizes": [x.shape[0] * 2], "first": (y[0], None)})


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if y.sum() > 0:
            return y
        return -y


def example(name: str) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A model in eval mode and arguments for it."""
    model, args = _EXAMPLES[name]
    made = model() if isinstance(model, type) else model
    return (made.eval() if isinstance(made, nn.Module) else made), tuple(arg.clone() for arg in args())


_EXAMPLES: dict[str, tuple[Any, Any]] = {
    "some_ops": (some_ops, lambda: (torch.randn(2, 3), torch.randn(4, 3))),
    "mlp": (MLP, lambda: (torch.randn(3, 8),)),
    "conv_net": (ConvNet, lambda: (torch.randn(2, 3, 8, 8),)),
    "attention": (Attention, lambda: (torch.randn(2, 5, 16),)),
    "tied_embedding": (
        TiedEmbedding,
        lambda: (torch.randint(0, 20, (2, 5)), torch.ones(2, 5, dtype=torch.long)),
    ),
    "in_place": (InPlace, lambda: (torch.randn(3, 4),)),
    "counter": (Counter, lambda: (torch.randn(3, 4),)),
    "assigned": (Assigned, lambda: (torch.randn(3, 4),)),
    "mixed": (Mixed, lambda: (torch.randn(3, 4),)),
    "recurrent": (Recurrent, lambda: (torch.randn(2, 5, 4),)),
}

EXAMPLES = tuple(_EXAMPLES)
