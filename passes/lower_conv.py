"""Turn the convolutions that a recipe quantizes into linear layers over their windows.

    conv(x, w, b)  ->  transpose(linear(unfold(x), reshape(w), b))          [B, *S', O] -> [B, O, *S']
    conv(x, w, b)  ->  transpose(linear(transpose(x), reshape(w), b))       windows of one element, stride 1, no padding

Legal for one group and a weight of the store: row (b, s') of `unfold(x)` holds the C * product(window) elements that
output position s' multiplies with `w[o]`, in the order of `w[o]`, so both sides are the same sum of products. Equal in
real arithmetic; padding is zeros, which every integer format represents exactly or to within half a step.

`fold-constants` puts the reshaped weight in the store. The layer keeps the name of its convolution (attribute `layer`).
A convolution that the recipe leaves in float, or with several groups, keeps its direct kernel.

An activation scale per token is a scale per row, so after this pass per output position: the elements under one
window share it, and an element under several windows is rounded once for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.ir.base import location_of, set_location
from qcc.ir.dims import product
from qcc.ir.nn import ConvOp, LinearOp, UnfoldOp
from qcc.ir.program import int_array
from qcc.ir.shape import ReshapeOp, TransposeOp
from qcc.ir.types import type_of
from qcc.passes.layer_schemes import LAYER, layer_name, scheme_of
from qcc.recipes.load import load_recipe


@dataclass(frozen=True)
class LowerConv(ModulePass):
    """The pass; `recipe` is a name, a path, or JSON text."""

    name: ClassVar[str] = "lower-conv"

    recipe: str = "w8a8"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module.

        Raises:
            RecipeError: if the recipe cannot be read.
        """
        recipe = load_recipe(self.recipe)
        for conv in [one for one in op.walk() if isinstance(one, ConvOp)]:
            if not scheme_of(recipe, conv).reason:
                _lower(conv)


def _lower(conv: ConvOp) -> None:
    filters = type_of(conv.weight).shape
    last = len(filters) - 1
    flat = ReshapeOp(conv.weight, (filters[0], product(filters[1:])))
    rows = _rows(conv)
    linear = LinearOp(rows, flat, conv.bias)
    linear.attributes.update(conv.attributes)
    linear.attributes[LAYER] = StringAttr(layer_name(conv))
    channels_first = TransposeOp(linear, (0, last, *range(1, last)))
    for one in (rows, flat, channels_first):
        set_location(one, location_of(conv))
    Rewriter.replace_op(conv, [rows, flat, linear, channels_first], [channels_first.result])


def _rows(conv: ConvOp) -> Operation:
    """Return the operation that makes the rows [B, *S', C * product(window)] of a convolution."""
    window = (type_of(conv.weight).static_shape or ())[2:]
    stride, padding, dilation = (int_array(one) for one in (conv.stride, conv.padding, conv.dilation))
    if {*window, *stride} == {1} and not any(padding):
        return TransposeOp(conv.input, (0, *range(2, 2 + len(window)), 1))
    return UnfoldOp(conv.input, window=window, stride=stride, padding=padding, dilation=dilation)
