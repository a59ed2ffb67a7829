"""Compile the variants of a program for its architectures; where one spills, take the next that does the same work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from qcc.backends.triton.aot import Cubin, try_kernels
from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.gates import Inspected, faults
from qcc.backends.triton.jobs import KernelBuild, compile_job
from qcc.backends.triton.sass import read_cubin
from qcc.errors import BuildError, Problem

WORKERS = 2


@dataclass(frozen=True)
class Wanted:
    """Variants that may do one piece of work on one architecture, the best first."""

    arch: Architecture
    candidates: tuple[KernelBuild, ...]


@dataclass
class Builder:
    """Compiles each variant once, whoever asks for it. `origins` is the IR of each kernel, for its source."""

    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    workers: int = WORKERS
    kernels: dict[tuple[KernelBuild, str], Inspected | Problem] = field(
        default_factory=dict[tuple[KernelBuild, str], Inspected | Problem]
    )

    def build(self, wanted: Sequence[Wanted]) -> list[Inspected]:
        """Return, for each piece of work, the first of its variants that is fit.

        Raises:
            BuildError: if Triton is missing, or listing all pieces of work for which nothing is fit.
        """
        for rank in range(max((len(one.candidates) for one in wanted), default=0)):
            missing = [one for one in wanted if self._fit(one) is None and rank < len(one.candidates)]
            pairs = {(one.candidates[rank], one.arch) for one in missing}
            fresh = [pair for pair in pairs if (pair[0], pair[1].name) not in self.kernels]
            self._compile(sorted(fresh, key=lambda pair: (pair[0].name, pair[1].capability)))
        found = [self._fit(one) for one in wanted]
        problems = [
            problem for one, got in zip(wanted, found, strict=True) if got is None for problem in self._problems(one)
        ]
        if problems:
            raise BuildError("no way to cut these kernels into blocks is fit", problems)
        return [one for one in found if one is not None]

    def _fit(self, wanted: Wanted) -> Inspected | None:
        for build in wanted.candidates:
            found = self.kernels.get((build, wanted.arch.name))
            if isinstance(found, Inspected) and not faults(found):
                return found
        return None

    def _problems(self, wanted: Wanted) -> list[Problem]:
        found = [self.kernels[build, wanted.arch.name] for build in wanted.candidates]
        return [problem for one in found for problem in ([one] if isinstance(one, Problem) else faults(one))]

    def _compile(self, pairs: Sequence[tuple[KernelBuild, Architecture]]) -> None:
        jobs = [compile_job(build, arch, self.origins.get(build.kernel, "")) for build, arch in pairs]
        made = try_kernels(jobs, workers=self.workers) if jobs else []
        with ThreadPoolExecutor(self.workers) as threads:
            found = list(threads.map(_inspect, (build for build, _ in pairs), made))
        for (build, arch), one in zip(pairs, found, strict=True):
            self.kernels[build, arch.name] = one


def _inspect(build: KernelBuild, made: Cubin | Problem) -> Inspected | Problem:
    return made if isinstance(made, Problem) else Inspected(build, made, read_cubin(made.code, build.tile))
