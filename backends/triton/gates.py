"""What the machine code of a kernel must be like before anyone is given it; all of it is read without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qcc.backends.triton.aot import Cubin
from qcc.backends.triton.architectures import matrix_instruction, release_of
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.sass import Figures
from qcc.backends.triton.spec import GemmSpec
from qcc.errors import BuildError, Problem

INSTRUCTIONS = {"w4a16": 2.5, "w4a8": 1.5, "w2a8": 1.0, "w8a8": 1.25}
"""Instructions that the main loop may spend on a weight on sm_90, at 16 tokens and with the scales of `WITH_GROUPS`.

An H100 issues about 4.4 a weight of 4 bits while it reads the next at the full rate of its memory; half of that and
less leaves room for what is not in the loop.
"""
WITH_GROUPS = frozenset({"w4a16", "w4a8", "w8a8"})
"""Plans whose figure holds for one scale every 128 columns; that of others holds for one scale a row."""
COUNTED_ON = "sm_90"
SPENT_MORE = {(3, 8): 1.05}
"""Versions of Triton (major, minor) that spend more on the same source, and the factor that the limits get there."""
_TOKENS, _COLUMNS = 16, 128
_PER_SUM, _PER_SCALE = 2.25, 32.0
"""A group costs a conversion and a multiply-add for each of its sums, and the scale itself is loaded and widened."""
_PER_CORRECTION, _PER_OPERAND = 1.25, 12.0
"""A zero point, and a scale of the input for each group: one multiplication more for each sum, and values to load."""
_PER_INPUT = 1.25
"""Inputs are copied to shared memory: the more tokens for a channel, the more of that falls to a weight."""


@dataclass(frozen=True)
class Inspected:
    """A compiled variant and what its machine code tells."""

    build: KernelBuild
    cubin: Cubin
    figures: Figures

    @property
    def where(self) -> str:
        """Name it in a message."""
        return f"{self.build.name} for {self.cubin.arch.name}"


def instruction_limit(build: KernelBuild) -> float | None:
    """Return how many instructions on sm_90 a weight may cost; None for kernels that multiply no weights."""
    spec, tile = build.spec, build.tile
    if not isinstance(spec, GemmSpec) or tile is None:
        return None
    limit = INSTRUCTIONS[spec.plan] + _PER_INPUT * (tile.tokens - _TOKENS) / tile.channels
    if spec.group is not None:
        limit += _group_cost(tile.tokens, spec.group)
        limit -= _group_cost(_TOKENS, _COLUMNS) if spec.plan in WITH_GROUPS else 0.0
        corrections = spec.integer * (spec.zero != "none") + (spec.input_group is not None)
        limit += corrections * (_PER_CORRECTION * tile.tokens + _PER_OPERAND) / spec.group
    return limit


def _group_cost(tokens: int, columns: int) -> float:
    """Return the instructions a weight that groups of `columns` columns cost."""
    return (_PER_SUM * tokens + _PER_SCALE) / columns


def faults(one: Inspected) -> list[Problem]:
    """List what makes a compiled kernel unfit: spilled registers, or not the matrix instruction it should have."""
    figures, spec = one.figures, one.build.spec
    found: list[Problem] = []
    if figures.spills or figures.stack:
        what = f"spills registers: {figures.spills} loads and stores, {figures.stack} bytes of stack a thread"
        found.append(Problem(one.where, what, "smaller blocks or more warps"))
    if isinstance(spec, GemmSpec):
        expected = matrix_instruction(one.cubin.arch, one.cubin.triton, integer=spec.integer)
        if figures.mma.partition(".")[0] != expected:
            what = f"multiplies with {figures.mma or 'no matrix instruction'}"
            found.append(Problem(one.where, f"{what}, not {expected} as Triton {one.cubin.triton} should give"))
    return found


def slow(one: Inspected) -> list[Problem]:
    """List what makes a compiled kernel slower than it should be: too many instructions a weight."""
    limit = instruction_limit(one.build)
    if limit is None or one.cubin.arch.name != COUNTED_ON:
        return []
    limit *= SPENT_MORE.get(release_of(one.cubin.triton), 1.0)
    if one.figures.instructions_per_weight <= limit:
        return []
    return [Problem(one.where, f"{one.figures.instructions_per_weight:.2f} instructions a weight, at most {limit:.2f}")]


def check_gates(kernels: Iterable[Inspected]) -> None:
    """Hold compiled kernels to all gates.

    Raises:
        BuildError: listing every kernel that spills, has another matrix instruction, or spends too many instructions.
    """
    problems = [problem for one in kernels for problem in (*faults(one), *slow(one))]
    if problems:
        raise BuildError(f"{len(problems)} gates of compiled kernels are not passed", problems)
