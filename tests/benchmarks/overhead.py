"""What a call costs beside its kernels: tiny models, compiled and in eager PyTorch, in turns in one process.

python -m tests.benchmarks.overhead [--calls 2000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import fxpasses as fxp
from fxpasses.view.console import open_console, plain_table


class AddOne(nn.Module):
    """One kernel on almost nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Nested(nn.Module):
    """Arguments and results in containers."""

    def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sum": given["a"] + given["b"], "product": given["a"] * given["b"]}


class Counter(nn.Module):
    """A buffer that each call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count


def mlp(width: int, layers: int = 3) -> nn.Module:
    """Linear layers with relu between."""
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts[:-1]).eval()


CASES: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "x + 1, 4 elements": lambda: (AddOne(), (torch.randn(4),)),
    "MLP of 3 layers, 16 wide": lambda: (mlp(16), (torch.randn(1, 16),)),
    "MLP of 8 layers, 64 wide": lambda: (mlp(64, 8), (torch.randn(1, 64),)),
    "dict in, dict out": lambda: (Nested(), ({"a": torch.randn(4), "b": torch.randn(4)},)),
    "a buffer changes": lambda: (Counter(), (torch.randn(4),)),
}


def measure(name: str, calls: int, rounds: int) -> tuple[float, float]:
    """Microseconds of a call, compiled and eager."""
    model, args = CASES[name]()
    compiled = fxp.compile(model, args)
    samples: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(rounds):
            for run, times in zip((compiled, model), samples, strict=True):
                run(*args)
                start = time.thread_time()
                for _ in range(calls):
                    run(*args)
                times.append((time.thread_time() - start) / calls * 1e6)
    return statistics.median(samples[0]), statistics.median(samples[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    rows = []
    for name in CASES:
        ours, theirs = measure(name, options.calls, options.rounds)
        rows.append((name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"))
    columns = ["model", "fxpasses #", "eager #", "ratio #"]
    open_console().print(plain_table("Microseconds of a call, 1 thread", columns, rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
