"""The models that tests and benchmarks share: real architectures, small configurations.

`ZOO` maps a name to a builder; a builder returns a `Case`: the model in eval
mode with seeded weights, and the arguments to call it with::

    case = ZOO["resnet18"]()
    case.model(*case.args, **case.kwargs)

Untrained normalisation layers make activations die out (and hide errors), so
the affine weights and running statistics of all of them are perturbed.
Everything is made from a fixed seed, in float32, without any download.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

__all__ = ["DYNAMIC_BATCH", "TRANSFORMERS", "ZOO", "Case", "build"]


class Case(NamedTuple):
    """A model with the arguments of one call."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class _Transformers:
    """A model of `transformers`: names of its classes, its configuration and its inputs."""

    model: str
    config: str
    options: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Case:
        import transformers

        def make() -> nn.Module:
            config = getattr(transformers, self.config)(**self.options)
            model: nn.Module = getattr(transformers, self.model)(config)
            return model

        return _case(make, lambda: ((), self.inputs()))


def build(name: str) -> Case:
    """The case *name*, from a fixed seed; the caller's random state is left alone."""
    return ZOO[name]()


# -- inputs -----------------------------------------------------------------------


def _image(size: int, batch: int = 2) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": torch.randn(batch, 3, size, size)}


def _tokens(vocabulary: int, length: int = 12, batch: int = 2) -> Callable[[], dict[str, Any]]:
    """Token ids with a mask whose last row is padded."""

    def make() -> dict[str, Any]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, length - 3 :] = 0
        return {
            "input_ids": torch.randint(1, vocabulary, (batch, length)),
            "attention_mask": mask,
        }

    return make


# -- models of our own --------------------------------------------------------------


class LSTMClassifier(nn.Module):
    """Embedding, two bidirectional LSTM layers, the last step to class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(64, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(ids))
        return self.classifier(states[:, -1])


class _DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """A U-Net of three levels: max pooling down, transposed or bilinear upsampling up, skips."""

    def __init__(self, inputs: int = 3, classes: int = 4, width: int = 8) -> None:
        super().__init__()
        self.encoder1 = _DoubleConv(inputs, width)
        self.encoder2 = _DoubleConv(width, 2 * width)
        self.bottom = _DoubleConv(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.decoder2 = _DoubleConv(4 * width, 2 * width)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.decoder1 = _DoubleConv(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        level1 = self.encoder1(image)
        level2 = self.encoder2(self.pool(level1))
        bottom = self.bottom(self.pool(level2))
        up = self.decoder2(torch.cat([self.up2(bottom), level2], dim=1))
        up = self.decoder1(torch.cat([self.up1(up), level1], dim=1))
        return self.head(up)


class MLP(nn.Module):
    """Linear layers with batch norm, GELU and dropout (off in eval mode)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(20, 64),
            nn.BatchNorm1d(64),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(64, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layers(x), dim=-1)


# -- the table ----------------------------------------------------------------------


def _lstm() -> Case:
    return _case(LSTMClassifier, lambda: ((torch.randint(1, 100, (3, 7)),), {}))


def _unet() -> Case:
    return _case(UNet, lambda: ((torch.randn(2, 3, 32, 32),), {}))


def _mlp() -> Case:
    return _case(MLP, lambda: ((torch.randn(4, 20),), {}))


TRANSFORMERS: dict[str, Callable[[], Case]] = {
    "resnet18": _Transformers(
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
            "num_labels": 10,
        },
        _image(64),
    ),
    "mobilenet_v2": _Transformers(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"image_size": 64, "depth_multiplier": 0.35, "num_labels": 10},
        _image(64),
    ),
    "convnext": _Transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": 64, "num_labels": 10},
        _image(64),
    ),
    "vit": _Transformers(
        "ViTForImageClassification",
        "ViTConfig",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 10,
        },
        _image(32),
    ),
    "swin": _Transformers(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 24,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 10,
        },
        _image(64),
    ),
    "bert": _Transformers(
        "BertModel",
        "BertConfig",
        {
            "vocab_size": 120,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
        },
        _tokens(120),
    ),
    "gpt2": _Transformers(
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 120,
            "n_positions": 64,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "use_cache": False,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
        _tokens(120),
    ),
    "t5_encoder": _Transformers(
        "T5EncoderModel",
        "T5Config",
        {
            "vocab_size": 120,
            "d_model": 48,
            "d_kv": 12,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "use_cache": False,
        },
        _tokens(120),
    ),
    "llama": _Transformers(
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "vocab_size": 120,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "use_cache": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        _tokens(120),
    ),
}

ZOO: dict[str, Callable[[], Case]] = {
    **TRANSFORMERS,
    "lstm_classifier": _lstm,
    "unet": _unet,
    "mlp_batch_norm": _mlp,
}

# The position of the batch axis of each tensor argument of these is 0.
DYNAMIC_BATCH = ("mlp_batch_norm", "resnet18", "bert", "vit", "unet")


# -- making a case --------------------------------------------------------------------


def _case(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        _perturb(model)
        torch.manual_seed(1)
        args, kwargs = inputs()
    return Case(model, args, kwargs)


def _perturb(model: nn.Module) -> None:
    """Give normalisation layers weights and statistics as after training."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rsplit(".", 1)[-1]
            if last == "running_var":
                tensor.uniform_(0.5, 1.5)
            elif last == "running_mean":
                tensor.normal_(0.0, 0.3)
            elif last == "bias":
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif last == "weight" and tensor.dim() == 1:
                tensor.mul_(torch.empty_like(tensor).uniform_(0.7, 1.3))
