"""Text models of `transformers`: encoders, decoders and both; small configurations."""

from __future__ import annotations

from typing import Any

from tests.models.case import Builder, Transformers, tokens

__all__ = ["REFUSED_TEXT", "TEXT"]

_ENCODER: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_DECODER: dict[str, Any] = {
    **_ENCODER,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {**_DECODER, "num_key_value_heads": 2}


def _ids() -> dict[str, Any]:
    """Token ids without a mask."""
    return {"input_ids": tokens()()["input_ids"]}


TEXT: dict[str, Builder] = {
    "albert": Transformers("AlbertModel", "AlbertConfig", {**_ENCODER, "embedding_size": 16}, tokens()),
    "roberta": Transformers("RobertaModel", "RobertaConfig", _ENCODER, tokens()),
    "distilbert": Transformers(
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 120, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
        tokens(),
    ),
    "electra": Transformers("ElectraModel", "ElectraConfig", {**_ENCODER, "embedding_size": 24}, tokens()),
    "deberta": Transformers(
        "DebertaModel",
        "DebertaConfig",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        tokens(),
    ),
    "deberta_v2": Transformers(
        "DebertaV2Model",
        "DebertaV2Config",
        {
            **_ENCODER,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "conv_kernel_size": 3,
        },
        tokens(),
    ),
    "mpnet": Transformers("MPNetModel", "MPNetConfig", _ENCODER, tokens()),
    "funnel": Transformers(
        "FunnelModel",
        "FunnelConfig",
        {
            "vocab_size": 120,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 48,
            "n_head": 4,
            "d_head": 12,
            "d_inner": 96,
        },
        tokens(),
    ),
    "fnet": Transformers(
        "FNetModel",
        "FNetConfig",
        {k: v for k, v in _ENCODER.items() if k != "num_attention_heads"},
        _ids,
    ),
    "big_bird": Transformers(
        "BigBirdModel", "BigBirdConfig", {**_ENCODER, "attention_type": "original_full"}, tokens()
    ),
    "squeezebert": Transformers(
        "SqueezeBertModel", "SqueezeBertConfig", {**_ENCODER, "embedding_size": 48}, tokens()
    ),
    "modernbert": Transformers(
        "ModernBertModel",
        "ModernBertConfig",
        {
            **_ENCODER,
            "local_attention": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
        tokens(),
    ),
    "xlnet": Transformers(
        "XLNetModel",
        "XLNetConfig",
        {"vocab_size": 120, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 96, "use_mems_eval": False},
        tokens(),
    ),
    "gpt_neox": Transformers("GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER, tokens()),
    "opt": Transformers(
        "OPTForCausalLM",
        "OPTConfig",
        {**_DECODER, "ffn_dim": 96, "word_embed_proj_dim": 48},
        tokens(),
    ),
    "bloom": Transformers(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 120, "hidden_size": 48, "n_layer": 2, "n_head": 4, "use_cache": False},
        tokens(),
    ),
    "mistral": Transformers(
        "MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 6}, tokens()
    ),
    "qwen2": Transformers("Qwen2ForCausalLM", "Qwen2Config", _GROUPED, tokens()),
    "qwen3": Transformers("Qwen3ForCausalLM", "Qwen3Config", {**_GROUPED, "head_dim": 12}, tokens()),
    "gemma": Transformers("GemmaForCausalLM", "GemmaConfig", {**_GROUPED, "head_dim": 12}, tokens()),
    "gemma2": Transformers(
        "Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "head_dim": 12, "sliding_window": 6}, tokens()
    ),
    "phi": Transformers("PhiForCausalLM", "PhiConfig", _DECODER, tokens()),
    "phi3": Transformers("Phi3ForCausalLM", "Phi3Config", _GROUPED, tokens()),
    "falcon": Transformers(
        "FalconForCausalLM",
        "FalconConfig",
        {**_DECODER, "ffn_hidden_size": 96},
        tokens(),
    ),
    "mamba": Transformers(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 120, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "use_cache": False},
        _ids,
    ),
    "mamba2": Transformers(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "vocab_size": 120,
            "hidden_size": 32,
            "state_size": 8,
            "num_hidden_layers": 2,
            "num_heads": 4,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 4,
            "use_cache": False,
        },
        _ids,
    ),
    "rwkv": Transformers(
        "RwkvForCausalLM",
        "RwkvConfig",
        {
            "vocab_size": 120,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "use_cache": False,
            "rescale_every": 0,
        },
        _ids,
    ),
    "t5": Transformers(
        "T5ForConditionalGeneration",
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
        tokens(decoder=7),
    ),
    "bart": Transformers(
        "BartForConditionalGeneration",
        "BartConfig",
        {
            "vocab_size": 120,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        tokens(decoder=7),
    ),
    "mixtral": Transformers(
        "MixtralForCausalLM",
        "MixtralConfig",
        {
            **_GROUPED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "experts_implementation": "batched_mm",
        },
        tokens(),
    ),
}

REFUSED_TEXT: dict[str, Builder] = {
    # Whether any token attends globally is asked of the mask in Python.
    "longformer": Transformers(
        "LongformerModel", "LongformerConfig", {**_ENCODER, "attention_window": 4}, tokens(length=16)
    ),
}
