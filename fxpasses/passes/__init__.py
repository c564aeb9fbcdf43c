"""The catalogue of passes. Each is a callable ``Program -> Program``, usable alone.

`canonicalize` is the default `Pipeline`; `CATALOGUE` lists all passes by name. Those
that optimise for a target, such as `channels_last`, come after it.
"""

from __future__ import annotations

from fxpasses.passes.assert_sizes import assert_sizes
from fxpasses.passes.channels_last import ChannelsLast, channels_last
from fxpasses.passes.check_arguments import check_arguments
from fxpasses.passes.check_inference import CheckInference, check_inference
from fxpasses.passes.decompose import decompose_to_core_aten
from fxpasses.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from fxpasses.passes.eliminate_dead_code import eliminate_dead_code
from fxpasses.passes.expand_complex import expand_complex
from fxpasses.passes.explicit_promotion import explicit_promotion
from fxpasses.passes.fold_constants import FoldConstants, fold_constants
from fxpasses.passes.freeze import freeze
from fxpasses.passes.fuse_attention import FuseAttention, fuse_attention
from fxpasses.passes.fuse_conv_bn import fuse_conv_bn
from fxpasses.passes.merge_rows import merge_rows
from fxpasses.passes.narrow_ranges import narrow_ranges
from fxpasses.passes.normalize_dims import normalize_dims
from fxpasses.passes.normalize_kwargs import normalize_kwargs
from fxpasses.passes.normalize_matmul import normalize_matmul
from fxpasses.passes.normalize_params import normalize_params
from fxpasses.passes.normalize_sizes import normalize_sizes
from fxpasses.passes.numbers_as_tensors import numbers_as_tensors
from fxpasses.passes.order_nodes import order_nodes
from fxpasses.passes.pack_linear import PackLinear, pack_linear
from fxpasses.passes.propagate_shapes import propagate_shapes
from fxpasses.passes.remove_assertions import remove_assertions
from fxpasses.passes.remove_noops import remove_noops
from fxpasses.passes.turn_recurrent_weights import TurnRecurrentWeights, turn_recurrent_weights
from fxpasses.passes.turn_single_row import turn_single_row
from fxpasses.passes.widen_convolutions import widen_convolutions
from fxpasses.passes.winograd import Winograd, winograd
from fxpasses.pipeline import Pass, Pipeline, pass_name

__all__ = [
    "CATALOGUE",
    "ChannelsLast",
    "CheckInference",
    "FoldConstants",
    "FuseAttention",
    "PackLinear",
    "TurnRecurrentWeights",
    "Winograd",
    "assert_sizes",
    "canonicalize",
    "channels_last",
    "check_arguments",
    "check_inference",
    "decompose_to_core_aten",
    "eliminate_common_subexpressions",
    "eliminate_dead_code",
    "expand_complex",
    "explicit_promotion",
    "fold_constants",
    "freeze",
    "fuse_attention",
    "fuse_conv_bn",
    "merge_rows",
    "narrow_ranges",
    "normalize_dims",
    "normalize_kwargs",
    "normalize_matmul",
    "normalize_params",
    "normalize_sizes",
    "numbers_as_tensors",
    "order_nodes",
    "pack_linear",
    "propagate_shapes",
    "remove_assertions",
    "remove_noops",
    "turn_recurrent_weights",
    "turn_single_row",
    "widen_convolutions",
    "winograd",
]

canonicalize = Pipeline(
    check_inference,
    check_arguments,
    normalize_params,
    remove_assertions,
    assert_sizes,
    decompose_to_core_aten,
    expand_complex,
    remove_assertions,
    normalize_kwargs,
    normalize_dims,
    explicit_promotion,
    numbers_as_tensors,
    remove_noops,
    normalize_matmul,
    remove_noops,
    eliminate_common_subexpressions,
    fold_constants,
    eliminate_dead_code,  # another use of a weight, which may be none, keeps it from being fused
    fuse_conv_bn,
    normalize_sizes,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    order_nodes,
    name="canonicalize",
)
"""The default pipeline: any captured program to the canonical form."""

CATALOGUE: dict[str, Pass] = {
    pass_name(pass_): pass_
    for pass_ in (
        *canonicalize,
        propagate_shapes,
        narrow_ranges,
        freeze,
        widen_convolutions,
        channels_last,
        winograd,
        fuse_attention,
        merge_rows,
        pack_linear,
        turn_recurrent_weights,
        turn_single_row,
    )
}
"""Every pass by name."""
