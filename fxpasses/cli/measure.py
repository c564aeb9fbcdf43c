"""Commands that measure: `demo`, `bench` and `profile`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import fxpasses as fxp
from fxpasses.cli.app import bar, err, out, stage, waiting
from fxpasses.cli.sources import canonicalized, load
from fxpasses.errors import FxpassesError
from fxpasses.view import console

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
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

    with stage("load MiniLM-L6 and tokenise the sentences"):
        model, args = encoder.prepare()
    with stage("capture with torch.export"):
        program = fxp.capture(model, args)
    program, history = canonicalized(program)
    out.print(console.history_table(history, "MiniLM-L6: from the captured graph to the canonical form"))
    with stage(f"compile for {target}"):
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

    with bar("measure the latency, taking turns", rounds) as tick:
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


@commands.command()
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
            with waiting(model):
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


@commands.command()
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

    with stage(f"load {model}"):
        source, args, kwargs = (*build(model), {}) if model in MODELS else load(model)
    if args is None:
        raise typer.BadParameter("a .pt2 file has no arguments to call it with", param_hint="MODEL")
    with stage("compile and measure"):
        measured = fxp.profile(source, args, kwargs, target=target, threads=threads, rounds=rounds)
    out.print(console.plain_table(f"Kernels of {model}", measured.HEADER, measured.rows(top)))
    rest = measured.kernels[top:]
    if rest:
        out.print(
            f"{len(rest)} more kernel(s) take {sum(kernel.milliseconds for kernel in rest):.3f} ms (--top)"
        )
    out.print(measured.headline, soft_wrap=True)
