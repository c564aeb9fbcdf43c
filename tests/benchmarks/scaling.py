"""How the cost of passes and lowering grows with the size of the graph.

One program of residual blocks at several sizes; for each pass, and for lowering,
the time and its ratio to the size before. Twice the nodes should take about
twice the time. The garbage collector is off: its pauses would fall on any step.

    python -m tests.benchmarks.scaling [--rounds 3] [--nodes 1000 5000 10000]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

import fxpasses as fxp
from fxpasses.view.console import open_console, plain_table

NODES_A_BLOCK = 15
"""Call nodes that a block has in canonical form, about."""


class Block(nn.Module):
    """Normalise, split into heads, mix, activate, add: views, products, pointwise and reductions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(torch.relu(a) * b)


def build(nodes: int, width: int = 16) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A model whose canonical graph has about *nodes* calls."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Block(width) for _ in range(nodes // NODES_A_BLOCK)))
    return blocks.eval(), (torch.randn(2, 4, width),)


def measure(nodes: int, rounds: int) -> tuple[int, dict[str, float]]:
    """Call nodes of the canonical graph, and the median milliseconds of each step."""
    model, args = build(nodes)
    samples: dict[str, list[float]] = {}

    def timed(step: str, function: Callable[[], fxp.Program]) -> fxp.Program:
        start = time.perf_counter()
        value = function()
        samples.setdefault(step, []).append((time.perf_counter() - start) * 1000)
        return value

    captured = timed("capture (torch.export)", lambda: fxp.capture(model, args, via="export"))
    for _ in range(rounds):
        gc.collect()
        program, history = fxp.canonicalize.run(captured)
        seen: dict[str, int] = {}
        for step in history:  # a pass may take part more than once
            seen[step.name] = seen.get(step.name, 0) + 1
            number = f" ({seen[step.name]})" if seen[step.name] > 1 else ""
            samples.setdefault(step.name + number, []).append(step.milliseconds)
        samples.setdefault("all passes", []).append(history.milliseconds)
        timed("fingerprint", lambda program=program: program.fingerprint)
        timed("verify", lambda program=program: fxp.verify(program, "canonical"))
        timed("lower", lambda program=program: fxp.lower(program))
    calls = sum(node.op == "call_function" for node in program.nodes())
    return calls, {step: statistics.median(values) for step, values in samples.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    console, progress = open_console(), open_console(stderr=True)
    measure(10 * NODES_A_BLOCK, 1)  # imports and caches
    gc.disable()
    results: list[tuple[int, dict[str, float]]] = []
    for nodes in options.nodes:
        with progress.status(f"{nodes} nodes"):
            results.append(measure(nodes, options.rounds))
    gc.enable()
    columns = ["step"]
    for index, (calls, _) in enumerate(results):
        columns.append(f"{calls} nodes #")
        if index:
            columns.append(f"nodes x{calls / results[index - 1][0]:.1f} #")
    rows = []
    for step in results[0][1]:
        row = [step]
        for index, (_, times) in enumerate(results):
            row.append(f"{times[step]:.1f}")
            if index:
                row.append(f"x{times[step] / max(results[index - 1][1][step], 1e-6):.1f}")
        rows.append(row)
    console.print(plain_table(f"Milliseconds, median of {options.rounds} rounds", columns, rows))


if __name__ == "__main__":
    main()
