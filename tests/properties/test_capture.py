"""On random programs: the doors of capture agree."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fxpasses as fxp
from fxpasses.testing import assert_equivalent, inputs_for, programs


@pytest.mark.parametrize("via", ["make_fx", "symbolic_trace"])
@given(program=programs(max_nodes=6), data=st.data())
def test_doors_agree(via, program, data):
    inputs = data.draw(inputs_for(program))
    module = program.to_module()
    reference = fxp.canonicalize(fxp.capture(module, inputs.args, inputs.kwargs, via="export"))
    captured = fxp.capture(module, inputs.args, inputs.kwargs, via=via)
    other = fxp.canonicalize(captured)
    lines = difflib.unified_diff(
        str(reference).splitlines(), str(other).splitlines(), "export", via, lineterm=""
    )
    assert str(reference) == str(other), "\n".join(lines)
    assert reference.fingerprint == other.fingerprint


@given(program=programs(max_nodes=6), data=st.data())
def test_capture_of_a_module_is_the_program(program, data):
    inputs = data.draw(inputs_for(program))
    captured = fxp.capture(program.to_module(), inputs.args, inputs.kwargs)
    assert_equivalent(program, captured, inputs, calls=2)
