"""Commands on one program: `inspect`, `verify` and `compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import fxpasses as fxp
from fxpasses.cli.app import out, stage
from fxpasses.cli.sources import canonicalized, load
from fxpasses.view import console
from fxpasses.view.tables import byte_text

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["commands"]

commands = typer.Typer()

Pt2File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.pt2", help="A program saved by torch.export.save.", exists=True, dir_okay=False
    ),
]
Level = Literal["well-formed", "canonical"]


@commands.command()
def inspect(
    file: Pt2File,
    canonical: Annotated[bool, typer.Option("--canonical", help="Canonicalize first.")] = False,
    code: Annotated[bool, typer.Option(help="Print the graph as code.")] = True,
) -> None:
    """Show the inputs, operators and graph of a saved program."""
    with stage(f"load {file}"):
        program = fxp.capture(file)
    if canonical:
        program, history = canonicalized(program)
        out.print(console.history_table(history))
    out.print(console.summary_table(program, str(file)))
    out.print(console.arguments_table(program))
    out.print(console.operators_table(program))
    if code:
        out.print(repr(program), markup=False, soft_wrap=True)


def _rules(wanted: bool) -> None:
    if wanted:
        from fxpasses.verify import rules_by_level

        out.print(console.rules_table(rules_by_level()))
        raise typer.Exit


@commands.command()
def verify(
    file: Pt2File,
    level: Annotated[Level, typer.Option(help="The rules to check.")] = "well-formed",
    rules: Annotated[
        bool, typer.Option("--rules", help="Print all rules and end.", callback=_rules, is_eager=True)
    ] = False,
) -> None:
    """Check a saved program against the rules; exit code 1 if it breaks any."""
    with stage(f"load {file}"):
        program = fxp.capture(file)
    with stage("check the rules"):
        report = fxp.verify(program, level)
    if not report.ok:
        out.print(console.report_table(report))
        raise typer.Exit(1)
    out.print(str(report), markup=False)


@commands.command(name="compile")
def compile_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A .pt2 file, or package.module:function where the function returns "
            "(model, args) or (model, args, kwargs).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.fxp", help="Where to write the compiled model.")
    ],
    target: Annotated[
        str, typer.Option(help="TVM target: 'llvm' is this machine, 'llvm -mcpu=skylake' another.")
    ] = "llvm",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse PyTorch calls in the compiled model.")
    ] = False,
) -> None:
    """Compile a model and save it as one file that fxpasses.load reads."""
    with stage(f"load {model}"):
        source, args, kwargs = load(model)
    with stage("capture"):
        program = fxp.capture(source, args, kwargs)
    program, history = canonicalized(program)
    with stage(f"compile for {target}"):
        compiled = fxp.compile(program, args, kwargs, target=target, strict=strict)
    with stage(f"write {output}"):
        compiled.save(output)
    out.print(console.history_table(history))
    rows = [
        ("target", str(compiled.target)),
        ("file", f"{output} ({byte_text(output.stat().st_size)})"),
    ]
    islands = compiled.islands.rows if compiled.islands is not None else ()
    steps = [f"{step.op}: {step.reason}" for island in islands for step in island.steps]
    rows += [("runs in PyTorch", text) for text in dict.fromkeys(steps)]
    if args is not None:
        with stage("compare with eager PyTorch"):
            rows.append(
                ("largest difference to eager", f"{_difference(program, compiled, args, kwargs):.1e}")
            )
    out.print(console.plain_table("Compiled", ["", ""], rows))


def _difference(
    program: Program, compiled: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> float:
    """The largest difference of an output of the compiled model to that of the program."""
    import copy

    import torch
    from torch.utils import _pytree as pytree

    expected, _ = program.run(*copy.deepcopy(args), **copy.deepcopy(kwargs or {}))
    got = compiled(*copy.deepcopy(args), **copy.deepcopy(kwargs or {}))
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True)
    return max(
        (
            (a.double() - b.double()).abs().max().item()
            for a, b in pairs
            if isinstance(a, torch.Tensor) and a.numel()
        ),
        default=0.0,
    )
