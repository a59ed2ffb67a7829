"""Take one model through every target, and print what each of them stores, how far it is off, and what was verified.

The model is the first feed-forward block of the sentence encoder, with its real weights and real inputs: the whole
encoder has dynamic shapes, and designs for hardware have not. Ends `make demo`; run it alone with
`python examples/every_target.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sentence_encoder import SENTENCES, load
from torch import Tensor, nn

import qcc
from qcc.backends.triton.config import Variant
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Launch
from qcc.backends.triton.load import LazyProgram, Project, variants_of
from qcc.errors import BuildError

RECIPE = "w4a8-fixed"
ARCHITECTURES = ("sm_80", "sm_90")
SAMPLES, HELD_OUT = 96, 8
console = Console()


class FeedForward(nn.Module):
    """Two layers of an encoder with GELU between them; [1, 384] to [1, 384]."""

    def __init__(self, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.up, self.down = up, down

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block without its residual sum."""
        return self.down(nn.functional.gelu(self.up(x)))


@dataclass(frozen=True)
class Task:
    """The model, the inputs that scales are taken from, and other inputs to measure on: rows of [1, 384]."""

    model: nn.Module
    samples: list[tuple[Tensor]]
    rows: list[Tensor]

    def compile(self, target: str, folder: Path, arch: Sequence[str] = ()) -> qcc.Compiled:
        """Compile for a target by the one recipe."""
        return qcc.compile(
            self.model,
            self.samples[0],
            recipe=RECIPE,
            target=target,
            calibration=self.samples,
            output=folder / f"{target}.qcc",
            arch=arch,
        )


@dataclass(frozen=True)
class Row:
    """What came of one target: the compiled model, its results [rows, 384], and what was verified how."""

    target: str
    compiled: qcc.Compiled
    found: Tensor
    verified: str


def make_task() -> Task:
    """Take the block and what goes into it out of the encoder that reads the demonstration's sentences."""
    loaded, tokenizer = load()
    encoder: Any = loaded
    layer = encoder.encoder.layer[0]
    seen: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = layer.intermediate.register_forward_pre_hook(look)
    batch = tokenizer(SENTENCES, return_tensors="pt", padding=True)
    with torch.no_grad():
        encoder(**batch)
    hook.remove()
    rows = list(seen[0][batch["attention_mask"].bool()].split(1))
    model = FeedForward(layer.intermediate.dense, layer.output.dense).eval()
    return Task(model, [(row,) for row in rows[:SAMPLES]], rows[SAMPLES : SAMPLES + HELD_OUT])


def run_make(folder: Path, goal: str) -> None:
    """Run a goal of an emitted project, and stop where it fails."""
    done = subprocess.run(["make", "-s", "-C", str(folder), goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"make {goal} failed in {folder}:\n{done.stdout}{done.stderr}")


def through_cpu(task: Task, folder: Path) -> Row:
    """Compile to C; the project's own test runs in a copy, without Python."""
    compiled = task.compile("cpu", folder)
    project = shutil.copytree(compiled.folder / "c", folder / "project")
    run_make(project, "test")
    verified = "make test: golden vectors; integer sums and codes bit for bit"
    return Row("cpu", compiled, torch.cat([compiled(row) for row in task.rows]), verified)


class Emulated:
    """Runs the kernels of a project in Triton's interpreter, cut into blocks as on a GPU."""

    def __init__(self, project: Project, device: EmulatedDevice, arch: str) -> None:
        self.device = torch.device("cpu")
        self.emulated, self.variants = device, variants_of(project, arch)

    def variant(self, label: str, tokens: int) -> Variant:
        """Return the kernel that serves so many tokens in the contraction of a label."""
        return next(variant for most, variant in self.variants[label] if most is None or tokens <= most)

    def run(self, launch: Launch) -> None:
        """Interpret a launch."""
        self.emulated.run(launch)


def through_triton(task: Task, folder: Path) -> Row:
    """Compile to cubins, whose machine code is read on the way; run the kernels in an emulator, for want of a GPU."""
    compiled = task.compile("triton", folder, arch=list(ARCHITECTURES))
    project = Project(compiled.folder / "triton")
    with EmulatedDevice() as device:
        program = LazyProgram(compiled.folder / "triton", Emulated(project, device, ARCHITECTURES[-1]))
        name, result = compiled.input_names[0], compiled.output_names[0]
        found = torch.cat([program.run({name: row})[result] for row in task.rows])
    cubins = len(list((compiled.folder / "triton").glob("*.cubin")))
    verified = f"kernels in an emulator, not on a GPU; machine code of {cubins} cubins, {', '.join(ARCHITECTURES)}"
    return Row("triton", compiled, found, verified)


def through_hls(task: Task, folder: Path) -> Row:
    """Compile to an HLS project; its testbench compares every output bit with the interpreter."""
    compiled = task.compile("hls", folder)
    run_make(compiled.folder / "hls", "csim")
    verified = "make csim: every output bit, by g++; not run through Vitis"
    return Row("hls", compiled, torch.cat([compiled(row) for row in task.rows]), verified)


def print_table(rows: list[Row], missing: list[tuple[str, str]], wanted: Tensor) -> None:
    """Print a line for each target."""
    table = Table("target", "bits", "bytes", "error", "off cpu", "verified", box=None)
    for row in rows:
        coverage = row.compiled.coverage
        error, apart = (float((row.found - one).norm() / one.norm()) for one in (wanted, rows[0].found))
        size = f"{coverage.bytes_after / 1e3:,.0f} kB"
        bits = f"{coverage.bits_per_weight:.2f}"
        table.add_row(row.target, bits, size, f"{error:.1%}", f"{apart:.1g}", row.verified)
    for target, reason in missing:
        table.add_row(target, "", "", "", "", reason)
    console.print(table)
    before = rows[0].compiled.coverage.bytes_before
    console.print(f"{before / 1e3:,.0f} kB in float32; error: |difference| / |float result| on {HELD_OUT} tokens")
    console.print("hls is farther off: integers from input to output, so values between layers are rounded too")


def main() -> None:
    """Run the block through every target."""
    warnings.filterwarnings("ignore")
    console.rule(f"one model through every target, recipe {RECIPE}")
    task = make_task()
    count = sum(one.numel() for one in task.model.parameters())
    console.print(f"the encoder's first feed-forward block, {count:,} parameters (hardware takes no dynamic shapes)")
    with torch.no_grad():
        wanted = torch.cat([task.model(row) for row in task.rows])
    ways: dict[str, Callable[[Task, Path], Row]] = {"cpu": through_cpu, "triton": through_triton, "hls": through_hls}
    rows: list[Row] = []
    missing: list[tuple[str, str]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for target, through in ways.items():
            try:
                rows.append(through(task, Path(scratch)))
            except BuildError as error:  # no compiler of this target: the others still run
                missing.append((target, f"not compiled here: {error.message}"))
        print_table(rows, missing, wanted)
    console.print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
