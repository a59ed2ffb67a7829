"""What each layer of an artifact takes when it runs, beside what its plan was predicted to cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

from qcc.backends.base import CallTime
from qcc.report.model import LayerReport, Section

TITLE = "Time by layer"
REST = "no layer"
"""What calls are listed under that are part of no layer: attention, norms, elementwise operations."""

_INSTRUCTIONS = re.compile(r"([\d.e+-]+) instr/weight")


def time_section(calls: Sequence[CallTime], layers: Iterable[LayerReport], threads: int) -> Section:
    """Return a table of the layers and of the kernels outside them, the slowest first.

    `share` is of the sum of all calls. The predicted share is that of a layer's instructions among those of all layers
    with a prediction; the measured share among the same layers stands beside it. Instructions rank plans and know
    neither memory nor threads, so a layer whose two shares differ much is one that the plans' model does not describe.
    """
    known = {one.name: one for one in layers}
    spent: dict[tuple[str, str], float] = {}
    kernels: dict[tuple[str, str], dict[str, None]] = {}
    for call in calls:
        key = (call.layer, "") if call.layer else ("", call.kernel)
        spent[key] = spent.get(key, 0.0) + call.ms
        kernels.setdefault(key, {})[call.kernel] = None
    total = sum(spent.values()) or 1.0
    costs = {name: cost for name, _ in spent if name in known and (cost := instructions_of(known[name])) is not None}
    predicted = sum(costs.values()) or 1.0
    among = sum(ms for (name, _), ms in spent.items() if name in costs) or 1.0
    rows = [
        (
            name or REST,
            ", ".join(kernels[name, kernel]),
            round(ms, 4),
            f"{ms / total:.1%}",
            f"{ms / among:.1%}" if name in costs else None,
            f"{costs[name] / predicted:.1%}" if name in costs else None,
            known[name].predicted if name in known else None,
        )
        for (name, kernel), ms in sorted(spent.items(), key=lambda one: -one[1])
    ]
    note = f"{sum(spent.values()):.4g} ms in {len(calls)} calls on {threads} threads, medians, with a clock around each"
    columns = ("layer", "kernels", "ms", "share", "of layers", "predicted", "predicted cost")
    return Section(title=TITLE, columns=columns, rows=tuple(rows), note=note)


def instructions_of(layer: LayerReport) -> float | None:
    """Return the instructions a row that the layer's plan was predicted to take; None without a prediction."""
    match = _INSTRUCTIONS.search(layer.predicted)
    return None if match is None else float(match.group(1)) * prod(layer.shape)
