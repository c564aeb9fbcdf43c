"""Kinds of kernels beyond those of `shapes`: other axes, types, indices, layouts, and less common layers.

Each table has a function for each name; `KINDS` runs them over sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.benchmarks.products import Case

Table = dict[str, Callable[..., Any]]

SIZES = ((1024, 1009), (1536, 128), (128, 768), (8, 197, 384), (1, 12, 128, 64))
IMAGES = ((8, 64, 56, 56), (1, 17, 31, 29))

COLUMNS: Table = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(0),
    "amax": lambda x: x.amax(0),
    "var": lambda x: x.var(0),
    "argmax": lambda x: x.argmax(0),
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(0),
}

ROWS: Table = {
    "any": lambda x: (x > 3).any(-1),
    "all of all": lambda x: (x > -9).all(),
    "prod": lambda x: x.prod(-1),
    "norm": lambda x: x.norm(dim=-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "dot": lambda x: (x * (x + 1)).sum(-1),
    "mse": lambda x: F.mse_loss(x, x + 1),
    "max with index": lambda x: x.max(-1),
    "int64 sum": lambda x: x.long().sum(-1),
    "int64 max": lambda x: x.long().amax(-1),
}

DIMS = ((0, 2, 3), (2, 3), (1,), (1, 2), (0, 1), (1, 2, 3))

LAYOUTS: Table = {
    "transpose": lambda x: x.transpose(-1, -2).contiguous(),
    "reverse dims": lambda x: x.permute(*reversed(range(x.dim()))).contiguous(),
    "repeat": lambda x: x.repeat(*[2] * x.dim()),
    "roll": lambda x: x.roll(3, -1),
    "tril": lambda x: x.tril(),
    "concatenate three": lambda x: torch.cat([x[..., :7], x, x[..., 3:]], -1),
    "pad all sides": lambda x: F.pad(x, (1, 2, 3, 4)),
}

CONVERSIONS: Table = {
    "to half": lambda x: x.half(),
    "to bfloat16": lambda x: x.bfloat16(),
    "to int32": lambda x: x.int(),
    "int64 add": lambda x: x.long() + 3,
    "bool and": lambda x: (x > 3) & (x < 5),
    "clamp": lambda x: x.clamp(-1, 1),
    "round": lambda x: x.round(),
    "log": lambda x: (x * x).log(),
    "sin": torch.sin,
    "pow": lambda x: x.abs() ** 1.7,
    "remainder": lambda x: x % 0.3,
    "floor division": lambda x: x // 0.3,
    "softplus": F.softplus,
}

ORDERS: Table = {
    "topk": lambda x: x.topk(5)[0],
    "sort": lambda x: x.sort()[0],
    "median": lambda x: x.median(-1)[0],
}

# layer, shape of the image or the sequence
LAYERS: tuple[tuple[Callable[[], nn.Module], tuple[int, ...]], ...] = (
    (lambda: nn.Conv1d(80, 384, 3, padding=1), (1, 80, 1500)),
    (lambda: nn.Conv1d(256, 256, 31, padding=15, groups=256), (1, 256, 400)),
    (lambda: nn.Conv2d(128, 128, 3, padding=1, groups=32), (1, 128, 56, 56)),
    (lambda: nn.Conv2d(64, 64, 3, padding=2, dilation=2), (1, 64, 56, 56)),
    (lambda: nn.Conv2d(64, 3, 3, padding=1), (1, 64, 112, 112)),
    (lambda: nn.Conv2d(3, 7, 5, 3, 2), (2, 3, 101, 101)),
    (lambda: nn.Conv2d(1, 32, 3, padding=1), (1, 1, 80, 300)),
    (lambda: nn.Conv2d(128, 128, (1, 7), padding=(0, 3)), (1, 128, 17, 17)),
    (lambda: nn.Conv3d(16, 32, 3, padding=1), (1, 16, 8, 28, 28)),
    (lambda: nn.ConvTranspose2d(64, 32, 4, 2, 1), (1, 64, 28, 28)),
    (lambda: nn.ConvTranspose1d(64, 32, 8, 4, 2), (1, 64, 250)),
    (lambda: nn.GroupNorm(32, 320), (2, 320, 32, 32)),
    (lambda: nn.InstanceNorm2d(64), (1, 64, 56, 56)),
    (lambda: nn.MaxPool2d(3, 1, 1), (1, 64, 56, 56)),
    (lambda: nn.AvgPool2d(3, 1, 1), (1, 64, 56, 56)),
    (lambda: nn.AdaptiveAvgPool2d(5), (1, 64, 33, 33)),
    (lambda: nn.PixelShuffle(2), (1, 64, 56, 56)),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 64, 28, 28)),
)


def _over(table: Table, kind: str, sizes: Iterable[Sequence[int]]) -> Callable[[], Iterator[Case]]:
    """The cases of a table: each function of a tensor of each size."""

    def cases() -> Iterator[Case]:
        for (name, function), size in itertools.product(table.items(), sizes):
            yield f"{kind} {name} {' x '.join(map(str, size))}", function, (torch.randn(size),)

    return cases


def over_dims() -> Iterator[Case]:
    """Reductions of images over several dims."""
    for size, dims, name in itertools.product(IMAGES, DIMS, ("sum", "amax")):
        yield (
            f"{name} over {dims} {' x '.join(map(str, size))}",
            lambda x, dims=dims, name=name: getattr(x, name)(dims),
            (torch.randn(size),),
        )


def layers() -> Iterator[Case]:
    """Layers of convolutional networks that are less common."""
    for make, size in LAYERS:
        layer = make().eval()
        yield f"{layer} {' x '.join(map(str, size))}", layer, (torch.randn(size),)


def gathers() -> Iterator[Case]:
    """What reads or writes at places that are data."""
    for size in SIZES:
        x, text = torch.randn(size), " x ".join(map(str, size))
        yield (
            f"index_select {text}",
            lambda x, i: x.index_select(-1, i),
            (x, torch.randint(0, size[-1], (64,))),
        )
        yield f"rows {text}", lambda x, i: x[i], (x, torch.randint(0, size[0], (64,)))
        yield f"gather {text}", lambda x, i: x.gather(-1, i), (x, torch.randint(0, size[-1], size))
    x, row, column = torch.randn(128, 768), torch.randint(0, 128, (64,)), torch.randint(0, 768, (128, 64))
    yield "index_add", lambda x, i, s: x.index_add(0, i, s), (x, row, torch.randn(64, 768))
    yield "scatter_add", lambda x, i, s: x.scatter_add(1, i, s), (x, column, torch.randn(128, 64))


def products() -> Iterator[Case]:
    """Products with a vector, a single row, or an operand that is turned."""
    sizes = (1, 768, 768), (4096, 4096, 1), (1, 1_000_003, 1), (3, 1000, 1000), (64, 4096, 64)
    thin = (3, 1_000_003, 3), (5000, 1, 3), (100_003, 3, 5), (2, 1000, 17), (2, 2, 100_003), (1000, 64, 63)
    for m, k, n in (*sizes, *thin):
        yield f"matmul {m} x {k} x {n}", torch.matmul, (torch.randn(m, k), torch.randn(k, n))
    for m, k, n in ((1, 768, 2048), (128, 768, 256), (1000, 64, 1000)):
        yield f"x @ y.T {m} x {k} x {n}", lambda x, y: x @ y.T, (torch.randn(m, k), torch.randn(n, k))
    yield "x.T @ y 128", lambda x, y: x.T @ y, (torch.randn(768, 128), torch.randn(768, 256))
    yield "outer 1000", torch.outer, (torch.randn(1000), torch.randn(1000))
    for batch, size in ((512, 7), (512, 4)):
        yield (
            f"batched {batch} x {size}",
            torch.matmul,
            tuple(torch.randn(batch, size, size) for _ in range(2)),
        )
    for batch, m, k, n in ((1000, 2, 2, 2), (1000, 1, 2, 3), (1000, 17, 5, 17), (7, 1000, 3, 5)):
        yield (
            f"batched {batch} x {m} x {k} x {n}",
            torch.matmul,
            (torch.randn(batch, m, k), torch.randn(batch, k, n)),
        )


KINDS: dict[str, Callable[[], Iterable[Case]]] = {
    "over columns": _over(COLUMNS, "column", (*SIZES, *IMAGES, (4096, 33))),
    "over rows": _over(ROWS, "row", SIZES),
    "over dims": over_dims,
    "layouts": _over(LAYOUTS, "layout", SIZES),
    "conversions": _over(CONVERSIONS, "elements", SIZES),
    "orders": _over(ORDERS, "order", ((128, 768), (1, 50257), (1000,))),
    "gathers": gathers,
    "layers": layers,
    "more products": products,
}
