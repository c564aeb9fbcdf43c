"""Dispatch modes of torch's, and higher-order operators under them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["bodies_in"]


def bodies_in(mode: TorchDispatchMode, arguments: Any) -> Any:
    """The arguments of a higher-order operator, whose bodies enter *mode* again when they run."""

    def again(value: Any) -> Any:
        if not callable(value) or isinstance(value, torch.Tensor):
            return value

        def body(*args: Any, **kwargs: Any) -> Any:
            with mode:
                return value(*args, **kwargs)

        return body

    return pytree.tree_map(again, arguments)
