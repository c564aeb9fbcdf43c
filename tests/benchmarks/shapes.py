"""Every kind of kernel over a grid of shapes (odd, prime, tiny, huge), beside PyTorch's own kernels.

Both run in this process in turn, on one thread or as many as `--threads` says.
`call` is the time of a call from Python, `kernels` that of its kernels alone; the
ratio is that of the kernels to a call of PyTorch, so that the least shapes do not
measure Python. With `--dynamic`, each size above 1 of an argument is known only at
run time, where the model allows it. Printed are the
geometric mean and the worst of each kind, the worst ten, and every shape that
takes more than twice the library's time.

    python -m tests.benchmarks.shapes [--rounds 15] [--threads 1] [--dynamic] [--all] [KIND ...]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import fxpasses as fxp
from fxpasses.benchmark import geometric_mean
from fxpasses.benchmark.profile import Recorder
from fxpasses.benchmark.threads import torch_threads
from fxpasses.view.console import open_console, plain_table
from tests.benchmarks import further, usual, wide
from tests.benchmarks.products import HEADS, MATRICES, Case, attention_cases, linear_cases

SIZES = (
    (1,), (7,), (1000,), (1_000_003,), (4_194_304,), (3, 5), (64, 64), (127, 129), (1, 50257), (512, 3072),
    (8, 197, 384), (1, 64, 56, 56), (2, 3, 7, 11, 13),
)  # fmt: skip
ROWS = (
    (1, 1),
    (1, 17),
    (1, 50257),
    (3, 7),
    (64, 64),
    (128, 768),
    (197, 384),
    (1024, 1009),
    (12 * 128, 128),
    (4096, 3),
)
PRODUCTS = (
    (1, 1, 1), (1, 64, 64), (1, 4096, 4096), (3, 5, 7), (17, 31, 61), (64, 64, 64), (127, 131, 137), (512, 1, 512),
    (1, 512, 1), (256, 1024, 256), (1000, 1000, 1000), (2000, 64, 10), (10, 64, 2000), (4096, 16, 16),
)  # fmt: skip
# images, channels in, channels out, height, window, stride
CONVOLUTIONS = (
    (1, 3, 64, 224, 7, 2), (1, 3, 32, 224, 3, 2), (1, 64, 64, 56, 3, 1), (1, 64, 256, 56, 1, 1), (1, 256, 64, 56, 1, 1),
    (1, 256, 512, 56, 1, 2), (1, 512, 512, 7, 3, 1), (1, 96, 576, 14, 1, 1), (1, 17, 31, 29, 3, 1), (1, 1, 1, 5, 3, 1),
    (4, 128, 128, 28, 3, 1), (1, 1, 64, 28, 5, 1), (2, 13, 7, 101, 5, 3), (1, 2048, 512, 7, 1, 1),
    (1, 3, 96, 224, 4, 4),
)  # fmt: skip
# channels, height, window, stride
DEPTHWISE = (
    (32, 112, 3, 1), (96, 112, 3, 2), (144, 56, 3, 1), (960, 7, 3, 1), (96, 56, 7, 1), (17, 31, 3, 1), (240, 28, 5, 2),
    (1, 9, 3, 1), (384, 14, 5, 1), (768, 7, 7, 1),
)  # fmt: skip

POINTWISE: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda x: x + x,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sqrt": lambda x: torch.sqrt(x * x),
    "compare": lambda x: torch.where(x > 0, x, -x),
    "integers": lambda x: x.to(torch.int32) * 3,
}

REDUCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum of all": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(-1),
    "sum of columns": lambda x: x.sum(0),
    "max of rows": lambda x: x.amax(-1),
    "argmax of rows": lambda x: x.argmax(-1),
    "mean of rows": lambda x: x.mean(-1),
    "variance of rows": lambda x: x.var(-1, correction=0),
    "cumsum": lambda x: x.cumsum(-1),
}

MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "transpose": lambda x: x.t().contiguous(),
    "concatenate": lambda x: torch.cat([x, x], -1),
    "stack": lambda x: torch.stack([x, x]),
    "slice": lambda x: x[:, ::2].contiguous(),
    "flip": lambda x: x.flip(-1),
    "pad": lambda x: F.pad(x, (1, 2)),
}


def _text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def matmul() -> Iterator[Case]:
    """Products of two computed matrices, and batches of them."""
    for m, k, n in PRODUCTS:
        yield f"matmul {m} x {k} x {n}", torch.matmul, (torch.randn(m, k), torch.randn(k, n))
    for batch, m, k, n in ((12, 128, 64, 128), (12, 128, 128, 64), (7, 13, 17, 19), (64, 1, 64, 49)):
        operands = torch.randn(batch, m, k), torch.randn(batch, k, n)
        yield f"batched matmul {batch} x {m} x {k} x {n}", torch.matmul, operands


def convolution() -> Iterator[Case]:
    """Convolutions of images, with the bias and a relu."""
    for images, channels, outputs, height, window, stride in CONVOLUTIONS:
        padding = 0 if stride == window else window // 2
        layer = nn.Sequential(nn.Conv2d(channels, outputs, window, stride, padding), nn.ReLU()).eval()
        name = f"conv {images} x {channels} -> {outputs}, {height}, {window} x {window} / {stride}"
        yield name, layer, (torch.randn(images, channels, height, height),)


def depthwise() -> Iterator[Case]:
    """Depthwise convolutions."""
    for channels, height, window, stride in DEPTHWISE:
        layer = nn.Conv2d(channels, channels, window, stride, window // 2, groups=channels).eval()
        name = f"depthwise {channels}, {height}, {window} x {window} / {stride}"
        yield name, layer, (torch.randn(1, channels, height, height),)


def pooling() -> Iterator[Case]:
    """Pooling of images."""
    for channels, height in ((64, 112), (17, 31), (512, 7)):
        image = (torch.randn(1, channels, height, height),)
        yield f"max pool {channels}, {height}", lambda x: F.max_pool2d(x, 3, 2, 1), image
        yield f"average pool {channels}, {height}", lambda x: F.avg_pool2d(x, 2), image
        yield f"mean over the image {channels}, {height}", lambda x: x.mean((2, 3)), image


def norms() -> Iterator[Case]:
    """Softmax and norms of rows, norms of images."""
    for rows, width in ROWS:
        x = (torch.randn(rows, width),)
        yield f"softmax {rows} x {width}", lambda x: torch.softmax(x, -1), x
        yield f"log_softmax {rows} x {width}", lambda x: torch.log_softmax(x, -1), x
        if width > 1:
            yield f"layer_norm {rows} x {width}", nn.LayerNorm(width).eval(), x
            yield f"rms_norm {rows} x {width}", nn.RMSNorm(width).eval(), x
    for channels, height in ((32, 56), (17, 29)):
        yield (
            f"group_norm {channels}, {height}",
            nn.GroupNorm(1, channels),
            (torch.randn(1, channels, height, height),),
        )
        yield (
            f"batch_norm {channels}, {height}",
            nn.BatchNorm2d(channels).eval(),
            (torch.randn(1, channels, height, height),),
        )


def pointwise() -> Iterator[Case]:
    """Elementwise chains."""
    for (name, function), size in itertools.product(POINTWISE.items(), SIZES):
        yield f"{name} {_text(size)}", function, (torch.randn(size),)


def reductions() -> Iterator[Case]:
    """Sums and the like, along rows, columns and all."""
    for (name, function), size in itertools.product(REDUCTIONS.items(), ROWS):
        yield f"{name} {_text(size)}", function, (torch.randn(size),)


def moves() -> Iterator[Case]:
    """Copies, gathers and concatenations."""
    for (name, function), size in itertools.product(MOVES.items(), ROWS):
        yield f"{name} {_text(size)}", function, (torch.randn(size),)
    for rows, width, count in ((30522, 384, 128), (7, 3, 1000), (50257, 768, 1)):
        index = torch.randint(0, rows, (1, count))
        yield f"embedding {rows} x {width}, {count}", nn.Embedding(rows, width).eval(), (index,)


KINDS: dict[str, Callable[[], Iterable[Case]]] = {
    "matmul": matmul,
    "linear": lambda: linear_cases((1, 3, 16, 67, 128, 509), MATRICES),
    "attention": lambda: attention_cases(HEADS),
    "convolution": convolution,
    "depthwise": depthwise,
    "pooling": pooling,
    "norms": norms,
    "pointwise": pointwise,
    "reductions": reductions,
    "moves": moves,
    **wide.KINDS,
    **further.KINDS,
    **usual.KINDS,
}


# Microseconds; what is only a view takes none.
_LEAST = 0.1

# Seconds after which the threads of a pool no longer wait awake for more, in the way of another pool's, and those that
# were woken run on processors of their own.
_PAUSE = 0.02
_IN_A_ROW = 10


@dataclass(frozen=True)
class Row:
    """Microseconds of one shape: a call of fxpasses, its kernels alone, a call of PyTorch; or why there are none."""

    kind: str
    name: str
    call: float = math.nan
    kernels: float = math.nan
    library: float = math.nan
    error: str = ""

    @property
    def ratio(self) -> float:
        return self.kernels / self.library


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.function(*args)


def measure(kind: str, case: Case, rounds: int, dynamic: bool = False) -> Row:
    """Compile, compare and time one shape."""
    name, function, args = case
    model = function if isinstance(function, nn.Module) else _Module(function)
    try:
        compiled = fxp.compile(
            model, args, strict=True, dynamic_shapes=_sizes(model, args) if dynamic else None
        )
        with torch.inference_mode():
            _compare(compiled(*args), model(*args))
            call, library = _in_turn(rounds, lambda: compiled(*args), lambda: model(*args))
            recorder = Recorder(_clock())
            with compiled.instrumented(recorder):
                runs = [
                    recorder.during(lambda: compiled(*args))
                    for _ in range(rounds)
                    for _ in range(_wake(lambda: compiled(*args)))
                ]
    except Exception as error:  # that a shape does not work is a finding too
        return Row(kind, name, error=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    kernels = min(sum(c.milliseconds for c in run if not c.name.startswith("vm.")) for run in runs)
    return Row(kind, name, call, max(kernels * 1000, _LEAST), library)


def _sizes(model: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
    """Every size above 1 varies."""
    sizes = tuple({dim: Dim.AUTO for dim, size in enumerate(x.shape) if size > 1} for x in args)
    return (sizes,) if isinstance(model, _Module) else sizes


def _clock() -> Callable[[], float]:
    """The time of this thread, which others do not disturb; that on the wall where several threads work."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _compare(got: Any, want: Any) -> None:
    """Raise where results differ; not about indices, which are as good where values are equal."""
    for ours, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        if theirs.dtype is not torch.int64 or isinstance(want, torch.Tensor):
            tolerance = 3e-2 if theirs.dtype in (torch.bfloat16, torch.float16) else 1e-3
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def _in_turn(rounds: int, *runs: Callable[[], Any]) -> list[float]:
    """The least microseconds of each; several in a row of what runs in threads, once they are awake."""
    best = [math.inf] * len(runs)
    clock = _clock()
    for _ in range(rounds):
        for index, run in enumerate(runs):
            for _ in range(_wake(run)):
                start = clock()
                run()
                best[index] = min(best[index], (clock() - start) * 1e6)
    return best


def _wake(run: Callable[[], Any]) -> int:
    """Let the threads of *run* be awake and no others, where it has several; how often it is measured then."""
    if torch.get_num_threads() == 1:
        return 1
    time.sleep(_PAUSE)
    end = time.perf_counter() + _PAUSE
    while time.perf_counter() < end:
        run()
    return _IN_A_ROW


def main(
    argv: Sequence[str] | None = None, kinds: dict[str, Callable[[], Iterable[Case]]] | None = None
) -> None:
    """Measure and print the tables."""
    kinds = KINDS if kinds is None else kinds
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kinds)}; all by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dynamic", action="store_true", help="sizes are known only at run time")
    parser.add_argument("--all", action="store_true", help="print every shape")
    options = parser.parse_args(argv)
    unknown = set(options.kinds) - set(kinds)
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    console, progress = open_console(), open_console(stderr=True)
    rows: list[Row] = []
    with torch_threads(options.threads), progress.status("measuring"):
        for kind in options.kinds or kinds:
            rows += [measure(kind, case, options.rounds, options.dynamic) for case in kinds[kind]()]
    done = sorted((row for row in rows if not row.error), key=lambda row: -row.ratio)
    summary = []
    for kind in dict.fromkeys(row.kind for row in done):
        ratios = [row.ratio for row in done if row.kind == kind]
        slow = sum(ratio > 2 for ratio in ratios)
        summary.append(
            (kind, str(len(ratios)), f"{geometric_mean(ratios):.2f}", f"{max(ratios):.2f}", str(slow))
        )
    columns = ["kind", "shapes #", "geometric mean #", "worst #", "below half the library's speed #"]
    how = f"{options.threads} threads" if options.threads > 1 else "1 thread"
    how += ", sizes known at run time" if options.dynamic else ""
    console.print(plain_table(f"Time of kernels to that of PyTorch's, {how}", columns, summary))
    columns = ["shape", "kernels us #", "call us #", "PyTorch us #", "ratio #"]
    table = [(r.name, *(f"{x:.1f}" for x in (r.kernels, r.call, r.library)), f"{r.ratio:.2f}") for r in done]
    console.print(
        plain_table(
            "All shapes" if options.all else "The worst ten", columns, table if options.all else table[:10]
        )
    )
    slow_rows = [row for row in done if row.ratio > 2]
    console.print(f"{len(slow_rows)} of {len(done)} shapes are below half of the library's speed")
    for row in slow_rows[10 * (not options.all) :]:
        console.print(f"  {row.name}: {row.ratio:.2f}", markup=False)
    for row in rows:
        if row.error:
            console.print(f"failed: {row.name}: {row.error}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
