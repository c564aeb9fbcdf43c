"""From model to IRModule: fxpasses beside torch.export with TVM's own importer.

Both start from the module and end with an `IRModule`; fxpasses also brings the
program into canonical form and folds batch norms on the way. The two take
turns in one process; the figures are medians.

    python -m tests.benchmarks.frontend [--rounds 5] [MODEL ...]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from rich.progress import track

import fxpasses as fxp
from fxpasses.view.console import open_console, plain_table
from tests.models.zoo import ZOO, Case


def ours(case: Case) -> Iterator[str]:
    """fxpasses; yields the name of each stage as it ends."""
    program = fxp.capture(case.model, case.args, case.kwargs, via="export")
    yield "capture"
    program = fxp.canonicalize(program)
    yield "canonicalize"
    fxp.lower(program)
    yield "lower"


def theirs(case: Case) -> Iterator[str]:
    """torch.export and TVM's importer."""
    from tvm.relax.frontend.torch import from_exported_program

    with torch.no_grad():
        exported = torch.export.export(case.model, case.args, case.kwargs)
    yield "export"
    from_exported_program(exported)
    yield "import"


@dataclass
class Timing:
    """Milliseconds of each stage in each round, or why there are none."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""

    def stages(self) -> dict[str, float]:
        """Median of each stage."""
        return {stage: statistics.median(r[stage] for r in self.rounds) for stage in self.rounds[0]}

    def total(self) -> float:
        """Median of the whole."""
        return statistics.median(sum(r.values()) for r in self.rounds)


def measure(name: str, rounds: int) -> tuple[Timing, Timing]:
    """Timings of both systems on one model; the first round warms up and does not count."""
    timings = (Timing(), Timing())
    for number in range(rounds + 1):
        for system, timing in zip((ours, theirs), timings, strict=True):
            if timing.failure:
                continue
            try:
                stages = _timed(system, ZOO[name]())
            except Exception as error:  # that a system cannot do a model is a figure too
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                timing.failure = f"{type(error).__name__}: {first}"
                continue
            if number:
                timing.rounds.append(stages)
    return timings


def _timed(system: Callable[[Case], Iterator[str]], case: Case) -> dict[str, float]:
    torch._dynamo.reset()
    stages = {}
    start = time.perf_counter()
    for stage in system(case):
        stages[stage] = (time.perf_counter() - start) * 1000
        start = time.perf_counter()
    return stages


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(ZOO)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    unknown = set(options.models) - set(ZOO)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    console, progress = open_console(), open_console(stderr=True)
    rows: list[list[str]] = []
    failures: list[str] = []
    ratios: list[float] = []
    for name in track(
        options.models or list(ZOO), "models", console=progress, disable=not progress.is_terminal
    ):
        a, b = measure(name, options.rounds)
        failures += [
            f"{name}: {system}: {t.failure}" for system, t in (("fxpasses", a), ("TVM", b)) if t.failure
        ]
        ratio = None if a.failure or b.failure else a.total() / b.total()
        if ratio is not None:
            ratios.append(ratio)
        rows.append([name, *_cells(a, 3), *_cells(b, 2), "" if ratio is None else f"{ratio:.2f}"])
    title = f"From model to IRModule, milliseconds, median of {options.rounds} rounds"
    columns = ["model", "capture #", "canonicalize #", "lower #", "fxpasses #"]
    columns += ["torch.export #", "TVM import #", "both #", "ratio #"]
    console.print(plain_table(title, columns, rows))
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        console.print(
            f"ratio, geometric mean {mean:.2f}, worst {max(ratios):.2f} (below 1: fxpasses is faster)"
        )
    for failure in failures:
        console.print(failure, markup=False, soft_wrap=True)


def _cells(timing: Timing, stages: int) -> list[str]:
    if timing.failure:
        return ["", *[""] * (stages - 1), "failed"]
    return [*(f"{ms:.0f}" for ms in timing.stages().values()), f"{timing.total():.0f}"]


if __name__ == "__main__":
    main()
