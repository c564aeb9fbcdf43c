"""`draw`: the ratios of benchmarks as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxpasses.benchmark import Benchmark
from fxpasses.errors import FxpassesError

__all__ = ["check", "draw"]

_FORMATS = (".svg", ".png", ".pdf")


def check(path: Path) -> None:
    """Raise an error if `draw` could not write *path*.

    Raises:
        FxpassesError: the name ends otherwise than a format that there is, or matplotlib is missing.
    """
    if path.suffix.lower() not in _FORMATS:
        raise FxpassesError(f"{path}: a chart is written as {', '.join(_FORMATS)}; give a name that ends so")
    if not path.parent.is_dir():
        raise FxpassesError(f"there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FxpassesError("charts need matplotlib: pip install 'fxpasses[bench]'") from error


def draw(results: Sequence[Benchmark], path: Path) -> None:
    """Write a chart of *results* to *path*: for each model and system, its time divided by that of fxpasses.

    Raises:
        FxpassesError: see `check`.
    """
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(name for result in results for name in result.timings if name != "fxpasses"))
    figure = Figure(figsize=(8, 1.6 + 0.38 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    places = range(len(results))
    for number, system in enumerate(systems):
        points = [
            (1 / result.ratio(system), place)
            for place, result in zip(places, results, strict=True)
            if system in result.timings and not math.isnan(result.ratio(system))
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), label=system, marker="osD^vPX*"[number % 8], zorder=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(list(places), [result.name for result in results])
    axes.invert_yaxis()
    axes.grid(axis="both", which="both", color="0.9")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("time divided by that of fxpasses (right of the line: fxpasses is faster)")
    axes.set_title(f"Latency, {results[0].threads} thread(s)" if results else "Latency")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False)
    figure.savefig(path)
