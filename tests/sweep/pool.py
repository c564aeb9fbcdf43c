"""Units worked through in processes of their own, which may crash or hang."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fxpasses.fingerprint import target_name
from tests.sweep.judge import Outcome

__all__ = ["load", "work"]

GROUP = 16
"""Calls that are compiled together."""

PATIENCE = 60.0
"""Seconds without a message after which a worker counts as hung."""

UNITS_OF_A_WORKER = 60
CAPTURE = "capture of"


def work(
    units: Iterable[str], state: Path, count: int, seconds: float
) -> Iterator[tuple[str, list[Outcome]]]:
    """Work through *units* for about so many seconds; each finished one is appended to the file *state*."""
    end = time.monotonic() + seconds
    worker: _Worker | None = None
    for unit in units:
        if time.monotonic() > end:
            break
        if worker is None or worker.done >= UNITS_OF_A_WORKER:
            if worker is not None:
                worker.stop()
            worker = _Worker()
        outcomes, worker = _finish(unit, count, worker)
        state.parent.mkdir(parents=True, exist_ok=True)
        with state.open("a") as file:
            file.write(json.dumps({"unit": unit, "outcomes": [asdict(o) for o in outcomes]}) + "\n")
        yield unit, outcomes
    if worker is not None:
        worker.stop()


def load(state: Path) -> dict[str, list[Outcome]]:
    """The finished units of a state file; of a unit that is there twice, the later one."""
    if not state.exists():
        return {}
    lines = [json.loads(line) for line in state.read_text().splitlines()]
    return {line["unit"]: [Outcome(**outcome) for outcome in line["outcomes"]] for line in lines}


def _finish(unit: str, count: int, worker: _Worker) -> tuple[list[Outcome], _Worker]:
    """All outcomes of a unit: a group in which the worker dies is judged again, call by call."""
    outcomes: list[Outcome] = []
    start, size, ops = 0, GROUP, CAPTURE
    while True:
        worker.send((unit, count, start, size))
        try:
            while (message := worker.receive()) is not None:
                kind, payload = message
                if kind == "judging":
                    start, ops = payload
                else:
                    outcomes += [Outcome(**outcome) for outcome in payload]
                    start += len(payload) if kind == "outcomes" else 0
            worker.done += 1
            return outcomes, worker
        except EOFError:
            detail = worker.stop()
            worker = _Worker()
            if ops == CAPTURE:
                outcomes.append(Outcome(f"{CAPTURE} {unit}", unit.split(" ")[1], "crash", detail))
                return outcomes, worker
            if size == 1:
                outcomes.append(Outcome(ops, unit.split(" ")[1], "crash", detail, f"call {start} of {unit}"))
                start += 1
            size = 1


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
        if not self.connection.poll(PATIENCE):
            raise EOFError
        return self.connection.recv()

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
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TVM writes about what it then raises
    import logging
    import warnings

    import torch

    from tests.sweep.judge import judge
    from tests.sweep.samples import reach

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    while True:
        try:
            unit, count, start, size = connection.recv()
        except EOFError:
            return
        connection.send(("judging", (start, CAPTURE)))
        reached = reach(unit, count)
        if start == 0:
            connection.send(("refused", [asdict(outcome) for outcome in _refusals(unit, reached.refused)]))
        for first in range(start, len(reached.calls), size):
            calls = reached.calls[first : first + size]
            connection.send(("judging", (first, target_name(calls[0][0]))))
            outcomes = [outcome for group in judge(calls) for outcome in group]
            connection.send(("outcomes", [asdict(outcome) for outcome in outcomes]))
        connection.send(None)


def _refusals(unit: str, texts: list[str]) -> Iterator[Outcome]:
    name, dtype = unit.split(" ")
    for text in texts:
        yield Outcome(f"{CAPTURE} {name}", dtype, "refused", text)
