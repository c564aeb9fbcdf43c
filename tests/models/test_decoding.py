"""Generation of text, token by token: one compiled step for every length of the cache."""

from __future__ import annotations

import copy

import pytest
import torch

import fxpasses as fxp

transformers = pytest.importorskip("transformers")


def test_one_decode_step_for_all_lengths_of_the_cache():
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=64, bos_token_id=0, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    cache = transformers.DynamicCache(config=config)
    prompt = torch.tensor([[5, 3, 9, 4]])
    with torch.no_grad():
        token = model(prompt, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

    def arguments(token, cache, position):
        return {
            "input_ids": token,
            "past_key_values": cache,
            "use_cache": True,
            "position_ids": torch.tensor([[position]]),
        }

    length = torch.export.Dim("length", min=1, max=63)
    step = fxp.compile(
        model,
        (),
        arguments(token, copy.deepcopy(cache), 4),
        dynamic_shapes={"past_key_values": [{2: length}] * 4},
        strict=True,
    )
    ours = copy.deepcopy(cache)
    for position in range(4, 9):
        got = step(**arguments(token, ours, position))
        with torch.no_grad():
            expected = model(**arguments(token, cache, position))
        torch.testing.assert_close(got.logits, expected.logits)
        assert isinstance(got.past_key_values, transformers.DynamicCache)
        ours, cache = got.past_key_values, expected.past_key_values
        assert ours.get_seq_length() == cache.get_seq_length() == position + 1
        token = expected.logits.argmax(-1)
