"""`roofline`: how fast this machine computes and moves data, measured by two small kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from fxpasses.codegen.pipeline import tir_pipeline
from fxpasses.codegen.runtime import prepare, use_threads
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import load, loops, store

__all__ = ["Roofline", "roofline"]

# Sizes at which the speed of memory is measured: about those of the caches, and past them.
_SIZES = (1 << 18, 1 << 20, 1 << 23, 1 << 27)

_STEPS = 20_000


@dataclass(frozen=True)
class Roofline:
    """The speed of this machine.

    Attributes:
        gflops: float32 multiply-adds from registers, in 10**9 operations a second, two for each.
        memory: (bytes, GB/s) of a kernel that reads one half of so many bytes and writes the other, ascending.
    """

    gflops: float
    memory: tuple[tuple[int, float], ...]

    def bandwidth(self, size: float) -> float:
        """GB/s for a kernel that touches *size* bytes."""
        return next((speed for limit, speed in self.memory if size <= limit), self.memory[-1][1])

    def milliseconds(self, flops: float, size: float) -> float:
        """The least time for so much work: that of computing or of moving, whichever is longer."""
        return max(flops / self.gflops, size / self.bandwidth(size)) / 1e6


@cache
def roofline(target: Any, threads: int = 1) -> Roofline:
    """Measure for code for *target* in so many *threads*; takes a second or two."""
    cpu = CpuInfo.of(target)
    lanes = cpu.lanes(T.tirx.const(0.0, "float32").ty.dtype)
    sums = cpu.registers * 3 // 4
    use_threads(threads)
    run = _kernel(target, (2 * lanes,), (threads, sums * lanes), _multiply_add(threads, sums, lanes))
    gflops = 2.0 * _STEPS * sums * lanes * threads / _seconds(run) / 1e9
    memory = []
    for size in _SIZES:
        rows = size // 8 // lanes // threads
        shape = (threads, rows * lanes)
        run = _kernel(target, shape, shape, _halve(threads, rows, lanes))
        memory.append((size, size / _seconds(run) / 1e9))
    return Roofline(gflops, tuple(memory))


def _multiply_add(threads: int, sums: int, lanes: int) -> Callable[..., None]:
    """Chains of multiply-adds, as many as keep the units busy."""

    def body(x: Any, y: Any) -> None:
        b = T.ir_builder.tirx
        with b.parallel(0, threads) as thread:
            acc = b.alloc_buffer([sums * lanes], "float32", scope="local")
            with b.unroll(sums) as i, b.vectorized(0, lanes) as lane:
                store(acc, T.tirx.const(1.0, "float32"), [i * lanes + lane])
            with b.serial(0, _STEPS), b.unroll(sums) as i, b.vectorized(0, lanes) as lane:
                at = [i * lanes + lane]
                store(acc, load(acc, at) * load(x, [lane]) + load(x, [lanes + lane]), at)
            with b.unroll(sums) as i, b.vectorized(0, lanes) as lane:
                store(y, load(acc, [i * lanes + lane]), [thread, i * lanes + lane])

    return body


def _halve(threads: int, rows: int, lanes: int) -> Callable[..., None]:
    def body(x: Any, y: Any) -> None:
        b = T.ir_builder.tirx
        with b.parallel(0, threads) as thread, b.serial(0, rows) as i, b.vectorized(0, lanes) as lane:
            at = [thread, i * lanes + lane]
            store(y, load(x, at) * T.tirx.const(0.5, "float32"), at)

    return body


def _kernel(
    target: Any, given: tuple[int, ...], made: tuple[int, ...], body: Callable[..., None]
) -> Callable[[], None]:
    x = T.te.placeholder(given, "float32")
    function = T.te.create_prim_func([x, loops([x], [(made, "float32")], body, "roofline")])
    compiled = T.tvm.compile(function, target=target, tir_pipeline=tir_pipeline())["main"]
    arrays = prepare(torch.full(given, 0.5)), prepare(torch.zeros(made))
    return lambda: compiled(*arrays)


def _seconds(run: Callable[[], None]) -> float:
    """The least time of a call."""
    run()
    best, end = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
