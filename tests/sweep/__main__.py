"""The command ``python -m tests.sweep``; see the package."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer

from tests.sweep.judge import Outcome
from tests.sweep.pool import load, work

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Operators against eager PyTorch.")

State = Annotated[Path, typer.Option(help="The file that finished units are kept in.")]
STATE = Path("build/sweep.jsonl")
MATRIX = Path("fxpasses/support.json")
FAILURES = ("wrong", "error", "crash")


@app.command()
def run(
    minutes: Annotated[float, typer.Option(help="How long to work, about.")] = 5.0,
    count: Annotated[int, typer.Option(help="Samples of each operator and dtype.")] = 5,
    only: Annotated[str, typer.Option(help="Units that this regular expression is found in.")] = "",
    again: Annotated[bool, typer.Option(help="Work through finished units, too.")] = False,
    failed: Annotated[bool, typer.Option(help="Work through units with failures again.")] = False,
    state: State = STATE,
) -> None:
    """Work through the units that are not finished yet."""
    from tests.sweep.samples import units

    finished = load(state)
    todo = [unit for unit in units() if re.search(only, unit)]
    if failed:
        todo = [unit for unit in todo if any(o.kind in FAILURES for o in finished.get(unit, []))]
    elif not again:
        todo = [unit for unit in todo if unit not in finished]
    total: Counter[str] = Counter()
    done = 0
    for _, outcomes in work(todo, state, count, 60 * minutes):
        done += 1
        total.update(outcome.kind for outcome in outcomes)
        for outcome in outcomes:
            if outcome.kind in FAILURES:
                print(_line(outcome), flush=True)
    print(f"{done} of {len(todo)} units: {dict(total)}")


@app.command()
def report(
    kinds: Annotated[str, typer.Option(help="Comma-separated kinds to list.")] = "wrong,error,crash",
    only: str = "",
    short: Annotated[bool, typer.Option(help="Count by operator and reason.")] = False,
    state: State = STATE,
) -> None:
    """Counts of all outcomes, and a list of those of some kinds."""
    outcomes = [outcome for group in load(state).values() for outcome in group]
    listed = [o for o in outcomes if o.kind in kinds.split(",") and re.search(only, o.op)]
    if short:
        for (op, detail), number in Counter((o.op, o.detail[:150]) for o in listed).most_common():
            print(f"{number:5} {op}: {detail}")
    else:
        print("\n".join(map(_line, listed)))
    print(f"{len(outcomes)} calls of {len({o.op for o in outcomes})} operators:")
    print(dict(Counter(outcome.kind for outcome in outcomes).most_common()))


@app.command()
def write(state: State = STATE, to: Path = MATRIX) -> None:
    """Write the support matrix of the package; not as long as there is a failure."""
    outcomes = [outcome for group in load(state).values() for outcome in group]
    failed = [outcome for outcome in outcomes if outcome.kind in FAILURES]
    if failed:
        print("\n".join(map(_line, failed)))
        raise typer.Exit(1)
    calls: dict[str, dict[str, Counter[str]]] = {}
    reasons: dict[str, set[str]] = {}
    for outcome in outcomes:
        calls.setdefault(outcome.op, {}).setdefault(outcome.dtype, Counter())[outcome.kind] += 1
        if outcome.kind in ("island", "refused"):
            reasons.setdefault(outcome.op, set()).add(_reason(outcome.detail))
    data = {
        "torch": torch.__version__.split("+")[0],
        "calls": {
            op: {d: dict(sorted(c.items())) for d, c in sorted(calls[op].items())} for op in sorted(calls)
        },
        "reasons": {op: sorted(reasons[op]) for op in sorted(reasons)},
    }
    to.write_text(json.dumps(data, indent=1) + "\n")
    print(f"{len(outcomes)} calls of {len(calls)} overloads written to {to}")


def _reason(detail: str) -> str:
    """The first line, without names of errors and of files."""
    line = detail.split("\n")[0]
    while (shorter := re.sub(r"^(\w*Error: |pass '\w+' failed: )", "", line)) != line:
        line = shorter
    return line[:160]


def _line(outcome: Outcome) -> str:
    return f"{outcome.kind}: {outcome.call or outcome.op} [{outcome.dtype}]: {outcome.detail[:400]}"


if __name__ == "__main__":
    app()
