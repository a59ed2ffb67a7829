"""What a project consists of, before a byte of it is written: compiled kernels, the calls of them, packed weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.build import Builder, Wanted
from qcc.backends.triton.config import RowConfig
from qcc.backends.triton.gates import Inspected
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.lower import GemmStep, RowStep
from qcc.backends.triton.pack import pack_weight
from qcc.backends.triton.render import kernel_name
from qcc.backends.triton.steps import LaunchStep, Step, is_packed_only, launches_of, packed_key, sizes_of, weight_key
from qcc.backends.triton.tiling import buckets
from qcc.ir.program import ProgramOp, StateOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.tensor import QuantizedTensor


@dataclass(frozen=True)
class Choice:
    """A compiled variant and up to how many tokens it serves; None: any number."""

    most_tokens: int | None
    kernel: Inspected


@dataclass(frozen=True)
class Call:
    """A place that launches a kernel; `weights` are names in the weights by argument, `choices` by architecture.

    `kernel` is the one that the weight is packed for; a choice may take K in other steps, and is a kernel of its own.
    `channels` is 0 where the kernel is row-wise.
    """

    label: str
    kernel: str
    channels: int
    columns: int
    weights: Mapping[str, str]
    choices: Mapping[str, tuple[Choice, ...]]


@dataclass(frozen=True)
class Contents:
    """Everything of a project."""

    program: ProgramOp
    steps: tuple[Step, ...]
    architectures: tuple[Architecture, ...]
    calls: tuple[Call, ...]
    origins: Mapping[str, str]
    weights: WeightStore

    @property
    def kernels(self) -> dict[str, list[Inspected]]:
        """All that was compiled by the name of its kernel, each once."""
        found: dict[str, dict[tuple[str, str], Inspected]] = {}
        for call in self.calls:
            for choices in call.choices.values():
                for one in choices:
                    key = (one.kernel.build.name, one.kernel.cubin.arch.name)
                    found.setdefault(one.kernel.build.kernel, {})[key] = one.kernel
        return {name: list(found[name].values()) for name in sorted(found)}


@dataclass(frozen=True)
class _Work:
    """One launch on one architecture, for some number of tokens."""

    label: str
    most_tokens: int | None
    wanted: Wanted


def contents_of(
    program: ProgramOp,
    steps: tuple[Step, ...],
    store: WeightStore,
    architectures: tuple[Architecture, ...],
    workers: int,
) -> Contents:
    """Compile and pack a program.

    Raises:
        BuildError: if Triton is missing, or listing all kernels that cannot be compiled fit to be used.
    """
    works = [one for label, part in launches_of(steps) for one in _works(label, part, program, architectures)]
    texts = {label: step.origin for step in steps if isinstance(step, LaunchStep) for label in step.labels}
    origins: dict[str, str] = {}
    for work in works:
        for build in work.wanted.candidates:
            origins.setdefault(build.kernel, texts[work.label])
    made = Builder(origins, workers).build([one.wanted for one in works])
    choices: dict[str, dict[str, tuple[Choice, ...]]] = {}
    for work, kernel in zip(works, made, strict=True):
        by_arch = choices.setdefault(work.label, {})
        name = work.wanted.arch.name
        by_arch[name] = (*by_arch.get(name, ()), Choice(work.most_tokens, kernel))
    calls = tuple(
        _call(label, part, program, {arch: _joined(every) for arch, every in choices[label].items()})
        for label, part in launches_of(steps)
    )
    return Contents(program, steps, architectures, calls, origins, packed_store(program, steps, store))


def _joined(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Join neighbours that came out as one variant."""
    kept: list[Choice] = []
    for one in choices:
        if kept and kept[-1].kernel is one.kernel:
            kept.pop()
        kept.append(one)
    return tuple(kept)


def _works(
    label: str, part: RowStep | GemmStep, program: ProgramOp, architectures: tuple[Architecture, ...]
) -> Iterator[_Work]:
    for arch in architectures:
        if isinstance(part, RowStep):
            columns = type_of(part.source).shape[-1].constant or 0
            yield _Work(label, None, Wanted(arch, (KernelBuild(part.spec, RowConfig.of(columns)),)))
            continue
        for bucket in buckets(part.spec, sizes_of(part, program), arch):
            candidates = tuple(KernelBuild(one.spec, one.config) for one in bucket.candidates)
            yield _Work(label, bucket.most_tokens, Wanted(arch, candidates))


def _call(label: str, part: RowStep | GemmStep, program: ProgramOp, choices: Mapping[str, tuple[Choice, ...]]) -> Call:
    if isinstance(part, RowStep):
        columns = type_of(part.source).shape[-1].constant or 0
        return Call(label, kernel_name(part.spec), 0, columns, {}, choices)
    sizes, key = sizes_of(part, program), packed_key(part)
    names = ["words", "scales", *(["zeros"] if part.spec.zero == "integer" else [])]
    return Call(
        label,
        kernel_name(part.spec),
        sizes.channels,
        sizes.columns,
        {name: f"{key}/{name}" for name in names},
        choices,
    )


def packed_store(program: ProgramOp, steps: tuple[Step, ...], store: WeightStore) -> WeightStore:
    """Return the weights as the project stores them: packed for contractions, and as they are for everything else."""
    found: dict[str, Tensor | QuantizedTensor] = {}
    for label, part in launches_of(steps):
        if not isinstance(part, GemmStep) or f"{packed_key(part)}/words" in found:
            continue
        packed = pack_weight(store.quantized(weight_key(part)), part.spec, label)
        found[f"{packed_key(part)}/words"], found[f"{packed_key(part)}/scales"] = packed.words, packed.scales
        if packed.zeros is not None:
            found[f"{packed_key(part)}/zeros"] = packed.zeros
    for op in program.body.walk():
        if isinstance(op, WeightOp | StateOp) and not is_packed_only(op):
            found[op.key.data] = store[op.key.data]
    return WeightStore(found)
