"""What a design is like, as data and as lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qcc.backends.hls.design import Built, Design
from qcc.backends.hls.folding import total_cost
from qcc.backends.hls.parts import smallest_holding
from qcc.backends.hls.settings import HlsSettings
from qcc.backends.hls.timing import Timing
from qcc.backends.hls.units import Cost
from qcc.errors import CheckpointError

REPORT = "report.json"
SECTIONS = "sections.json"
UNIT_COLUMNS = ("name", "layer", "unit", "pe", "simd", "interval_cycles", "lut", "ff", "dsp", "bram18")
NOTE = "estimates from formulas; not run through Vitis or Vivado"


def design_report(design: Design, settings: HlsSettings, timing: Timing) -> dict[str, Any]:
    """Return everything that `report.json` holds."""
    cost = total_cost(design)
    smallest = smallest_holding(cost)
    period = settings.clock_ns
    return {
        "note": NOTE,
        "part": settings.part.name,
        "clock_ns": period,
        "target_fps": settings.target_fps,
        "predicted": {
            "latency_cycles": timing.latency,
            "interval_cycles": timing.interval,
            "interval_is_bound": timing.bound,
            "interval_least_cycles": timing.least,
            "latency_us": round(timing.latency * period / 1000, 3),
            "frames_per_s": round(1e9 / (timing.interval * period), 1),
        },
        "estimate": _rounded(cost),
        "use": {name: round(share, 4) for name, share in settings.part.use(cost).items()},
        "fits": settings.part.holds(cost),
        "smallest_part": smallest.name if smallest else None,
        "layers": [_layer(one) for one in design.nodes],
        "fifos": [
            {
                "name": one.name,
                "from": one.writer,
                "to": one.reader,
                "depth": one.depth,
                "bits": one.bits,
                "needed": one.needed,
            }
            for one in design.fifos
        ],
        "memories": [{"name": f"weights_{built.node.name}", "layer": built.node.layer} for built, _ in design.stored()],
        "inputs": [asdict(one) for one in design.inputs],
        "outputs": [asdict(one) for one in design.outputs],
    }


def _layer(built: Built) -> dict[str, Any]:
    node = built.node
    return {
        "name": node.name, "layer": node.layer, "unit": node.unit.template, "pe": built.fold.pe,
        "simd": built.fold.simd, "interval_cycles": built.cycles, **_rounded(node.unit.cost(built.fold)),
    }  # fmt: skip


def _rounded(cost: Cost) -> dict[str, int]:
    return {name: round(value) for name, value in asdict(cost).items()}


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report of a project.

    Raises:
        CheckpointError: if the folder holds none, or a damaged one.
    """
    path = folder / REPORT
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no report of an HLS project", fix="compile with --target hls") from error
    if not isinstance(data, dict) or "predicted" not in data:
        raise CheckpointError(f"{path}: no report of an HLS project", fix="compile with --target hls")
    return data  # pyright: ignore[reportUnknownVariableType]


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return part, rate, resources and fit in a few lines."""
    predicted, estimate, use = report["predicted"], report["estimate"], report["use"]
    asked = "" if report["target_fps"] is None else f" (asked for: {report['target_fps']:g})"
    shares = ", ".join(f"{name.upper()} {estimate[name]:,} ({use[name]:.1%})" for name in estimate)
    bound = f" at most, {predicted['interval_least_cycles']:,} at least" if predicted["interval_is_bound"] else ""
    verdict = "fits" if report["fits"] else "does not fit"
    smallest = report["smallest_part"] or "none of the table"
    return [
        f"part {report['part']}, clock {report['clock_ns']:g} ns",
        f"predicted: {predicted['latency_cycles']:,} cycles latency, a frame every {predicted['interval_cycles']:,} "
        f"cycles{bound}; {predicted['frames_per_s']:,.0f} frames/s{asked}",
        f"estimated: {shares}",
        f"{verdict} {report['part']}; smallest part that holds it: {smallest}",
    ]


def sections(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables that `qcc report` shows: the design, its units, and its FIFOs deeper than two."""
    units = [[one[key] for key in UNIT_COLUMNS] for one in report["layers"]]
    deep = [one for one in report["fifos"] if one["depth"] > 2]
    use = [[name.upper(), report["estimate"][name], f"{share:.1%}"] for name, share in report["use"].items()]
    return [
        {
            "title": "FPGA units",
            "columns": ["unit", "layer", "kind", "PE", "SIMD", "cycles", "LUT", "FF", "DSP", "BRAM18"],
            "rows": units,
            "note": NOTE,
        },
        {
            "title": f"FIFOs deeper than 2 ({len(deep)} of {len(report['fifos'])})",
            "columns": ["FIFO", "depth", "bits", "from", "to", "why"],
            "rows": [[one["name"], one["depth"], one["bits"], one["from"], one["to"], _why(one)] for one in deep],
        },
        {
            "title": "FPGA design",
            "columns": ["resource", "estimate", f"share of {report['part']}"],
            "rows": use,
            "note": "; ".join(summary_lines(report)),
        },
    ]


def _why(fifo: Mapping[str, Any]) -> str:
    return "stops with one place less" if fifo["needed"] else "for speed"


def table_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a line for every unit and every FIFO deeper than two."""
    heads = ("unit", "layer", "kind", "PE", "SIMD", "cycles", "LUT", "FF", "DSP", "BRAM18")
    rows = [tuple(one[key] for key in UNIT_COLUMNS) for one in report["layers"]]
    cells = [heads, *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    deep = [one for one in report["fifos"] if one["depth"] > 2]
    lines.append("")
    lines.append(f"FIFOs: {len(report['fifos'])}, of which {len(deep)} are deeper than 2")
    lines += [
        f"  {one['name']}: {one['depth']} x {one['bits']} bits, {one['from']} -> {one['to']}, {_why(one)}"
        for one in deep
    ]
    return lines
