"""All architectures that are compiled whole: the zoo, and the sweep's wider choice."""

from __future__ import annotations

from tests.models.audio import AUDIO, MULTIMODAL, REFUSED_MULTIMODAL
from tests.models.case import Builder
from tests.models.recipes import RECIPES
from tests.models.text import REFUSED_TEXT, TEXT
from tests.models.vision import VISION
from tests.models.zoo import ZOO

__all__ = ["ARCHITECTURES", "REFUSED"]

ARCHITECTURES: dict[str, Builder] = {**ZOO, **VISION, **TEXT, **AUDIO, **MULTIMODAL, **RECIPES}

REFUSED: dict[str, Builder] = {**REFUSED_TEXT, **REFUSED_MULTIMODAL}
"""Models whose Python code branches on values, which a graph cannot say."""
