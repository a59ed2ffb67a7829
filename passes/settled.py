"""Refuse transforms of what others have settled already: formats, scales, codes, choices made by the old values.

A transform changes what values are, and every later step takes its facts from values: a static scale from their range,
codes of weights from the Hessian of their inputs, codes of a cache from its rows, a choice of bits from what each layer
loses. Done afterwards, a transform leaves these facts standing for values that are no more: nothing of the module looks
wrong, and its results are. So transforms go first, and each asks here before it looks for anything to do.
"""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import location_of
from qcc.ir.cache import CacheAppendOp, CacheReadOp, CacheRoundOp
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import type_of
from qcc.passes.layer_schemes import ALLOCATED, INPUT_FORMAT
from qcc.passes.quantize_cache import ALLOCATED_CACHE

__all__ = ["refuse_settled"]


def refuse_settled(module: ModuleOp, name: str, *, steps: bool = False, formats: bool = False) -> None:
    """Refuse a transform of a module in which something was settled by values that the transform would change.

    With `steps` it may stand behind `qsm`, whose static steps of inputs it keeps; with `formats` behind
    `assign-formats` and `quantize-cache`, as one that asks what a format loses.

    Raises:
        IllegalFold: naming every operation that was settled, its line in the user's model, and the way out.
    """
    found: dict[tuple[str, str], Problem] = {}
    for op in module.walk():
        for what, by in _settled(op):
            if (by == "qsm" and steps) or (by in ("assign-formats", "quantize-cache") and formats):
                continue
            where = location_of(op)
            found.setdefault((where, what), Problem(where, f"{op.name}: {what}", f"run {name} before {by}"))
    if found:
        count = len(found)
        raise IllegalFold(
            f"{name} comes too late: {count} place{'s' if count > 1 else ''} {'are' if count > 1 else 'is'} settled by "
            "values that it would change",
            found.values(),
            fix="put transforms first: passes run in the order in which they are listed",
        )


def _settled(op: Operation) -> Iterator[tuple[str, str]]:
    """Say what of an operation was settled, and by which pass."""
    match op:
        case QuantizeOp() if op.parameters:
            yield "its static scales are those of its input as it was", "calibrate"
        case QuantizeOp():
            yield f"'{type_of(op.result).qtype}' is assigned to its input", "assign-formats"
        case ContractOp() | EmbeddingOp():
            weight = op.operands[1 if isinstance(op, ContractOp) else 0].owner
            if isinstance(weight, WeightOp) and type_of(weight.result).qtype is not None:
                yield f"the codes of its weight '{weight.key.data}' are solved for its input as it was", "solve-weights"
        case CacheAppendOp() | CacheReadOp() | CacheRoundOp():
            yield "keys or values are kept as codes of what they were", "quantize-cache"
        case LinearOp() | ConvOp():
            if isinstance(noted := op.attributes.get(INPUT_FORMAT), StringAttr):
                yield f"its input is in steps of the static '{noted.data}'", "qsm"
            if isinstance(noted := op.attributes.get(ALLOCATED), StringAttr):
                yield f"its format {noted.data} is chosen by what it lost as it was", "allocate-bits"
        case AttentionOp() if ALLOCATED_CACHE in op.attributes:
            yield "the bits of its cache are chosen by what they lost as it was", "allocate-cache"
        case _:
            return
