"""Round to nearest, under the scales of the format or under searched ones; no calibration is read."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from qcc.numerics.qtype import QType
from qcc.numerics.quantize import compute_qparams, quantize
from qcc.numerics.sides import split_sides
from qcc.numerics.tensor import Parameters, QuantizedTensor


def rtn(weight: Tensor, qtype: QType, hessian: Tensor | None, where: str = "") -> QuantizedTensor:
    """Take the nearest code of every weight under the format's own scales."""
    return quantize(weight, qtype, where=where)


def mse(weight: Tensor, qtype: QType, hessian: Tensor | None, where: str = "") -> QuantizedTensor:
    """Shrink the range of every leaf block to the least squared error of its weights, then take the nearest codes.

    The search is that of the statistic `mse`; a format whose levels say how they are computed otherwise keeps that.
    """
    searched = searched_type(qtype)
    if searched is None:
        return quantize(weight, qtype, where=where)
    rest = split_sides(weight, qtype.sides, where)[0] if qtype.sides else weight
    return quantize(weight, qtype, searched_parameters(rest, qtype, searched, where), where=where)


def searched_parameters(weight: Tensor, qtype: QType, searched: QType, where: str) -> Parameters:
    """Return the parameters under searched leaf scales; the scales above stay, so that blocks are searched apart."""
    roots = compute_qparams(weight, qtype, where).scales.values[1:] if len(qtype.levels) > 1 else ()
    return compute_qparams(weight, searched, where, roots=roots)


def searched_type(qtype: QType) -> QType | None:
    """Return the format with a searched leaf; None where its scales are not those of the largest magnitude."""
    if not qtype.levels or any(level.statistic != "amax" for level in qtype.levels if level.statistic != "constant"):
        return None
    if qtype.levels[-1].protective is not None:
        return None
    return replace(qtype, levels=(replace(qtype.levels[0], statistic="mse"), *qtype.levels[1:]))
