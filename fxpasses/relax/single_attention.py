"""Attention of a single query, as in a step of decoding: keys and values are read once, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxpasses.relax import tvm_api as T
from fxpasses.relax.attention import Attention, nest
from fxpasses.relax.kernel import load, store

__all__ = ["SingleAttention"]

# So many keys have their scores in the cache at a time, and so many are multiplied side by side.
_KEYS, _SIDE_BY_SIDE = 64, 4

# Keys that eager PyTorch looks at together: a NaN among their values counts, also if the query sees the first alone.
_BLOCK = 512


class SingleAttention(Attention):
    """The kernel for one query: vectors run along the elements of a key, and then along the keys."""

    def emit(self) -> None:
        """All heads."""
        with self.parallel(self.batch * self.heads) as index:
            self._head(T.tirx.floordiv(index, self.heads), T.tirx.floormod(index, self.heads))

    def _head(self, n: Any, h: Any) -> None:
        tirx, builder = T.tirx, T.ir_builder.tirx
        step = max(_KEYS, self.lanes)
        query, sums = self.local(self.width), self.local(self.out_width)
        scores, totals = self.local(step), self.local(self.lanes)
        most, greatest, shrink = self.local(1), self.local(self.lanes), self.local(1)
        self.in_chunks(
            self.width,
            lambda e: store(query, self.query.load(n, h, 0, e) * self.const(self.scale), [e]),
        )
        self.in_chunks(self.out_width, lambda e: store(sums, self.zero, [e]))
        with builder.vectorized(self.lanes) as lane:
            store(totals, self.zero, [lane])
        store(most, self.minus_infinity, [0])

        end = tirx.min(self.keys, _BLOCK) if self.is_causal else self.keys
        with builder.serial(tirx.floordiv(end + step - 1, step)) as block:
            first = block * step
            count = tirx.min(end - first, step)
            with nest(("serial", step // self.lanes), ("vectorized", self.lanes)) as (v, lane):
                store(scores, self.minus_infinity, [v * self.lanes + lane])
            with builder.serial(tirx.floordiv(count + _SIDE_BY_SIDE - 1, _SIDE_BY_SIDE)) as tile:
                self._scores(n, h, first, tile * _SIDE_BY_SIDE, count, query, scores)

            with builder.vectorized(self.lanes) as lane:
                store(greatest, load(most, [0]), [lane])
            with nest(("serial", step // self.lanes), ("vectorized", self.lanes)) as (v, lane):
                store(
                    greatest, tirx.max(load(greatest, [lane]), load(scores, [v * self.lanes + lane])), [lane]
                )
            self._halve(greatest, self.lanes, tirx.max)
            store(shrink, load(most, [0]), [0])
            store(most, load(greatest, [0]), [0])
            store(greatest, self.admitted(load(most, [0])), [0])
            store(shrink, tirx.exp(load(shrink, [0]) - load(greatest, [0])), [0])
            with builder.vectorized(self.lanes) as lane:
                store(totals, load(totals, [lane]) * load(shrink, [0]), [lane])
            with nest(("serial", step // self.lanes), ("vectorized", self.lanes)) as (v, lane):
                at = [v * self.lanes + lane]
                store(scores, tirx.exp(load(scores, at) - load(greatest, [0])), at)
            with nest(("serial", step // self.lanes), ("vectorized", self.lanes)) as (v, lane):
                store(totals, load(totals, [lane]) + load(scores, [v * self.lanes + lane]), [lane])

            self.in_chunks(self.out_width, lambda e: store(sums, load(sums, [e]) * load(shrink, [0]), [e]))
            with builder.serial(count) as j:

                def add(e: Any) -> None:
                    store(sums, load(sums, [e]) + load(scores, [j]) * self.value_at(n, h, first + j, e), [e])

                self.in_chunks(self.out_width, add)

        self._halve(totals, self.lanes, lambda a, b: a + b)
        total = load(totals, [0])

        def finish(e: Any) -> None:
            summed = load(sums, [e])
            self.finish(n, h, 0, e, summed, summed / total, total)

        self.in_chunks(self.out_width, finish)

    def _scores(self, n: Any, h: Any, first: Any, row: Any, count: Any, query: Any, scores: Any) -> None:
        """The scores of a few keys from ``first + row`` on."""
        tirx, builder = T.tirx, T.ir_builder.tirx
        widest = max(width for _, width in self.chunks(self.width))
        for r in range(_SIDE_BY_SIDE):
            position = tirx.min(first + row + r, self.keys - 1)
            held = self.local(widest)
            with builder.vectorized(widest) as lane:
                store(held, self.zero, [lane])
            for start, width in self.chunks(self.width):
                with builder.vectorized(width) as lane:
                    key = self.key_at(n, h, position, start + lane)
                    store(held, load(held, [lane]) + load(query, [start + lane]) * key, [lane])
            self._halve(held, widest, lambda a, b: a + b)
            value = self.masked(load(held, [0]), n, h, position, tirx.IntImm("int64", 0))
            admitted = row + r < count
            store(scores, tirx.Select(admitted, value, self.minus_infinity), [row + r])

    def _halve(self, buffer: Any, size: int, operation: Callable[[Any, Any], Any]) -> None:
        """Combine all elements of *buffer*, a power of two of them, into its first."""
        while size > 1:
            size //= 2
            with T.ir_builder.tirx.vectorized(size) as lane:
                store(buffer, operation(load(buffer, [lane]), load(buffer, [lane + size])), [lane])
