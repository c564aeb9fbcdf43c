"""`fuse_conv_bn`: every kind of producer, and each guard."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxpasses.passes import canonicalize, decompose_to_core_aten, eliminate_dead_code, fuse_conv_bn
from fxpasses.pipeline import Pipeline
from tests.passes.helpers import apply, aten, program_of

NORMS = (aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)


def perturbed(*layers: nn.Module) -> nn.Sequential:
    """The layers in eval mode, batch norms with statistics and weights that show."""
    model = nn.Sequential(*layers).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def norms(program) -> int:
    return sum(node.target in NORMS for node in program.graph.nodes)


FUSED = {
    "conv1d": ([nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)], (2, 4, 9)),
    "conv2d": ([nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "conv3d": ([nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)], (2, 2, 4, 4, 4)),
    "no bias": ([nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "grouped": ([nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "depthwise": ([nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)], (2, 4, 5, 5)),
    "transposed 1d": ([nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6)], (2, 4, 5)),
    "transposed": ([nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "transposed grouped": ([nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "transposed 3d": ([nn.ConvTranspose3d(2, 4, 2, groups=2), nn.BatchNorm3d(4)], (2, 2, 3, 3, 3)),
    "linear": ([nn.Linear(4, 6), nn.BatchNorm1d(6)], (5, 4)),
    "linear without bias": ([nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)], (5, 4)),
    "without affine": ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)], (2, 4, 5, 5)),
    "two norms": ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
}
SPELLINGS = {
    "aten": Pipeline(fuse_conv_bn),
    "core": Pipeline(decompose_to_core_aten, fuse_conv_bn, eliminate_dead_code),
    "canonical": canonicalize,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", FUSED)
def test_fused(name, spelling):
    layers, size = FUSED[name]
    model, x = perturbed(*layers).double(), torch.randn(size, dtype=torch.float64)
    after = apply(SPELLINGS[spelling], program_of(model, x), x, exact=False)
    assert norms(after) == 0
    torch.testing.assert_close(after(x), model(x))


def test_functional_spelling():
    weight, mean, var = torch.randn(6, 4, 3, 3), torch.randn(6), torch.rand(6) + 0.5

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weight)
            self.register_buffer("mean", mean)
            self.register_buffer("var", var)

        def forward(self, x):
            return F.batch_norm(F.conv2d(x, self.weight, stride=2), self.mean, self.var)

    x = torch.randn(2, 4, 7, 7)
    after = apply(canonicalize, program_of(Functional(), x), x, exact=False)
    assert norms(after) == 0
    assert sorted(after.tensors) == ["bias_fused", "weight_fused"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_computed_in_float64(dtype):
    model = perturbed(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    x = torch.randn(2, 4, 5, 5)
    exact = model.double()(x.double())
    program = canonicalize(program_of(model.to(dtype), x.to(dtype)))
    conv, norm = model[0].double(), model[1].double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    expected = (conv.weight * scale[:, None, None, None]).to(dtype)
    assert torch.equal(program.tensors["0.weight_fused"], expected)
    assert norms(program) == 0
    assert exact.isfinite().all()


class Kept(nn.Module):
    """A convolution and its norm, used in a way that `use` decides."""

    def __init__(self, use):
        super().__init__()
        self.layers = perturbed(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.use = use

    def forward(self, x):
        conv, norm = self.layers
        return self.use(conv, norm, x)


GUARDS = {
    "the result has another user": lambda conv, norm, x: (lambda y: norm(y) + y)(conv(x)),
    "the convolution is called twice": lambda conv, norm, x: norm(conv(x)) + conv(x + 1),
    "an operation stands between": lambda conv, norm, x: norm(conv(x).relu()),
    "no producer": lambda conv, norm, x: norm(x),
    "the weight is computed": lambda conv, norm, x: norm(F.conv2d(x, conv.weight * 2)),
    "the weight is an input": lambda conv, norm, x: norm(F.conv2d(x, x[:, :, :3, :3].repeat(2, 1, 1, 1))),
}


@pytest.mark.parametrize("name", GUARDS)
def test_left_alone(name):
    model, x = Kept(GUARDS[name]).eval(), torch.randn(2, 4, 5, 5)
    after = apply(canonicalize, program_of(model, x), x, exact=False)
    assert norms(after) == 1
    torch.testing.assert_close(after(x), model(x))


def test_mutated_statistics_are_left_alone():
    class Counting(Kept):
        def forward(self, x):
            y = super().forward(x)
            self.layers[1].running_mean.add_(1)
            return y

    model, x = Counting(lambda conv, norm, x: norm(conv(x))).eval(), torch.randn(2, 4, 5, 5)
    after = apply(canonicalize, program_of(model, x), x, exact=False)
    assert norms(after) == 1


def test_training_is_refused():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(), torch.randn(2, 3, 5, 5)
    with pytest.raises(Exception, match=r"in training mode[\s\S]*model.eval\(\)"):
        canonicalize(program_of(model, x))


class AnotherUse(nn.Module):
    """One of the weight that is a constant, and one that is none: nothing reads its result."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(1, 1, 1, 1))
        (self.norm,) = perturbed(nn.BatchNorm2d(1))

    def forward(self, x):
        self.weight.relu()
        return self.norm(F.conv2d(x, self.weight)), self.weight.view(1)


def test_a_weight_whose_other_uses_go_away_is_fused_at_once():
    x = torch.randn(2, 1, 4, 4)
    program = program_of(AnotherUse().eval(), x)
    canonical = canonicalize(program)
    assert norms(canonical) == 0
    assert canonicalize(canonical).fingerprint == canonical.fingerprint
    for got, expected in zip(canonical.run(x)[0], program.run(x)[0], strict=True):
        torch.testing.assert_close(got, expected)
