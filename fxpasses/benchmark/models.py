"""The models that ``fxpasses bench`` knows by name: original sizes, random weights, batch 1.

Norms and running statistics are perturbed, since activations die out in an
untrained network, and differences with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["MODELS", "Built", "build"]

Built = tuple[nn.Module, tuple[Any, ...]]


_IMAGE = partial(torch.randn, 1, 3, 224, 224)


class _Output(nn.Module):
    """A model of `transformers` that returns one tensor."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(value), self.output)


@dataclass(frozen=True)
class _Transformers:
    """A class of `transformers`, its configuration, the input, and the name of the output."""

    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    input: Callable[[], torch.Tensor] = _IMAGE
    output: str = "logits"
    part: str | None = None

    def __call__(self) -> Built:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers

        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.options))
        model = model if self.part is None else getattr(model, self.part)
        return _Output(model, self.output), (self.input(),)


def _tokens(vocabulary: int, length: int = 128) -> Callable[[], torch.Tensor]:
    return partial(torch.randint, 1, vocabulary, (1, length))


def _resnet(layers: list[int], kind: str, widths: list[int]) -> _Transformers:
    options = {"depths": layers, "layer_type": kind, "hidden_sizes": widths, "num_labels": 1000}
    return _Transformers("ResNetForImageClassification", "ResNetConfig", options)


def _minilm() -> Built:
    from fxpasses import demo

    model, args = demo.prepare()
    return model, tuple(value[:1] for value in args)


class _Gpt2Step(nn.Module):
    """One token after *length* others: the keys and values of all layers go in, those of the token come out."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        self.model = transformers.GPT2Model(transformers.GPT2Config())

    def forward(self, token: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(keys.unbind(0), values.unbind(0), strict=True)))
        hidden = self.model(token, past_key_values=cache, use_cache=True).last_hidden_state
        return (
            hidden,
            torch.stack([layer.keys[:, :, -1:] for layer in cache.layers]),
            torch.stack([layer.values[:, :, -1:] for layer in cache.layers]),
        )


def _gpt2_step() -> Built:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    past = (torch.randn(12, 1, 12, 128, 64) for _ in range(2))
    return _Gpt2Step(), (torch.randint(1, 50257, (1, 1)), *past)


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(128, 256, batch_first=True)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.lstm(value)[0]


MODELS: dict[str, Callable[[], Built]] = {
    "resnet18": _resnet([2, 2, 2, 2], "basic", [64, 128, 256, 512]),
    "resnet50": _resnet([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
    "mobilenet_v2": _Transformers(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", {"num_labels": 1000}
    ),
    "efficientnet_b0": _Transformers(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "num_labels": 1000},
    ),
    "convnext_tiny": _Transformers("ConvNextForImageClassification", "ConvNextConfig", {"num_labels": 1000}),
    "regnet": _Transformers("RegNetForImageClassification", "RegNetConfig", {"num_labels": 1000}),
    "vit_small": _Transformers(
        "ViTForImageClassification",
        "ViTConfig",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000},
    ),
    "swin_tiny": _Transformers("SwinForImageClassification", "SwinConfig", {"num_labels": 1000}),
    "minilm": _minilm,
    "bert_base": _Transformers("BertModel", "BertConfig", {}, _tokens(30522), "last_hidden_state"),
    "gpt2": _Transformers(
        "GPT2Model", "GPT2Config", {"use_cache": False}, _tokens(50257), "last_hidden_state"
    ),
    "gpt2_decode": _gpt2_step,
    "t5_small_encoder": _Transformers(
        "T5EncoderModel", "T5Config", {"use_cache": False}, _tokens(32128), "last_hidden_state"
    ),
    "whisper_tiny_encoder": _Transformers(
        "WhisperModel",
        "WhisperConfig",
        {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        partial(torch.randn, 1, 80, 3000),
        "last_hidden_state",
        "encoder",
    ),
    "lstm": lambda: (_Lstm(), (torch.randn(1, 100, 128),)),
}
"""By name."""


def build(name: str) -> Built:
    """The model *name* in eval mode and the arguments of a call, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, args = MODELS[name]()
        model.eval()
        if name != "minilm":  # it is trained
            _perturb(model)
    return model, args


def _perturb(model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                tensor.normal_(0.0, 0.3)
            elif name.endswith("weight") and tensor.dim() == 1:
                tensor.mul_(torch.empty_like(tensor).uniform_(0.7, 1.3))


def __getattr__(name: str) -> Any:
    """Each model as a function of this module, for ``package.module:function``."""
    if name in MODELS:
        return partial(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
