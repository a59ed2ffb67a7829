"""The report as one self-contained page: no script, no font and no picture from anywhere else."""

from __future__ import annotations

import math
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qcc.coverage import bits_text
from qcc.report.advice import worst_layers
from qcc.report.charts import bits_chart, graph, histogram
from qcc.report.model import LayerReport, Report
from qcc.report.tally import LOST_DB
from qcc.report.terminal import cost_text, quality, ranked

FLOOR_DB = 60.0
"""Errors this small have no bar left."""

OPEN_HISTOGRAMS = 4
"""Layers whose distributions are shown unfolded; the rest opens on a click."""

LISTED = 12
"""Layers whose errors are shown unfolded."""


def page_text(report: Report) -> str:
    """Return the HTML of a report."""
    environment = Environment(
        loader=PackageLoader("qcc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=size_text, bits=bits_text, db=_db, share=_share, quality=quality, cost=cost_text)
    environment.filters["breakable"] = _breakable
    layers = ranked(report)
    text = environment.get_template("report.html.j2").render(
        report=report,
        layers=layers,
        histogram=histogram,
        bar=_bar,
        measured=[one for one in layers if one.measured and not one.left_in_float],
        floats=[one for one in layers if one.left_in_float],
        worst=[one.name for one in worst_layers(report.layers)],
        bits=bits_chart(report.layers),
        graph=graph(report),
        unfolded=OPEN_HISTOGRAMS,
        listed=LISTED,
    )
    return text.rstrip("\n") + "\n"


def size_text(count: int) -> str:
    """Write a number of bytes with its unit (decimal)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _db(layer: LayerReport, cumulative: bool = False) -> str:
    value = layer.cumulative_sqnr_db if cumulative else layer.sqnr_db
    if not layer.measured:
        return "–"
    return "exact" if value is None else "lost" if value <= LOST_DB else f"{value:.1f} dB"


def _share(value: float | None) -> str:
    """Write an SQNR as the error's share of the signal's amplitude."""
    if value is None:
        return "0 %"
    return f"{100 * math.pow(10.0, -max(value, -60.0) / 20):.2g} %"


def _breakable(name: str) -> Markup:
    """Let a long name break behind its dots and underscores."""
    return Markup(re.sub(r"([._/])(?=.)", r"\1<wbr>", str(escape(name))))


def _bar(value: float | None) -> str:
    """Return the length of an error's bar in percent of the whole: the longer, the worse."""
    if value is None:
        return "0"
    return f"{max(0.0, min(100.0, 100 * (FLOOR_DB - value) / FLOOR_DB)):.1f}"
