"""Pages that a script generates: write one, or with `--check` say whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(target: Path, text: str) -> int:
    """Write a page; under `--check` only compare it. Returns the exit code: 1 if the page is out of date."""
    if "--check" not in sys.argv[1:]:
        target.write_text(text, "utf-8")
        return 0
    if target.is_file() and target.read_text("utf-8") == text:
        return 0
    print(f"{target} is out of date: run python {sys.argv[0]}", file=sys.stderr)
    return 1
