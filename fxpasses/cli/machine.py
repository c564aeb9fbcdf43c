"""Commands about this installation: `support`, `cache` and `doctor`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.text import Text

from fxpasses.cli.app import out, waiting
from fxpasses.view import console
from fxpasses.view.tables import byte_text

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
def support(
    op: Annotated[str, typer.Argument(metavar="[OPERATOR]", help="Part of a name, such as aten.add.")] = "",
) -> None:
    """Show which operators are native, and how they compared with eager PyTorch, by dtype."""
    from fxpasses.support import FAILURES, OUTCOMES, matrix

    measured = matrix()
    if op:
        names = [name for name in measured["calls"] if op in name]
        if not names:
            raise typer.BadParameter(f"no measured operator has {op!r} in its name", param_hint="OPERATOR")
        out.print(console.support_table(measured, names))
    else:
        out.print(console.core_table())
        out.print(console.outcomes_table(measured))
        out.print(console.systems_table(measured))
    for outcome, meaning in (OUTCOMES if op else OUTCOMES | FAILURES).items():
        out.print(f"{outcome:10} {meaning}", markup=False)


@commands.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
) -> None:
    """Show where compiled code is kept, and how much; --clear removes it."""
    from fxpasses.codegen import cache as store

    if clear:
        out.print(f"{store.clear()} entries removed from {store.directory()}", markup=False, soft_wrap=True)
        return
    found = store.entries()
    kinds = Counter(path.name.partition("-")[0] for path, _, _ in found)
    rows = [
        ("folder", str(store.directory())),
        ("entries", f"{len(found)} ({kinds['code']} programs, {kinds['model']} models)"),
        ("size", f"{byte_text(sum(size for _, size, _ in found))} of {byte_text(store.limit())}"),
        ("state", "on" if store.is_on() else "off (FXPASSES_CACHE)"),
    ]
    out.print(console.plain_table("Compile cache", ["", ""], rows))


@commands.command()
def doctor(context: typer.Context) -> None:
    """Show what works on this machine, and what to install for the rest."""
    from fxpasses.doctor import examine

    styles = {"ok": "green", "missing": "yellow", "failed": "bold red"}
    failed = False
    with waiting("examine this machine"):
        for finding in examine(reraise=context.obj["traceback"]):
            failed |= finding.status == "failed"
            mark = Text(f"{finding.status:8}", style=styles[finding.status])
            out.print(Text.assemble(mark, f"{finding.topic:16} {finding.detail}"), soft_wrap=True)
            if finding.remedy:
                out.print(f"{'':8}{'':16} -> {finding.remedy}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
