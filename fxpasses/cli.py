"""The ``fxpasses`` command; ``fxpasses --help`` lists what it can do.

Results go to standard output; progress and errors go to standard error. Exit
codes: 0 all well, 1 the work failed, 2 the command line was wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

import fxpasses as fxp
from fxpasses.errors import FxpassesError
from fxpasses.view import console
from fxpasses.view.tables import byte_text

if TYPE_CHECKING:
    from fxpasses.pipeline import History
    from fxpasses.program import Program

__all__ = ["app", "main"]

app = typer.Typer(
    help="Any PyTorch graph in one canonical form, through small passes, to Apache TVM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = console.open_console()
err = console.open_console(stderr=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends with `SystemExit`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The option belongs to the program, but a person adds it to the end of the command that failed.
    traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    if traceback:
        arguments.insert(0, "--traceback")
    try:
        app(args=arguments, prog_name="fxpasses")
    except FxpassesError as error:
        if traceback:
            raise
        err.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"fxpasses {fxp.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the Python traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = {"traceback": traceback}


Pt2File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.pt2", help="A program saved by torch.export.save.", exists=True, dir_okay=False
    ),
]
Level = Literal["well-formed", "canonical"]


# -- inspect and verify ---------------------------------------------------------------


@app.command()
def inspect(
    file: Pt2File,
    canonical: Annotated[bool, typer.Option("--canonical", help="Canonicalize first.")] = False,
    code: Annotated[bool, typer.Option(help="Print the graph as code.")] = True,
) -> None:
    """Show the inputs, operators and graph of a saved program."""
    with _stage(f"load {file}"):
        program = fxp.capture(file)
    if canonical:
        program, history = _canonicalize(program)
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


@app.command()
def verify(
    file: Pt2File,
    level: Annotated[Level, typer.Option(help="The rules to check.")] = "well-formed",
    rules: Annotated[
        bool, typer.Option("--rules", help="Print all rules and end.", callback=_rules, is_eager=True)
    ] = False,
) -> None:
    """Check a saved program against the rules; exit code 1 if it breaks any."""
    with _stage(f"load {file}"):
        program = fxp.capture(file)
    with _stage("check the rules"):
        report = fxp.verify(program, level)
    if not report.ok:
        out.print(console.report_table(report))
        raise typer.Exit(1)
    out.print(str(report), markup=False)


# -- support --------------------------------------------------------------------------


@app.command()
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


# -- compile --------------------------------------------------------------------------


@app.command(name="compile")
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
    with _stage(f"load {model}"):
        source, args, kwargs = _load(model)
    with _stage("capture"):
        program = fxp.capture(source, args, kwargs)
    program, history = _canonicalize(program)
    with _stage(f"compile for {target}"):
        compiled = fxp.compile(program, args, kwargs, target=target, strict=strict)
    with _stage(f"write {output}"):
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
        with _stage("compare with eager PyTorch"):
            rows.append(
                ("largest difference to eager", f"{_difference(program, compiled, args, kwargs):.1e}")
            )
    out.print(console.plain_table("Compiled", ["", ""], rows))


def _load(spec: str) -> tuple[Any, tuple[Any, ...] | None, dict[str, Any] | None]:
    """The source of a ``compile`` command with its example arguments, if it has any."""
    if spec.endswith(".pt2"):
        path = Path(spec)
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {spec}", param_hint="MODEL")
        return path, None, None
    module_name, separator, name = spec.partition(":")
    if not separator:
        raise typer.BadParameter(
            f"{spec!r} is neither a .pt2 file nor package.module:function", param_hint="MODEL"
        )
    # An installed command does not look into the current folder, as `python -m` does.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise typer.BadParameter(f"there is no module {module_name!r}", param_hint="MODEL") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise typer.BadParameter(f"{module_name} has no function {name!r}", param_hint="MODEL")
    match function():
        case (model, tuple(args)):
            return model, args, None
        case (model, tuple(args), dict(kwargs)):
            return model, args, kwargs
        case other:
            raise typer.BadParameter(
                f"{spec} returned {type(other).__name__}; it has to return (model, args) or "
                "(model, args, kwargs) with a tuple args and a dict kwargs",
                param_hint="MODEL",
            )


# -- demo -----------------------------------------------------------------------------


@app.command()
def demo(
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of PyTorch and of TVM.", show_default="PyTorch's own"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the latency measurement.")] = 15,
    target: Annotated[str, typer.Option(help="TVM target.")] = "llvm",
) -> None:
    """Compile a trained sentence encoder and compare it with eager PyTorch."""
    import torch

    from fxpasses import demo as encoder

    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)  # a compiled program follows it

    with _stage("load MiniLM-L6 and tokenise the sentences"):
        model, args = encoder.prepare()
    with _stage("capture with torch.export"):
        program = fxp.capture(model, args)
    program, history = _canonicalize(program)
    out.print(console.history_table(history, "MiniLM-L6: from the captured graph to the canonical form"))
    with _stage(f"compile for {target}"):
        compiled = fxp.compile(program, args, target=target, strict=True)

    with torch.no_grad():
        expected, got = model(*args), compiled(*args)
    difference = (expected - got).abs().max().item()
    theirs, ours = encoder.ranking(expected), encoder.ranking(got)
    same = [sentence for _, sentence in theirs] == [sentence for _, sentence in ours]
    rows = [
        (
            str(place),
            sentence,
            f"{score:.6f}",
            f"{score_torch:.6f}" + ("" if sentence == other else f"  {other}"),
        )
        for place, ((score, sentence), (score_torch, other)) in enumerate(zip(ours, theirs, strict=True), 1)
    ]
    out.print(
        console.plain_table(
            f"Most similar to: {encoder.QUERY}", ["#", "sentence", "fxpasses #", "PyTorch #"], rows
        )
    )

    def eager() -> None:
        with torch.no_grad():
            model(*args)

    with _bar("measure the latency, taking turns", rounds) as tick:
        samples = encoder.alternate(
            {"fxpasses": lambda: compiled(*args), "eager PyTorch": eager}, rounds=rounds, progress=tick
        )
    times = {name: statistics.median(values) for name, values in samples.items()}
    out.print(
        console.plain_table(
            "Latency",
            ["", "ms #", "to eager #"],
            [(name, f"{ms:.2f}", f"{ms / times['eager PyTorch']:.2f}") for name, ms in times.items()],
        )
    )
    batch, length = args[0].shape
    out.print(
        f"{batch} sentences of {length} tokens, {threads} thread(s), "
        f"median of {len(samples['fxpasses'])} rounds in turns"
    )
    out.print(f"largest difference to eager PyTorch: {difference:.1e} (limit {encoder.TOLERANCE:.0e})")
    out.print(f"ranking: {'the same' if same else 'DIFFERENT'}")
    if difference >= encoder.TOLERANCE or not same:
        raise FxpassesError("the compiled encoder does not agree with eager PyTorch")


# -- bench ----------------------------------------------------------------------------


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Names of built-in models (all of them by default), or package.module:function.",
        ),
    ] = None,
    against: Annotated[
        str, typer.Option(help="The systems to compare with, with commas between.")
    ] = "eager,eager-channels-last,inductor,onnxruntime,openvino",
    threads: Annotated[int, typer.Option(min=1, help="Threads of each system.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the systems take turns.")] = 15,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ratios, as SVG, PNG or PDF by the name.")
    ] = None,
) -> None:
    """Time models beside other ways to run them, each in a process of its own."""
    from fxpasses.benchmark import Benchmark, summary
    from fxpasses.benchmark import bench as measure
    from fxpasses.benchmark.models import MODELS

    if plot is not None:
        from fxpasses.benchmark.plot import check

        check(plot)  # before an hour is spent
    for model in models or ():
        if model not in MODELS and ":" not in model:
            raise typer.BadParameter(
                f"{model!r} is neither package.module:function nor one of {', '.join(MODELS)}",
                param_hint="MODEL",
            )
    results: list[Benchmark] = []
    failures: list[str] = []
    for model in models or MODELS:
        source = f"fxpasses.benchmark.models:{model}" if model in MODELS else model
        try:
            with _waiting(model):
                result = measure(
                    source, against=against.split(","), threads=threads, rounds=rounds, name=model
                )
        except FxpassesError as error:
            failures.append(f"{model}: {error}")
            err.print(Text(failures[-1], style="bold red"), soft_wrap=True)
            continue
        results.append(result)
        out.print(console.plain_table(f"{model}, {threads} thread(s)", Benchmark.HEADER, result.rows()))
    columns = ["time of fxpasses to that of", "geometric mean #", "worst #", "", "models #"]
    if results:
        out.print(console.plain_table("All models", columns, summary(results)))
    if plot is not None and results:
        from fxpasses.benchmark.plot import draw

        draw(results, plot)
        out.print(f"written: {plot}", markup=False)
    if failures:
        raise typer.Exit(1)


# -- profile --------------------------------------------------------------------------


@app.command()
def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The name of a built-in model (see bench), or package.module:function."
        ),
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="PyTorch's own")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Calls; the best time of each kernel counts.")] = 10,
    top: Annotated[int, typer.Option(min=1, help="How many kernels to show.")] = 25,
    target: Annotated[str, typer.Option(help="TVM target.")] = "llvm",
) -> None:
    """Show the time of each kernel of a model beside the speed that this machine can reach."""
    from fxpasses.benchmark.models import MODELS, build

    with _stage(f"load {model}"):
        source, args, kwargs = (*build(model), {}) if model in MODELS else _load(model)
    if args is None:
        raise typer.BadParameter("a .pt2 file has no arguments to call it with", param_hint="MODEL")
    with _stage("compile and measure"):
        measured = fxp.profile(source, args, kwargs, target=target, threads=threads, rounds=rounds)
    out.print(console.plain_table(f"Kernels of {model}", measured.HEADER, measured.rows(top)))
    rest = measured.kernels[top:]
    if rest:
        out.print(
            f"{len(rest)} more kernel(s) take {sum(kernel.milliseconds for kernel in rest):.3f} ms (--top)"
        )
    out.print(measured.headline, soft_wrap=True)


# -- cache ----------------------------------------------------------------------------


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
) -> None:
    """Show where compiled code is kept, and how much; --clear removes it."""
    from fxpasses.codegen import cache as store

    if clear:
        out.print(f"{store.clear()} entries removed from {store.directory()}", markup=False, soft_wrap=True)
        return
    found = store.entries()
    rows = [
        ("folder", str(store.directory())),
        ("entries", str(len(found))),
        ("size", f"{byte_text(sum(size for _, size, _ in found))} of {byte_text(store.limit())}"),
        ("state", "on" if store.is_on() else "off (FXPASSES_CACHE)"),
    ]
    out.print(console.plain_table("Compile cache", ["", ""], rows))


# -- doctor ---------------------------------------------------------------------------


@app.command()
def doctor(context: typer.Context) -> None:
    """Show what works on this machine, and what to install for the rest."""
    from fxpasses.doctor import examine

    styles = {"ok": "green", "missing": "yellow", "failed": "bold red"}
    failed = False
    with _waiting("examine this machine"):
        for finding in examine(reraise=context.obj["traceback"]):
            failed |= finding.status == "failed"
            mark = Text(f"{finding.status:8}", style=styles[finding.status])
            out.print(Text.assemble(mark, f"{finding.topic:16} {finding.detail}"), soft_wrap=True)
            if finding.remedy:
                out.print(f"{'':8}{'':16} -> {finding.remedy}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


# -- progress -------------------------------------------------------------------------


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    with err.status(Text(text)) if err.is_terminal else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _stage(text: str) -> Iterator[None]:
    """A spinner while the body runs, then a line with its time."""
    start = time.perf_counter()
    with _waiting(text):
        yield
    err.print(Text(f"{text}: {time.perf_counter() - start:.1f} s", style="dim"), soft_wrap=True)


@contextlib.contextmanager
def _bar(text: str, total: int) -> Iterator[Any]:
    """A progress bar; the body calls what it is given after each piece of work."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
    err.print(Text(f"{text}: {time.perf_counter() - start:.1f} s", style="dim"), soft_wrap=True)


def _canonicalize(program: Program) -> tuple[Program, History]:
    """`fxpasses.canonicalize` with a progress bar and its history."""
    passes = list(fxp.canonicalize)
    with _bar("canonicalize", len(passes)) as tick:
        return fxp.Pipeline(*passes, name="canonicalize", hook=lambda *_: tick()).run(program)


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
