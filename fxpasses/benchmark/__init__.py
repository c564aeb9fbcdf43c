"""`bench`: a compiled model beside other ways to run it, each in a process of its own, asked in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from fxpasses.benchmark.systems import CACHED, SYSTEMS
from fxpasses.benchmark.worker import Worker
from fxpasses.errors import FxpassesError
from fxpasses.view.tables import table_text

__all__ = ["SYSTEMS", "Benchmark", "Timing", "bench", "geometric_mean", "summary"]


# Seconds between two systems, in which the threads of the first stop waiting for work and fall asleep.
_PAUSE = 0.1

# A system that took so many milliseconds in its rounds takes part in no more of them.
_ENOUGH = 5000.0


@dataclass(frozen=True)
class Timing:
    """How one system did.

    Attributes:
        prepare: seconds from the model to the first result; with empty caches, but for ``fxpasses-cached``.
        memory: bytes of the process in a call, at most, beyond what it had before the model was made;
            pages of files, such as libraries, are not counted.
        calls: milliseconds of a call, one for each round.
        difference: the largest difference to eager, relative to eager's largest output.
        error: why there is nothing else.
    """

    prepare: float = math.nan
    calls: tuple[float, ...] = ()
    difference: float = math.nan
    memory: float = math.nan
    error: str | None = None

    @property
    def median(self) -> float:
        """Milliseconds of a call."""
        return statistics.median(self.calls) if self.calls else math.nan


@dataclass(frozen=True)
class Benchmark:
    """What `bench` measured.

    Attributes:
        name: of the model.
        threads: of each system.
        timings: by system, ``fxpasses`` first.
    """

    name: str
    threads: int
    timings: Mapping[str, Timing]

    HEADER = ("system", "ms #", "fxpasses to it #", "compile s #", "peak MiB #", "difference to eager")

    def ratio(self, system: str) -> float:
        """How many times *system*'s time fxpasses takes: less than 1 is faster; NaN if one of them failed.

        The ratio is the median over the rounds, since the machine may be slower in one than in another.
        """
        ours, theirs = self.timings["fxpasses"].calls, self.timings[system].calls
        if not ours or not theirs:
            return math.nan
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=False))  # a slow one ends early

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others, None if all failed."""
        peers = {n: t.median for n, t in self.timings.items() if not n.startswith("fxpasses") and t.calls}
        return min(peers, key=peers.__getitem__, default=None)

    def rows(self) -> list[tuple[str, ...]]:
        """One row of text for each system, with a column for each of `HEADER`."""
        return [
            (
                name,
                f"{timing.median:.2f}",
                f"{self.ratio(name):.2f}",
                f"{timing.prepare:.1f}",
                f"{timing.memory / 2**20:.0f}",
                timing.error or f"{timing.difference:.1e}",
            )
            for name, timing in self.timings.items()
        ]

    def __str__(self) -> str:
        header = tuple(column.removesuffix(" #") for column in self.HEADER)
        return f"{self.name}, {self.threads} thread(s)\n{table_text([header, *self.rows()], range(1, 5))}"


def bench(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    against: Sequence[str] = ("eager", "inductor"),
    threads: int = 1,
    rounds: int = 15,
    name: str | None = None,
    progress: Callable[[str], Any] = lambda text: None,
) -> Benchmark:
    """Time a call of *model* compiled by fxpasses, and run by other systems.

    Args:
        model: a module in eval mode that can be pickled, or the name of a
            function ``package.module:function`` that returns ``(model, args)`` or
            ``(model, args, kwargs)``.
        args: arguments of a call.
        kwargs: keyword arguments.
        against: names from `SYSTEMS`.
        threads: of each system.
        rounds: the systems take turns so many times; a round times a few calls.
        name: of the model, for the report.
        progress: called with a line of text at each step.

    Raises:
        FxpassesError: a system that there is not; fxpasses itself failed.
    """
    unknown = [system for system in against if system not in SYSTEMS]
    if unknown:
        raise FxpassesError(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    names = list(dict.fromkeys(["fxpasses", *against]))
    source = model if isinstance(model, str) else (model, tuple(args), dict(kwargs or {}))
    with ExitStack() as stack:
        reference = stack.enter_context(Worker("eager", source, threads))
        workers: dict[str, Worker] = {}
        timings: dict[str, Timing] = {}
        for system in names:
            progress(f"prepare {system}")
            if system == "eager":
                worker = reference
            else:
                cache = {"FXPASSES_CACHE_DIR": workers["fxpasses"].folder} if system == CACHED else {}
                worker = stack.enter_context(Worker(system, source, threads, cache))
            workers[system] = worker
            if worker.error is not None:
                timings[system] = Timing(error=worker.error)
                continue
            difference = _difference(worker.outputs, reference.outputs)
            timings[system] = Timing(worker.prepare, (), difference, worker.memory)
        calls: dict[str, list[float]] = {system: [] for system in names if timings[system].error is None}
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for system in _turned([*calls], number):  # each comes after each of the others
                if sum(calls[system]) > _ENOUGH:
                    continue
                time.sleep(_PAUSE)
                try:
                    calls[system].append(workers[system].round())
                except FxpassesError as error:  # the others go on without it
                    timings[system] = replace(timings[system], error=str(error))
                    del calls[system]
    if timings["fxpasses"].error is not None:
        raise FxpassesError(f"fxpasses could not run the model: {timings['fxpasses'].error}")
    for system, values in calls.items():
        timing = timings[system]
        timings[system] = replace(timing, calls=tuple(values))
    return Benchmark(name or _name(model), threads, timings)


def _turned(names: Sequence[str], number: int) -> list[str]:
    """*names* from another one on in each round, and every other time round backwards."""
    turns, start = divmod(number, max(len(names), 1))
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if turns % 2 else turned


def summary(results: Sequence[Benchmark]) -> list[tuple[str, ...]]:
    """For each system, and the best of them on each model: mean ratio, the worst and its model, how many models."""
    ratios: dict[str, dict[str, float]] = {"the best on each model": {}}
    for result in results:
        if result.best_peer is not None:
            ratios["the best on each model"][result.name] = result.ratio(result.best_peer)
        for system in result.timings:
            if system != "fxpasses" and not math.isnan(result.ratio(system)):
                ratios.setdefault(system, {})[result.name] = result.ratio(system)
    rows: list[tuple[str, ...]] = []
    for system, by_model in ratios.items():
        if by_model:
            worst = max(by_model, key=by_model.__getitem__)
            mean = geometric_mean([*by_model.values()])
            rows.append((system, f"{mean:.3g}", f"{by_model[worst]:.3g}", worst, str(len(by_model))))
    return rows


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; NaN of none."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def _difference(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> float:
    """The largest difference of floats, relative to the largest output; infinite where other values differ."""
    if len(got) != len(want):
        return math.inf
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return math.inf
        if not b.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(a, b) else math.inf)
        elif b.numel():
            scale = b.abs().max().item() or 1.0
            worst = max(worst, (a.double() - b.double()).abs().max().item() / scale)
    return worst


def _name(model: Any) -> str:
    return model if isinstance(model, str) else type(model).__name__
