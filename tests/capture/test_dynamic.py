"""Dynamic sizes: one capture is right for every size in its ranges, and says which these are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

import fxpasses as fxp
from fxpasses.errors import CaptureError, InputError
from tests.capture.models import example

DOORS = ["export", "dynamo", "make_fx", "symbolic_trace"]
BATCH = Dim("batch")


def lower(program: fxp.Program) -> int:
    (bounds,) = program.ranges.values()
    return int(bounds.lower)


class OneIsSpecial(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            return x * 2
        return x.squeeze() + 1


class OneIsSpelledOtherwise(nn.Module):
    """Two spellings of one thing, as in the masks of transformers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(1, 4)
        if x.shape[0] != mask.shape[0]:
            mask = mask.expand(x.shape[0], -1)
        return x * mask


class NeedsElements(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 0:
            raise ValueError("an empty batch")
        return x + 1


class EmptyIsSpecial(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0) if x.shape[0] else x.new_ones(4)


class NeedsPairs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0] // 2, 2, 4).sum(1) if x.shape[0] % 2 == 0 else x


@pytest.mark.parametrize("via", DOORS)
@pytest.mark.parametrize("size", [BATCH, Dim.DYNAMIC, Dim.AUTO], ids=["Dim", "DYNAMIC", "AUTO"])
def test_one_capture_serves_all_batches(via: str, size: Any) -> None:
    model, _ = example("attention")
    program = fxp.capture(model, (torch.randn(3, 5, 16),), dynamic_shapes={"x": {0: size}}, via=via)
    assert lower(program) == 1  # view(0, -1, ...) is ambiguous
    for batch in (1, 2, 7, 33):
        x = torch.randn(batch, 5, 16)
        torch.testing.assert_close(program(x), model(x).detach())


@pytest.mark.parametrize("size", [BATCH, Dim.DYNAMIC], ids=["Dim", "DYNAMIC"])
@pytest.mark.parametrize("example_size", [0, 1])
def test_small_example_is_made_bigger(size: Any, example_size: int) -> None:
    model, _ = example("mlp")
    program = fxp.capture(model, (torch.randn(example_size, 8),), dynamic_shapes=({0: size},))
    x = torch.randn(5, 8)
    torch.testing.assert_close(program(x), model(x).detach())


def test_sizes_of_one_name_grow_together() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y]) + x.sum()

    shapes = ({0: BATCH}, {0: 2 * BATCH})
    program = fxp.capture(function, (torch.ones(1), torch.ones(2)), dynamic_shapes=shapes)
    assert program(torch.ones(3), torch.ones(6)).shape == (9,)
    with pytest.raises(InputError, match="expected"):
        program(torch.ones(3), torch.ones(5))


@pytest.mark.parametrize("via", DOORS[:3])
@pytest.mark.parametrize("size", [BATCH, Dim.DYNAMIC], ids=["Dim", "DYNAMIC"])
def test_size_that_is_special_is_refused_not_computed_wrongly(via: str, size: Any) -> None:
    program = fxp.capture(OneIsSpecial(), (torch.randn(3, 4),), dynamic_shapes=({0: size},), via=via)
    assert lower(program) == 2
    x = torch.randn(2, 4)
    torch.testing.assert_close(program(x), OneIsSpecial()(x))
    with pytest.raises(InputError, match="dim 0 is 1"):
        program(torch.randn(1, 4))


@pytest.mark.parametrize("via", DOORS[:3])
def test_size_that_only_looks_special_is_served(via: str) -> None:
    model = OneIsSpelledOtherwise()
    program = fxp.capture(model, (torch.randn(3, 4),), dynamic_shapes=({0: BATCH},), via=via)
    assert lower(program) == 0
    for batch in (0, 1, 2, 7):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(program(x), model(x))


def test_demanded_size_that_is_special() -> None:
    with pytest.raises(CaptureError, match=r"starts? at 1.*treats a size of 1 differently(.|\n)*min=2"):
        fxp.capture(OneIsSpecial(), (torch.randn(3, 4),), dynamic_shapes=({0: Dim("n", min=1)},))


@pytest.mark.parametrize("size", [BATCH, Dim.AUTO], ids=["Dim", "AUTO"])
@pytest.mark.parametrize("model", [NeedsElements(), EmptyIsSpecial()], ids=["raises", "differs"])
def test_empty_batch_is_left_out_where_the_code_treats_it_differently(model: nn.Module, size: Any) -> None:
    program = fxp.capture(model, (torch.randn(3, 4),), dynamic_shapes=({0: size},))
    assert lower(program) == 1
    with pytest.raises(InputError):
        program(torch.randn(0, 4))


def test_empty_batch_is_served_where_it_makes_no_difference() -> None:
    model, _ = example("mlp")
    program = fxp.capture(model, (torch.randn(3, 8),), dynamic_shapes=({0: BATCH},))
    assert lower(program) == 0
    assert program(torch.randn(0, 8)).shape == (0, 4)


def test_a_size_from_1_beside_one_from_2() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return OneIsSpelledOtherwise()(x[:, :, 0].sum(1, keepdim=True).expand(-1, 4))

    shapes = ({0: Dim("batch", min=1, max=8), 1: Dim("length", min=2, max=8)},)
    program = fxp.capture(Model(), (torch.randn(3, 5, 2),), dynamic_shapes=shapes)
    assert sorted(int(bounds.lower) for bounds in program.ranges.values()) == [1, 2]


def test_range_that_is_asked_for_is_kept() -> None:
    model, _ = example("mlp")
    shapes = ({0: Dim("n", min=2, max=64)},)
    (bounds,) = fxp.capture(model, (torch.randn(3, 8),), dynamic_shapes=shapes).ranges.values()
    assert (bounds.lower, bounds.upper) == (2, 64)


def test_condition_that_a_named_dim_does_not_say() -> None:
    with pytest.raises(CaptureError, match=r"2\*\w+"):
        fxp.capture(NeedsPairs(), (torch.randn(4, 4),), dynamic_shapes=({0: BATCH},), via="export")
    program = fxp.capture(NeedsPairs(), (torch.randn(4, 4),), dynamic_shapes=({0: 2 * Dim("half")},))
    assert program(torch.ones(10, 4)).shape == (5, 4)
    assert not program.signature.conditions


def test_shape_that_the_code_fixes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(3, 4)

    with pytest.raises(CaptureError, match="does not hold for every size") as caught:
        fxp.capture(function, (torch.ones(3, 4),), dynamic_shapes=({0: BATCH},), via="export")
    assert "3" in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"y": {0: BATCH}}, "names 'y', but the arguments of MLP are x"),
        (({0: BATCH}, None), "has 2 entries"),
        ({"x": {5: BATCH}}, "names dim 5 of an argument of MLP that has 2 dims"),
    ],
)
def test_dynamic_shapes_that_do_not_fit(shapes: Any, match: str) -> None:
    model, args = example("mlp")
    with pytest.raises(InputError, match=match):
        fxp.capture(model, args, dynamic_shapes=shapes)


def test_graph_module_with_positional_shapes() -> None:
    model, args = example("mlp")
    graph = make_fx(lambda x: x.relu(), tracing_mode="symbolic")(torch.randn(3, 4))
    program = fxp.capture(graph, (torch.randn(3, 4),), dynamic_shapes=({0: BATCH},))
    assert program(torch.ones(9, 4)).shape == (9, 4)
    graph = torch.fx.symbolic_trace(model)
    program = fxp.capture(graph, args, dynamic_shapes=({0: BATCH},))
    assert program(torch.randn(9, 8)).shape == (9, 4)


def test_trace_of_fixed_sizes_says_so() -> None:
    graph = make_fx(lambda x: x.view(-1, 2) + x.shape[0])(torch.ones(4))
    with pytest.raises(CaptureError):
        fxp.capture(graph, (torch.ones(4),), dynamic_shapes=({0: BATCH},), via="export")


def test_scripted_module_with_a_dynamic_size() -> None:
    class Scripted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.size(0), -1).relu()

    program = fxp.capture(torch.jit.script(Scripted()), (torch.randn(3, 2, 2),), dynamic_shapes=({0: BATCH},))
    assert program(torch.randn(1, 2, 2)).shape == (1, 4)
    assert program(torch.randn(7, 2, 2)).shape == (7, 4)


def test_a_size_left_to_view_is_the_size_that_it_must_be() -> None:
    class Scores(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, length, _ = x.shape
            return (x @ x.mT).view(batch, length, -1).softmax(-1)  # length**2 // length, to torch

    shapes = ({0: Dim("batch"), 1: Dim("length")},)
    program = fxp.canonicalize(fxp.capture(Scores(), (torch.randn(3, 5, 4),), dynamic_shapes=shapes))
    assert not fxp.verify(program, "canonical", strict=True)
    x = torch.randn(2, 7, 4)
    torch.testing.assert_close(program.run(x)[0], Scores()(x))


def test_a_size_of_one_less() -> None:
    def joined(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, y))

    batch = Dim("batch", min=1, max=64)
    program = fxp.capture(
        joined, (torch.randn(8, 4), torch.randn(7, 4)), dynamic_shapes=({0: batch}, {0: batch - 1})
    )
    for size in (1, 2, 64):
        args = torch.randn(size, 4), torch.randn(size - 1, 4)
        assert torch.equal(program(*args), joined(*args))


def test_sizes_that_are_tried_in_vain_print_nothing(capfd) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2)
        return torch.cat((second, first))

    program = fxp.capture(function, (torch.rand(8),), dynamic_shapes=({0: Dim.DYNAMIC},))
    (bounds,) = program.ranges.values()
    assert bounds.lower == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("f", [lambda x: x.max(), lambda x: x.kthvalue(1, 0)[0], lambda x: x.median(0)[0]])
def test_no_elements_are_not_served_by_the_shape_of_what_raises(f):
    program = fxp.capture(f, (torch.rand(3),), dynamic_shapes=({0: Dim.AUTO},))
    assert [bounds.lower for bounds in program.ranges.values()] == [1]
