"""Write the report into an artifact's folder: as data and as a page."""

from __future__ import annotations

from pathlib import Path

from qcc.report.build import report_text
from qcc.report.model import PAGE, REPORT, Report
from qcc.report.page import page_text


def write_report(folder: Path, report: Report) -> None:
    """Write `report.json` and `report.html`."""
    (folder / REPORT).write_text(report_text(report), "utf-8")
    (folder / PAGE).write_text(page_text(report), "utf-8")
