"""The report in a terminal: worst layers first."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from qcc.coverage import bits_text
from qcc.report.advice import local_sqnr
from qcc.report.model import LayerReport, Report, Section

GOOD_DB, FAIR_DB = 30.0, 18.0
"""From here on an error is called small, or tolerable: 3 % and 13 % of the signal's amplitude."""


def quality(sqnr_db: float | None) -> str:
    """Return `good`, `fair` or `poor` for an SQNR in dB; no error at all is good."""
    if sqnr_db is None or sqnr_db >= GOOD_DB:
        return "good"
    return "fair" if sqnr_db >= FAIR_DB else "poor"


_STYLE = {"good": "green", "fair": "yellow", "poor": "red"}


def ranked(report: Report) -> list[LayerReport]:
    """Return the layers, worst local error first; what was not measured or stays in float comes last."""
    return sorted(report.layers, key=lambda one: (not one.measured, bool(one.left_in_float), local_sqnr(one)))


def layer_rows(report: Report) -> Table:
    """Make the table of layers."""
    table = Table(box=None)
    for heading in ("layer", "weights", "activations", "bits", "bytes", "SQNR dB", "cumulative", "mse", "plan"):
        right = heading in ("bits", "bytes", "SQNR dB", "cumulative", "mse")
        table.add_column(heading, overflow="fold", justify="right" if right else "left")
    for layer in ranked(report):
        table.add_row(
            layer.name,
            layer.weights_format,
            layer.activations_format,
            bits_text(layer.bits_per_weight),
            f"{layer.bytes:,}",
            decibels(layer, layer.sqnr_db),
            decibels(layer, layer.cumulative_sqnr_db),
            "" if layer.mse is None else f"{layer.mse:.2e}",
            f"float: {layer.left_in_float}" if layer.left_in_float else cost_text(layer),
        )
    return table


def cost_text(layer: LayerReport) -> str:
    """Return the plan of a layer and what it was predicted to cost."""
    return f"{layer.plan}: {layer.predicted}" if layer.predicted else layer.plan


def decibels(layer: LayerReport, value: float | None) -> Text:
    """Write an SQNR; `exact` where there is no error, a dash where nothing was measured."""
    if not layer.measured:
        return Text("-")
    text = "exact" if value is None else f"{value:.1f}"
    return Text(text, style=_STYLE[quality(value)])


def section_table(section: Section) -> Table:
    """Make the table of what a backend added."""
    table = Table(title=section.title, caption=section.note or None, box=None, title_justify="left")
    for heading in section.columns:
        table.add_column(heading, overflow="fold")
    for row in section.rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    return table


def summary_lines(report: Report) -> list[str]:
    """Say the errors of the outputs, perplexity, latency, and what the figures were measured on."""
    lines: list[str] = []
    if report.samples:
        for name, value in report.outputs.items():
            lines.append(f"output {name}: SQNR {'exact' if value is None else f'{value:.1f} dB'}")
        lines.append(f"measured on {report.data}, through the interpreter")
    if report.perplexity:
        before, after = report.perplexity["float"], report.perplexity["quantized"]
        lines.append(f"perplexity on this data: {before:.4g} in float, {after:.4g} quantized")
    if report.latency_ms is not None:
        lines.append(f"latency on this data: {report.latency_ms:.3f} ms (median, whole program)")
    return [*lines, *(f"note: {note}" for note in report.notes)]
