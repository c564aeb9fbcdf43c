"""`profile`: where the time of a compiled program goes, kernel by kernel, beside what the machine can do."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import fx

from fxpasses.benchmark.origins import Site, call_sites
from fxpasses.benchmark.roofline import Roofline, roofline
from fxpasses.benchmark.threads import torch_threads
from fxpasses.benchmark.work import Work, count_work
from fxpasses.codegen.callbacks import ISLAND
from fxpasses.codegen.compile import Lowered, lower_optimized, to_canonical, to_program
from fxpasses.codegen.fused_groups import fuse_groups
from fxpasses.codegen.optimize import optimizations
from fxpasses.codegen.pipeline import fusion_passes
from fxpasses.codegen.target import resolve_target
from fxpasses.errors import source_line
from fxpasses.relax import tvm_api as T
from fxpasses.view.tables import table_text
from fxpasses.view.text import short_source

__all__ = ["Call", "Kernel", "Profile", "Recorder", "profile"]


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel on arguments of one shape in one call of the program.

    Attributes:
        name: of the kernel; ``fxpasses.island`` runs in PyTorch, ``vm.builtin`` allocates and views memory.
        shapes: of the arguments, the results after an arrow.
        calls: how many.
        milliseconds: of all calls together, each at its best over the rounds.
        share: part of the time of all kernels.
        flops: of all calls; NaN where the kernel does not tell.
        bytes: of arguments and results that all calls touch; NaN where the kernel does not tell.
        attainable: milliseconds that this machine needs at least for so many flops or bytes.
        nodes: of the graph, for each call.
        sources: the lines of the model that these come from.
    """

    name: str
    shapes: str
    calls: int
    milliseconds: float
    share: float = math.nan
    flops: float = math.nan
    bytes: float = math.nan
    attainable: float = math.nan
    nodes: tuple[tuple[str, ...], ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def gflops(self) -> float:
        """Floating-point operations in a nanosecond."""
        return self.flops / self.milliseconds / 1e6 if self.milliseconds else math.nan

    @property
    def gbytes(self) -> float:
        """Bytes in a nanosecond."""
        return self.bytes / self.milliseconds / 1e6 if self.milliseconds else math.nan

    @property
    def efficiency(self) -> float:
        """Part of the attainable speed; above 1 where the data were in a nearer cache."""
        return self.attainable / self.milliseconds if self.milliseconds else math.nan


@dataclass(frozen=True)
class Profile:
    """What `profile` measured.

    Attributes:
        kernels: the slowest first.
        milliseconds: of a call of the program, without the profiler, at its best over the rounds.
        threads: that ran it.
        machine: the speed that the efficiencies refer to.
    """

    kernels: tuple[Kernel, ...]
    milliseconds: float
    threads: int
    machine: Roofline

    HEADER = ("ms #", "share #", "calls #", "kernel", "GFLOP/s #", "GB/s #", "of roof #", "shapes", "from")

    def rows(self, top: int | None = None) -> list[tuple[str, ...]]:
        """The first *top* kernels as text, one column for each of `HEADER`."""
        return [
            (
                f"{k.milliseconds:.3f}",
                f"{k.share:.1%}",
                str(k.calls),
                k.name,
                *("" if math.isnan(x) else f"{x:.1f}" for x in (k.gflops, k.gbytes)),
                "" if math.isnan(k.efficiency) else f"{k.efficiency:.0%}",
                k.shapes,
                _from(k),
            )
            for k in self.kernels[:top]
        ]

    @property
    def headline(self) -> str:
        """Time of a call, of its kernels, and the speed of the machine."""
        total = sum(kernel.milliseconds for kernel in self.kernels)
        attainable = sum(k.attainable for k in self.kernels if not math.isnan(k.attainable))
        memory = ", ".join(f"{speed:.0f} GB/s to {_size(size)}" for size, speed in self.machine.memory)
        return (
            f"a call takes {self.milliseconds:.3f} ms in {self.threads} thread(s), {total:.3f} ms of it in "
            f"{sum(kernel.calls for kernel in self.kernels)} calls of kernels, at least {attainable:.3f} ms by the "
            f"roofline; this machine: {self.machine.gflops:.0f} GFLOP/s float32, {memory}"
        )

    def __str__(self) -> str:
        header = tuple(column.removesuffix(" #") for column in self.HEADER)
        right = [i for i, column in enumerate(self.HEADER) if column.endswith(" #")]
        return f"{self.headline}\n{table_text([header, *self.rows()], right)}"


def profile(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: Any = "llvm",
    dynamic_shapes: Any = None,
    threads: int | None = None,
    rounds: int = 10,
) -> Profile:
    """Compile *model*, call it, and tell the time of each kernel.

    Args:
        model: what `fxpasses.compile` takes.
        args: arguments of the calls, and of the capture.
        kwargs: keyword arguments.
        target: as for `fxpasses.compile`.
        dynamic_shapes: as for `fxpasses.compile`.
        threads: that run it; torch's number by default.
        rounds: calls; the best time counts of each kernel.

    Raises:
        FxpassesError: what `fxpasses.compile` raises.
    """
    keywords = dict(kwargs or {})
    target = resolve_target(target)
    count = torch.get_num_threads() if threads is None else threads
    program = to_program(model, args, keywords, dynamic_shapes)
    origins: dict[tuple[str, str], fx.Node] = {}
    optimized = optimizations(target)(to_canonical(program))
    lowered = lower_optimized(optimized, target, origins=origins)
    kernels, sites = _kernels(lowered.module, target)
    compiled = lowered.build(shared=program)
    recorder = Recorder()
    with torch_threads(count):
        whole = _best(lambda: compiled(*args, **keywords), rounds)
        with compiled.instrumented(recorder):
            runs = [recorder.during(lambda: compiled(*args, **keywords)) for _ in range(max(rounds, 1))]
        machine = roofline(target, count)
    namer = _Namer(sites, origins, lowered)
    measured = [namer.kernel(calls, kernels, machine) for calls in _aligned(runs)]
    return Profile(tuple(_merged(measured)), whole, count, machine)


def _kernels(module: Any, target: Any) -> tuple[dict[str, Any], list[Site]]:
    """The kernels of *module* before they are scheduled, and the places that call them."""
    sites: list[Site] = []
    with target:
        for step in fusion_passes():
            before, module = module, step(module)
            if step.info.name == fuse_groups().info.name:
                sites = call_sites(before, module)
    kernels = {v.name_hint: f for v, f in module.functions_items() if isinstance(f, T.tirx.PrimFunc)}
    return kernels, sites


# -- measuring -----------------------------------------------------------------------


class Call(NamedTuple):
    """One call, its own time without that of the calls that it made."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    number: int
    milliseconds: float


class Recorder:
    """What the virtual machine tells before and after each call; *clock* gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.calls: list[Call] = []
        self._clock = clock
        self._open: list[list[float]] = []

    def __call__(self, function: Any, name: Any, before: bool, result: Any, *args: Any) -> int:
        if before:
            self._open.append([0.0, self._clock()])
            return 0
        end = self._clock()
        inner, start = self._open.pop()
        spent = (end - start) * 1000
        if self._open:
            self._open[-1][0] += spent
        shapes = tuple(tuple(map(int, a.shape)) for a in args if hasattr(a, "shape") and hasattr(a, "dtype"))
        number = int(args[1]) if str(name) == ISLAND else -1
        self.calls.append(Call(str(name), shapes, number, spent - inner))
        return 0

    def during(self, run: Any) -> list[Call]:
        """The calls that *run* makes."""
        self.calls = []
        run()
        return self.calls


def _best(run: Any, rounds: int) -> float:
    """Milliseconds of the fastest of a few calls."""
    best = math.inf
    for _ in range(max(rounds, 1) + 1):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def _aligned(runs: Sequence[Sequence[Call]]) -> list[Call]:
    """Each call of the last run with its best time; calls differ where the program branches."""
    last = runs[-1]
    same = [run for run in runs if [c[:3] for c in run] == [c[:3] for c in last]]
    return [
        call._replace(milliseconds=min(run[i].milliseconds for run in same)) for i, call in enumerate(last)
    ]


# -- naming --------------------------------------------------------------------------


class _Namer:
    """Finds the nodes and the work of each call."""

    def __init__(
        self, sites: Sequence[Site], origins: Mapping[tuple[str, str], fx.Node], lowered: Lowered
    ) -> None:
        self.sites: dict[str, list[Site]] = {}
        for site in sites:
            self.sites.setdefault(site.kernel, []).append(site)
        self.origins, self.islands = origins, lowered.islands
        self.seen: Counter[str] = Counter()
        self.work: dict[Any, Work] = {}

    def kernel(self, call: Call, kernels: Mapping[str, Any], machine: Roofline) -> Kernel:
        if call.name == ISLAND and self.islands is not None:
            nodes = self.islands.members[call.number]
            return _named(Kernel(call.name, _shapes(call.shapes, 0), 1, call.milliseconds), nodes)
        if call.name not in kernels:
            kind = "vm.builtin" if call.name.startswith("vm.builtin") else call.name
            return Kernel(kind, "", 1, call.milliseconds)
        sites = self.sites.get(call.name, [])
        place = self.seen[call.name]
        self.seen[call.name] += 1
        site = sites[place % len(sites)] if sites else Site(call.name, 1, ())
        nodes = list(dict.fromkeys(self.origins[v] for v in site.variables if v in self.origins))
        key = call.name, call.shapes
        if key not in self.work:
            self.work[key] = count_work(kernels[call.name], call.shapes)
        work = self.work[key]
        row = Kernel(
            call.name,
            _shapes(call.shapes, site.results),
            1,
            call.milliseconds,
            flops=work.flops,
            bytes=work.bytes,
            attainable=machine.milliseconds(work.flops, work.bytes),
        )
        return _named(row, nodes)


def _named(row: Kernel, nodes: Sequence[fx.Node]) -> Kernel:
    sources = dict.fromkeys(filter(None, map(source_line, nodes)))
    return replace(row, nodes=(tuple(node.name for node in nodes),), sources=tuple(sources))


def _merged(rows: Sequence[Kernel]) -> list[Kernel]:
    """One row for each kernel and shape, with its share; the slowest first."""
    groups: dict[Any, list[Kernel]] = {}
    for row in rows:
        groups.setdefault((row.name, row.shapes), []).append(row)
    total = sum(row.milliseconds for row in rows) or math.nan
    merged = [
        replace(
            group[0],
            calls=len(group),
            milliseconds=(spent := sum(row.milliseconds for row in group)),
            share=spent / total,
            flops=sum(row.flops for row in group),
            bytes=sum(row.bytes for row in group),
            attainable=sum(row.attainable for row in group),
            nodes=tuple(nodes for row in group for nodes in row.nodes),
            sources=tuple(dict.fromkeys(line for row in group for line in row.sources)),
        )
        for group in groups.values()
    ]
    return sorted(merged, key=lambda row: -row.milliseconds)


def _shapes(shapes: Sequence[Sequence[int]], results: int) -> str:
    text = ["x".join(map(str, shape)) or "()" for shape in shapes]
    if not results:
        return ", ".join(text)
    return f"{', '.join(text[:-results])} -> {', '.join(text[-results:])}"


def _from(kernel: Kernel) -> str:
    """The nodes of the first call, how many calls more, and the line of the model."""
    if not kernel.nodes:
        return ""
    more = f" and {len(kernel.nodes) - 1} more" if len(kernel.nodes) > 1 else ""
    lines = f" ({short_source(kernel.sources[-1])})" if kernel.sources else ""
    return f"{' '.join(kernel.nodes[0])}{more}{lines}"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
