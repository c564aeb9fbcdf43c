"""On random programs: other forms and back keep the structure and the meaning."""

from __future__ import annotations

import io

import torch
from hypothesis import given
from hypothesis import strategies as st

from fxpasses.interop import graph_module_pass
from fxpasses.passes import canonicalize, eliminate_dead_code
from fxpasses.program import Program
from fxpasses.testing import assert_equivalent, inputs_for, programs
from fxpasses.testing.snippet import module_code
from fxpasses.verify import verify


@given(program=programs(), data=st.data())
def test_exported_program(program, data):
    again = Program.from_exported_program(program.to_exported_program())
    verify(again, "well-formed").raise_if_any()
    assert str(again) == str(program)
    assert again.fingerprint == program.fingerprint
    assert_equivalent(program, again, data.draw(inputs_for(program)))
    canonical = canonicalize(program)
    assert str(Program.from_exported_program(canonical.to_exported_program())) == str(canonical)


@given(program=programs(), data=st.data())
def test_pt2_file(program, data):
    buffer = io.BytesIO()
    torch.export.save(program.to_exported_program(), buffer)
    buffer.seek(0)
    again = Program.from_exported_program(torch.export.load(buffer))
    # torch writes a getitem for a result that nobody uses.
    assert eliminate_dead_code(again).fingerprint == eliminate_dead_code(program).fingerprint
    assert_equivalent(program, again, data.draw(inputs_for(program)))


@given(program=programs(), data=st.data())
def test_a_pass_on_graph_modules_that_does_nothing(program, data):
    again = graph_module_pass(lambda module: module)(program)
    verify(again, "well-formed").raise_if_any()
    assert again.fingerprint == program.fingerprint
    assert_equivalent(program, again, data.draw(inputs_for(program)))


@given(program=programs(), data=st.data())
def test_module(program, data):
    assert_equivalent(program, program.to_module(), data.draw(inputs_for(program)), calls=2)


@given(program=programs())
def test_an_editor_that_does_nothing(program):
    again = program.edit().finish()
    assert str(again) == str(program)
    assert again.fingerprint == program.fingerprint


@given(program=programs(), data=st.data())
def test_code_to_paste(program, data):
    """What failure messages print computes the same."""
    scope = {"torch": torch, "aten": torch.ops.aten, "inf": float("inf"), "nan": float("nan")}
    exec(module_code(program), scope)
    flat = program.replace(
        out_spec=torch.utils._pytree.tree_structure(tuple(range(len(program.signature.outputs))))
    )
    assert_equivalent(flat, scope["Model"](), data.draw(inputs_for(program)))
