"""Models of our own: what `transformers` does not have, and graphs as quantisation leaves them."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import nn

from tests.models.case import Builder, own

__all__ = ["RECIPES"]


class GRUTagger(nn.Module):
    """Embedding, two bidirectional GRU layers, scores of each step; the last state too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24)
        self.gru = nn.GRU(24, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(64, 7)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.gru(self.embedding(ids))
        return self.tags(states).log_softmax(-1), last


class GraphNetwork(nn.Module):
    """Two rounds of messages along edges: gathered, summed by `index_add`, the largest by `scatter_reduce`."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.messages = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.updates = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(torch.cat([nodes[source], nodes[target]], dim=-1)).relu()
            total = torch.zeros_like(nodes).index_add(0, target, sent)
            where = target[:, None].expand_as(sent)
            largest = torch.zeros_like(nodes).scatter_reduce(0, where, sent, "amax", include_self=True)
            degree = torch.zeros_like(nodes[:, :1]).index_put((target,), torch.ones(1), accumulate=True)
            nodes = nodes + update(torch.cat([nodes, total / degree.clamp(min=1), largest], dim=-1)).tanh()
        return self.norm(nodes)


class QuantizedMLP(nn.Module):
    """Linear layers as exported int8 graphs have them: integer weights, dequantised before each product.

    Activations are quantised per tensor to uint8, weights per channel to int8.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (20, 64, 32, 10)
        self.count = len(widths) - 1
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            weight = torch.randn(outputs, inputs) / inputs**0.5
            scale = weight.abs().amax(1) / 127
            integers = (weight / scale[:, None]).round().to(torch.int8)
            self.register_buffer(f"weight{index}", integers)
            self.register_buffer(f"scale{index}", scale)
            self.register_buffer(f"zero{index}", torch.zeros(outputs, dtype=torch.int64))
            self.register_buffer(f"bias{index}", torch.randn(outputs) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        for index in range(self.count):
            weight, scale, zero, bias = (
                self.get_buffer(f"{name}{index}") for name in ("weight", "scale", "zero", "bias")
            )
            x = ops.quantize_per_tensor(x, 0.04, 128, 0, 255, torch.uint8)
            x = ops.dequantize_per_tensor(x, 0.04, 128, 0, 255, torch.uint8)
            weight = ops.dequantize_per_channel(weight, scale, zero, 0, -128, 127, torch.int8)
            x = nn.functional.linear(x, weight, bias)
            if index + 1 < self.count:
                x = x.relu()
        return x


def _quantized_mlp() -> nn.Module:
    import torch.ao.quantization.fx._decomposed  # noqa: F401  registers torch.ops.quantized_decomposed

    return QuantizedMLP()


def _quantized_by_torch(dynamic: bool) -> nn.Module:
    """A small network, calibrated and quantised by torch; *dynamic* ones measure activations as they run."""
    from torch.ao import quantization
    from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, prepare_fx

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    if dynamic:
        mapping = quantization.QConfigMapping().set_global(quantization.default_dynamic_qconfig)
    else:
        mapping = quantization.get_default_qconfig_mapping("x86")
    prepared = prepare_fx(model, mapping, (_pictures(),))
    prepared(_pictures())
    converted: nn.Module = _convert_to_reference_decomposed_fx(prepared)
    return converted


def _pictures() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8)


RECIPES: dict[str, Builder] = {
    "gru_tagger": own(GRUTagger, lambda: (torch.randint(1, 100, (3, 7)),)),
    "graph_network": own(GraphNetwork, lambda: (torch.randn(10, 24), torch.randint(0, 10, (2, 30)))),
    "quantized_mlp": own(_quantized_mlp, lambda: (torch.randn(4, 20),)),
    "quantized_static": own(functools.partial(_quantized_by_torch, False), lambda: (_pictures(),)),
    "quantized_dynamic": own(functools.partial(_quantized_by_torch, True), lambda: (_pictures(),)),
}
