"""Vision models of `transformers`: one row each, small configurations."""

from __future__ import annotations

from typing import Any

from tests.models.case import Builder, Transformers, image

__all__ = ["VISION"]

_VIT: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_BACKBONE: dict[str, Any] = {
    "embedding_size": 16,
    **_STAGES,
    "layer_type": "basic",
    "out_features": ["stage4"],
}
_PYRAMID: dict[str, Any] = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
}

VISION: dict[str, Builder] = {
    "regnet": Transformers(
        "RegNetForImageClassification",
        "RegNetConfig",
        {"embedding_size": 16, **_STAGES, "groups_width": 8},
        image(64),
    ),
    "efficientnet": Transformers(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        image(64),
    ),
    "convnext_v2": Transformers("ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES, image(64)),
    "mobilenet_v1": Transformers(
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        {"image_size": 64, "depth_multiplier": 0.25, "min_depth": 8},
        image(64),
    ),
    "mobilevit": Transformers(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [24, 32, 40],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
            "num_attention_heads": 4,
        },
        image(64),
    ),
    "levit": Transformers(
        "LevitForImageClassification",
        "LevitConfig",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        image(64),
    ),
    "deit": Transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT, image(32)),
    "beit": Transformers(
        "BeitForImageClassification",
        "BeitConfig",
        {**_VIT, "use_relative_position_bias": True, "out_indices": [1]},
        image(32),
    ),
    "swin_v2": Transformers(
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 24,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        image(64),
    ),
    "pvt": Transformers("PvtForImageClassification", "PvtConfig", {**_PYRAMID, "image_size": 64}, image(64)),
    "poolformer": Transformers("PoolFormerForImageClassification", "PoolFormerConfig", _STAGES, image(64)),
    "segformer": Transformers(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {**_PYRAMID, "decoder_hidden_size": 32, "num_labels": 7},
        image(64),
    ),
    "detr": Transformers(
        "DetrForObjectDetection",
        "DetrConfig",
        {
            "backbone_config": ("ResNetConfig", _BACKBONE),
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 9,
        },
        image(64),
    ),
    "yolos": Transformers(
        "YolosForObjectDetection",
        "YolosConfig",
        {**_VIT, "image_size": [32, 32], "num_detection_tokens": 7},
        image(32),
    ),
    "dpt": Transformers(
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **_VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 16, 24, 32],
            "fusion_hidden_size": 16,
        },
        image(32),
    ),
    "dinov2": Transformers("Dinov2ForImageClassification", "Dinov2Config", _VIT, image(32)),
    "glpn": Transformers(
        "GLPNForDepthEstimation",
        "GLPNConfig",
        {**_PYRAMID, "decoder_hidden_size": 16},
        image(64),
    ),
    "upernet": Transformers(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {
            "backbone_config": (
                "ConvNextConfig",
                {**_STAGES, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            ),
            "hidden_size": 16,
            "num_labels": 5,
            "use_auxiliary_head": False,
        },
        image(64),
    ),
    "cvt": Transformers(
        "CvtForImageClassification",
        "CvtConfig",
        {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        image(64),
    ),
}
