"""Common divisors and multiples of integers, and the parts of floats."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.elementwise import broadcast, compute_dtype, within
from fxpasses.relax.kernel import grid, load, loops, store
from fxpasses.relax.ops.arithmetic import absolute, divide_trunc
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@cache
def _euclid(dtype: str, multiple: bool) -> Callable[[Any, Any], Any]:
    """Euclid's algorithm for each pair; of the least int64, which has no positive twin, the sign is unspecified."""

    def kernel(x: Any, y: Any) -> Any:
        shape = broadcast([x.shape, y.shape])

        def body(x: Any, y: Any, out: Any) -> None:
            builder = T.ir_builder.tirx
            high, low, rest = (builder.alloc_buffer([1], dtype, scope="local") for _ in range(3))
            zero = S.const(0, dtype)
            with grid(*shape) as at:
                a = S.cast(load(x, within(x.shape, shape, at)), dtype)
                b = S.cast(load(y, within(y.shape, shape, at)), dtype)
                store(high, absolute(b), [0])
                store(low, absolute(a), [0])
                with builder.While(S.not_equal(load(low, [0]), zero)):
                    store(rest, T.tirx.truncmod(load(high, [0]), load(low, [0])), [0])
                    store(high, load(low, [0]), [0])
                    store(low, load(rest, [0]), [0])
                divisor = load(high, [0])
                result = divisor
                if multiple:
                    wide = dtype if dtype == "int64" else "int32"  # as C promotes
                    a, b, divisor = (S.cast(number, wide) for number in (a, b, divisor))
                    result = S.cast(absolute(S.multiply(divide_trunc(a, divisor), b)), dtype)
                store(out, result, at)

        return loops([x, y], [(shape, dtype)], body, "euclid")

    return kernel


@lowering(aten.gcd.default)
def gcd(b: Any, self: Any, other: Any) -> Any:
    return b.te(_euclid(compute_dtype(b), False), self, other)


@lowering(aten.lcm.default)
def lcm(b: Any, self: Any, other: Any) -> Any:
    return b.te(_euclid(compute_dtype(b), True), self, other)


@lowering(aten.frexp.Tensor)
def frexp(b: Any, self: Any) -> Any:
    """The mantissa in [0.5, 1) and the exponent; infinities and NaN are their own mantissas."""

    def kernel(x: Any) -> Any:
        dtype = str(x.dtype)
        work = accumulated(dtype)

        def exponent(*at: Any) -> Any:
            value = S.cast(x(*at), work)
            plain = S.logical_not(S.isnan(value) | S.isinf(value) | S.equal(value, S.const(0.0, work)))
            name = "ilogb" + ("f" if work == "float32" else "")
            found = T.tirx.call_pure_extern("int32", name, value) + T.tirx.const(1, "int32")
            return S.select(plain, found, T.tirx.const(0, "int32"))

        def mantissa(*at: Any) -> Any:
            name = "scalbn" + ("f" if work == "float32" else "")
            down = T.tirx.const(0, "int32") - exponents(*at)
            return S.cast(T.tirx.call_pure_extern(work, name, S.cast(x(*at), work), down), dtype)

        exponents = T.te.compute(x.shape, exponent, name="exponent")
        return [T.te.compute(x.shape, mantissa, name="mantissa"), exponents]

    pair = b.te(kernel, self)
    return [pair[0], pair[1]]
