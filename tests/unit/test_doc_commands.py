"""Which code blocks the documentation has, so that a new one is seen; those of some pages are executed here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy
import pytest
import torch

from qcc.ir.fusion import parse_rules
from tests.unit.test_docs import DOCS, PAGES, ROOT, blocks, run_command

GENERATED = {"gallery.md", "passes.md", "one-model.md", "ir.md", "accuracy.md"}
"""Pages that `docs/make_*.py --check` holds to what makes them."""

CHECKED = {
    "README.md": {"": 2, "python": 2, "mermaid": 1},
    "c-project.md": {"": 3, "c": 1},
    "command-line.md": {"python": 2, "console": 14},
    "design.md": {"": 1},
    "exports.md": {"": 1, "python": 1, "yaml": 1},
    "formats.md": {"": 2, "python": 1, "formats": 1},
    "hls-project.md": {"python": 1, "console": 1, "": 1},
    "index.md": {"": 2, "python": 2, "text": 1},
    "recipes.md": {"": 1, "yaml": 10},
    "report.md": {"": 1, "python": 1, "json": 1},
    "targets.md": {"python": 4},
    "torch-compile.md": {"python": 6, "text": 1},
    "triton-project.md": {"": 2, "python": 1, "c": 1},
    "troubleshooting.md": {"python": 12, "text": 11},
    "write-a-backend.md": {"": 2, "python": 2, "text": 1},
    "write-a-pass.md": {"python": 1},
}
"""Blocks by language. Tests execute or compare them, but for commands of the README and one line of `hls-project.md`,
and for drawings in `design.md`, `formats.md` and the README."""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model as `model.pt2`, an input and samples, as pages without an example assume them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QCC_CACHE_DIR", "cache")
    monkeypatch.setattr("qcc.bench.SECONDS_EACH", 0.02)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.GELU(), torch.nn.Linear(96, 10)).eval()
    x = torch.randn(2, 64)
    rows = torch.export.Dim("rows", min=1, max=512)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: rows},)), "model.pt2")
    numpy.save("x.npy", x.numpy())
    save_samples({"input": torch.randn(3, 2, 64)})
    return tmp_path


def save_samples(tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, "samples.safetensors")


def lines_of(block: str) -> list[str]:
    """Return the commands of a block without what is said beside them."""
    return [re.split(r"\s{3,}|\s+#", line)[0] for line in block.splitlines() if line.strip()]


def test_a_block_that_nothing_checks_is_seen() -> None:
    """A new block comes with a test, and is counted here then."""
    found: dict[str, Counter[str]] = {
        path.name: Counter(re.findall(r"^```(\w*)\n.*?^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))
        for path in PAGES
        if path.name not in GENERATED
    }
    assert {name: set(counts) for name, counts in found.items() if counts} == {n: set(c) for n, c in CHECKED.items()}
    # of these the tests take every one that a page has
    every = {"python", "yaml", "console"}
    for name, counts in CHECKED.items():
        assert all(found[name][one] == count for one, count in counts.items() if one not in every), name


def run_all(lines: list[str]) -> list[str]:
    """Run the commands of a page in this process; what each prints."""
    found: list[str] = []
    for line in lines:
        command, _, file = line.partition(" > ")
        printed = run_command(command)
        assert "error:" not in printed, line
        if file:
            Path(file).write_text(printed, "utf-8")
        found.append(printed)
    return found


def test_the_commands_of_the_report_page_run(scratch: Path) -> None:
    run_command("qcc compile model.pt2 --recipe w4a8 -o model.qcc")
    (block,) = blocks(DOCS / "report.md", "")
    shown, again, finding = run_all(lines_of(block))
    assert "SQNR dB" in shown
    assert "measured on 3 samples of samples.safetensors" in again
    assert Path("report.html").read_text("utf-8").startswith("<!doctype html>")
    assert "half of" in finding or "worst" in finding or "gain" in finding


def test_the_commands_of_the_recipes_page_run(scratch: Path) -> None:
    (block,) = blocks(DOCS / "recipes.md", "")
    written, planned = run_all(lines_of(block))
    assert "weights:" in written
    assert "quantized 2 of 2 layers" in planned


class Mlp(torch.nn.Module):
    """Two layers, whose input is called as on the page of the C project."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 96), torch.nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x)))


@pytest.mark.slow
def test_the_commands_of_the_c_project_run(scratch: Path) -> None:
    """Also those of the start page, which copy the project and check it; a compiler that is not there is another."""
    torch.export.save(torch.export.export(Mlp().eval(), (torch.randn(2, 64),)), "model.pt2")
    run_command("qcc compile model.pt2 --recipe w4a8 -o model.qcc")
    _, start = blocks(DOCS / "index.md", "")
    targets, program, _ = blocks(DOCS / "c-project.md", "")
    for line in lines_of(start):
        subprocess.run(line, shell=True, check=True, capture_output=True)
    shutil.copy("x.npy", "project")
    for line in (*lines_of(program), *lines_of(targets)):
        command = line if shutil.which("clang") else line.replace("CC=clang", "CC=cc")
        subprocess.run(command, shell=True, check=True, capture_output=True, cwd="project")
        if line.startswith("./model_main"):
            assert numpy.load("project/output.npy").shape == (2, 10)
    assert not Path("project/model_main").exists(), "the last line cleans"


def test_the_rules_of_write_a_backend_are_rules() -> None:
    call, rules = blocks(DOCS / "write-a-backend.md", "")
    names: dict[str, tuple[str, ...]] = {}
    exec(compile(rules, "write-a-backend.md", "exec"), names)
    assert set(parse_rules(names["epilogues"])) == {"contract"}
    assert set(parse_rules(names["prologues"])) == {"contract", "rows"}
    driver = (ROOT / "qcc" / "building.py").read_text("utf-8")
    assert call.strip().replace("backend.", "means.backend.").replace("options", "chosen") in driver
