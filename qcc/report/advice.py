"""What to paste into a recipe so that the worst layers are protected."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.stored_parts import packed_bits
from qcc.report.model import LayerReport
from qcc.report.tally import LOST_DB

MOST = 8
"""Layers that a snippet protects at most: with more, another recipe is the better way."""

BELOW_MEDIAN_DB = 3.0
CLOSE_DB = 6.0
"""Two sources of noise this close together are both worth mending."""

WIDE_BITS = 8
FINE_GROUP = 32


def worst_layers(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Return the layers to protect, worst first: those clearly below the median, else the worst tenth."""
    known = sorted((one for one in layers if one.sqnr_db is not None), key=local_sqnr)
    if not known:
        return []
    median = local_sqnr(known[len(known) // 2])
    below = [one for one in known if local_sqnr(one) < median - BELOW_MEDIAN_DB]
    return (below or known[: max(1, len(known) // 10)])[:MOST]


def local_sqnr(layer: LayerReport) -> float:
    """Return the local SQNR in dB as a number to sort by; none at all counts as endless."""
    return float("inf") if layer.sqnr_db is None else layer.sqnr_db


def protecting(layers: Sequence[LayerReport], worst: Sequence[LayerReport]) -> str:
    """Return YAML overrides for the worst layers, to paste into the recipe; empty where there is nothing to do."""
    names = [one.name for one in layers]
    lines = [
        f"  - {yaml.safe_dump(found, default_flow_style=True, sort_keys=False, width=1000).strip()}"
        for one in worst
        if (found := _override(one, names))
    ]
    return "\n".join(["overrides:", *lines]) if lines else ""


def _override(layer: LayerReport, names: Sequence[str]) -> dict[str, object]:
    weights, activations = _noise(layer)
    found: dict[str, object] = {"match": pattern_of(layer.name, names)}
    if weights <= activations + CLOSE_DB and weights != float("inf"):
        found["weights"] = _wider_weights(layer)
    if activations <= weights + CLOSE_DB and activations != float("inf"):
        found["activations"] = _wider_activations(layer)
    return found if len(found) > 1 else {}


def _noise(layer: LayerReport) -> tuple[float, float]:
    """Return the SQNR of the weights' and of the activations' codes in dB, endless where nothing is quantized."""
    found = [
        float("inf") if one is None or one.sqnr_db is None else max(one.sqnr_db, LOST_DB)
        for one in (layer.weights, layer.input)
    ]
    return found[0], found[1]


def _wider_weights(layer: LayerReport) -> dict[str, object]:
    qtype = parse_qtype(layer.weights_format)
    group = _group(qtype)
    return {"format": "f32"} if _is_wide(qtype) else {"format": "int8", "group": group if group > 0 else "row"}


def _wider_activations(layer: LayerReport) -> dict[str, object]:
    qtype = parse_qtype(layer.activations_format)
    if not _is_wide(qtype):
        return {"format": "int8", "granularity": "token", "when": "dynamic"}
    if _group(qtype) <= 0 and layer.shape[-1] % FINE_GROUP == 0:
        return {"format": "int8", "group": FINE_GROUP, "when": "dynamic"}
    return {"format": "f32"}


def _is_wide(qtype: QType) -> bool:
    return packed_bits(qtype.decode) >= WIDE_BITS


def _group(qtype: QType) -> int:
    """Return how many columns share the finest scale; -1 where all do."""
    return qtype.levels[0].block[-1] if qtype.levels else -1


def pattern_of(name: str, names: Sequence[str]) -> str:
    """Return a pattern that means this layer and no other."""
    plain = not re.search(r"[*?\[\]]", name) and not name.startswith("re:")
    alone = sum(one == name or one.endswith(f".{name}") for one in names) == 1
    return name if plain and alone else f"re:^{re.escape(name)}$"
