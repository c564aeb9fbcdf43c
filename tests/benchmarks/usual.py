"""Kinds of kernels that users have and that `shapes`, `wide` and `further` lack: bytes, losses, masks, odd layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.benchmarks.products import Case

Table = dict[str, Callable[..., Any]]

BYTES: Table = {
    "normalise": lambda x: (x.float() / 255 - 0.5) / 0.2,
    "where": lambda x: torch.where(x > 9, x, x * 2),
    "clamp": lambda x: x.clamp(3, 200),
    "xor": lambda x: x ^ 3,
    "floor division": lambda x: x // 7,
    "sum of rows": lambda x: x.sum(-1),
    "amax": lambda x: x.amax(-1),
    "argmax": lambda x: x.argmax(-1),
    "mean over 0": lambda x: x.float().mean(0),
    "equal to any": lambda x: (x == 3).any(0),
    "cumsum": lambda x: x.cumsum(-1),
    "flip": lambda x: x.flip(-1),
    "sort": lambda x: x.sort()[0],
}

INTEGERS: Table = {
    "argmax": lambda x: x.argmax(-1),
    "argmax over 0": lambda x: x.argmax(0),
    "any": lambda x: x.any(-1),
    "all over 0": lambda x: x.bool().all(0),
    "prod": lambda x: x.prod(-1),
    "cummax": lambda x: x.cummax(-1)[0],
    "cumsum over 0": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(-1),
    "topk": lambda x: x.topk(5)[0],
    "sort": lambda x: x.sort()[0],
    "sort over 0": lambda x: x.sort(0)[0],
    "mean": lambda x: x.float().mean(-1),
    "square": lambda x: x**2,
    "quotient": lambda x: x / 3,
    "minimum": lambda x: torch.minimum(x, x * 2),
    "tril": lambda x: x.tril(),
    "roll": lambda x: x.roll(1, -1),
    "masked_fill": lambda x: x.masked_fill(x > 3, 0),
    "isin": lambda x: torch.isin(x, torch.arange(5)),
    "count over 0": lambda x: (x == 3).sum(0),
}

LOSSES: Table = {
    "kl_div": lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean"),
    "cross entropy of logits": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid()),
    "huber": F.huber_loss,
    "smooth l1": F.smooth_l1_loss,
    "cosine over 0": lambda a, b: F.cosine_similarity(a, b, dim=0),
    "triplet": lambda a, b: F.triplet_margin_loss(a, b, a * 2),
    "norm of gradients": lambda a, b: (a.pow(2).sum() + b.pow(2).sum()).sqrt(),
    "gate": lambda a, b: F.silu(a) * b,
}

# layer, shape of the image or the sequence
LAYERS: tuple[tuple[Callable[[], nn.Module], tuple[int, ...]], ...] = (
    (lambda: nn.Conv1d(64, 128, 5, padding=2), (1, 64, 333)),
    (lambda: nn.Conv1d(1, 1, 3, padding=1), (8, 1, 1000)),
    (lambda: nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), (1, 64, 28, 28)),
    (lambda: nn.Conv2d(64, 128, 3, 2, 1), (8, 64, 28, 28)),
    (lambda: nn.Conv2d(1, 1, 11, padding=5), (1, 1, 128, 128)),
    (lambda: nn.Conv2d(5, 11, 2), (3, 5, 17, 19)),
    (lambda: nn.Conv2d(512, 512, 3, padding=4, dilation=4), (1, 512, 14, 14)),
    (lambda: nn.Conv2d(2048, 1000, 1), (1, 2048, 1, 1)),
    (lambda: nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3)), (1, 3, 8, 64, 64)),
    (lambda: nn.Conv3d(32, 64, 1), (1, 32, 8, 14, 14)),
    (lambda: nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), (1, 256, 14, 14)),
    (lambda: nn.ConvTranspose2d(100, 512, 4), (1, 100, 1, 1)),
    (lambda: nn.ConvTranspose1d(256, 128, 16, 8, 4), (1, 256, 64)),
    (lambda: nn.ConvTranspose2d(32, 32, 3, 2, 1, groups=4), (1, 32, 28, 28)),
    (lambda: nn.ConvTranspose2d(32, 16, 3, 1, 1, dilation=2), (1, 32, 28, 28)),
    (lambda: nn.GroupNorm(8, 64), (2, 64, 31, 29)),
    (lambda: nn.LayerNorm(1023), (77, 1023)),
    (lambda: nn.LayerNorm(5), (1000, 5)),
    (lambda: nn.BatchNorm2d(3), (1, 3, 224, 224)),
    (lambda: nn.Upsample(scale_factor=4, mode="nearest"), (1, 3, 64, 64)),
    (lambda: nn.Upsample(size=(224, 224), mode="bilinear"), (1, 3, 128, 128)),
    (lambda: nn.AdaptiveAvgPool2d((7, 9)), (1, 64, 31, 31)),
    (lambda: nn.AdaptiveAvgPool1d(10), (4, 64, 333)),
    (lambda: nn.AdaptiveMaxPool1d(1), (4, 64, 333)),
    (lambda: nn.MaxPool2d(5, 1, 2), (1, 256, 13, 13)),
    (lambda: nn.AvgPool2d(7, 7), (1, 512, 7, 7)),
    (lambda: nn.PixelShuffle(4), (1, 48, 32, 32)),
    (lambda: nn.PixelUnshuffle(4), (1, 3, 64, 64)),
    (lambda: nn.Softmax2d(), (1, 21, 65, 65)),
    (lambda: nn.LSTM(128, 128, bidirectional=True, batch_first=True), (1, 60, 128)),
    (lambda: nn.GRU(32, 32, 2), (20, 8, 32)),
    (lambda: nn.TransformerEncoderLayer(96, 3, 200, batch_first=True, norm_first=True), (1, 51, 96)),
)

# function, shapes of its arguments
CALLS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "area": (partial(F.interpolate, size=(10, 10), mode="area"), ((1, 64, 33, 33),)),
    "bicubic, antialias": (
        partial(F.interpolate, size=(112, 112), mode="bicubic", antialias=True),
        ((1, 3, 224, 224),),
    ),
    "bilinear form": (nn.Bilinear(20, 30, 40).eval(), ((64, 20), (64, 30))),
    "tensordot": (lambda a, b: torch.tensordot(a, b, ([1, 2], [0, 1])), ((32, 7, 9), (7, 9, 40))),
    "cross product": (torch.linalg.cross, ((1000, 3), (1000, 3))),
    "matrix norm": (torch.linalg.matrix_norm, ((33, 64, 64),)),
    "products of odd matrices": (torch.bmm, ((9, 33, 65), (9, 65, 31))),
    "products of 3 x 3": (torch.bmm, ((1000, 3, 3), (1000, 3, 3))),
    "products of rows": (torch.bmm, ((64, 1, 100), (64, 100, 37))),
    "addmm": (torch.addmm, ((70,), (33, 51), (51, 70))),
    "rotary": (
        lambda x, c: torch.cat([-x[..., 32:], x[..., :32]], -1) * c + x,
        ((1, 12, 128, 64), (128, 64)),
    ),
    "nucleus": (lambda x: x.softmax(-1).sort(-1, descending=True)[0].cumsum(-1), ((1, 32000),)),
    "topk of a vocabulary": (lambda x: x.topk(50, -1), ((1, 50257),)),
    "distances": (lambda a: (a[:, None] - a[None]).pow(2).sum(-1), ((100, 16),)),
    "some columns": (lambda x: x[:, [1, 5, 7]], ((300, 20),)),
    "select_scatter": (lambda x, y: x.select_scatter(y, 0, 3), ((30, 500), (500,))),
    "slice_scatter": (lambda x, y: x.slice_scatter(y, 0, 3, 13), ((30, 500), (10, 500))),
    "diag_embed": (torch.diag_embed, ((20, 30),)),
    "traces": (lambda x: x.diagonal(dim1=-2, dim2=-1).sum(-1), ((20, 30, 30),)),
    "frames": (lambda x: x.unfold(0, 400, 160) * torch.hann_window(400), ((16000,),)),
    "short-time transform": (
        lambda x: torch.stft(x, 400, 160, window=torch.hann_window(400), return_complex=True).abs(),
        ((1, 16000),),
    ),
    "complex product": (
        lambda a, b: (torch.view_as_complex(a) * torch.view_as_complex(b)).abs(),
        ((64, 100, 2), (64, 100, 2)),
    ),
}

FOURIER: Table = {
    "spectrum": lambda x: torch.fft.rfft(x).abs(),
    "half": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=x.shape[-1]),
    "power": lambda x: torch.fft.fft(x).abs().square(),
    "over two dims": lambda x: torch.fft.rfft2(x).abs(),
    "both dims": lambda x: torch.fft.fft2(x).abs(),
    "complex, there and back": lambda x: torch.fft.ifft(torch.fft.fft(torch.complex(x, x)) * 2).real,
}

SIGNALS = ((8, 17), (28, 28), (40, 400), (64, 256), (16, 1009), (1, 1024), (2, 2018), (4, 10000), (1, 65536))

# images, heads, queries, keys, width
MASKED = ((1, 8, 77, 77, 64), (1, 12, 1, 513, 64), (2, 3, 33, 65, 40), (1, 4, 512, 512, 32))


def _over(table: Table, kind: str, sizes: Iterable[tuple[int, ...]], *make: Callable[[Any], Any]) -> Any:
    def cases() -> Iterator[Case]:
        for name, function in table.items():
            for size in sizes:
                yield f"{kind} {name} {' x '.join(map(str, size))}", function, tuple(m(size) for m in make)

    return cases


def _whole(dtype: torch.dtype, low: int = -50, high: int = 50) -> Callable[[Any], torch.Tensor]:
    return lambda size: torch.randint(low, high, size).to(dtype)


def layers() -> Iterator[Case]:
    """Layers of odd sizes."""
    for make, size in LAYERS:
        layer = make().eval()
        yield f"{str(layer).splitlines()[0]} {' x '.join(map(str, size))}", layer, (torch.randn(size),)
    for mode in ("sum", "mean", "max"):
        bags = torch.randint(0, 1000, (300,)), torch.arange(0, 300, 10)
        yield f"embedding_bag {mode}", nn.EmbeddingBag(1000, 64, mode=mode).eval(), bags


def calls() -> Iterator[Case]:
    """Functions of several tensors."""
    for name, (function, sizes) in CALLS.items():
        yield name, function, tuple(map(torch.randn, sizes))


def masked_attention() -> Iterator[Case]:
    """Attention with masks of truth values, of numbers, and of keys alone."""
    for images, heads, queries, keys, width in MASKED:
        shapes = (images, heads, queries, width), *[(images, heads, keys, width)] * 2
        masks = {
            "truth": torch.rand(queries, keys) > 0.2,
            "numbers": torch.randn(images, 1, queries, keys),
            "keys": torch.rand(images, 1, 1, keys) > 0.2,
        }
        for name, mask in masks.items():
            yield (
                f"attention masked by {name} {images} x {heads} x {queries} x {keys} x {width}",
                lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
                (*map(torch.randn, shapes), mask),
            )


KINDS: dict[str, Callable[[], Iterable[Case]]] = {
    "uint8": _over(BYTES, "uint8", ((3, 224, 224), (7, 1013)), _whole(torch.uint8, 0, 256)),
    "int16": _over(INTEGERS, "int16", ((128, 768),), _whole(torch.int16)),
    "more integers": _over(INTEGERS, "int64", ((128, 768), (7, 1013)), _whole(torch.int64)),
    "losses": _over(LOSSES, "loss", ((64, 1000), (7, 13)), torch.randn, torch.randn),
    "usual layers": layers,
    "usual calls": calls,
    "masked attention": masked_attention,
    "fourier": _over(FOURIER, "fourier", SIGNALS, torch.randn),
}
