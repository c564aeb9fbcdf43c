"""On random programs: every pass preserves meaning, and canonicalisation ends in its form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxpasses.passes import CATALOGUE, canonicalize
from fxpasses.testing import assert_equivalent, first_divergence, inputs_for, programs
from fxpasses.verify import verify


@given(program=programs(), data=st.data())
def test_generated_programs_are_well_formed(program, data):
    verify(program, "well-formed").raise_if_any("a generated program")
    inputs = data.draw(inputs_for(program))
    program.run(*inputs, **inputs.kwargs)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
@given(program=programs(), data=st.data())
def test_pass_preserves_meaning(name, program, data):
    # A pass of the pipeline may rely on those before it.
    for earlier in canonicalize:
        if earlier is CATALOGUE[name]:
            break
        program = earlier(program)
    result = CATALOGUE[name](program)
    if result is program:
        return
    verify(result, "well-formed").raise_if_any(f"after {name}")
    assert_equivalent(program, result, data.draw(inputs_for(program)), calls=2)


@given(program=programs(), data=st.data())
def test_canonicalize_preserves_meaning(program, data):
    result = canonicalize(program)
    inputs = data.draw(inputs_for(program))
    assert_equivalent(program, result, inputs, calls=2)
    divergence = first_divergence(program, result, inputs)
    assert divergence is None, divergence


@given(program=programs(), data=st.data())
def test_canonicalize_preserves_meaning_of_special_values(program, data):
    assert_equivalent(program, canonicalize(program), data.draw(inputs_for(program, special=True)))


@given(program=programs())
def test_canonical_form_is_reached_and_stays(program):
    result = canonicalize(program)
    verify(result, "canonical").raise_if_any("after canonicalize")
    again = canonicalize(result)
    assert str(again) == str(result)
    assert again.fingerprint == result.fingerprint
