"""Units worked through in processes of their own, which may crash or hang."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fxpasses.fingerprint import target_name
from fxpasses.testing.single import Call
from tests.sweep.judge import Outcome
from tests.sweep.samples import operator_of

__all__ = ["Finished", "load", "work"]

GROUP = 24
"""Calls that are compiled together."""

PATIENCE = 120.0
"""Seconds of a processor without a message after which a worker counts as hung."""

STANDSTILL = 900.0
"""The same in seconds of the clock, in which it may have waited for a processor."""

UNITS_OF_A_WORKER = 300
CAPTURE = "capture of"


@dataclass
class Finished:
    """What became of a unit: the outcomes of its calls, and why samples were left out."""

    outcomes: list[Outcome] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def work(
    units: Iterable[str], state: Path, settings: Settings, seconds: float
) -> Iterator[tuple[str, Finished]]:
    """Work through *units* for about so many seconds; each finished one is appended to the file *state*.

    The units of one operator that follow each other are worked through together.
    """
    end = time.monotonic() + seconds
    worker: _Worker | None = None
    for _, group in itertools.groupby(units, operator_of):
        batch = list(group)
        if time.monotonic() > end:
            break
        if worker is None or worker.done >= UNITS_OF_A_WORKER:
            if worker is not None:
                worker.stop()
            worker = _Worker()
        finished, worker = _finish(batch, settings, worker)
        state.parent.mkdir(parents=True, exist_ok=True)
        with state.open("a") as file:
            file.writelines(json.dumps({"unit": unit, **asdict(finished[unit])}) + "\n" for unit in batch)
        yield from finished.items()
    if worker is not None:
        worker.stop()


def load(state: Path) -> dict[str, Finished]:
    """The finished units of a state file; of a unit that is there twice, the later one."""
    if not state.exists():
        return {}
    found = {}
    for line in map(json.loads, state.read_text().splitlines()):
        outcomes = [Outcome(**outcome) for outcome in line["outcomes"]]
        found[line["unit"]] = Finished(outcomes, line.get("left_out", []))
    return found


@dataclass(frozen=True)
class Settings:
    """How units are worked through.

    Attributes:
        count: samples of each unit.
        system: the name in `tests.sweep.systems` of what answers the calls.
        form: the row of `tests.sweep.forms.FORMS`.
    """

    count: int = 5
    system: str = "fxpasses_answers"
    form: str = "plain"


@dataclass(frozen=True)
class _Task:
    units: tuple[str, ...]
    settings: Settings
    start: int = 0
    size: int = GROUP
    groups: int | None = None
    """How many groups of calls to judge; all by default."""


def _finish(units: Sequence[str], settings: Settings, worker: _Worker) -> tuple[dict[str, Finished], _Worker]:
    """All outcomes of the units: a group in which the worker dies is judged again, call by call."""
    finished = {unit: Finished() for unit in units}
    start, size, unit, op, asked = 0, GROUP, units[0], CAPTURE, False
    while True:
        worker.send(_Task(tuple(units), settings, start, size))
        try:
            while (message := worker.receive()) is not None:
                kind, payload = message
                if kind == "judging":
                    (start, unit, op), asked = payload, False
                elif kind == "asked":
                    asked = True
                elif kind == "reached":
                    unit, refused, left_out = payload
                    if start == 0:
                        finished[unit].outcomes += refused
                        finished[unit].left_out = left_out
                else:
                    for unit, outcome in payload:
                        if outcome is None:
                            finished[unit].left_out.append("a variant that eager does not accept")
                        else:
                            finished[unit].outcomes.append(outcome)
                    start += len(payload)
            worker.done += len(units)
            return finished, worker
        except EOFError:
            detail = worker.stop()
            worker = _Worker()
            if op == CAPTURE:
                if len(units) > 1:
                    return _one_by_one(units, settings, worker)
                finished[unit].outcomes.append(
                    Outcome(f"{CAPTURE} {unit}", unit.split(" ")[1], "crash", detail)
                )
                return finished, worker
            if size == 1 and (not asked or _ends_pytorch(_Task(tuple(units), settings, start, 1))):
                finished[unit].left_out.append(f"{op}: PyTorch itself ends the process, {detail}")
                start += 1
            elif size == 1:
                crash = Outcome(
                    op, unit.split(" ")[1], "crash", detail, f"call {start} of {' + '.join(units)}"
                )
                finished[unit].outcomes.append(crash)
                start += 1
            size = 1


def _ends_pytorch(task: _Task) -> bool:
    """Whether the first call of *task* ends a process in which PyTorch alone answers it."""
    worker = _Worker()
    worker.send(replace(task, settings=replace(task.settings, system="eager_answers"), groups=1))
    try:
        while worker.receive() is not None:
            pass
    except EOFError:
        return True
    finally:
        worker.stop()
    return False


def _one_by_one(
    units: Sequence[str], settings: Settings, worker: _Worker
) -> tuple[dict[str, Finished], _Worker]:
    finished: dict[str, Finished] = {}
    for unit in units:
        found, worker = _finish([unit], settings, worker)
        finished.update(found)
    return finished, worker


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_main, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.done = 0

    def send(self, task: Any) -> None:
        self.connection.send(task)

    def receive(self) -> Any:
        end, spent = time.monotonic() + STANDSTILL, self._seconds()
        while not self.connection.poll(1.0):
            if time.monotonic() > end or self._seconds() > spent + PATIENCE:
                raise EOFError
        return self.connection.recv()

    def _seconds(self) -> float:
        """The time that the process has spent on a processor."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, or the system is no Linux
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> str:
        """End the process; what became of it before, in words."""
        self.process.join(0.5)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            return "hung"
        return f"exit code {code}"


def _main(connection: Connection) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["FXPASSES_CACHE"] = "0"  # what comes from there says no more why something runs in PyTorch
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TVM writes about what it then raises
    import logging
    import signal
    import warnings

    import torch
    import tvm  # noqa: F401

    from tests.sweep import systems
    from tests.sweep.forms import FORMS
    from tests.sweep.judge import judge
    from tests.sweep.systems import Answer, System

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    # TVM's handler asks for memory, and waits for ever where an operator has broken the heap.
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)

    def asking(system: System) -> System:
        """*system*, which says so before it is asked: what ends the process before is PyTorch."""

        def answers(calls: Sequence[Call]) -> list[Answer]:
            connection.send(("asked", None))
            return system(calls)

        return answers

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        calls = []
        form = FORMS[task.settings.form]
        for unit in task.units:
            connection.send(("judging", (task.start, unit, CAPTURE)))
            reached = form.reach(unit, task.settings.count)
            calls += [(unit, variant) for variant in form.variants(reached.calls)]
            refused = list(_refusals(unit, reached.refused))
            connection.send(("reached", (unit, refused, reached.left_out)))
        for first in list(range(task.start, len(calls), task.size))[: task.groups]:
            names, group = zip(*calls[first : first + task.size], strict=True)
            connection.send(("judging", (first, names[0], target_name(group[0].call[0]))))
            outcomes = judge(group, asking(getattr(systems, task.settings.system)))
            connection.send(("outcomes", list(zip(names, outcomes, strict=True))))
        connection.send(None)


def _refusals(unit: str, texts: list[str]) -> Iterator[Outcome]:
    name, dtype = unit.split(" ")
    for text in texts:
        yield Outcome(f"{CAPTURE} {name}", dtype, "refused", text)
