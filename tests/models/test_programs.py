"""Other people's programs: torch's samples of its modules and the examples of torch.export.

Each gives what eager gives, or is refused with a message that says what to do.
"""

from __future__ import annotations

import pytest
import torch
from torch._export.db.examples import all_examples
from torch.testing._internal.common_modules import module_db

import fxpasses as fxp
from fxpasses.errors import FxpassesError
from fxpasses.testing import assert_equivalent

pytestmark = pytest.mark.sweep

EXAMPLES = all_examples()
MODULES = {info.name: info for info in module_db}

REFUSED = {
    "nn.FractionalMaxPool2d": "Expect _random_samples to have the same dtype as input",
    "nn.FractionalMaxPool3d": "Expect _random_samples to have the same dtype as input",
    "tensor_setattr": "draws random numbers",
}
"""What no graph is meant to hold by default, or eager PyTorch refuses too, with words of the message."""

ISLANDS = {"nn.CTCLoss"}
"""What runs in PyTorch."""


def check(name, model, args, kwargs, *, more=None, **options):
    """Compiled and eager agree, on *more* arguments too; or the message of the refusal is the expected one."""
    if name in REFUSED:
        with pytest.raises(FxpassesError, match=REFUSED[name]):
            fxp.compile(model, args, kwargs, **options)(*args, **kwargs)
        return
    compiled = fxp.compile(model, args, kwargs, **options)
    assert_equivalent(model, compiled, args, kwargs=kwargs)
    if more is not None:
        assert_equivalent(model, compiled, more)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example_of_export(name):
    example = EXAMPLES[name]
    args, kwargs = example.example_args, example.example_kwargs
    shapes = example.dynamic_shapes
    check(name, example.model, args, kwargs, more=example.extra_args, dynamic_shapes=shapes)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_of_torch(name):
    """Two samples of each module, without islands but for those of `ISLANDS`."""
    info = MODULES[name]
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
    )
    called = [sample for sample in samples if sample.forward_input is not None]
    for sample in called[:2]:
        constructor, call = sample.constructor_input, sample.forward_input
        module = info.module_cls(*constructor.args, **constructor.kwargs).eval()
        check(name, module, call.args, call.kwargs, strict=name not in ISLANDS | REFUSED.keys())
