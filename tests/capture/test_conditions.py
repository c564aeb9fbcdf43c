"""Relations of sizes that no range says: the program is held to them at each call, and right where they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
from fxpasses.errors import CaptureError, InputError
from fxpasses.testing.values import sample_inputs

DOORS = ["export", "dynamo", "make_fx"]


def pairs(x: torch.Tensor) -> torch.Tensor:
    return x.view(x.shape[0] // 2, 2, x.shape[1]).sum(1) if x.shape[0] % 2 == 0 else x


def longer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[0] > y.shape[0] else y.sum(0) + x


def between(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[0] + 3 > y.shape[0] >= 2 * x.shape[0] or x.shape[0] % 5 == 0 else x - 1


def nested(batch: dict[str, torch.Tensor], more: list[torch.Tensor]) -> torch.Tensor:
    return (
        batch["x"] + more[0].sum()
        if batch["x"].shape[0] * more[0].shape[0] < more[1].shape[0]
        else batch["x"]
    )


def gathered(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return x.gather(-1, index % x.shape[-1])


def sizes(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(shape, generator=generator) for shape in shapes)


def with_index(x: tuple[int, ...], index: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    values, places = sizes(x, index)
    return values, (places * 100).long()


def in_dict(n: int, m: int, k: int) -> tuple[Any, ...]:
    x, y, z = sizes((n,), (m,), (k,))
    return {"x": x}, [y, z]


# name: (function, arguments, others that fit, some that do not, what the error says)
RELATIONS: dict[str, Any] = {
    "divisible": (pairs, sizes((4, 3)), [sizes((10, 2)), sizes((2, 5))], [sizes((5, 3))], r"x.shape\[0\] % 2 == 0"),
    "longer": (
        longer,
        sizes((5, 2), (3, 2)),
        [sizes((9, 4), (8, 4)), sizes((2, 1), (1, 1))],
        [sizes((3, 2), (3, 2)), sizes((2, 2), (7, 2))],
        r"x.shape\[0\] > y.shape\[0\], and .*x.shape\[0\] is \d",
    ),
    "one of several": (
        between,
        sizes((2,), (4,)),
        [sizes((2,), (4,))],
        [sizes((4,), (7,)), sizes((6,), (30,))],
        "y.shape",
    ),
    "product": (
        nested,
        in_dict(2, 3, 9),
        [in_dict(4, 2, 9), in_dict(3, 7, 30)],
        [in_dict(2, 3, 6), in_dict(3, 7, 20)],
        r"batch\['x'\].shape\[0\]",
    ),
    "gather": (
        gathered,
        with_index((4, 3, 5), (2, 3, 7)),
        [with_index((4, 6, 5), (4, 2, 9)), with_index((1, 1, 1), (1, 1, 3))],
        [with_index((4, 6, 5), (5, 2, 9)), with_index((4, 6, 5), (1, 7, 9))],
        r"index.shape\[\d\] <= x.shape\[\d\]",
    ),
    "pixel_shuffle": (
        lambda x: F.pixel_shuffle(x, 2),
        sizes((1, 8, 3, 3)),
        [sizes((2, 12, 4, 5)), sizes((3, 4, 1, 2))],
        [sizes((2, 6, 4, 5))],
        "% 4 == 0",
    ),
    "conv3d": (
        lambda x, w: F.conv3d(x, w),
        sizes((2, 2, 3, 4, 5), (3, 2, 2, 2, 2)),
        [sizes((1, 3, 4, 5, 6), (2, 3, 2, 3, 4)), sizes((2, 1, 3, 3, 3), (2, 1, 3, 2, 1))],
        [sizes((2, 2, 3, 4, 5), (3, 2, 4, 2, 2))],
        r"x.shape\[2\] >= w.shape\[2\]",
    ),
    "view": (
        lambda x: x.view(12),
        sizes((3, 4)),
        [sizes((4, 3)), sizes((2, 6))],
        [sizes((3, 3))],
        r"x.shape\[\d\] \* x.shape\[\d\] == 12",
    ),
}  # fmt: skip


def all_dynamic(args: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda x: dict.fromkeys(range(x.dim()), Dim.AUTO), args)


def agrees(callable_: Any, name: str) -> None:
    function, args, others, refused, match = RELATIONS[name]
    for call in (args, *others):
        torch.testing.assert_close(callable_(*call), function(*call))
    for call in refused:
        with pytest.raises(InputError, match=match):
            callable_(*call)


@pytest.mark.parametrize("name", RELATIONS)
def test_right_where_it_holds_and_refused_elsewhere(name: str, tmp_path: Path) -> None:
    function, args, *_ = RELATIONS[name]
    program = fxp.capture(function, args, dynamic_shapes=all_dynamic(args))
    agrees(program, name)
    canonical = fxp.canonicalize(program)
    assert not fxp.verify(canonical, "canonical", strict=True)
    assert canonical.signature.conditions == program.signature.conditions != ()
    assert fxp.canonicalize(canonical).fingerprint == canonical.fingerprint
    agrees(canonical, name)
    compiled = fxp.compile(program, strict=True)
    agrees(compiled, name)
    compiled.save(tmp_path / "model.fxp")
    agrees(fxp.load(tmp_path / "model.fxp"), name)
    program.save(tmp_path / "model.pt2")
    agrees(fxp.capture(tmp_path / "model.pt2"), name)


@pytest.mark.parametrize("name", RELATIONS)
def test_drawn_sizes_fit(name: str) -> None:
    function, args, *_ = RELATIONS[name]
    program = fxp.capture(function, args, dynamic_shapes=all_dynamic(args))
    for seed in range(5):
        drawn = sample_inputs(program, seed)
        program.signature.check(program.signature.flatten(drawn.args, drawn.kwargs))


@pytest.mark.parametrize("name", ["divisible", "longer", "gather", "view"])
def test_doors_agree(name: str) -> None:
    function, args, *_ = RELATIONS[name]
    programs = [
        fxp.canonicalize(fxp.capture(function, args, dynamic_shapes=all_dynamic(args), via=via))
        for via in DOORS
    ]
    assert len({program.fingerprint for program in programs}) == 1, [str(program) for program in programs]
    for program in programs:
        agrees(program, name)


@pytest.mark.parametrize("name", RELATIONS)
def test_guards_of_an_exported_program(name: str) -> None:
    function, args, *_ = RELATIONS[name]

    class Model(torch.nn.Module):
        forward = staticmethod(function)

    exported = torch.export.export(Model(), args, dynamic_shapes=all_dynamic(args))
    _, _, _, refused, match = RELATIONS[name]
    program = fxp.capture(exported)
    torch.testing.assert_close(program(*args), function(*args))
    for call in refused:
        with pytest.raises(InputError):
            program(*call)


def test_guards_of_arguments_without_names() -> None:
    class Model(torch.nn.Module):
        def forward(self, *xs: torch.Tensor) -> torch.Tensor:
            return longer(*xs)

    args = sizes((5, 2), (3, 2))
    rows = (tuple({0: Dim.AUTO} for _ in args),)
    exported = torch.export.export(Model(), args, dynamic_shapes=rows)
    for program in (fxp.capture(exported), fxp.capture(Model(), args, dynamic_shapes=rows)):
        assert torch.equal(program(*sizes((9, 2), (8, 2))), longer(*sizes((9, 2), (8, 2))))
        with pytest.raises(InputError, match="xs"):
            program(*sizes((3, 2), (7, 2)))


def test_the_tensor_behind_a_view_does_not_count() -> None:
    class Model(torch.nn.Module):
        forward = staticmethod(longer)

    whole, y = sizes((10, 2), (3, 2))
    exported = torch.export.export(Model(), (whole[2:8], y), dynamic_shapes=({0: Dim.AUTO}, {0: Dim.AUTO}))
    program = fxp.capture(exported)
    assert torch.equal(program(*sizes((9, 2), (8, 2))), longer(*sizes((9, 2), (8, 2))))


def test_the_cache_keeps_them(cache_folder: Path) -> None:
    _, args, *_ = RELATIONS["divisible"]

    for _ in range(2):
        compiled = fxp.compile(pairs, args, dynamic_shapes=all_dynamic(args))
        agrees(compiled, "divisible")
    exported = torch.export.export(torch.nn.Sequential(Pairs()), args, dynamic_shapes=all_dynamic(args))
    for _ in range(2):
        compiled = fxp.compile(exported)
        assert torch.equal(compiled(*sizes((8, 3))), pairs(*sizes((8, 3))))
        with pytest.raises(InputError, match="% 2 == 0"):
            compiled(*sizes((5, 3)))
    assert list(cache_folder.iterdir())


class Pairs(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pairs(x)


def test_what_always_holds_is_not_asserted() -> None:
    program = fxp.capture(
        lambda x, y: x[1:] + y.sum() if x.shape[0] + y.shape[0] > 3 else x,
        sizes((5,), (6,)),
        dynamic_shapes=({0: Dim("n", min=2)}, {0: Dim("m", min=2)}),
    )
    assert not program.signature.conditions


@pytest.mark.parametrize("most", [40, 5000])
def test_a_bound_of_one_size_is_a_range(most: int) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if 20 < x.shape[0] <= most else x - 1

    program = fxp.capture(function, sizes((30,)), dynamic_shapes=({0: Dim.AUTO},))
    (bounds,) = program.ranges.values()
    assert (bounds.lower, bounds.upper) == (21, most)
    assert not program.signature.conditions
    for size in (20, most + 1):
        with pytest.raises(InputError, match=f"dim 0 is {size}"):
            program(*sizes((size,)))


def test_a_size_that_is_fixed_is_not_dynamic() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if (x.shape[0] - 3) ** 2 == 4 else x - 1

    with pytest.raises(CaptureError, match="leave it static"):
        fxp.capture(function, sizes((5,)), dynamic_shapes=({0: Dim.DYNAMIC},), via="export")


class Windowed(nn.Module):
    """A causal mask that is cut to the length of the sequence, as in small GPTs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.tril(torch.ones(1, 16, 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        scores = self.linear(x) @ x.transpose(1, 2)
        scores = scores.masked_fill(self.mask[:, :length, :length] == 0, -torch.inf)
        return (scores.softmax(-1) @ x).transpose(0, 1).contiguous().view(length, -1)


def test_a_buffer_that_is_cut_serves_its_whole_length():
    model = Windowed()
    length = Dim("length", max=16)
    compiled = fxp.compile(model, (torch.randn(3, 9, 4),), dynamic_shapes=({0: Dim("batch"), 1: length},))
    for batch, size in ((3, 9), (2, 2), (5, 15), (4, 16)):
        x = torch.randn(batch, size, 4)
        torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(InputError, match="dim 1 is 17"):
        compiled(torch.randn(2, 17, 4))


def test_a_single_size_that_the_code_treats_in_another_way():
    def model(x):
        return x * 2 if x.shape[0] == 5 else x + 1

    for dim in (Dim("rows"), Dim.DYNAMIC):
        compiled = fxp.compile(model, (torch.randn(3, 2),), dynamic_shapes=({0: dim},))
        for rows in (0, 1, 2, 4, 6, 40):
            x = torch.randn(rows, 2)
            torch.testing.assert_close(compiled(x), model(x))
        with pytest.raises(InputError, match=r"x\.shape\[0\] != 5"):
            compiled(torch.randn(5, 2))


def test_the_end_of_a_buffer_is_told():
    with pytest.raises(CaptureError, match=r"<= 16"):
        fxp.capture(Windowed(), (torch.randn(3, 9, 4),), dynamic_shapes=({1: Dim("length")},))
