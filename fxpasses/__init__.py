"""fxpasses: any PyTorch graph in one canonical form, through small passes, to TVM."""

from __future__ import annotations

__version__ = "0.1.0"
