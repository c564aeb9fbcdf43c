"""On random programs: the compiled program does what eager PyTorch does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import fxpasses as fxp
from fxpasses.testing import assert_equivalent, inputs_for, programs
from tests.properties.helpers import WITHOUT_SUMS


@given(program=programs(max_nodes=5), data=st.data())
def test_compiled_program_equals_eager(program, data):
    inputs = data.draw(inputs_for(program))
    compiled = fxp.compile(program, inputs.args, inputs.kwargs)
    assert_equivalent(program, compiled, inputs, calls=2)


@given(program=programs(max_nodes=4, dynamic=True), data=st.data())
def test_compiled_program_equals_eager_at_every_size(program, data):
    compiled = fxp.compile(program)
    for _ in range(2 if program.ranges else 1):
        inputs = data.draw(inputs_for(program))
        assert_equivalent(program, compiled, inputs)


@given(program=programs(ops=WITHOUT_SUMS, max_nodes=2, mutation=False), data=st.data())
def test_compiled_program_equals_eager_on_special_values(program, data):
    inputs = data.draw(inputs_for(program, special=True))
    compiled = fxp.compile(program, inputs.args, inputs.kwargs)
    assert_equivalent(program, compiled, inputs)
