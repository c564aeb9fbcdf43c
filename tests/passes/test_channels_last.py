"""`channels_last`: what convolutions and the calls between them become, and what stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxpasses.passes import canonicalize, channels_last
from fxpasses.passes.channels_last import ChannelsLast
from fxpasses.program import Output
from fxpasses.testing import assert_equivalent
from fxpasses.testing.single import calls_program
from tests.passes.helpers import apply, aten, program_of

OPTIONS = {
    "stride": [1, 1],
    "padding": [0, 0],
    "dilation": [1, 1],
    "transposed": False,
    "output_padding": [0, 0],
    "groups": 1,
}
CONV = torch.ops.fxpasses.conv_channels_last.default
POOL = torch.ops.fxpasses.max_pool2d_channels_last.default


def targets(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def permutations(program):
    return targets(program).count(aten.permute.default)


def check(module, *shape, dtype=torch.float32, pass_=channels_last):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    module = module.to(dtype).eval() if isinstance(module, nn.Module) else module
    before = canonicalize(program_of(module, x))
    after = apply(pass_, before, x, exact=False)
    assert_equivalent(before, after, (x,))
    return after


def test_calls_by_keyword_and_dims_from_the_back_are_understood():
    program, inputs = calls_program(
        [(aten.convolution.default, (torch.randn(1, 3, 4, 5), torch.randn(16, 3, 1, 1), None), OPTIONS)]
    )
    g = program.edit()
    (conv,) = g.graph.find_nodes(op="call_function", target=aten.convolution.default)
    output = g.graph.output_node()
    with g.at(output), g.graph.inserting_before(output):
        swapped = g.call(aten.permute.default, conv, [0, 1, 3, 2])
        twice = g.call(aten.permute.default, swapped, [-4, -3, -1, -2])
        mean = g.graph.call_function(aten.mean.dim, (), {"self": swapped, "dim": [-1, -2]})
        mean.meta["val"] = g.infer(mean)
    output.args = ((conv, swapped, twice, mean),)
    output.meta["roles"] = (Output("user"),) * 4
    program = g.finish().replace(out_spec=torch.utils._pytree.tree_structure((0,) * 4))
    assert_equivalent(program, channels_last(program), inputs)


def test_text():
    after = check(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 1)), 1, 3, 8, 8)
    assert [str(target) for target in targets(after)] == [
        "aten.permute.default", "fxpasses.conv_channels_last.default", "aten.add.Tensor", "aten.relu.default",
        "fxpasses.conv_channels_last.default", "aten.add.Tensor", "aten.permute.default",
    ]  # fmt: skip
    assert "0_weight_packed: f32[1, 3, 3, 3, 16]" in str(after)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        x = F.relu(self.first(x))
        return F.relu(self.norm(self.second(x)) + x).mean((2, 3))


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 32, 3, stride=2)
        self.down, self.up = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.scale = nn.Parameter(torch.randn(1, 32, 1, 1))

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))) * self.scale
        return x.mean((2, 3), keepdim=True).flatten(1)


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 32, 3, padding=1)

    def forward(self, x):
        return F.max_pool2d(torch.cat([self.left(x), self.right(x)], 1), 3, 2, 1)


@pytest.mark.parametrize(("module", "shape", "left"), [
    (Residual(), (2, 16, 9, 7), 1),  # how many are left: of the input, of a constant, of the result
    (Squeeze(), (2, 8, 9, 9), 2), (Joined(), (1, 8, 11, 9), 3),
    (nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.Hardswish(), nn.Conv2d(32, 24, 1)), (1, 32, 8, 8), 2),
    (nn.Sequential(nn.Conv2d(32, 64, 3, dilation=2, groups=2), nn.GELU()), (1, 32, 8, 8), 2),
], ids=["residual", "squeeze", "joined", "depthwise", "grouped"])  # fmt: skip
def test_permutations_stay_at_the_edges(module, shape, left):
    after = check(module, *shape)
    assert permutations(after) == left
    assert aten.convolution.default not in targets(after)


class Signal(nn.Module):
    """The front of a model of speech."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(20, 32, 3, padding=1)
        self.second = nn.Conv1d(32, 32, 5, stride=2, padding=2, groups=32)
        self.third = nn.Conv1d(32, 48, 3, dilation=2)
        self.norm = nn.LayerNorm(48)

    def forward(self, x):
        x = F.pad(F.gelu(self.second(F.gelu(self.first(x)))), [3, 0])
        return self.norm(F.gelu(self.third(x)).permute(0, 2, 1))


def test_signals():
    after = check(Signal(), 2, 20, 31)
    assert permutations(after) == 1  # of the input
    assert aten.constant_pad_nd.default not in targets(after)


@pytest.mark.parametrize(("module", "shape"), [
    (nn.ConvTranspose2d(8, 16, 2, stride=2), (2, 8, 4, 5)),
    (nn.ConvTranspose2d(8, 16, 3, stride=2, padding=1, output_padding=1), (1, 8, 4, 5)),
    (nn.ConvTranspose2d(8, 5, 4, stride=2, padding=1), (1, 8, 5, 4)),
    (nn.ConvTranspose2d(8, 16, (2, 5), stride=(3, 2), padding=(1, 2), output_padding=(2, 0)), (2, 8, 4, 3)),
    (nn.ConvTranspose2d(8, 16, 3, padding=1, bias=False), (1, 8, 6, 7)),
    (nn.ConvTranspose2d(3, 16, 5, stride=4), (1, 3, 1, 2)),
    (nn.ConvTranspose1d(8, 16, 7, stride=3, padding=2), (2, 8, 9)),
    (nn.ConvTranspose2d(8, 1, 2, stride=2), (1, 8, 4, 5)),
    (nn.ConvTranspose3d(5, 3, 3, stride=2, padding=1, output_padding=1), (1, 5, 3, 4, 5)),
    (nn.ConvTranspose2d(8, 16, 3, stride=2, padding=1, output_padding=1, groups=4), (2, 8, 4, 5)),
    (nn.ConvTranspose2d(6, 48, 3, padding=(0, 2), groups=3), (1, 6, 4, 3)),
    (nn.ConvTranspose2d(4, 16, 4, stride=4, groups=4), (1, 4, 3, 2)),
    (nn.ConvTranspose2d(8, 16, 3, dilation=2, padding=1, output_padding=1), (1, 8, 4, 5)),
    (nn.ConvTranspose2d(8, 16, (3, 2), stride=(2, 1), dilation=3, padding=2, output_padding=(1, 2)), (2, 8, 4, 5)),
    (nn.ConvTranspose2d(8, 32, 3, stride=(1, 2), dilation=(2, 2), groups=2, padding=1), (1, 8, 5, 4)),
    (nn.ConvTranspose1d(4, 16, 5, stride=3, dilation=2, padding=4), (2, 4, 9)),
    (nn.ConvTranspose3d(2, 8, 2, stride=2, dilation=(1, 2, 3), groups=2), (1, 2, 3, 2, 3)),
], ids=str)  # fmt: skip
def test_transposed(module, shape):
    after = check(nn.Sequential(module, nn.ReLU()), *shape)
    assert CONV in targets(after)
    assert aten.convolution.default not in targets(after)


def test_volumes():
    layers = (
        nn.Conv3d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(8, 8, 3, stride=2, groups=8),
        nn.ConstantPad3d(1, 0),
    )
    after = check(nn.Sequential(*layers, nn.Conv3d(8, 16, 2, dilation=2)), 2, 3, 7, 8, 9)
    assert aten.convolution.default not in targets(after)
    assert permutations(after) == 2


def test_few_channels_of_rows_that_fill_no_vectors():
    after = check(nn.Conv2d(8, 4, 3, stride=2), 1, 8, 4, 35)  # rows of 17
    assert CONV in targets(after)


def test_pooling_of_all_pixels_is_a_mean():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AvgPool2d(100, ceil_mode=True), nn.Flatten())
    after = check(model, 2, 3, 9, 8)
    assert aten.avg_pool2d.default not in targets(after)
    assert permutations(after) == 1
    part = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AvgPool2d((7, 4)))
    assert aten.avg_pool2d.default in targets(check(part, 2, 3, 9, 9))


def test_padding_goes_into_the_convolution():
    after = check(nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 16, 3, padding=1)), 1, 3, 8, 8)
    middle = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(16, 16, 3))
    between = check(middle, 1, 3, 8, 8)
    assert aten.constant_pad_nd.default not in targets(between)
    last = [node for node in between.graph.nodes if node.target is CONV][-1]
    assert last.args[3] == [2, 3, 0, 1]
    assert CONV in targets(after)


def test_other_paddings_stay():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ConstantPad2d((0, 1, 0, 1), 1.5), nn.Conv2d(16, 16, 3))
    after = check(model, 1, 3, 8, 8)
    assert aten.constant_pad_nd.default in targets(after)
    assert permutations(after) == 2


def test_the_width_of_a_vector_decides_the_packing():
    for dtype, width in ((torch.float32, 8), (torch.float64, 4)):
        after = check(nn.Conv2d(3, 16, 3), 1, 3, 8, 8, dtype=dtype, pass_=ChannelsLast(vector_bytes=32))
        (conv,) = (node for node in after.graph.nodes if node.target is CONV)
        assert conv.args[1].meta["val"].shape == (16 // width, 3, 3, 3, width)


@pytest.mark.parametrize(("module", "shape", "dtype"), [
    (nn.ConvTranspose2d(8, 8, 3, stride=2, groups=8), (1, 8, 4, 4), torch.float32),
    (nn.ConvTranspose2d(8, 16, 2, padding=3, groups=2), (1, 8, 9, 9), torch.float32),
    (nn.ConvTranspose2d(8, 16, 2, padding=3), (1, 8, 9, 9), torch.float32),
    (nn.Conv2d(8, 16, 3), (1, 8, 4, 4), torch.bfloat16),
    (nn.Conv2d(8, 4, 3), (1, 8, 4, 4), torch.float32),
    (nn.Conv2d(16, 16, 3, groups=2), (1, 16, 4, 4), torch.float32),
    (nn.Conv2d(8, 4, 3, stride=2), (1, 8, 4, 33), torch.float32),
], ids=["transposed groups", "cut groups", "cut", "half", "few channels", "groups", "even rows"])  # fmt: skip
def test_left_alone(module, shape, dtype):
    after = check(module, *shape, dtype=dtype)
    assert CONV not in targets(after)


def test_a_computed_weight_is_left_alone():
    w = torch.randn(16, 3, 3, 3)
    after = check(lambda x: F.conv2d(x, w * x.sum()), 1, 3, 8, 8)
    assert CONV not in targets(after)


def test_positions_of_a_pooling_keep_its_layout():
    conv = nn.Conv2d(3, 16, 3)
    after = check(lambda x: F.max_pool2d(conv(x), 2, return_indices=True), 1, 3, 8, 8)
    assert POOL not in targets(after)
