"""What a row of the model tables is: a builder that returns a `Case`.

A case is a model in eval mode with seeded weights, and the arguments of one
call. With the small initial weights of most architectures the input dies out on
its way, and the outputs are biases alone that hide every error; so weights are
drawn to keep the variance, and normalisation layers get statistics as after
training. Everything is made from a fixed seed, without any download.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

__all__ = [
    "Builder",
    "Case",
    "Inputs",
    "Transformers",
    "image",
    "make_case",
    "own",
    "spectrogram",
    "tokens",
    "wave",
]


class Case(NamedTuple):
    """A model with the arguments of one call."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Builder = Callable[[], Case]
Inputs = Callable[[], dict[str, Any]]
"""Makes keyword arguments; called with a seed set."""


@dataclass(frozen=True)
class Transformers:
    """A model of `transformers`: names of its class and its configuration's, options, inputs.

    An option whose value is a pair ``("XConfig", {...})`` is a configuration in
    the configuration.
    """

    model: str
    config: str
    options: dict[str, Any]
    inputs: Inputs

    def __call__(self) -> Case:
        import transformers

        def configuration(name: str, options: dict[str, Any]) -> Any:
            made = {
                key: configuration(*value) if _is_configuration(value) else value
                for key, value in options.items()
            }
            return getattr(transformers, name)(**made)

        def make() -> nn.Module:
            model: nn.Module = getattr(transformers, self.model)(configuration(self.config, self.options))
            return model

        return make_case(make, lambda: ((), self.inputs()))


def _is_configuration(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)


def own(make: Callable[[], nn.Module], inputs: Callable[[], tuple[Any, ...]]) -> Builder:
    """The builder of a model of our own: *inputs* makes its positional arguments."""
    return lambda: make_case(make, lambda: (inputs(), {}))


def make_case(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
) -> Case:
    """A case from fixed seeds; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        _enliven(model)
        torch.manual_seed(1)
        args, kwargs = inputs()
    return Case(model, args, kwargs)


def _enliven(model: nn.Module) -> None:
    """Give layers weights, and normalisation layers statistics, that let the input through to the outputs."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            last = name.rsplit(".", 1)[-1]
            if last == "running_var":
                tensor.uniform_(0.5, 1.5)
            elif last == "running_mean":
                tensor.normal_(0.0, 0.3)
            elif last == "bias":
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif last == "weight" and tensor.dim() > 1:
                tensor.normal_(0.0, (2.0 / tensor[0].numel()) ** 0.5)
            elif last == "weight":
                tensor.uniform_(0.7, 1.3)


# -- inputs -----------------------------------------------------------------------


def image(size: int, batch: int = 2) -> Inputs:
    """Pictures, ``float32[batch, 3, size, size]``."""
    return lambda: {"pixel_values": torch.randn(batch, 3, size, size)}


def tokens(vocabulary: int = 120, length: int = 12, batch: int = 2, decoder: int = 0) -> Inputs:
    """Token ids with a mask whose last row is padded; *decoder* ids for models with two stacks."""

    def make() -> dict[str, Any]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, length - 3 :] = 0
        made = {
            "input_ids": torch.randint(3, vocabulary, (batch, length)),
            "attention_mask": mask,
        }
        if decoder:
            made["decoder_input_ids"] = torch.randint(3, vocabulary, (batch, decoder))
        return made

    return make


def wave(samples: int, batch: int = 2) -> Inputs:
    """Sound, ``float32[batch, samples]``."""
    return lambda: {"input_values": torch.randn(batch, samples)}


def spectrogram(name: str, *shape: int) -> Inputs:
    """Features of sound, ``float32[shape]``, as the argument *name*."""
    return lambda: {name: torch.randn(*shape)}
