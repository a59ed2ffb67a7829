"""How much memory a compilation will take at its peak, before it takes it; and how much there is.

The estimate is what the process holds already, plus what will be held to the end, plus the largest of what is alive
only for a time: solving one weight, running the interpreter, packing one weight. `tests/benchmarks/memory.py` measures
how good it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.errors import Problem, QccError
from qcc.ir.binding import bind_symbols
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import ProgramOp, WeightOp, program_of
from qcc.ir.quant import ContractOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.elements import ELEMENT_BYTES
from qcc.passes.pipeline import Solving, solving_of
from qcc.progress import Say, note

WORTH_SAYING = 1 << 30
"""Estimates are told to the user where what is to come takes this much, whatever the process holds already."""

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$")

_DECODE = 9
"""Bytes an element while the interpreter multiplies by a weight: its codes, float32, and one more on the way."""
_PACK = 8
"""Bytes an element while a weight is packed for a target."""
_KEPT_FREE = 1.2
"""Memory that is held for what is alive, a share of it: allocators keep some for the next time, and mapped pages of
weight files count while nobody else wants their room. Models of 0.2 and 1.1 billion weights took 1.13 times."""


@dataclass(frozen=True)
class Step:
    """Something that takes memory for a time."""

    what: str
    bytes: int
    fix: str = ""


@dataclass(frozen=True)
class Estimate:
    """Bytes that a process will hold at its peak: what it holds now, will hold to the end, and the largest step."""

    now: int
    held: int
    step: Step

    @property
    def total(self) -> int:
        """The peak."""
        return self.now + self.held + self.step.bytes

    def __str__(self) -> str:
        """Say it in one line."""
        return f"about {show_bytes(self.total)} at the peak ({self.step.what} takes {show_bytes(self.step.bytes)})"


def estimate_compile(
    module: ModuleOp, store: WeightStore, solving: Iterable[Solving], samples: Iterable[Mapping[str, Tensor]]
) -> Estimate:
    """Predict the peak of what is left to do with a planned module; `samples` are the calibration and the example.

    Not counted: samples of other shapes than the first, and what a C compiler takes in its own process.
    """
    waiting = list(solving)
    spooled = store.spool is not None
    held = 0 if spooled else sum(one.held for one in waiting)
    values = _values(program_of(module), list(samples))
    fix = "a solver that reads no samples takes least"
    steps = [Step(f"solving {one.name}", one.bytes + values, fix) for one in waiting]
    for op in module.walk():
        if isinstance(op, WeightOp) and (shape := type_of(op.result).static_shape):
            elements = math.prod(shape)
            steps.append(Step(f"multiplying by {op.key.data}", _DECODE * elements + values))
            steps.append(Step(f"packing {op.key.data}", _PACK * elements))
    largest = max(steps, key=lambda step: step.bytes, default=Step("nothing", 0))
    return Estimate(resident_bytes(), held, replace(largest, bytes=int(_KEPT_FREE * largest.bytes)))


def estimate_run(program: ProgramOp, sizes: Mapping[str, int], weights: int) -> Estimate:
    """Predict the peak of calls of a program at some sizes; `weights` are the bytes of all that will be read."""
    return Estimate(resident_bytes(), weights, Step("one call", _widest(program, sizes)))


def estimate_measure(module: ModuleOp, samples: Sequence[Mapping[str, Tensor]]) -> Estimate:
    """Predict the peak of holding every layer of a loaded program to its float original; see `qcc.report.measure`.

    The inputs and outputs of all layers are held for a sample, and values are alive twice: quantized and in float.
    """
    program = program_of(module)
    held = step = 0
    weights = [type_of(op.result) for op in module.walk() if isinstance(op, WeightOp)]
    largest = max((math.prod(kind.static_shape or ()) for kind in weights), default=0)
    for index in range(len(samples)):
        sizes = bind_symbols(program, {name: tuple(value.shape) for name, value in samples[index].items()})
        layers = [op for op in module.walk() if isinstance(op, ContractOp | LinearOp | ConvOp)]
        held = max(held, sum(_bytes(type_of(one), sizes) for op in layers for one in (op.input, op.result)))
        step = max(step, 2 * _widest(program, sizes))
    return Estimate(resident_bytes(), held, Step("running both programs", step + 2 * _DECODE * largest))


def _values(program: ProgramOp, samples: list[Mapping[str, Tensor]]) -> int:
    """Count the values of all samples on their way through a program side by side, where they are widest."""
    if not samples:
        return 0
    sizes = bind_symbols(program, {name: tuple(value.shape) for name, value in samples[0].items()})
    return _widest(program, sizes, len(samples))


def _widest(program: ProgramOp, sizes: Mapping[str, int], calls: int = 1) -> int:
    """Return the most bytes of values that are alive at once in calls side by side.

    What is made of weights alone is not among them: it is made for one product and dropped.
    """
    stored: set[SSAValue] = set()
    left: dict[SSAValue, int] = {}
    steps: list[Operation] = []
    for op in program.body.block.ops:
        if isinstance(op, WeightOp) or (op.operands and stored.issuperset(op.operands)):
            stored.update(op.results)
            continue
        steps.append(op)
        for operand in op.operands:
            left[operand] = left.get(operand, 0) + 1
    alive = sum(_bytes(type_of(value), sizes) for value in program.body.block.args if value in left)
    widest = alive * calls
    for op in steps:
        made = sum(_bytes(type_of(value), sizes) for value in op.results)
        inside = 3 * _scores(op, sizes) if isinstance(op, AttentionOp) else made
        # calls take a step one after another, and wait for each other behind it
        widest = max(widest, (alive + made) * calls + inside)
        alive += made
        for operand in op.operands:
            left[operand] -= 1
            if not left[operand] and operand not in stored:
                alive -= _bytes(type_of(operand), sizes)
    return widest


def _scores(op: AttentionOp, sizes: Mapping[str, int]) -> int:
    batch, heads, rows, _ = (dim.evaluate(sizes) for dim in type_of(op.query).shape)
    return 4 * batch * heads * rows * type_of(op.key).shape[2].evaluate(sizes)


def _bytes(kind: TensorType, sizes: Mapping[str, int]) -> int:
    element = 4 if kind.qtype is not None else max(ELEMENT_BYTES[kind.scalar], 4)
    return element * math.prod(dim.evaluate(sizes) for dim in kind.shape)


def estimate_of(module: ModuleOp, store: WeightStore, samples: Sequence[Mapping[str, Tensor]]) -> Estimate:
    """Predict the peak of what is left to do with a planned module; a sample may be empty."""
    given = [one for one in (samples[index] for index in range(len(samples))) if one]
    return estimate_compile(module, store, solving_of(module), given)


def hold_to_memory(
    module: ModuleOp, store: WeightStore, samples: Sequence[Mapping[str, Tensor]], limit: int | None, say: Say
) -> None:
    """Say what memory the rest of a compilation will take, where that is much, and refuse what does not fit.

    Raises:
        QccError: see `refuse_beyond`.
    """
    estimate = estimate_of(module, store, samples)
    if estimate.held + estimate.step.bytes >= WORTH_SAYING:
        note(say, f"memory: {estimate}")
    refuse_beyond(estimate, limit, "this compilation")


def refuse_beyond(estimate: Estimate, limit: int | None, what: str, less: str = "fewer or shorter samples") -> None:
    """Refuse work that will not fit in memory: what the system has, or `limit` where the user gave one.

    `less` is what the user may give to have it take less.

    Raises:
        QccError: naming the largest step, and ways out.
    """
    room = available_bytes() if limit is None else limit
    if room is None or estimate.total <= room:
        return
    source = "the memory limit is" if limit is not None else "there are"
    parts = [
        Problem("held already", show_bytes(estimate.now)),
        Problem("held to the end", show_bytes(estimate.held)),
        Problem(estimate.step.what, show_bytes(estimate.step.bytes), estimate.step.fix),
    ]
    raise QccError(
        f"{what} would take {estimate}, and {source} {show_bytes(room)}",
        parts,
        fix=f"close other programs, give {less}, or --memory-limit SIZE if you know better",
    )


def resident_bytes() -> int:
    """Return the bytes of this process in memory; 0 where the system does not say."""
    return _field(Path("/proc/self/status"), "VmRSS:")


def peak_bytes() -> int:
    """Return the most bytes of this process that were ever in memory; 0 where the system does not say."""
    return _field(Path("/proc/self/status"), "VmHWM:")


def available_bytes() -> int | None:
    """Return the bytes that this process may hold: what is free for it, and what it holds; None if nothing says.

    Looks at the system (MemAvailable) and at the control groups of the process, where they have a limit.
    """
    free = [_field(Path("/proc/meminfo"), "MemAvailable:")] + [room for room in _group_rooms()]
    known = [one for one in free if one]
    return min(known) + resident_bytes() if known else None


def _group_rooms() -> Iterable[int]:
    try:
        names = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except (OSError, IndexError):
        return
    root = Path("/sys/fs/cgroup")
    for name in names:
        folder = root / name.strip("/")
        for one in [folder, *folder.parents]:
            if not one.is_relative_to(root):
                break
            limit, used = _number(one / "memory.max"), _number(one / "memory.current")
            if limit is not None and used is not None:
                # pages of files that nobody used for a while make room when it is needed
                yield max(1, limit - used + _field(one / "memory.stat", "inactive_file"))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        parts = line.split()
        if parts and parts[0] == name and parts[1].isdecimal():
            return int(parts[1]) * (1024 if parts[-1] == "kB" else 1)
    return 0


def parse_bytes(text: str) -> int:
    """Read a size as `6GB`, `512 MiB` or a number of bytes.

    Raises:
        QccError: for anything else.
    """
    found = _SIZE.match(text.lower())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise QccError(f"'{text}' is no size of memory", fix="write e.g. 6GB, 512MiB")
    return int(float(found[1]) * _UNITS[found[2]])


def show_bytes(count: int) -> str:
    """Write a number of bytes with its unit (decimal)."""
    if count >= 10**9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 10**6 else f"{count / 1e3:.0f} kB"
