"""What a call costs beside its kernels: tiny models, compiled and in eager PyTorch, in turns in one process.

Models with indices and divisors tell what looking at these costs, beside themselves compiled unchecked.

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


class Embedding(nn.Module):
    """128 tokens; rows of 384, as in MiniLM."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30522, 384)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table(tokens)


class Gather(nn.Module):
    """One element for each index: as much to check as to do."""

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(0, index)


class Divide(nn.Module):
    """Quotients of integers."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x // y


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
    "embedding of 128 tokens": lambda: (Embedding(), (torch.randint(30522, (1, 128)),)),
    "gather of 10,000": lambda: (Gather(), (torch.randn(10_000), torch.randint(10_000, (10_000,)))),
    "10,000 integers divided": lambda: (Divide(), (torch.arange(10_000), torch.randint(1, 99, (10_000,)))),
}


def measure(name: str, calls: int, rounds: int) -> list[float]:
    """Microseconds of a call: compiled, compiled unchecked, eager."""
    model, args = CASES[name]()
    systems = (fxp.compile(model, args), fxp.compile(model, args, checked=False), model)
    samples: list[list[float]] = [[] for _ in systems]
    with torch.inference_mode():
        for _ in range(rounds):
            for run, times in zip(systems, samples, strict=True):
                run(*args)
                start = time.thread_time()
                for _ in range(calls):
                    run(*args)
                times.append((time.thread_time() - start) / calls * 1e6)
    return [statistics.median(times) for times in samples]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    rows = []
    for name in CASES:
        ours, unchecked, theirs = measure(name, options.calls, options.rounds)
        rows.append((name, f"{ours:.1f}", f"{unchecked:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"))
    columns = ["model", "fxpasses #", "unchecked #", "eager #", "ratio #"]
    open_console().print(plain_table("Microseconds of a call, 1 thread", columns, rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
