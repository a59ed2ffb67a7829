"""A compilation that is killed while it solves goes on where it was, and tells how long it will take."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.llamas import Size, write_llama, write_samples

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
SIZE = Size(hidden=128, layers=4, ffn=256, kv_heads=1, vocabulary=96)
LAYERS = 7 * SIZE.layers + 1
RECIPE = {
    "weights": {"format": "uint4", "group": 32, "solver": "gptq"},
    "activations": {"format": "int8", "group": 32},
}
# models of all sizes go through files here, and every line is printed
MAIN = """
import sys
from qcc import building, console
from qcc.ir import on_disk
building.LARGE_BYTES, on_disk.LEAST_BYTES, console.LINE_SECONDS = 0, 0, 0.0
from qcc.cli import main
main()
"""
SOLVING = re.compile(r"solving (\S+), (\d+) of (\d+)(?:, about (\d+) s left)?")
TAKING = re.compile(r"taking (\S+), solved before")


def command(folder: Path, name: str) -> list[str]:
    words = ["compile", str(folder / "model"), "--recipe", str(folder / "recipe.yaml"), "-o", str(folder / name)]
    return [sys.executable, "-c", MAIN, *words, "--calib", str(folder / "calib.safetensors")]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "250", "TERM": "xterm"}


@dataclass(frozen=True)
class Runs:
    """What an uninterrupted run on a terminal, a killed run and the run after it said and left."""

    folder: Path
    screen: str
    killed: str
    resumed: str
    left: dict[str, tuple[int, int]]
    """Files of solved weights when the run was killed: time of change and size."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("resuming")
    write_llama(folder / "model", SIZE, shard_bytes=1 << 18)
    assert len(list((folder / "model").glob("*.safetensors"))) >= 3
    write_samples(folder / "calib.safetensors", SIZE, count=2, tokens=16)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    screen = on_terminal(command(folder, "whole.qcc"))
    killed, left = until_killed(command(folder, "m.qcc"), folder / ".m.qcc.solved", at=8)
    assert not (folder / "m.qcc").exists()
    done = subprocess.run(command(folder, "m.qcc"), capture_output=True, text=True, env=environment(), timeout=500)
    assert done.returncode == 0, done.stderr
    return Runs(folder, screen, killed, done.stderr, left)


def on_terminal(words: list[str]) -> str:
    """Run a command on a terminal of its own and return what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment(), close_fds=True) as process:
        os.close(theirs)
        written = b"".join(_read(ours))
        assert process.wait(timeout=60) == 0, written.decode(errors="replace")
    os.close(ours)
    return written.decode(errors="replace")


def _read(terminal: int) -> Iterator[bytes]:
    while select.select([terminal], [], [], 500)[0]:
        try:
            found = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            return
        if not found:
            return
        yield found


def until_killed(words: list[str], kept: Path, at: int) -> tuple[str, dict[str, tuple[int, int]]]:
    """Run a command until so many weights are kept, then kill it at once."""
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    ) as one:
        end = time.monotonic() + 500
        while len(whole(kept)) < at:
            assert one.poll() is None, one.stderr.read() if one.stderr else ""
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(one.pid, signal.SIGKILL)
        said = one.communicate()[1]
    assert one.returncode == -signal.SIGKILL
    return said, {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in whole(kept)}


def whole(kept: Path) -> list[Path]:
    return [path for path in kept.glob("*.safetensors") if not path.name.startswith(".")] if kept.is_dir() else []


def test_it_is_killed_in_the_middle_of_solving(runs: Runs) -> None:
    assert 8 <= len(runs.left) < LAYERS - 4
    assert len(SOLVING.findall(runs.killed)) >= 8
    assert "emitting" not in runs.killed


def test_what_was_solved_is_not_solved_again(runs: Runs) -> None:
    taken = TAKING.findall(runs.resumed)
    solved = [name for name, *_ in SOLVING.findall(runs.resumed) if name not in taken]
    assert len(taken) == len(runs.left)
    assert len(solved) == LAYERS - len(runs.left)
    # they are the first ones, in the order in which the killed run solved them
    assert taken == [name for name, *_ in SOLVING.findall(runs.killed)][: len(taken)]
    assert not TAKING.findall(runs.killed)


def test_the_artifact_is_that_of_an_uninterrupted_run(runs: Runs) -> None:
    one, other = (runs.folder / name for name in ("whole.qcc", "m.qcc"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert any(path.name == "weights.safetensors" for path in files)
    for path in files:
        assert (one / path).read_bytes() == (other / path).read_bytes(), path


def test_nothing_is_left_beside_the_artifacts(runs: Runs) -> None:
    assert sorted(path.name for path in runs.folder.iterdir()) == sorted(
        ["calib.safetensors", "m.qcc", "model", "recipe.yaml", "whole.qcc"]
    )


def test_a_terminal_shows_a_bar_with_an_estimate(runs: Runs) -> None:
    """Whatever frames a slow machine draws, some are of solving, with a share and the time that is left."""
    frames = [
        one for one in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", runs.screen)) if "solving" in one
    ]
    found = [(SOLVING.search(one), re.search(r"(\d+)%", one)) for one in frames]
    shown = [(match, int(share[1])) for match, share in found if match is not None and share is not None]
    assert len(shown) >= 3
    assert any("━" in one for one in frames)  # the bar itself
    assert all(int(match[3]) == LAYERS for match, _ in shown)
    shares = [share for _, share in shown]
    shares = shares[: len(shares) - shares[::-1].index(max(shares))]  # once all is solved, no share is known
    assert shares == sorted(shares)
    assert shares[-1] > 50
    assert sum(match[4] is not None for match, _ in shown) >= 2
    assert "solving" not in runs.screen.replace("\r", "\n").splitlines()[-1]  # the line goes away


def test_a_log_gets_lines_with_an_estimate(runs: Runs) -> None:
    """A run that goes on estimates by what it solves itself, and counts what it took as done."""
    assert "\x1b" not in runs.resumed
    lines = [SOLVING.search(line) for line in runs.resumed.splitlines()]
    found = [match for match in lines if match is not None]
    assert [int(match[2]) for match in found] == list(range(1, LAYERS + 1))
    known = [match[4] is not None for match in found]
    first = len(runs.left) + 1
    assert known == [False] * first + [True] * (LAYERS - first)
