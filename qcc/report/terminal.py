"""The report in a terminal: worst layers first."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from qcc.coverage import bits_text
from qcc.report.advice import local_sqnr
from qcc.report.bisect import EXACT_DB, Candidate, Finding
from qcc.report.model import LayerReport, Report, Section, Values

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


def finding_lines(found: Finding) -> list[str]:
    """Say where the error enters, what is known of that layer, and the way out."""
    if found.output_db >= EXACT_DB:
        return ["the outputs are those of the float model: there is no error to find"]
    lines = [f"output SQNR {found.output_db:.1f} dB with every layer as compiled"]
    if found.culprit is not None:
        lines += ["", f"the error enters at {found.culprit.layer.name}", *_candidate_lines(found.culprit)]
    else:
        lines += [
            "",
            "no single layer is to blame: the output gains about as much with any of the worst in float",
        ]
    if found.enters is not None:
        lines.append(f"half of the output's noise is in once {found.enters.name} is quantized, in program order")
    else:
        lines.append("half of the output's noise is in before any layer is quantized: look at the embedding tables")
    if found.snippet:
        lines += ["", "a way out, to paste into the recipe:", found.snippet]
    return lines


def _candidate_lines(one: Candidate) -> list[str]:
    layer = one.layer
    local, cumulative = (decibels(layer, value).plain for value in (layer.sqnr_db, layer.cumulative_sqnr_db))
    lines = [
        f"  from     {layer.where or 'an unknown place'}",
        f"  format   {layer.scheme}, {bits_text(layer.bits_per_weight)} bits per weight",
        f"  SQNR     local {local} dB, cumulative {cumulative} dB",
        f"  restored output SQNR {one.restored_db:.1f} dB with this layer alone in float ({one.gain_db:+.1f} dB)",
    ]
    for role, values in (("weights", layer.weights), ("input", layer.input)):
        if values is not None:
            lines.append(f"  {role:8} {_facts(values)}")
    return lines


def _facts(values: Values) -> str:
    text = f"peak {values.peak:.3g} is {values.outliers:.1f} times the rms"
    text += f", the largest channel {values.channel_outliers:.1f} times the median one"
    if values.clip_low is None:
        return f"{text}; in float"
    codes = "exact" if values.sqnr_db is None else f"{values.sqnr_db:.1f} dB"
    return f"{text}; codes reach {values.clip_low:.3g} to {values.clip_high:.3g}, SQNR {codes}"


def candidate_table(found: Finding) -> Table:
    """Make the table of the layers that were tried in float."""
    table = Table("layer", "SQNR dB", "cumulative", "output with it float", "gain dB", box=None)
    for one in found.candidates:
        layer = one.layer
        values = (decibels(layer, layer.sqnr_db), decibels(layer, layer.cumulative_sqnr_db))
        table.add_row(layer.name, *values, f"{one.restored_db:.1f}", f"{one.gain_db:+.2f}")
    return table
