"""The GPU architectures that kernels are compiled for, and which of them a device runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qcc.errors import BuildError, Problem


@dataclass(frozen=True)
class Architecture:
    """An architecture: compute capability, shared memory of a block in bytes, multiprocessors, and matrix instructions.

    Code for an `exact` one (`sm_90a` and later) uses instructions that no other has, and runs on no other. Other code
    runs on every later minor capability of the same major one.
    """

    name: str
    capability: int
    shared: int
    processors: int
    mma: tuple[str, str]
    exact: bool

    def runs_on(self, capability: int) -> bool:
        """Whether a device of this compute capability (90 for 9.0) runs its code."""
        if self.exact:
            return capability == self.capability
        return capability // 10 == self.capability // 10 and capability >= self.capability


_KB = 1024
ARCHITECTURES: dict[str, Architecture] = {
    one.name: one
    for one in (
        Architecture("sm_80", 80, 163 * _KB, 108, ("HMMA", "IMMA"), False),
        Architecture("sm_86", 86, 99 * _KB, 84, ("HMMA", "IMMA"), False),
        Architecture("sm_89", 89, 99 * _KB, 142, ("HMMA", "IMMA"), False),
        Architecture("sm_90", 90, 227 * _KB, 132, ("HGMMA", "IGMMA"), True),
        Architecture("sm_100", 100, 227 * _KB, 148, ("UTCHMMA", "UTCIMMA"), True),
    )
}
"""All architectures by name. Shared memory is the most a block may ask for (CUDA C++ Programming Guide, compute
capabilities); `processors` are those of A100, A10, L40S, H100 SXM and B200; `mma` is for floats and for int8."""

EARLIER_INT8 = {"sm_100": ((3, 8), "IMMA")}
"""Versions of Triton (major, minor) before which products of int8 are another instruction than `mma` says: until 3.8
they are multiplied on sm_100 from registers, as on sm_80, and only then in tensor memory."""

DEFAULT = ("sm_80", "sm_90", "sm_100")


def matrix_instruction(arch: Architecture, triton: str, *, integer: bool) -> str:
    """Name the matrix instruction that a version of Triton, as `3.9.0`, makes of products on an architecture.

    Raises:
        BuildError: a version that does not begin with two numbers.
    """
    if not integer or arch.name not in EARLIER_INT8:
        return arch.mma[integer]
    before, earlier = EARLIER_INT8[arch.name]
    return earlier if release_of(triton) < before else arch.mma[integer]


def release_of(version: str) -> tuple[int, int]:
    """Read major and minor of a version of Triton, as `3.9.0`.

    Raises:
        BuildError: a version that does not begin with two numbers.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise BuildError(f"the installed Triton calls itself version '{version}', which is no number")
    return int(found.group(1)), int(found.group(2))


def parse_architectures(names: Iterable[str]) -> tuple[Architecture, ...]:
    """Return architectures by name, in ascending order; none means the default ones. `sm_90a` is `sm_90`.

    Raises:
        BuildError: listing every name that is not in the table.
    """
    wanted = list(names) or list(DEFAULT)
    unknown = [name for name in wanted if name.removesuffix("a") not in ARCHITECTURES]
    if unknown:
        raise BuildError(
            "some GPU architectures are not known",
            [Problem(f"--arch {name}", "is no architecture of target triton") for name in unknown],
            fix=f"use of: {', '.join(ARCHITECTURES)}",
        )
    found = {ARCHITECTURES[name.removesuffix("a")] for name in wanted}
    return tuple(sorted(found, key=lambda one: one.capability))
