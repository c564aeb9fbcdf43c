"""The models that tests and benchmarks share: real architectures, small configurations.

`ZOO` maps a name to a builder; a builder returns a `Case`: the model in eval
mode with seeded weights, and the arguments to call it with::

    case = ZOO["resnet18"]()
    case.model(*case.args, **case.kwargs)

These few are compiled by every test run; `tests.models.architectures` has all.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.models.case import Builder, Case, Transformers, image, own, tokens

__all__ = ["DYNAMIC_BATCH", "TRANSFORMERS", "ZOO", "Case", "build"]


def build(name: str) -> Case:
    """The case *name*, from a fixed seed; the caller's random state is left alone."""
    return ZOO[name]()


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


TRANSFORMERS: dict[str, Builder] = {
    "resnet18": Transformers(
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
            "num_labels": 10,
        },
        image(64),
    ),
    "mobilenet_v2": Transformers(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"image_size": 64, "depth_multiplier": 0.35, "num_labels": 10},
        image(64),
    ),
    "convnext": Transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": 64, "num_labels": 10},
        image(64),
    ),
    "vit": Transformers(
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
        image(32),
    ),
    "swin": Transformers(
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
        image(64),
    ),
    "bert": Transformers(
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
        tokens(120),
    ),
    "gpt2": Transformers(
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
        tokens(120),
    ),
    "t5_encoder": Transformers(
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
        tokens(120),
    ),
    "llama": Transformers(
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
        tokens(120),
    ),
}

ZOO: dict[str, Builder] = {
    **TRANSFORMERS,
    "lstm_classifier": own(LSTMClassifier, lambda: (torch.randint(1, 100, (3, 7)),)),
    "unet": own(UNet, lambda: (torch.randn(2, 3, 32, 32),)),
    "mlp_batch_norm": own(MLP, lambda: (torch.randn(4, 20),)),
}

# The position of the batch axis of each tensor argument of these is 0.
DYNAMIC_BATCH = ("mlp_batch_norm", "resnet18", "bert", "vit", "unet")
