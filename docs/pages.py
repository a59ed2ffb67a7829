"""Pages that a script generates: write one, or with `--check` say whether it is current."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


def write_or_check(target: Path, text: str, tolerance: float = 0.0) -> int:
    """Write a page; under `--check` only compare it, and print the lines that differ.

    Figures in columns of tables whose heads end with `dB` may differ by `tolerance`: the last digit depends on the
    machine. Returns the exit code: 1 if the page is out of date.
    """
    if "--check" not in sys.argv[1:]:
        target.write_text(text, "utf-8")
        return 0
    committed = target.read_text("utf-8") if target.is_file() else ""
    found = differences(committed, text, tolerance)
    if not found:
        return 0
    print(f"{target} is out of date: run python {sys.argv[0]}", *found, sep="\n", file=sys.stderr)
    return 1


def differences(committed: str, fresh: str, tolerance: float) -> list[str]:
    """Give the lines of a page that differ, committed ones after `-` and fresh ones after `+`."""
    known: dict[tuple[str, str], list[_Row]] = {}
    for row in _rows(committed):
        known.setdefault((row.head, row.words), []).append(row)
    lines = [_nearest(row, known.get((row.head, row.words), []), tolerance) for row in _rows(fresh)]
    changes = difflib.unified_diff(committed.splitlines(), lines, n=0, lineterm="")
    return [line for line in changes if not line.startswith(("---", "+++", "@@"))]


class _Row(NamedTuple):
    """A line of a page; of a table also its head, and its figures apart from its words."""

    line: str
    head: str
    words: str
    figures: tuple[float, ...]


def _rows(page: str) -> Iterator[_Row]:
    head = ""
    for line in page.splitlines():
        if not line.startswith("|"):
            head = ""
            yield _Row(line, head, line, ())
            continue
        head = head or line
        cells, figures = _cells(line), list[float]()
        for place, name in enumerate(_cells(head)):
            if name.endswith("dB") and place < len(cells) and re.fullmatch(r"[+-]?\d+(\.\d+)?", cells[place]):
                figures.append(float(cells[place]))
                cells[place] = "#"
        yield _Row(line, head, " | ".join(cells), tuple(figures))


def _cells(line: str) -> list[str]:
    """Split a line of a table at the bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]


def _nearest(row: _Row, known: list[_Row], tolerance: float) -> str:
    """Give the committed line of the same words if its figures are near enough, else the fresh one."""
    for other in known:
        pairs = zip(row.figures, other.figures, strict=True)
        if all(abs(ours - theirs) <= tolerance + 1e-9 for ours, theirs in pairs):
            return other.line
    return row.line
