"""Every architecture: strictly compiled it gives the numbers of eager, and all doors lead to one form.

A default run compiles the few of `QUICK`; ``-m sweep`` all of them.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import fxpasses as fxp
from fxpasses.capture.source import register_containers
from fxpasses.codegen import compile
from fxpasses.errors import CaptureError
from fxpasses.testing import assert_equivalent
from tests.models.architectures import ARCHITECTURES, REFUSED
from tests.models.audio import CODECS
from tests.models.case import Case
from tests.models.zoo import ZOO

QUICK = ("clip", "graph_network", "gru_tagger", "mamba", "quantized_mlp")
"""What a default run compiles beside the zoo, which `test_models` does."""

NOT_IN_HALF = ("fnet", "graph_network", "quantized_dynamic", "quantized_mlp", "quantized_static")
"""What PyTorch itself does not run in half types: there is nothing to compare with."""

HALF = (torch.bfloat16, torch.float16)

BRANCHES_IN_HALF = [("bart", torch.float16)]
"""What asks in Python whether the values of this dtype are finite, which no graph can."""

CHANGED_BY_A_CALL = ("dpt", "funnel", "levit", "segformer")
"""What keeps tensors, or puts hooks in place, in its first call, so that it is captured each time."""

IN_HALF = [
    (name, dtype)
    for name in ARCHITECTURES
    for dtype in HALF
    if name not in NOT_IN_HALF and (name, dtype) not in BRANCHES_IN_HALF
]

OTHERS = [name for name in ARCHITECTURES if name not in ZOO]


def floats(case: Case) -> list[torch.Tensor]:
    with torch.no_grad():
        output = case.model(*case.args, **case.kwargs)
    register_containers(output)
    return [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]


def test_there_are_enough():
    assert len(ARCHITECTURES) >= 40


def test_inputs_reach_the_outputs():
    """With outputs that are biases alone, a comparison would find no error."""
    for name, build in ARCHITECTURES.items():
        case = build()
        other = pytree.tree_map_only(torch.Tensor, _changed, (case.args, case.kwargs))
        for one, two in zip(floats(case), floats(Case(case.model, *other)), strict=True):
            assert one.isfinite().all(), name
            assert (one - two).abs().max() > 1e-2 * one.abs().max(), name


def _changed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flip(-1) if tensor.is_floating_point() else tensor.roll(1, -1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.sweep) for name in OTHERS]
)
def test_compiled_without_islands(name):
    model, args, kwargs = ARCHITECTURES[name]()
    program = fxp.canonicalize(fxp.capture(model, args, kwargs))
    report = fxp.verify(program, "canonical", strict=True)
    assert not report, str(report)
    compiled = fxp.compile(program, strict=True)
    assert_equivalent(model, compiled, args, kwargs=kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("name", CODECS)
def test_paddings_in_buffers(name):
    model, args, kwargs = CODECS[name]()
    program = fxp.capture(model, args, kwargs)
    torch.testing.assert_close(program(*args, **kwargs), model(*args, **kwargs))
    # The noise of the comparison would move the paddings of the model itself.
    assert_equivalent(program, fxp.compile(program, strict=True), args, kwargs=kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("via", ["dynamo", "make_fx"])
@pytest.mark.parametrize("name", OTHERS)
def test_all_doors_lead_to_one_form(name, via):
    model, args, kwargs = ARCHITECTURES[name]()
    exported = fxp.canonicalize(fxp.capture(model, args, kwargs, via="export"))
    program = fxp.canonicalize(fxp.capture(model, args, kwargs, via=via))
    assert str(program) == str(exported)
    assert fxp.fingerprint(program) == fxp.fingerprint(exported)


def in_half(name: str, dtype: torch.dtype) -> Case:
    case = ARCHITECTURES[name]()
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (case.args, case.kwargs)
    )
    return Case(case.model.to(dtype), args, kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "dtype"), IN_HALF)
def test_half_precision(name, dtype):
    model, args, kwargs = in_half(name, dtype)
    assert_equivalent(model, fxp.compile(model, args, kwargs, strict=True), args, kwargs=kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "dtype"), BRANCHES_IN_HALF)
def test_branches_in_half_are_refused(name, dtype):
    model, args, kwargs = in_half(name, dtype)
    with pytest.raises(CaptureError, match="a branch depends on the values of a tensor"):
        fxp.compile(model, args, kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", NOT_IN_HALF)
def test_not_in_half(name, dtype):
    model, args, kwargs = in_half(name, dtype)
    with pytest.raises(RuntimeError), torch.no_grad():
        model(*args, **kwargs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.sweep) for name in ARCHITECTURES]
)
def test_from_the_cache(name, cache_folder, monkeypatch):
    model, args, kwargs = ARCHITECTURES[name]()
    fxp.compile(model, args, kwargs)
    with monkeypatch.context() as patched:
        if name not in CHANGED_BY_A_CALL:
            patched.setattr(compile, "to_program", None)  # nothing is captured
        compiled = fxp.compile(model, args, kwargs)
    assert_equivalent(model, compiled, args, kwargs=kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_and_loaded(name, tmp_path):
    model, args, kwargs = ARCHITECTURES[name]()
    compiled = fxp.compile(model, args, kwargs)
    compiled.save(tmp_path / "model.fxp")
    loaded = fxp.load(tmp_path / "model.fxp")
    torch.testing.assert_close(loaded(*args, **kwargs), compiled(*args, **kwargs), rtol=0, atol=0)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_backend_of_torch_compile(name):
    model, args, kwargs = ARCHITECTURES[name]()
    torch._dynamo.reset()
    assert_equivalent(model, torch.compile(model, backend="fxpasses"), args, kwargs=kwargs)


@pytest.mark.sweep
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_line_that_branches(name):
    model, args, kwargs = REFUSED[name]()
    with pytest.raises(CaptureError, match=r"modeling_\w+\.py:\d+ in .*code: "):
        fxp.capture(model, args, kwargs)
