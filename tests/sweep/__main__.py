"""The command ``python -m tests.sweep``; see the package."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer

from tests.sweep.judge import FAILURES, Outcome
from tests.sweep.pool import Finished, Settings, load, work

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Operators against eager PyTorch.")

Edges = Annotated[bool, typer.Option(help="Variants of the calls at edges.")]
Dynamic = Annotated[bool, typer.Option(help="Samples captured for any sizes, and called with other ones.")]
System = Annotated[str, typer.Option(help="What answers: fxpasses, or tvm for TVM's own importer.")]
Only = Annotated[str, typer.Option(help="Units that this regular expression is found in.")]

BUILD = Path("build")
MATRIX = Path("fxpasses/support.json")
SYSTEMS = ("fxpasses", "tvm")
KINDS = ("exact", "close", "island", "undefined", "raises", "refused", "wrong", "error", "crash")


def state_file(system: str, form: str) -> Path:
    """The file that finished units are kept in."""
    return BUILD / f"sweep-{system}{'' if form == 'plain' else f'-{form}'}.jsonl"


def form_of(edges: bool, dynamic: bool, system: str) -> str:
    """The row of `tests.sweep.forms.FORMS` that the options ask for."""
    from tests.sweep.forms import FORMS

    if edges and dynamic:
        raise typer.BadParameter("--edges and --dynamic are two forms of the sweep")
    form = "edges" if edges else "dynamic" if dynamic else "plain"
    if system not in FORMS[form].systems:
        raise typer.BadParameter(f"{system!r} answers no calls of this form; use {list(FORMS[form].systems)}")
    return form


@app.command()
def run(
    minutes: Annotated[float, typer.Option(help="How long to work, about.")] = 5.0,
    count: Annotated[int, typer.Option(help="Samples of each operator and dtype.")] = 5,
    only: Only = "",
    edges: Edges = False,
    dynamic: Dynamic = False,
    system: System = "fxpasses",
    again: Annotated[bool, typer.Option(help="Work through finished units, too.")] = False,
    failed: Annotated[bool, typer.Option(help="Work through units with failures again.")] = False,
    refused: Annotated[bool, typer.Option(help="Work through units with refusals again.")] = False,
) -> None:
    """Work through the units that are not finished yet."""
    from tests.sweep.forms import FORMS
    from tests.sweep.samples import units

    name = form_of(edges, dynamic, system)
    form, state = FORMS[name], state_file(system, name)
    finished = load(state)
    again_kinds = (FAILURES if failed else ()) + (("refused",) if refused else ())
    todo = [unit for unit in units(form.dtypes) if re.search(only, unit)]
    if again_kinds:
        todo = [u for u in todo if u in finished and any(o.kind in again_kinds for o in finished[u].outcomes)]
    elif not again:
        todo = [unit for unit in todo if unit not in finished]
    total: Counter[str] = Counter()
    done = 0
    for _, found in work(todo, state, Settings(count, form.systems[system], name), 60 * minutes):
        done += 1
        total.update(outcome.kind for outcome in found.outcomes)
        for outcome in found.outcomes:
            if outcome.kind in FAILURES and system == "fxpasses":
                print(_line(outcome), flush=True)
    print(f"{done} of {len(todo)} units: {dict(total)}")


@app.command()
def report(
    kinds: Annotated[str, typer.Option(help="Comma-separated kinds to list.")] = "wrong,error,crash",
    only: Annotated[str, typer.Option(help="Operators that this regular expression is found in.")] = "",
    edges: Edges = False,
    dynamic: Dynamic = False,
    system: System = "fxpasses",
    short: Annotated[bool, typer.Option(help="Count by operator and reason.")] = False,
) -> None:
    """A list of the outcomes of some kinds, and the counts of all, beside those of TVM's importer."""
    outcomes = list(_outcomes(load(state_file(system, form_of(edges, dynamic, system))).values()))
    listed = [o for o in outcomes if o.kind in kinds.split(",") and re.search(only, o.op)]
    if short:
        for (op, detail), number in Counter((o.op, o.detail[:150]) for o in listed).most_common():
            print(f"{number:5} {op}: {detail}")
    else:
        print("\n".join(map(_line, listed)))
    print(f"{'':24}{'units':>7}{'calls':>8}" + "".join(f"{kind:>11}" for kind in KINDS))
    for form, where in {"plain": "", "edges": " at edges", "dynamic": " for any sizes"}.items():
        tables = {name: load(state_file(name, form)) for name in SYSTEMS}
        common = set.intersection(*map(set, tables.values()))
        _counts(f"fxpasses{where}", tables["fxpasses"])
        if common:
            for name, table in tables.items():
                _counts(f"- units of both, {name}", {unit: table[unit] for unit in common})


def _counts(name: str, table: dict[str, Finished]) -> None:
    counts = Counter(outcome.kind for outcome in _outcomes(table.values()))
    print(f"{name:24}{len(table):7}{counts.total():8}" + "".join(f"{counts[kind]:11}" for kind in KINDS))


@app.command()
def write(to: Path = MATRIX) -> None:
    """Write the support matrix of the package; not as long as there is a failure, or a sweep is missing."""
    needed = [(name, "plain") for name in SYSTEMS] + [("fxpasses", "edges")]
    if missing := [path for path in (state_file(*sweep) for sweep in needed) if not load(path)]:
        print(f"no unit is finished in {', '.join(map(str, missing))}: run these sweeps first")
        raise typer.Exit(1)
    outcomes = [
        outcome
        for form in ("plain", "edges")
        for outcome in _outcomes(load(state_file("fxpasses", form)).values())
    ]
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
        "systems": _systems(),
    }
    to.write_text(_text(data))
    print(f"{len(outcomes)} calls of {len(calls)} overloads written to {to}")


def _systems() -> dict[str, dict[str, int]]:
    """What became of the calls of the units that all systems have worked through."""
    tables = {name: load(state_file(name, "plain")) for name in SYSTEMS}
    common = set.intersection(*map(set, tables.values()))
    found = {}
    for name, table in tables.items():
        counts = Counter(outcome.kind for outcome in _outcomes(table[unit] for unit in common))
        found[name] = {"units": len(common), **{kind: counts[kind] for kind in KINDS if counts[kind]}}
    return found


def _text(data: dict[str, dict[str, object]]) -> str:
    """JSON with a line for each operator, so that the file is small and its changes can be read."""
    parts = []
    for key, value in data.items():
        rows = value.items() if isinstance(value, dict) else ()
        lines = ",\n".join(f"  {json.dumps(op)}: {json.dumps(row)}" for op, row in rows)
        parts.append(f" {json.dumps(key)}: " + (f"{{\n{lines}\n }}" if rows else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _outcomes(finished: Iterable[Finished]) -> Iterable[Outcome]:
    return (outcome for unit in finished for outcome in unit.outcomes)


_PREFIX = re.compile(r"^(\w*Error: |NotTraced: |pass '\w+' failed: |Samples could not be captured: )")


def _reason(detail: str) -> str:
    """The first line, without names of errors and of files."""
    line = detail.split("\n")[0]
    while (shorter := _PREFIX.sub("", line)) != line:
        line = shorter
    return line[:160]


def _line(outcome: Outcome) -> str:
    edge = f" at edge {outcome.edge!r}" if outcome.edge else ""
    return f"{outcome.kind}{edge}: {outcome.call or outcome.op} [{outcome.dtype}]: {outcome.detail[:400]}"


if __name__ == "__main__":
    app()
