"""Where torch's tracing is mended: it fails on some operators, and says the wrong thing of others.

Each mend sits as deep as it can, since a deeper one serves more doors:

===================  ========================================================================
file                 what it puts in the place of torch's
===================  ========================================================================
`fake_kernels`       the shape of an operator that has none on fake tensors, or a wrong one
`pooling_sizes`      the size of a pooling that rounds up, which torch asks the input's size about
`composites`         the kernel of a composite operator that looks at values where shapes do
`recurrence`         the kernel of a recurrent layer, which would run step by step
`functions`          a function in Python that looks at values before any operator is called
`stack_traces`       nothing: it finds out faster where a node comes from
`fake_values`        nothing: it runs one call on fake tensors, with the mends that it needs
`typical_sizes`      the sizes that it decides by, where those of the example are 0 or 1
===================  ========================================================================

What these kernels demand of values becomes an assertion that the graph keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._ops import OpOverload

from fxpasses.tracing.composites import COMPOSITES, composite_kernels
from fxpasses.tracing.fake_kernels import FAKE_KERNELS, fake_kernels
from fxpasses.tracing.pooling_sizes import POOLINGS, pooling_sizes
from fxpasses.tracing.recurrence import RECURRENT_LAYERS, one_step_shapes

__all__ = ["MENDED", "mended_operators"]

MENDED: frozenset[OpOverload] = frozenset({*COMPOSITES, *FAKE_KERNELS, *POOLINGS, *RECURRENT_LAYERS})
"""The operators that `mended_operators` concerns."""


@contextmanager
def mended_operators() -> Iterator[None]:
    """Where torch traces, the operators of this package can be traced, and have the shapes of eager PyTorch."""
    with composite_kernels(), fake_kernels(), pooling_sizes(), one_step_shapes():
        yield
