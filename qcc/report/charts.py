"""The pictures of the page, as SVG text: histograms, bits by layer, the graph of layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup, escape

from qcc.report.graph import depths
from qcc.report.model import LayerReport, Report, Values
from qcc.report.terminal import quality

WIDTH, HEIGHT = 320, 96
FOOT = 16

CELL_WIDTH, CELL_HEIGHT = 152, 34
GAP_X, GAP_Y = 14, 26
SHOWN_NAME = 18

BAR, BAR_GAP = 14, 4
BITS_HEIGHT = 120


def histogram(values: Values, label: str) -> Markup:
    """Draw a histogram with counts on a log scale, and the range that the format stands for."""
    counts, low, high = values.histogram.counts, values.histogram.low, values.histogram.high
    span = (high - low) or 1.0
    top = math.log1p(max(counts)) or 1.0
    body = HEIGHT - FOOT
    step = WIDTH / len(counts)
    points = [f"M0 {body}"]
    for index, count in enumerate(counts):
        y = body - (body - 8) * math.log1p(count) / top
        points.append(f"L{index * step:.1f} {y:.1f}H{(index + 1) * step:.1f}")
    points.append(f"L{WIDTH} {body}Z")
    shade = ""
    if values.clip_low is not None and values.clip_high is not None:
        left = (values.clip_low - low) / span * WIDTH
        right = (values.clip_high - low) / span * WIDTH
        left, right = max(0.0, min(left, WIDTH)), max(0.0, min(right, WIDTH))
        shade = (
            f'<rect class="range" x="{left:.1f}" y="0" width="{max(right - left, 1):.1f}" height="{body}"/>'
            f'<path class="edge" d="M{left:.1f} 0V{body}M{right:.1f} 0V{body}"/>'
        )
    ticks = "".join(
        f'<text x="{x}" y="{HEIGHT - 3}" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in ((1, "start", _short(low)), (WIDTH / 2, "middle", "0"), (WIDTH - 1, "end", _short(high)))
    )
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'{shade}<path class="counts" d="{"".join(points)}"/><path class="axis" d="M0 {body}H{WIDTH}"/>{ticks}</svg>'
    )


def _short(value: float) -> str:
    return f"{value:.3g}"


def bits_chart(layers: Sequence[LayerReport]) -> Markup:
    """Draw the bits per weight of every layer in program order, on a log scale."""
    top = max([layer.bits_per_weight for layer in layers] + [8.0])
    scale = BITS_HEIGHT / math.log2(2 * top)
    width = 34 + len(layers) * (BAR + BAR_GAP)
    parts: list[str] = []
    for mark in [one for one in (1, 2, 4, 8, 16, 32, 64) if one <= top]:
        y = BITS_HEIGHT + 10 - math.log2(2 * mark) * scale
        parts.append(f'<path class="grid" d="M28 {y:.1f}H{width}"/><text x="22" y="{y + 4:.1f}">{mark}</text>')
    for index, layer in enumerate(layers):
        height = math.log2(max(2 * layer.bits_per_weight, 1.1)) * scale
        kind = "float" if layer.left_in_float else quality(layer.sqnr_db) if layer.measured else "unknown"
        title = escape(f"{layer.name}: {layer.bits_per_weight:.4g} bits per weight, {layer.scheme}")
        x, y = 32 + index * (BAR + BAR_GAP), BITS_HEIGHT + 10 - height
        parts.append(
            f'<rect class="{kind}" x="{x}" y="{y:.1f}" width="{BAR}" height="{height:.1f}" rx="2"><title>{title}'
            "</title></rect>"
        )
    return Markup(
        f'<svg class="bits" width="{width}" height="{BITS_HEIGHT + 14}" viewBox="0 0 {width} {BITS_HEIGHT + 14}" '
        f'role="img" aria-label="bits per weight by layer">{"".join(parts)}</svg>'
    )


def graph(report: Report) -> Markup:
    """Draw which layer reads which, coloured by local error; time runs downwards."""
    places = _places(report)
    columns = max((len(row) for row in _rows(report).values()), default=1)
    width = columns * (CELL_WIDTH + GAP_X) + GAP_X
    height = (max((row for _, row in places), default=0) + 1) * (CELL_HEIGHT + GAP_Y) + GAP_Y
    counts = {row: len(found) for row, found in _rows(report).items()}

    def corner(index: int) -> tuple[float, float]:
        column, row = places[index]
        used = counts[row] * (CELL_WIDTH + GAP_X) - GAP_X
        return (width - used) / 2 + column * (CELL_WIDTH + GAP_X), GAP_Y / 2 + row * (CELL_HEIGHT + GAP_Y)

    lines = [_edge(corner(source), corner(target)) for source, target in report.edges]
    boxes = [_box(layer, *corner(index)) for index, layer in enumerate(report.layers)]
    return Markup(
        f'<svg class="graph" width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="graph of layers">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def _rows(report: Report) -> dict[int, list[int]]:
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for index, depth in enumerate(depths(len(report.layers), report.edges)):
        rows[depth].append(index)
    return rows


def _places(report: Report) -> list[tuple[int, int]]:
    """Return column and row of every layer."""
    found = [(0, 0)] * len(report.layers)
    for row, members in _rows(report).items():
        for column, index in enumerate(members):
            found[index] = (column, row)
    return found


def _edge(source: tuple[float, float], target: tuple[float, float]) -> str:
    x1, y1 = source[0] + CELL_WIDTH / 2, source[1] + CELL_HEIGHT
    x2, y2 = target[0] + CELL_WIDTH / 2, target[1]
    middle = (y1 + y2) / 2
    return f'<path class="edge" d="M{x1:.0f} {y1:.0f}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"/>'


def _box(layer: LayerReport, x: float, y: float) -> str:
    kind = "float" if layer.left_in_float else quality(layer.sqnr_db) if layer.measured else "unknown"
    error = "float" if layer.left_in_float else _decibels(layer)
    title = escape(f"{layer.name} ({layer.where}): {layer.scheme}")
    return (
        f'<g class="node {kind}"><title>{title}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" rx="6"/>'
        f'<text x="{x + 8:.0f}" y="{y + 14:.0f}">{escape(short_name(layer.name))}</text>'
        f'<text class="small" x="{x + 8:.0f}" y="{y + 27:.0f}">{layer.bits_per_weight:.3g} bits · {error}</text></g>'
    )


def _decibels(layer: LayerReport) -> str:
    if not layer.measured:
        return "not measured"
    return "exact" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"


def short_name(name: str) -> str:
    """Return what a box has room for: from the number of the block on, both ends."""
    parts = name.split(".")
    numbers = [index for index, one in enumerate(parts[:-1]) if one.isdigit()]
    return _short_name(parts[numbers[0] :] if numbers else parts)


def _short_name(parts: list[str]) -> str:
    text, head = ".".join(parts), parts[0]
    if len(text) <= SHOWN_NAME:
        return text
    room = SHOWN_NAME - len(head) - 1
    return f"{head}…{text[-room:]}" if len(parts) > 1 and room > 0 else f"…{text[1 - SHOWN_NAME :]}"
