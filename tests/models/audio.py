"""Audio and multimodal models of `transformers`: one row each, small configurations."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.case import Builder, Inputs, Transformers, image, spectrogram, tokens, wave

__all__ = ["AUDIO", "CODECS", "MULTIMODAL", "REFUSED_MULTIMODAL"]

_WAVE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

AUDIO: dict[str, Builder] = {
    "wav2vec2": Transformers("Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVE, wave(800)),
    "hubert": Transformers("HubertModel", "HubertConfig", _WAVE, wave(800)),
    "wavlm": Transformers("WavLMModel", "WavLMConfig", _WAVE, wave(800)),
    "sew": Transformers("SEWModel", "SEWConfig", {**_WAVE, "squeeze_factor": 2}, wave(800)),
    "whisper_encoder": Transformers(
        "WhisperForAudioClassification",
        "WhisperConfig",
        {
            "d_model": 48,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_layers": 1,
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "vocab_size": 120,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        spectrogram("input_features", 2, 16, 40),
    ),
    "audio_spectrogram_transformer": Transformers(
        "ASTForAudioClassification",
        "ASTConfig",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "patch_size": 8,
            "max_length": 40,
            "num_mel_bins": 24,
        },
        spectrogram("input_values", 2, 40, 24),
    ),
}

_CODEC: dict[str, Any] = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_size": 32,
    "upsampling_ratios": [4, 2],
}


def _sound() -> dict[str, Any]:
    return {"input_values": torch.randn(1, 1, 640)}


CODECS: dict[str, Builder] = {
    "encodec": Transformers("EncodecModel", "EncodecConfig", {**_CODEC, "codebook_dim": 16}, _sound),
    "mimi": Transformers(
        "MimiModel",
        "MimiConfig",
        {
            **_CODEC,
            "codebook_dim": 8,
            "vector_quantization_hidden_dimension": 8,
            "num_quantizers": 4,
            "num_hidden_layers": 1,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "upsample_groups": 16,
        },
        _sound,
    ),
}
"""Models that keep paddings in buffers, and read them as they run: not every door leads through."""

_TEXT_TOWER: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
}
_VISION_TOWER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}


def _both(size: int = 32) -> Inputs:
    """Two pictures and two texts, each ended by the token 2."""

    def make() -> dict[str, Any]:
        texts = tokens()()
        texts["input_ids"][:, -1] = 2
        return {**texts, **image(size)()}

    return make


MULTIMODAL: dict[str, Builder] = {
    "clip": Transformers(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _TEXT_TOWER, "vision_config": _VISION_TOWER, "projection_dim": 32},
        _both(),
    ),
    "siglip": Transformers(
        "SiglipModel",
        "SiglipConfig",
        {"text_config": _TEXT_TOWER, "vision_config": _VISION_TOWER},
        _both(),
    ),
    "blip_text": Transformers(
        "BlipTextModel",
        "BlipTextConfig",
        {
            **_TEXT_TOWER,
            "encoder_hidden_size": 48,
            "projection_dim": 32,
            "is_decoder": False,
            "use_cache": False,
        },
        tokens(),
    ),
    "blip": Transformers(
        "BlipForImageTextRetrieval",
        "BlipConfig",
        {
            "text_config": {**_TEXT_TOWER, "encoder_hidden_size": 48},
            "vision_config": _VISION_TOWER,
            "projection_dim": 32,
            "image_text_hidden_size": 32,
        },
        _both(),
    ),
}

REFUSED_MULTIMODAL: dict[str, Builder] = {
    # The size of each picture is read from its mask.
    "vilt": Transformers(
        "ViltModel",
        "ViltConfig",
        {**_VISION_TOWER, "vocab_size": 120, "max_position_embeddings": 64, "max_image_length": -1},
        lambda: {**_both()(), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.int64)},
    ),
}
