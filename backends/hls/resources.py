"""What a layer takes of an FPGA by its formats alone, before any weight is known: the analytic costs of its units.

The unit is the matrix-vector unit of the layer, with what loads its weights where these do not fit on the chip, by the
formulas of `units_matvec`; weights count as any of the integers of their format. It is built as the settings say:
folded by hand, else by the cheapest folding that keeps the frame rate asked for, else as narrow as it gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache

import numpy as np

from qcc.backends.hls.codes import choose_codes
from qcc.backends.hls.elements import Element
from qcc.backends.hls.folding import Choice
from qcc.backends.hls.lower_contract import ROM_BITS
from qcc.backends.hls.settings import HlsSettings, read_hls_settings
from qcc.backends.hls.steps import Steps
from qcc.backends.hls.units import Cost, Fold
from qcc.backends.hls.units_matvec import LoadUnit, MatvecUnit
from qcc.ir.dims import product
from qcc.ir.plans import ContractCost
from qcc.ir.types import TensorType
from qcc.numerics.integer_values import integer_domain, integer_factor, integer_range

RESOURCES = ("lut", "dsp", "bram18")
"""Names of resources in budgets."""


def resource_costs(texts: Mapping[str, str]) -> dict[str, ContractCost]:
    """Return what a layer takes of every resource, at the foldings of these settings."""
    settings = read_hls_settings(texts)

    @cache
    def cost(layer: str, inputs: TensorType, weights: TensorType) -> Cost | str:
        return _cost(settings, layer, inputs, weights)

    def of(name: str) -> ContractCost:
        def taken(layer: str, inputs: TensorType, weights: TensorType) -> float | str:
            found = cost(layer, inputs, weights)
            return found if isinstance(found, str) else float(getattr(found, name))

        return taken

    return {name: of(name) for name in RESOURCES}


def _cost(settings: HlsSettings, layer: str, inputs: TensorType, weights: TensorType) -> Cost | str:
    unit = unit_of(inputs, weights)
    if isinstance(unit, str):
        return unit
    asked = [fold for pattern, fold in settings.foldings.items() if fnmatchcase(layer, pattern)]
    folds = [fold for fold in unit.folds() if not asked or fold == asked[-1]]
    if not folds:
        return f"folding {asked[-1]} does not divide {unit.n} outputs and {unit.k} inputs"
    if asked:
        return _total(unit, folds[0])
    if settings.interval is None:
        return _total(unit, Fold())
    fitting = [Choice(one, unit.cycles(one), unit.cost(one)) for one in folds if unit.cycles(one) <= settings.interval]
    if not fitting:
        least = min(unit.cycles(one) for one in folds)
        return f"needs {least} cycles a frame at its widest, {settings.interval} are asked for"
    return _total(unit, min(fitting, key=lambda one: one.weight).fold)


def _total(unit: MatvecUnit, fold: Fold) -> Cost:
    return unit.cost(fold) + LoadUnit(unit).cost(fold) if unit.streamed else unit.cost(fold)


def unit_of(inputs: TensorType, weights: TensorType) -> MatvecUnit | str:
    """Return the unit of a layer whose weights may be any of their format, or why it has none."""
    shape, rows = weights.static_shape, product(inputs.shape[:-1]).constant
    if shape is None or len(shape) != 2 or rows is None:
        return "is not of a fixed shape"
    for role, kind in (("input", inputs), ("weights", weights)):
        if kind.qtype is None or integer_factor(kind.qtype) is None:
            return f"{role} '{kind.qtype or kind.scalar}' stand for no integers"
    assert inputs.qtype is not None
    assert weights.qtype is not None
    x, values = Element(*integer_range(inputs.qtype)), np.array(integer_domain(weights.qtype), np.int64)
    reach = shape[1] * int(np.abs(values).max()) * max(abs(x.low), abs(x.high))
    codes = choose_codes(values)
    dense = np.broadcast_to(np.int64(0), shape)
    streamed = dense.size * codes.bits > ROM_BITS
    return MatvecUnit(
        rows, dense, np.zeros(shape[0], np.int64), x, codes, streamed, steps=Steps(Element(-reach, reach))
    )
