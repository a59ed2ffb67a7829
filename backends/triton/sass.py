"""Read the machine code of a kernel: registers, spills, and how many instructions its main loop spends on a weight.

Weight-only kernels lose on fast memories because of the instructions they issue, and those are counted without a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.backends.triton.toolchain import find_toolchain
from qcc.errors import BuildError, Problem

INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)(.*)$")
LABEL = re.compile(r"^\s*(\.L_\w+):")
PLACE = re.compile(r"\((\.L_\w+)\)")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
MMA = re.compile(r"^(UTC)?[A-Z]*MMA$")
SPILLS = ("STL", "LDL")
TIMEOUT = 900.0
"""Seconds for one of the tools, which need less than one on an idle machine: only a hung tool may end a build, and on a
machine whose processors are shared among many builds a tool may wait for its turn longer than it runs."""
WARP, WARP_GROUP = 32, 128
"""Threads that issue one matrix instruction together: four warps for wgmma (`HGMMA`), one warp before it."""


@dataclass(frozen=True)
class Instruction:
    """An instruction with its modifiers (`IGMMA.64x16x32.S8.S8`), and the label it names, if any."""

    name: str
    place: str | None = None

    @property
    def opcode(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def is_mma(self) -> bool:
        """Whether it multiplies matrices."""
        return MMA.match(self.opcode) is not None


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel in order, and the index that each label stands before."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


@dataclass(frozen=True)
class Tile:
    """What one step of the main loop multiplies: `channels` x `columns` weights by `tokens`, in `warps` warps."""

    channels: int
    tokens: int
    columns: int
    warps: int


@dataclass(frozen=True)
class Figures:
    """What the machine code of a kernel tells.

    `stack` counts bytes a thread, `spills` the instructions that read or write it. `mma` is the matrix instruction of
    the main loop; `instructions_per_weight` counts, for one thread, what the loop issues over the weights it unpacks,
    0 where there is no such loop.
    """

    registers: int
    stack: int
    spills: int
    mma: str = ""
    loop: int = 0
    instructions_per_weight: float = 0.0


def parse_listing(text: str) -> Listing:
    """Read what `nvdisasm -c` prints."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := INSTRUCTION.match(line):
            place = PLACE.search(found.group(2))
            instructions.append(Instruction(found.group(1), place.group(1) if place else None))
    return Listing(tuple(instructions), labels)


def main_loop(listing: Listing) -> tuple[Instruction, ...]:
    """Return the instructions of the loop that multiplies matrices most densely; none if there is no such loop.

    A loop is what lies between a label and a jump back to it. Waits at the end of a kernel jump back into the middle
    of the loop and reach over much else, which is why density decides, among loops with at least half of the matrix
    instructions of the fullest.
    """
    loops: list[tuple[int, tuple[Instruction, ...]]] = []
    for index, one in enumerate(listing.instructions):
        start = listing.labels.get(one.place or "", index + 1)
        if one.opcode == "BRA" and start < index:
            body = listing.instructions[start : index + 1]
            loops.append((sum(each.is_mma for each in body), body))
    most = max((count for count, _ in loops), default=0)
    dense = [(count / len(body), body) for count, body in loops if count and 2 * count >= most]
    return max(dense, key=lambda pair: pair[0])[1] if dense else ()


def figures_of(listing: Listing, registers: int, stack: int, tile: Tile | None) -> Figures:
    """Count the instructions of a kernel; `tile` is None for one that multiplies no weights."""
    spills = sum(one.opcode in SPILLS for one in listing.instructions)
    loop = main_loop(listing) if tile is not None else ()
    if tile is None or not loop:
        return Figures(registers, stack, spills)
    products = [one for one in loop if one.is_mma]
    steps = _steps(products, tile)
    weights = tile.channels * tile.columns * steps / (tile.warps * WARP)
    return Figures(registers, stack, spills, _shape_of(products[0]), len(loop), len(loop) / weights)


def _steps(products: Sequence[Instruction], tile: Tile) -> int:
    """Return how many steps of the source the loop holds: ptxas may have unrolled it.

    The shape in the name of a matrix instruction tells its work; one of the tensor memory kind names none, and its
    loops are not unrolled.
    """
    done = 0
    for one in products:
        size = _size(one.name)
        if size is None:
            return 1
        threads = WARP_GROUP if "G" in one.opcode else WARP
        done += size * (tile.warps * WARP // threads)
    return max(1, round(done / (tile.channels * tile.tokens * tile.columns)))


def _size(name: str) -> int | None:
    """Return the multiplications of one instruction: `HGMMA.64x16x16` names them apart, `IMMA.16832` together."""
    if found := re.search(r"\.(\d+)x(\d+)x(\d+)", name):
        return int(found.group(1)) * int(found.group(2)) * int(found.group(3))
    if found := re.search(r"\.(16|8)8(\d+)(?:\.|$)", name):
        return int(found.group(1)) * 8 * int(found.group(2))
    return None


def _shape_of(one: Instruction) -> str:
    """Return the name of a matrix instruction with its shape and without the rest."""
    parts = one.name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1][0].isdigit() else parts[0]


def read_cubin(code: bytes, tile: Tile | None) -> Figures:
    """Disassemble a cubin of one kernel.

    Raises:
        BuildError: if Triton's package lacks the tools, or they refuse the file.
    """
    toolchain = find_toolchain()
    with tempfile.TemporaryDirectory(prefix="qcc-sass-") as scratch:
        path = Path(scratch) / "kernel.cubin"
        path.write_bytes(code)
        usage = _output([toolchain.tool("cuobjdump"), "-res-usage", str(path)])
        text = _output([toolchain.tool("nvdisasm"), "-c", str(path)])
    found = USAGE.search(usage)
    listing = parse_listing(text)
    if found is None or not listing.instructions:
        raise BuildError("the tools of Triton's package cannot read a cubin", [Problem("", (usage + text)[:300])])
    return figures_of(listing, int(found.group(1)), int(found.group(2)), tile)


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{Path(command[0]).name} cannot be run: {error}") from error
    if result.returncode:
        raise BuildError(f"{Path(command[0]).name} fails: {result.stderr.strip()[:300]}")
    return result.stdout + result.stderr
