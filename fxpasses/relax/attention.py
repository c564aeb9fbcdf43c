"""Kernels of attention: see `fxpasses.dialect.attention`.

A block of queries, a few vectors of them, meets the keys block by block. The
scores of such a block never leave the cache: their maximum and their sum are
kept for each query, and what was summed before is scaled whenever the maximum
grows. Scores lie with the queries in the lanes of a vector, so that maxima,
exponentials and sums need nothing but vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fxpasses.codegen.schedules.turned import TURNED
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import const, is_static, load, lowest, parallel, product, store, when

__all__ = ["Attention", "BlockAttention", "nest"]

# About so many keys have their scores in the cache at a time.
_KEYS = 64

# Fewer products than these are not worth the start of threads.
_PARALLEL = 1 << 18


@contextmanager
def nest(*loops: tuple[str, Any]) -> Iterator[list[Any]]:
    """Nested loops, each given by its kind and its extent; a list with their variables."""
    with ExitStack() as stack:
        yield [stack.enter_context(getattr(T.ir_builder.tirx, kind)(extent)) for kind, extent in loops]


@dataclass(frozen=True)
class _Place:
    """A tensor [N, H, L, E] or [N, L, H, E] by positions in the first order."""

    buffer: Any
    heads_last: bool

    def at(self, n: Any, h: Any, position: Any, element: Any) -> list[Any]:
        return [n, position, h, element] if self.heads_last else [n, h, position, element]

    def load(self, *at: Any) -> Any:
        return load(self.buffer, self.at(*at))

    def size(self, dim: int) -> Any:
        return self.buffer.shape[self.at(0, 1, 2, 3)[dim]]


class Attention:
    """The operands, and the pieces that all kernels share.

    Args:
        inputs: query, key, value, and a mask if there is one.
        result: where the result goes.
        is_causal, scale, heads_last, lanes, registers: as for the operator.
    """

    def __init__(
        self,
        inputs: Sequence[Any],
        result: Any,
        is_causal: bool,
        scale: float,
        heads_last: Sequence[bool],
        lanes: int,
        registers: int,
    ) -> None:
        query, key, value, *self.masks = inputs
        self.query, self.key, self.value, self.result = (
            _Place(buffer, last) for buffer, last in zip((query, key, value, result), heads_last, strict=True)
        )
        self.is_causal, self.scale = is_causal, scale
        self.lanes, self.registers = lanes, registers
        self.dtype = str(query.dtype)
        self.batch, self.heads, self.queries = (self.query.size(dim) for dim in range(3))
        self.keys, self.width, self.out_width = (
            self.key.size(2),
            int(self.query.size(3)),
            int(self.value.size(3)),
        )
        self.group = T.tirx.floordiv(self.heads, self.key.size(1))
        self.minus_infinity, self.zero = lowest(self.dtype), self.const(0.0)

    def const(self, value: float) -> Any:
        return const(value, self.dtype)

    def local(self, size: int) -> Any:
        """Memory that one thread has for one round of the loop around."""
        return T.ir_builder.tirx.alloc_buffer((size,), self.dtype, scope="local")

    def parallel(self, count: Any) -> Any:
        """A loop whose rounds run in threads, if the work pays for it."""
        work = product([self.batch, self.heads, self.queries, self.keys, self.width])
        return parallel(count, work, least=_PARALLEL)

    def key_at(self, n: Any, h: Any, position: Any, element: Any) -> Any:
        return self.key.load(n, T.tirx.floordiv(h, self.group), position, element)

    def value_at(self, n: Any, h: Any, position: Any, element: Any) -> Any:
        return self.value.load(n, T.tirx.floordiv(h, self.group), position, element)

    def masked(self, score: Any, *at: Any) -> Any:
        """The score of a query and a key, at [n, h, key, query], after what forbids it or adds to it."""
        tirx = T.tirx
        for mask in self.masks:
            own = at[len(at) - len(mask.shape) :]
            found = load(
                mask, [0 if is_static(size, 1) else i for i, size in zip(own, mask.shape, strict=True)]
            )
            if str(mask.dtype) == "bool":  # a NaN stays one, as in eager PyTorch
                found = tirx.Select(found, self.zero, self.minus_infinity)
            score = score + found
        return tirx.Select(at[2] <= at[3], score, self.minus_infinity) if self.is_causal else score

    def admitted(self, greatest: Any) -> Any:
        """The greatest score, zero where no key was admitted: all weights relative to it are zeros then."""
        return T.tirx.Select(greatest.equal(self.minus_infinity), self.zero, greatest)

    def finish(self, n: Any, h: Any, position: Any, element: Any, summed: Any, mean: Any, total: Any) -> None:
        """Write the weighted mean of values; where their weights have the *total* zero, what they summed to.

        That is zero, or NaN if a value times zero is.
        """
        whole = T.tirx.Select(total.equal(self.zero), summed, mean)
        store(self.result.buffer, whole, self.result.at(n, h, position, element))

    def chunks(self, size: int) -> list[tuple[int, int]]:
        """Start and width of the vectors that *size* elements are split into."""
        found, start, width = [], 0, self.lanes
        while start < size:
            while width > size - start:
                width //= 2
            found.append((start, width))
            start += width
        return found

    def in_chunks(self, size: int, body: Callable[[Any], None]) -> None:
        """*body* for each of *size* elements, in vectors."""
        for start, width in self.chunks(size):
            with T.ir_builder.tirx.vectorized(width) as lane:
                body(start + lane)


class BlockAttention(Attention):
    """The kernel for many queries."""

    def emit(self) -> None:
        """Write the loops over all blocks of queries of all heads."""
        tirx = T.tirx
        vectors, rest = self._vectors()
        size, rest_size = vectors * self.lanes, rest * self.lanes
        whole = tirx.floordiv(self.queries, size)
        parts = tirx.floordiv(self.queries - whole * size + rest_size - 1, rest_size)
        with self.parallel(self.batch * self.heads * (whole + parts)) as index:
            head, block = tirx.floordiv(index, whole + parts), tirx.floormod(index, whole + parts)
            n, h = tirx.floordiv(head, self.heads), tirx.floormod(head, self.heads)
            if not is_static(whole, 0):
                with when(block < whole):
                    _Block(self, n, h, block * size, vectors).emit()
            if not is_static(parts, 0):
                with when(block >= whole):
                    _Block(self, n, h, whole * size + (block - whole) * rest_size, rest).emit()

    def _vectors(self) -> tuple[int, int]:
        """The vectors of queries in a block, and in those behind the last whole one."""
        most = max(v for v in range(1, 5) if self.height(v) >= 2 * v or v == 1)
        if not isinstance(self.queries, T.tirx.IntImm):
            return min(most, 3), 1
        total = -(-int(self.queries) // self.lanes)

        def cost(vectors: int) -> tuple[float, int]:
            # A block of one vector loads as much as it multiplies.
            whole, rest = divmod(total, vectors)
            return whole * max(vectors, 1.3) + (max(rest, 1.3) if rest else 0), -vectors

        vectors = min(range(1, min(most, total) + 1), key=cost)
        return vectors, total - int(self.queries) // (vectors * self.lanes) * vectors or 1

    def height(self, vectors: int) -> int:
        """How many rows of *vectors* sums fit into the registers, beside a row of operands."""
        return max(min(14, (self.registers - 2 - vectors) // vectors), 1)


class _Block:
    """One block of queries of one head, from *start* on.

    Rows behind the last query, and keys behind the last, are repetitions of it
    which nobody reads: so no tile asks whether an element is there.
    """

    def __init__(self, owner: BlockAttention, n: Any, h: Any, start: Any, vectors: int) -> None:
        self.owner, self.n, self.h, self.start, self.vectors = owner, n, h, start, vectors
        self.size = vectors * owner.lanes
        self.height = owner.height(vectors)
        if isinstance(owner.keys, T.tirx.IntImm):
            self.height = max(min(self.height, int(owner.keys)), 1)
        self.step = max(_KEYS // self.height, 1) * self.height
        self.used = T.tirx.min(owner.queries - start, self.size)
        self.queries, self.sums = (
            owner.local(owner.width * self.size),
            owner.local(self.size * owner.out_width),
        )
        self.most, self.total, self.shrink = (owner.local(self.size) for _ in range(3))
        self.scores = owner.local(self.step * self.size)

    def emit(self) -> None:
        tirx, builder, owner = T.tirx, T.ir_builder.tirx, self.owner
        self._load_queries()
        with self._each() as i:
            store(self.most, owner.minus_infinity, [i])
            store(self.total, owner.zero, [i])
        with builder.serial(self.size) as i:
            owner.in_chunks(
                owner.out_width, lambda e: store(self.sums, owner.zero, [i * owner.out_width + e])
            )

        end = tirx.min(owner.keys, self.start + self.size) if owner.is_causal else owner.keys
        with builder.serial(_steps(end, self.step)) as block:
            first = block * self.step
            count = tirx.min(owner.keys - first, self.step)
            with builder.serial(_steps(count, self.height)) as tile:
                self._score(first, tile * self.height)
            self._weigh(count)
            for chunks in self._groups():
                self._add(first, count, chunks)

        share = self.shrink  # which has served
        with self._each() as i:
            store(share, owner.const(1.0) / load(self.total, [i]), [i])
        with builder.serial(self.used) as i:
            position, total, part = self.start + i, load(self.total, [i]), load(share, [i])

            def finish(e: Any) -> None:
                summed = load(self.sums, [i * owner.out_width + e])
                owner.finish(self.n, self.h, position, e, summed, summed * part, total)

            owner.in_chunks(owner.out_width, finish)

    def _query(self, i: Any) -> Any:
        """The position of one query of the block, that of the last one for those behind it."""
        return T.tirx.min(self.start + i, self.owner.queries - 1)

    def _load_queries(self) -> None:
        """The queries, scaled, with their positions side by side: turned in registers where they are wide enough."""
        builder, owner = T.ir_builder.tirx, self.owner
        marks = {TURNED: owner.lanes} if owner.width >= owner.lanes > 1 else None
        with (
            builder.serial(owner.width, annotations=marks) as e,
            builder.serial(self.size) if marks else self._each() as i,
        ):
            value = owner.query.load(self.n, self.h, self._query(i), e)
            store(self.queries, value * owner.const(owner.scale), [e * self.size + i])

    def _score(self, first: Any, row: Any) -> None:
        """The scores of the keys of one tile, in registers until they are whole."""
        tirx, builder, owner, size = T.tirx, T.ir_builder.tirx, self.owner, self.size
        tile = owner.local(self.height * size)

        def key(r: Any) -> Any:
            return tirx.min(first + row + r, owner.keys - 1)

        with self._tile() as (r, i):
            store(tile, owner.zero, [r * size + i])
        with builder.serial(owner.width) as e, self._tile() as (r, i):
            term = load(self.queries, [e * size + i]) * owner.key_at(self.n, self.h, key(r), e)
            store(tile, load(tile, [r * size + i]) + term, [r * size + i])

        def put(r: Any, i: Any, query: Any) -> None:
            score = owner.masked(load(tile, [r * size + i]), self.n, self.h, key(r), query)
            store(self.scores, score, [(row + r) * size + i])

        if not owner.masks:
            with self._tile() as (r, i):
                put(r, i, self._query(i))
            return
        # A mask is read in whole vectors but for the last queries.
        with nest(("unroll", self.height), ("unroll", self.vectors)) as (r, v):
            inside = self.start + (v + 1) * owner.lanes <= owner.queries
            with when(inside), builder.vectorized(owner.lanes) as lane:
                put(r, v * owner.lanes + lane, self.start + v * owner.lanes + lane)
            with when(tirx.Not(inside)), builder.vectorized(owner.lanes) as lane:
                put(r, v * owner.lanes + lane, self._query(v * owner.lanes + lane))

    def _weigh(self, count: Any) -> None:
        """Scores become weights relative to the greatest so far; `shrink` is what those before lose."""
        tirx, builder, scores = T.tirx, T.ir_builder.tirx, self.scores
        greatest = self.owner.local(self.size)
        with self._each() as i:
            store(greatest, load(self.most, [i]), [i])
        with builder.serial(count) as j, self._each() as i:
            store(greatest, tirx.max(load(greatest, [i]), load(scores, [j * self.size + i])), [i])
        with self._each() as i:
            store(self.shrink, load(self.most, [i]), [i])
            store(self.most, load(greatest, [i]), [i])
        with self._each() as i:
            store(greatest, self.owner.admitted(load(greatest, [i])), [i])
        with self._each() as i:
            store(self.shrink, tirx.exp(load(self.shrink, [i]) - load(greatest, [i])), [i])
        with self._each() as i:
            store(self.total, load(self.total, [i]) * load(self.shrink, [i]), [i])
        with builder.serial(count) as j, self._each() as i:
            at = [j * self.size + i]
            store(scores, tirx.exp(load(scores, at) - load(greatest, [i])), at)
            store(self.total, load(self.total, [i]) + load(scores, at), [i])

    def _groups(self) -> list[list[tuple[int, int]]]:
        """The vectors of a value that are summed at a time, at most four."""
        chunks = self.owner.chunks(self.owner.out_width)
        size = -(-len(chunks) // -(-len(chunks) // 4))
        return [chunks[at : at + size] for at in range(0, len(chunks), size)]

    def _add(self, first: Any, count: Any, chunks: list[tuple[int, int]]) -> None:
        """Add those vectors of *count* values from *first* on, each with its weight."""
        builder, owner = T.ir_builder.tirx, self.owner
        rows = max(r for r in range(1, owner.height(len(chunks)) + 1) if self.size % r == 0)
        begin = chunks[0][0]
        columns = sum(width for _, width in chunks)

        with builder.serial(_steps(self.used, rows)) as tile:
            row, held = tile * rows, owner.local(rows * columns)

            def each(body: Callable[[Any, Any], Any]) -> None:
                """Store what *body* gives for a row and an element."""
                for start, width in chunks:
                    with nest(("unroll", rows), ("vectorized", width)) as (r, lane):
                        store(held, body(r, start + lane), [r * columns + start - begin + lane])

            def in_sums(r: Any, e: Any) -> list[Any]:
                return [(row + r) * owner.out_width + e]

            def so_far(r: Any, e: Any) -> Any:
                return load(held, [r * columns + e - begin])

            each(lambda r, e: load(self.sums, in_sums(r, e)) * load(self.shrink, [row + r]))
            with builder.serial(count) as j:
                weight = j * self.size + row
                each(
                    lambda r, e: (
                        so_far(r, e)
                        + load(self.scores, [weight + r]) * owner.value_at(self.n, self.h, first + j, e)
                    )
                )
            for start, width in chunks:
                with nest(("unroll", rows), ("vectorized", width)) as (r, lane):
                    store(self.sums, so_far(r, start + lane), in_sums(r, start + lane))

    @contextmanager
    def _each(self) -> Iterator[Any]:
        """Each query of the block."""
        with nest(("unroll", self.vectors), ("vectorized", self.owner.lanes)) as (v, lane):
            yield v * self.owner.lanes + lane

    @contextmanager
    def _tile(self) -> Iterator[tuple[Any, Any]]:
        """Each key of a tile with each query of the block."""
        with T.ir_builder.tirx.unroll(self.height) as r, self._each() as i:
            yield r, i


def _steps(count: Any, step: int) -> Any:
    """How many steps of *step* it takes to reach *count*."""
    return T.tirx.floordiv(count + step - 1, step)
