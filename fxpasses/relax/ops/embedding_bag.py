"""Sums, means and maxima of rows of a table, in bags of different sizes."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import load, loops, parallel, safe_index, store, used, when
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering

aten = torch.ops.aten

_SUM, _MEAN, _MAX = range(3)


@lowering(aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
def embedding_bag(
    b: Any,
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: Any,
    mode: Any,
    sparse: Any,
    per_sample_weights: Any,
    include_last_offset: Any,
    padding_idx: Any,
) -> Any:
    if any(used(b, result) for result in (1, 2, 3)):
        raise UnsupportedOperatorError("only the first result of an embedding bag is lowered")
    factors = () if per_sample_weights is None else (per_sample_weights,)

    def kernel(table: Any, indices: Any, offsets: Any, *rest: Any) -> Any:
        *factors, shape = rest
        dtype, rows, count = str(table.dtype), table.shape[0], indices.shape[0]
        work = accumulated(dtype)
        skipped = _skipped(padding_idx, rows)
        # In eager PyTorch, only its fast kernels read where the last bag ends.
        last_counts = mode != _MAX and padding_idx < 0 and dtype != "float64"

        def body(table: Any, indices: Any, offsets: Any, *rest: Any) -> None:
            *factors, out = rest
            builder, lazy = T.ir_builder.tirx, T.tirx.if_then_else
            zero = T.tirx.IntImm("int64", 0)
            bags, columns = shape
            ends = offsets.shape[0] if last_counts else bags

            def bound(place: Any) -> Any:
                """Where bag *place* begins, which is where the one before it ends."""
                given = lazy(place < ends, load(offsets, [place]).astype("int64"), count)
                return T.tirx.max(T.tirx.min(given, count), zero)

            with parallel(bags, count * columns) as bag:
                totals = builder.alloc_buffer([columns], work, scope="local")
                taken = builder.alloc_buffer([1], "int64", scope="local")
                with builder.serial(0, columns) as column:
                    store(totals, S.const(0, work), [column])
                store(taken, zero, [0])
                first = bound(bag)
                with builder.serial(0, T.tirx.max(bound(bag + 1) - first, zero)) as step:
                    row = safe_index(load(indices, [first + step]), rows)
                    with when(T.tirx.const(True, "bool") if skipped is None else S.not_equal(row, skipped)):
                        with builder.serial(0, columns) as column:
                            value = S.cast(load(table, [row, column]), work)
                            if factors:
                                value = S.multiply(value, S.cast(load(factors[0], [first + step]), work))
                            so_far = load(totals, [column])
                            greater = load(taken, [0]).equal(0) | (value > so_far)
                            store(
                                totals,
                                S.select(greater, value, so_far) if mode == _MAX else S.add(so_far, value),
                                [column],
                            )
                        store(taken, load(taken, [0]) + 1, [0])
                with builder.serial(0, columns) as column:
                    result = load(totals, [column])
                    if mode == _MEAN:
                        # Eager PyTorch counts what lies behind the last bag as well.
                        behind = T.tirx.Select((bag + 1).equal(bags), count - bound(bags), zero)
                        size = T.tirx.max(load(taken, [0]) + behind, zero + 1)
                        result = S.divide(result, S.cast(size, work))
                    store(out, S.cast(result, dtype), [bag, column])

        return loops([table, indices, offsets, *factors], [(shape, dtype)], body, "embedding_bag")

    shape = b.shape(b.val[0])
    return b.te(kernel, weight, indices, offsets, *factors, shape), None, None, None


def _skipped(padding_idx: int, rows: Any) -> Any:
    """The row that no bag takes; -1 stands for none, as `safe_index` has no negative ones."""
    return None if padding_idx == -1 else T.tirx.IntImm("int64", padding_idx)
