"""Kinds of kernels that users try and that `shapes` and `wide` lack: integers, half types, orders, indices, layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.benchmarks.products import Case

Table = dict[str, Callable[..., Any]]

SIZES = ((1024, 1009), (128, 768), (1, 12, 128, 64), (7, 13))

INTEGERS: Table = {
    "add": lambda x: x + x,
    "scaled": lambda x: x * 3 + 1,
    "square": lambda x: x * x,
    "compare": lambda x: x > 3,
    "where": lambda x: torch.where(x > 3, x, -x),
    "clamp": lambda x: x.clamp(-1, 1),
    "shift": lambda x: (x << 2) | (x >> 3),
    "floor division": lambda x: x // 7,
    "remainder": lambda x: x % 7,
    "remainder of two": lambda x: x % (x * x + 1),
    "absolute": torch.abs,
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(-1),
    "sum of columns": lambda x: x.sum(0),
    "max of rows": lambda x: x.amax(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "to float": lambda x: x.float() * 0.5,
}

HALVES: Table = {
    "add": lambda x: x + x,
    "chain": lambda x: torch.relu(x * 2 + 1),
    "gelu": F.gelu,
    "exp": torch.exp,
    "softmax": lambda x: x.softmax(-1),
    "sum of rows": lambda x: x.sum(-1),
    "max of rows": lambda x: x.amax(-1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "transpose": lambda x: x.transpose(-1, -2).contiguous(),
    "to float": lambda x: x.float(),
    "compare": lambda x: x > 0,
}

TRUTH: Table = {
    "not": lambda x: ~(x > 0),
    "xor": lambda x: (x > 0) ^ (x < 1),
    "any of all": lambda x: (x > 9).any(),
    "any of columns": lambda x: (x > 9).any(0),
    "all of rows": lambda x: (x > -9).all(-1),
    "count": lambda x: (x > 0).sum(),
    "count of rows": lambda x: (x > 0).sum(-1),
    "isnan": torch.isnan,
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.0),
}

FLOATS: Table = {
    "sqrt": lambda x: x.abs().sqrt(),
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "reciprocal": lambda x: 1 / (x * x + 1),
    "pow 3": lambda x: x**3,
    "pow of two": lambda x: x.abs() ** (x * 2),
    "float64 add": lambda x: x.double() + 1,
    "exp2": torch.exp2,
    "log2": lambda x: x.abs().log2(),
    "log10": lambda x: x.abs().log10(),
    "log1p": lambda x: x.abs().log1p(),
    "expm1": torch.expm1,
    "atan": torch.atan,
    "atan2": lambda x: torch.atan2(x, x + 1),
    "asin": lambda x: torch.asin(x.clamp(-1, 1)),
    "acos": lambda x: torch.acos(x.clamp(-1, 1)),
    "atanh": lambda x: torch.atanh(x.clamp(-1, 1)),
    "tan": torch.tan,
    "sin": torch.sin,
    "cos": torch.cos,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "erfc": torch.erfc,
    "erfinv": lambda x: torch.erfinv(x.clamp(-0.9, 0.9)),
    "lgamma": lambda x: torch.lgamma(x.abs() + 1),
    "hypot": lambda x: torch.hypot(x, x + 1),
    "sign": torch.sign,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "fmod": lambda x: torch.fmod(x, 0.7),
    "remainder of two": lambda x: torch.remainder(x, x * 2 + 1),
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "nan_to_num": torch.nan_to_num,
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "glu": lambda x: F.glu(torch.cat([x, x], -1), -1),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x + 1, dim=-1),
    "std": lambda x: x.std(-1),
    "var_mean": lambda x: torch.var_mean(x, -1),
    "softmax over 0": lambda x: x.softmax(0),
    "softmax over 1": lambda x: x.softmax(1),
    "log_softmax over 0": lambda x: x.log_softmax(0),
    "argmin over 0": lambda x: x.argmin(0),
    "aminmax": lambda x: torch.aminmax(x),
    "min over 0": lambda x: x.min(0),
    "cumprod": lambda x: (x * 0.1 + 1).cumprod(-1),
    "cummax": lambda x: x.cummax(-1)[0],
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
    "diff": lambda x: x.diff(dim=-1),
    "triu": lambda x: x.triu(),
    "flip both": lambda x: x.flip(-1, -2),
    "roll two": lambda x: x.roll((1, 2), (-1, -2)),
    "rot90": lambda x: torch.rot90(x, 1, (-2, -1)),
    "stack last": lambda x: torch.stack([x, x + 1], -1),
    "cat first": lambda x: torch.cat([x, x + 1, x], 0),
    "chunk": lambda x: x.chunk(2, -1)[1] + 1,
    "unfold": lambda x: x.unfold(-1, 5, 2).contiguous(),
    "repeat_interleave": lambda x: x.repeat_interleave(2, -1),
    "expand add": lambda x: x[..., :1] + x,
    "column scale": lambda x: x * x[..., :1, :] + x[..., -1:, :],
    "strided add": lambda x: x[..., ::2] + x[..., ::2],
    "reflect": lambda x: F.pad(x[None, None] if x.dim() == 2 else x, (2, 3, 1, 1), mode="reflect"),
    "circular": lambda x: F.pad(x[None, None] if x.dim() == 2 else x, (2, 3, 1, 1), mode="circular"),
    "cdist": lambda x: torch.cdist(x[..., :64, :32], x[..., :50, :32] + 1),
}

COLUMNS: Table = {
    "pad": lambda x: F.pad(x, (0, 0, 1, 2)),
    "concatenate": lambda x: torch.cat([x, x * 2], 1),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll((3, 5), (0, 1)),
    "transpose": lambda x: x.transpose(0, 1) + 1,
    "repeat": lambda x: x.repeat(2, 3, 1),
    "softmax": lambda x: x.softmax(1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "sum": lambda x: x.sum(1),
    "amax": lambda x: x.amax(1, keepdim=True),
    "argmax": lambda x: x.argmax(1),
    "sum over 0": lambda x: x.sum(0),
    "cumsum": lambda x: x.cumsum(1),
    "reduce the column": lambda x: x.argmin(-1) + x.sum(-1),
    "strided": lambda x: x[:, ::2] + 1,
}

ORDERS: Table = {
    "topk 1": lambda x: x.topk(1),
    "topk 50": lambda x: x.topk(50),
    "topk 100": lambda x: x.topk(100),
    "sort descending": lambda x: x.sort(descending=True),
    "argsort": lambda x: x.argsort(),
    "argsort stable": lambda x: x.argsort(stable=True),
    "sort over 0": lambda x: x.sort(0),
    "kthvalue": lambda x: x.kthvalue(100, -1),
    "median of all": lambda x: x.median(),
    "median over 0": lambda x: x.median(0),
    "mode": lambda x: (x * 4).round().mode(-1),
    "quantile": lambda x: x.quantile(0.3, -1),
    "sort int64": lambda x: (x * 1000).long().sort(),
    "searchsorted": lambda x: torch.searchsorted(x.sort()[0], x),
    "bucketize": lambda x: torch.bucketize(x, torch.linspace(-2, 2, 31)),
}

SHORT_ORDERS: Table = {
    "median": lambda x: x.median(0),
    "nanmedian": lambda x: x.nanmedian(0),
    "kthvalue": lambda x: x.kthvalue(2, 0),
    "mode": lambda x: x.mode(0),
    "sort": lambda x: x.sort(0),
    "topk": lambda x: x.topk(2, 0),
    "cummax": lambda x: x.cummax(0),
}

# layer, shape of the image or the sequence
LAYERS: tuple[tuple[Callable[[], nn.Module], tuple[int, ...]], ...] = (
    (lambda: nn.Conv1d(1, 16, 9, 4), (1, 1, 16000)),
    (lambda: nn.Conv1d(64, 64, 3, padding=2, dilation=2), (4, 64, 200)),
    (lambda: nn.Conv1d(13, 7, 5), (2, 13, 101)),
    (lambda: nn.Conv2d(13, 7, 5, 3, 2), (2, 13, 101, 101)),
    (lambda: nn.Conv2d(64, 7, 1), (1, 64, 56, 56)),
    (lambda: nn.Conv2d(16, 1, 3, padding=1), (1, 16, 96, 96)),
    (lambda: nn.Conv2d(32, 64, 3, padding=1, groups=2), (2, 32, 28, 28)),
    (lambda: nn.Conv2d(24, 72, 3, padding=1, groups=24), (1, 24, 56, 56)),
    (lambda: nn.Conv2d(3, 768, 16, 16), (1, 3, 224, 224)),
    (lambda: nn.Conv3d(3, 16, 3, 2, 1), (1, 3, 16, 56, 56)),
    (lambda: nn.Conv3d(8, 8, 3, padding=1, groups=8), (1, 8, 8, 28, 28)),
    (lambda: nn.ConvTranspose2d(128, 64, 2, 2), (1, 128, 28, 28)),
    (lambda: nn.ConvTranspose2d(32, 3, 3, 2, 1, 1), (1, 32, 56, 56)),
    (lambda: nn.ConvTranspose2d(32, 32, 4, 2, 1, groups=32), (1, 32, 28, 28)),
    (lambda: nn.ConvTranspose3d(16, 8, 2, 2), (1, 16, 6, 14, 14)),
    (lambda: nn.MaxPool1d(3, 2), (4, 64, 501)),
    (lambda: nn.MaxPool3d(2), (1, 16, 16, 28, 28)),
    (lambda: nn.AvgPool3d(3, 2, 1), (1, 16, 16, 28, 28)),
    (lambda: nn.AvgPool1d(5, 1, 2), (4, 64, 500)),
    (lambda: nn.AdaptiveMaxPool2d(7), (1, 64, 30, 30)),
    (lambda: nn.AdaptiveAvgPool2d(1), (1, 512, 7, 7)),
    (lambda: nn.MaxPool2d(2, return_indices=True), (1, 64, 56, 56)),
    (lambda: nn.LPPool2d(2, 3), (1, 32, 30, 30)),
    (lambda: nn.LocalResponseNorm(5), (1, 64, 28, 28)),
    (lambda: nn.BatchNorm1d(64), (8, 64, 200)),
    (lambda: nn.BatchNorm3d(16), (1, 16, 8, 28, 28)),
    (lambda: nn.GroupNorm(4, 32), (8, 32, 100)),
    (lambda: nn.InstanceNorm1d(32), (4, 32, 400)),
    (lambda: nn.LayerNorm((16, 28, 28)), (4, 16, 28, 28)),
    (lambda: nn.Upsample(scale_factor=2, mode="nearest"), (1, 64, 28, 28)),
    (lambda: nn.Upsample(size=(50, 37), mode="bicubic"), (1, 16, 28, 28)),
    (lambda: nn.Upsample(scale_factor=2, mode="trilinear"), (1, 8, 8, 14, 14)),
    (lambda: nn.Upsample(scale_factor=3, mode="linear"), (2, 32, 200)),
    (lambda: nn.Unfold(3, padding=1), (1, 32, 28, 28)),
    (lambda: nn.Fold((28, 28), 3, padding=1), (1, 9 * 16, 784)),
    (lambda: nn.PixelUnshuffle(2), (1, 16, 56, 56)),
    (lambda: nn.PReLU(64), (1, 64, 56, 56)),
    (lambda: nn.ReflectionPad2d(3), (1, 16, 56, 56)),
    (lambda: nn.ChannelShuffle(4), (1, 64, 28, 28)),
    (lambda: nn.ZeroPad2d(1), (1, 64, 56, 56)),
    (lambda: nn.GRU(64, 64, batch_first=True), (1, 50, 64)),
    (lambda: nn.RNN(32, 48, bidirectional=True), (40, 3, 32)),
    (lambda: nn.LSTM(40, 24, 2), (30, 2, 40)),
    (lambda: nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), (2, 33, 64)),
)

EINSUMS = {
    "bhid,bhjd->bhij": ((2, 4, 50, 32), (2, 4, 60, 32)),
    "bij,bjk->bik": ((4, 33, 47), (4, 47, 29)),
    "bi,bj->bij": ((64, 33), (64, 47)),
    "ij,kj->ik": ((100, 300), (70, 300)),
    "ji,jk->ik": ((300, 100), (300, 70)),
    "bijk,bk->bij": ((2, 30, 40, 50), (2, 50)),
    "ij,ij->i": ((1000, 300), (1000, 300)),
    "nchw,kc->nkhw": ((2, 32, 28, 28), (48, 32)),
    "bchw,bc->bhw": ((2, 64, 28, 28), (2, 64)),
    "i,i->": ((10007,), (10007,)),
    "bqhd,bkhd->bhqk": ((2, 50, 4, 32), (2, 60, 4, 32)),
}


def _over(
    table: Table, kind: str, sizes: Iterable[tuple[int, ...]], make: Callable[[Any], torch.Tensor]
) -> Any:
    def cases() -> Iterator[Case]:
        for name, function in table.items():
            for size in sizes:
                yield f"{kind} {name} {' x '.join(map(str, size))}", function, (make(size),)

    return cases


def _whole(dtype: torch.dtype) -> Callable[[Any], torch.Tensor]:
    return lambda size: torch.randint(-50, 50, size).to(dtype)


def half_products() -> Iterator[Case]:
    """Products of half types."""
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).rpartition(".")[2]
        for m, k, n in ((1, 768, 768), (128, 768, 768), (33, 65, 17)):
            yield (
                f"{name} matmul {m} x {k} x {n}",
                torch.matmul,
                (torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)),
            )
            yield (
                f"{name} linear {m} x {k} x {n}",
                nn.Linear(k, n, dtype=dtype).eval(),
                (torch.randn(m, k, dtype=dtype),),
            )
        yield (
            f"{name} conv",
            nn.Conv2d(64, 64, 3, padding=1, dtype=dtype).eval(),
            (torch.randn(1, 64, 28, 28, dtype=dtype),),
        )
        operands = tuple(torch.randn(1, 4, 64, 32, dtype=dtype) for _ in range(3))
        yield f"{name} attention", F.scaled_dot_product_attention, operands


def whole_products() -> Iterator[Case]:
    """Products of integers and of float64."""
    for dtype in (torch.int64, torch.int32, torch.int8, torch.float64):
        name = str(dtype).rpartition(".")[2]
        for m, k, n in ((64, 64, 64), (33, 65, 17), (256, 256, 256), (1, 300, 500)):
            operands = (torch.randint(-9, 9, (m, k)).to(dtype), torch.randint(-9, 9, (k, n)).to(dtype))
            yield f"{name} matmul {m} x {k} x {n}", torch.matmul, operands


def einsums() -> Iterator[Case]:
    """Products and sums by letters."""
    for equation, sizes in EINSUMS.items():
        yield f"einsum {equation}", lambda *x, e=equation: torch.einsum(e, *x), tuple(map(torch.randn, sizes))
    yield (
        "bmm of turned",
        lambda x, y: torch.bmm(x.transpose(1, 2), y),
        (torch.randn(8, 64, 50), torch.randn(8, 64, 30)),
    )
    yield "baddbmm", torch.baddbmm, (torch.randn(8, 50, 30), torch.randn(8, 50, 64), torch.randn(8, 64, 30))
    yield "matrix by vector", torch.mv, (torch.randn(1000, 777), torch.randn(777))
    yield "vector by matrix", lambda x, y: x @ y, (torch.randn(777), torch.randn(777, 1000))
    yield "broadcast matmul", torch.matmul, (torch.randn(4, 1, 33, 40), torch.randn(3, 40, 21))
    yield "addmv", torch.addmv, (torch.randn(500), torch.randn(500, 300), torch.randn(300))
    yield "kron", torch.kron, (torch.randn(30, 20), torch.randn(11, 13))


def indices() -> Iterator[Case]:
    """What reads or writes at places that are data."""
    x, i = torch.randn(1000, 64), torch.randint(0, 1000, (500,))
    rows = torch.randn(500, 64)
    yield "index_put", lambda x, i, v: x.index_put((i,), v), (x, torch.randperm(1000)[:500], rows)
    yield "index_put accumulate", lambda x, i, v: x.index_put((i,), v, accumulate=True), (x, i, rows)
    yield (
        "scatter",
        lambda x, i, v: x.scatter(0, i, v),
        (x, torch.argsort(torch.rand(1000, 64), 0)[:500], rows),
    )
    yield (
        "scatter_reduce amax",
        lambda x, i, v: x.scatter_reduce(0, i, v, "amax"),
        (x, i[:, None].expand(-1, 64).contiguous(), rows),
    )
    yield "index_copy", lambda x, i, v: x.index_copy(0, i, v), (x, torch.randperm(1000)[:500], rows)
    yield "take", torch.take, (x, torch.randint(0, 64000, (5000,)))
    yield "take_along_dim", lambda x: torch.take_along_dim(x, x.argsort(-1), -1), (x,)
    yield "two indices", lambda x, i, j: x[i, j], (x, i, torch.randint(0, 64, (500,)))
    yield "embedding 32", lambda w, i: F.embedding(i, w), (x, torch.randint(0, 1000, (8, 32)))
    yield "embedding_bag", nn.EmbeddingBag(1000, 64).eval(), (torch.randint(0, 1000, (32, 20)),)
    yield "one_hot", lambda i: F.one_hot(i, 1000).float(), (i,)
    yield "masked_select sum", lambda x: torch.where(x > 0, x, torch.zeros_like(x)).sum(), (x,)
    yield "nll", lambda x, t: F.nll_loss(x.log_softmax(-1), t), (x, torch.randint(0, 64, (1000,)))
    yield "cross_entropy", F.cross_entropy, (x, torch.randint(0, 64, (1000,)))
    grid = torch.rand(1, 40, 40, 2) * 2 - 1
    for mode in ("bilinear", "nearest", "bicubic"):
        yield (
            f"grid_sample {mode}",
            lambda x, g, m=mode: F.grid_sample(x, g, m, align_corners=False),
            (torch.randn(1, 16, 32, 32), grid),
        )
    yield (
        "affine_grid",
        lambda t: F.affine_grid(t, [2, 3, 64, 64], align_corners=False),
        (torch.randn(2, 2, 3),),
    )
    yield (
        "kv cache",
        lambda c, k, p: c.index_copy(2, p, k),
        (torch.randn(1, 12, 256, 64), torch.randn(1, 12, 1, 64), torch.tensor([17])),
    )
    yield "bincount", lambda i: torch.bincount(i, minlength=1000)[:1000], (i,)


def layers() -> Iterator[Case]:
    """Layers that `wide` lacks."""
    for make, size in LAYERS:
        layer = make().eval()
        yield f"{str(layer).splitlines()[0]} {' x '.join(map(str, size))}", layer, (torch.randn(size),)


KINDS: dict[str, Callable[[], Iterable[Case]]] = {
    "int64": _over(INTEGERS, "int64", SIZES, _whole(torch.int64)),
    "int32": _over(INTEGERS, "int32", SIZES[:2], _whole(torch.int32)),
    "int8": _over(INTEGERS, "int8", SIZES[1:2], _whole(torch.int8)),
    "bfloat16": _over(HALVES, "bfloat16", SIZES, lambda size: torch.randn(size).bfloat16()),
    "float16": _over(HALVES, "float16", SIZES[:2], lambda size: torch.randn(size).half()),
    "float64": _over(
        {k: HALVES[k] for k in ("add", "gelu", "exp", "softmax", "sum of rows")} | FLOATS,
        "float64",
        SIZES[1:2],
        lambda size: torch.randn(size).double(),
    ),
    "truth": _over(TRUTH, "truth", SIZES[:2], torch.randn),
    "functions": _over(FLOATS, "float", SIZES[1:3], torch.randn),
    "columns": _over(COLUMNS, "column", ((64, 640, 1), (8, 1000, 1)), torch.randn),
    "further orders": _over(ORDERS, "order", ((128, 768), (4, 5003)), torch.randn),
    "short orders": _over(SHORT_ORDERS, "over 0", ((2, 99999), (5, 1000), (17, 9999)), torch.randn),
    "half products": half_products,
    "whole products": whole_products,
    "einsums": einsums,
    "indices": indices,
    "further layers": layers,
}
