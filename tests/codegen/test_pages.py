"""Weights in large pages: equal to the bit, aligned, apart from each other, and only where there are many."""

import gc
import itertools
import mmap

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.codegen import pages
from fxpasses.codegen.compile import compile_canonical, to_canonical
from fxpasses.codegen.pages import in_large_pages, read_once
from fxpasses.codegen.plan import CallPlan, Source, Write
from fxpasses.codegen.runtime import ALIGNMENT, own_tensors
from tests.codegen.helpers import program_of

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no large pages")

_MANY = torch.zeros(2 << 20)


def test_copies_are_equal_aligned_and_apart():
    tensors = [
        _MANY + 1,
        torch.randn(3, 5, 7),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([True, False, True]),
        torch.randn(7, dtype=torch.complex64),
        torch.randn(5, 3).to(torch.bfloat16),
        torch.randn(6, 4).t(),
        torch.arange(11, dtype=torch.int16),
    ]
    copies = in_large_pages(tensors)
    assert copies is not None
    for tensor, copy in zip(tensors, copies, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert copy.is_contiguous()
        assert copy.data_ptr() % ALIGNMENT == 0
        assert torch.equal(copy, tensor)
        assert copy.data_ptr() != tensor.data_ptr()
    ends = sorted((copy.data_ptr(), copy.data_ptr() + copy.nbytes) for copy in copies)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    copies[1].fill_(9)
    assert torch.equal(copies[0], tensors[0])
    assert torch.equal(copies[2], tensors[2])


def test_memory_outlives_its_neighbours():
    copies = in_large_pages([_MANY + 3, torch.arange(5.0)])
    assert copies is not None
    last = copies[1]
    del copies
    gc.collect()
    assert torch.equal(last, torch.arange(5.0))


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [torch.zeros(10)],
        [_MANY, torch.zeros(0)],
        [_MANY, torch.zeros(4, 4).to_sparse()],
        [_MANY, nn.Parameter(torch.zeros(4))],
        [_MANY, torch.zeros(4, device="meta")],
    ],
    ids=["none", "few", "empty", "sparse", "subclass", "meta"],
)
def test_others_stay_where_they_are(tensors):
    assert in_large_pages(tensors) is None


def test_without_large_pages_nothing_is_copied(monkeypatch):
    class Refusing:
        def __init__(self, *_args, **_kwargs):
            raise OSError("no memory in one piece")

    monkeypatch.setattr(pages.mmap, "mmap", Refusing)
    assert in_large_pages([_MANY]) is None


def test_large_pages_are_full(monkeypatch):
    asked = []

    class Watched(mmap.mmap):
        def madvise(self, option, start, length):
            asked.append((option, length))
            super().madvise(option, start, length)

    monkeypatch.setattr(pages.mmap, "mmap", Watched)
    copies = in_large_pages([_MANY, torch.zeros(1000)])
    assert copies is not None
    assert copies[0].data_ptr() % pages._PAGE == 0
    assert asked == [(mmap.MADV_HUGEPAGE, _MANY.nbytes)]


def _plan(state, read_once):
    writes = tuple(Write(Source("computed", 0), name=name) for name in state)
    return CallPlan((), (), (), (), writes, (), read_once=tuple(read_once))


def test_own_tensors_places_those_that_are_read_once_and_do_not_change():
    shared = {"weight": _MANY + 2, "state": torch.ones(3), "empty": torch.zeros(0, 4), "table": _MANY + 4}
    tensors = {**shared, "tied": shared["weight"], "same": shared["weight"], "packed": _MANY + 6}
    owned = own_tensors(tensors, shared.values(), _plan(["state"], ["tied", "state", "empty"]))
    assert owned["weight"].data_ptr() % pages._PAGE == 0
    assert owned["packed"].data_ptr() == tensors["packed"].data_ptr()  # nobody else has it
    assert all(torch.equal(owned[name], tensor) for name, tensor in tensors.items())
    assert owned["weight"] is owned["tied"] is owned["same"]
    pointers = {tensor.data_ptr() for tensor in shared.values() if tensor.numel()}
    assert not pointers & {tensor.data_ptr() for tensor in owned.values()}


class _Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 64)
        self.lstm = nn.LSTM(64, 48, batch_first=True)
        self.head = nn.Linear(48, 130)

    def forward(self, tokens):
        return self.head(self.lstm(self.table(tokens))[0])


@pytest.mark.parametrize(("length", "head"), [(1, {"folded_packed"}), (64, set())])
def test_what_is_read_once(length, head):
    tokens = torch.zeros(1, length, dtype=torch.long)
    plan = compile_canonical(to_canonical(program_of(_Decoder(), tokens)))._plan
    assert set(plan.read_once) == {"lstm.weight_ih_l0_turned", "lstm.weight_hh_l0_packed"} | head
    assert len(plan.tensors) > len(plan.read_once)
    assert CallPlan.from_data(plan.to_data()) == plan


def test_a_number_of_rows_that_varies_may_be_one():
    program = to_canonical(
        program_of(nn.Linear(8, 8), torch.ones(3, 8), dynamic_shapes=({0: torch.export.Dim("n")},))
    )
    assert read_once(program) == ("weight",)


def test_a_compiled_model_does_not_follow_its_source(tmp_path):
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)).eval()
    x = torch.randn(2, 1024)
    compiled = fxp.compile(model, (x,))
    expected = model(x).detach()
    with torch.no_grad():
        model[0].weight.zero_()
    torch.testing.assert_close(compiled(x), expected)
    compiled.save(tmp_path / "model.fxp")
    torch.testing.assert_close(fxp.load(tmp_path / "model.fxp")(x), expected)
