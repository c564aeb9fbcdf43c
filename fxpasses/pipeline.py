"""`Pipeline` chains passes, records what each did, and lets one hook watch them.

A pass is any callable that takes a `Program` and returns one. A pipeline is a
pass too. Whether a pass changed the program is seen from the fingerprint, never
claimed by the pass.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxpasses.ambient import exclusive, plainly
from fxpasses.errors import PassError
from fxpasses.garbage import sweep
from fxpasses.program import Program

__all__ = ["History", "Pass", "Pipeline", "Step", "pass_name", "verify_each"]

Pass = Callable[[Program], Program]
Hook = Callable[[Program, Pass, Program], Any]


def pass_name(pass_: Any) -> str:
    """``__name__`` of a function or of a pass object, else its class name."""
    return getattr(pass_, "__name__", None) or type(pass_).__name__


@dataclass(frozen=True)
class Step:
    """What one pass did.

    Attributes:
        name: the pass.
        milliseconds: its time, hooks not counted.
        nodes_before, nodes_after: number of call nodes, bodies included.
        added, removed: calls that were made and that disappeared.
        modified: whether the fingerprint changed.
        difference: what the hook returned, if it returned a number (the largest
            numeric difference when the hook compares; see
            `fxpasses.testing.compare_each`).
    """

    name: str
    milliseconds: float
    nodes_before: int
    nodes_after: int
    added: int
    removed: int
    modified: bool
    difference: float | None = None


@dataclass(frozen=True)
class History(Sequence[Step]):
    """The steps of a pipeline in order; prints as a table."""

    steps: tuple[Step, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @property
    def milliseconds(self) -> float:
        """Time of all passes together."""
        return sum(step.milliseconds for step in self.steps)

    def __str__(self) -> str:
        from fxpasses.view.tables import history_text

        return history_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from fxpasses.view.html import history_html

        return history_html(self)


class Pipeline:
    """Passes in order; itself a pass.

    Args:
        passes: callables ``Program -> Program``.
        name: shown in histories of an outer pipeline.
        hook: called as ``hook(before, pass_, after)`` after each pass; it may
            raise, and a float that it returns goes into the history.
        reproducers: folder for reproducers of failing passes; a temporary
            folder when None.
    """

    def __init__(
        self,
        *passes: Pass,
        name: str = "pipeline",
        hook: Hook | None = None,
        reproducers: str | Path | None = None,
    ) -> None:
        for pass_ in passes:
            if not callable(pass_):
                raise TypeError(
                    f"a pass is a callable Program -> Program, got {pass_!r} of type {type(pass_).__name__}"
                )
        self.passes = passes
        self.hook = hook
        self.__name__ = name
        self.reproducers = reproducers

    def __call__(self, program: Program) -> Program:
        for pass_ in self.passes:
            program, _, _ = self._after(pass_, program)
        return program  # a history would take a fifth of the time again

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(pass_name, self.passes))})"

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def run(self, program: Program) -> tuple[Program, History]:
        """The result and its history.

        Raises:
            PassError: a pass raised or returned no program. The message names
                the pass and the folder of the reproducer: the program before
                the pass as ``.pt2`` and a script that runs the pass on it.
        """
        steps = []
        calls, mark = _calls(program), program.fingerprint
        for pass_ in self.passes:
            after, milliseconds, outcome = self._after(pass_, program)
            same = after is program
            new_calls, new_mark = (calls, mark) if same else (_calls(after), after.fingerprint)
            steps.append(
                Step(
                    name=pass_name(pass_),
                    milliseconds=milliseconds,
                    nodes_before=sum(calls.values()),
                    nodes_after=sum(new_calls.values()),
                    added=sum(max(0, n - calls.get(key, 0)) for key, n in new_calls.items()),
                    removed=sum(max(0, n - new_calls.get(key, 0)) for key, n in calls.items()),
                    modified=new_mark != mark,
                    difference=outcome if isinstance(outcome, float) else None,
                )
            )
            program, calls, mark = after, new_calls, new_mark
        return program, History(tuple(steps))

    def _after(self, pass_: Pass, program: Program) -> tuple[Program, float, Any]:
        """What *pass_* makes of *program*, the milliseconds that it took, and what the hook returns."""
        start = time.perf_counter()
        try:
            with exclusive(), plainly():
                after = pass_(program)
            milliseconds = (time.perf_counter() - start) * 1000
            if not isinstance(after, Program):
                raise TypeError(f"a pass returns a Program, this one returned {type(after).__name__}")
            sweep()
            outcome = self.hook(program, pass_, after) if self.hook is not None else None
        except Exception as error:
            raise self._failure(pass_, program, error) from error
        return after, milliseconds, outcome

    def _failure(self, pass_: Pass, program: Program, error: Exception) -> PassError:
        name = pass_name(pass_)
        message = f"pass {name!r} failed: {type(error).__name__}: {error}"
        try:
            folder = self._write_reproducer(pass_, program)
        except Exception as problem:  # the first error matters more than the reproducer
            return PassError(f"{message}\n(no reproducer could be written: {problem})")
        return PassError(f"{message}\nreproducer: python {folder / 'reproduce.py'}")

    def _write_reproducer(self, pass_: Pass, program: Program) -> Path:
        if self.reproducers is None:
            folder = Path(tempfile.mkdtemp(prefix="fxpasses-"))
        else:
            folder = Path(self.reproducers)
            folder.mkdir(parents=True, exist_ok=True)
        program.save(folder / "before.pt2")
        (folder / "before.txt").write_text(repr(program))
        module = getattr(pass_, "__module__", None)
        if module is None or module == "__main__" or not hasattr(pass_, "__name__"):
            load = f"pass_ = ...  # the pass {pass_name(pass_)!r}: {pass_!r}\n"
        elif module.startswith("fxpasses."):
            load = f"pass_ = fxp.passes.{pass_name(pass_)}\n"
        else:
            load = f"from {module} import {pass_name(pass_)} as pass_\n"
        (folder / "reproduce.py").write_text(
            "from pathlib import Path\n\nimport fxpasses as fxp\n\n"
            f"{load}program = fxp.capture(Path(__file__).with_name('before.pt2'))\n"
            "print(program)\nprint(pass_(program))\n"
        )
        return folder


def verify_each(level: str = "well-formed") -> Hook:
    """A hook that verifies the result of each pass, and that no mutation or input was lost."""

    def hook(before: Program, pass_: Pass, after: Program) -> None:
        from fxpasses.verify import verify

        verify(after, level, before=before).raise_if_any(f"after pass {pass_name(pass_)!r}")

    return hook


def _calls(program: Program) -> dict[Any, int]:
    """How often each operator is called."""
    counts: dict[Any, int] = {}
    for node in program.nodes():
        if node.op == "call_function":
            counts[node.target] = counts.get(node.target, 0) + 1
    return counts
