"""The check of generated pages: it lets the last digit of measured figures go, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from docs.pages import differences, write_or_check

PAGE = """# Title

Some words and 1.50 dB.

| name | type | bits | noise dB |
|---|---|---|---|
| `a` | `int4 \\| (1,32) f16` | 4.50 | 18.55 |
| `b` | `int8` | 8.00 | -4.42 |

| name | noise dB |
|---|---|
| `a` | 1.00 |
"""


def test_a_page_equals_itself() -> None:
    assert differences(PAGE, PAGE, 0.0) == []


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "lines"),
    [
        ("18.55", "18.60", 0.05, 0),
        ("18.55", "18.50", 0.05, 0),
        ("18.55", "18.61", 0.05, 2),
        ("18.55", "18.56", 0.0, 2),
        ("-4.42", "4.42", 0.05, 2),
        ("-4.42", "nan", 0.05, 2),
        ("| 1.00 |", "| 1.04 |", 0.05, 0),
        ("4.50", "4.51", 0.05, 2),
        ("(1,32)", "(1,64)", 0.05, 2),
        ("1.50 dB", "1.51 dB", 0.05, 2),
        ("| `b` | `int8` | 8.00 | -4.42 |\n", "", 0.05, 1),
        ("noise dB |\n|---|---|---|", "noise in dB |\n|---|---|---|", 0.05, 2),
    ],
)
def test_only_figures_within_the_tolerance_may_differ(old: str, new: str, tolerance: float, lines: int) -> None:
    assert old in PAGE
    assert len(differences(PAGE, PAGE.replace(old, new), tolerance)) == lines


def test_rows_that_differ_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["make_page.py", "--check"])
    assert write_or_check(page, PAGE) == 1
    page.write_text(PAGE, "utf-8")
    assert write_or_check(page, PAGE.replace("18.55", "18.58"), 0.05) == 0
    capsys.readouterr()
    assert write_or_check(page, PAGE.replace("18.55", "19.00"), 0.05) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].endswith("is out of date: run python make_page.py")
    assert printed[1:] == [
        "-| `a` | `int4 \\| (1,32) f16` | 4.50 | 18.55 |",
        "+| `a` | `int4 \\| (1,32) f16` | 4.50 | 19.00 |",
    ]
    assert page.read_text("utf-8") == PAGE
    monkeypatch.setattr(sys, "argv", ["make_page.py"])
    assert write_or_check(page, PAGE.replace("18.55", "19.00"), 0.05) == 0
    assert "19.00" in page.read_text("utf-8")
