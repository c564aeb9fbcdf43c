"""The stack traces of nodes are torch's to the letter."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from fxpasses.tracing.stack_traces import quick_stack_traces


def _helper(x):
    return x.sin() + 1


class _Layer(nn.Module):
    def forward(self, x):
        return _helper(x) if x.dim() == 2 else torch.cat([_helper(row) for row in x])


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), _Layer(), nn.LayerNorm(4))

    def forward(self, x):
        return (lambda y: self.layers(y).softmax(-1))(x)


def _traces(context):
    with context:
        exported = torch.export.export(_Model().eval(), (torch.ones(3, 4),))
    return [node.stack_trace for node in exported.graph.nodes if node.op == "call_function"]


def test_as_torch_finds_them():
    quick = _traces(quick_stack_traces())
    assert quick == _traces(nullcontext())
    assert any("_helper" in trace for trace in quick)


def test_torch_gets_its_own_back():
    before = torch.fx.proxy.CapturedTraceback
    with quick_stack_traces():
        assert torch.fx.proxy.CapturedTraceback is not before
    assert torch.fx.proxy.CapturedTraceback is before
