"""page"""
from __future__ import annotations
from qcc.report.model import Report
def page_text(report: Report) -> str:
    return ""
