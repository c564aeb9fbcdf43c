"""Linear layers and attention over a grid of shapes, beside PyTorch's own kernels.

Both run in this process on one thread, in turn; what is compared is the time of
the thread, and the least of all rounds. Printed are all shapes with `--all`,
the worst ten, and the geometric mean of the ratios (below 1, fxpasses is faster).

    python -m tests.benchmarks.products [--rounds 15] [--all] [linear] [attention]
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.benchmark import geometric_mean
from fxpasses.view.console import open_console, plain_table

Case = tuple[str, Callable[..., Any], tuple[torch.Tensor, ...]]

ROWS = (1, 2, 5, 8, 13, 16, 31, 49, 64, 128, 197, 512)
MATRICES = (
    (1, 64),
    (7, 5),
    (64, 64),
    (67, 131),
    (96, 384),
    (384, 1000),
    (512, 512),
    (768, 3072),
    (3072, 768),
)
# batch, heads, queries, keys, elements
HEADS = (
    (1, 1, 1, 1, 1), (1, 12, 1, 129, 64), (1, 12, 1, 1024, 64), (1, 12, 13, 13, 32), (1, 4, 7, 7, 8),
    (64, 3, 49, 49, 32), (4, 12, 49, 49, 32), (1, 12, 128, 128, 64), (1, 6, 197, 197, 64), (1, 8, 101, 307, 80),
    (2, 8, 256, 77, 40), (1, 2, 1500, 1500, 64),
)  # fmt: skip


def linear_cases(rows: Sequence[int], matrices: Sequence[tuple[int, int]]) -> Iterable[Case]:
    """A linear layer for each number of rows and each matrix [K, N]."""
    for (inner, columns), count in itertools.product(matrices, rows):
        layer = nn.Linear(inner, columns).eval()
        yield f"linear {count} x {inner} x {columns}", layer, (torch.randn(count, inner),)


def attention_cases(sizes: Sequence[tuple[int, ...]]) -> Iterable[Case]:
    """Attention without and with a causal mask, and with one that is added."""
    for batch, heads, queries, keys, width in sizes:
        operands = tuple(torch.randn(batch, heads, count, width) for count in (queries, keys, keys))
        mask = torch.randn(batch, 1, queries, keys)
        name = f"attention {batch} x {heads} x {queries} x {keys} x {width}"
        yield name, lambda q, k, v: F.scaled_dot_product_attention(q, k, v), operands
        yield (
            f"{name}, masked",
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
            (*operands, mask),
        )
        if queries == keys:
            yield (
                f"{name}, causal",
                lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
                operands,
            )


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.function(*args)


def measure(case: Case, rounds: int) -> tuple[str, float, float]:
    """Name, and the microseconds of a call of fxpasses and of PyTorch."""
    name, function, args = case
    model = function if isinstance(function, nn.Module) else _Module(function)
    compiled = fxp.compile(model, args, strict=True)
    best = [float("inf")] * 2
    with torch.inference_mode():
        torch.testing.assert_close(compiled(*args), model(*args), rtol=1e-3, atol=1e-4)
        for _ in range(rounds):
            for index, system in enumerate((compiled, model)):
                start = time.thread_time()
                system(*args)
                best[index] = min(best[index], time.thread_time() - start)
    return name, best[0] * 1e6, best[1] * 1e6


def main(argv: Sequence[str] | None = None, cases: Iterable[Case] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["linear", "attention"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known = {"linear": linear_cases(ROWS, MATRICES), "attention": attention_cases(HEADS)}
    if cases is None:
        cases = itertools.chain(*(known[kind] for kind in options.kinds))
    console, progress = open_console(), open_console(stderr=True)
    with progress.status("measuring"):
        found = sorted((measure(case, options.rounds) for case in cases), key=lambda row: row[2] / row[1])
    rows = [[name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"] for name, ours, theirs in found]
    title = "All shapes" if options.all else "The worst ten"
    columns = ["shape", "fxpasses us #", "PyTorch us #", "ratio #"]
    console.print(plain_table(title, columns, rows if options.all else rows[:10]))
    ratios = [ours / theirs for _, ours, theirs in found]
    console.print(f"{len(ratios)} shapes, geometric mean of the ratios {geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
