"""The contract of a backend: what it takes, how it makes a module ready, emits a project and loads it again.

The driver gives a backend the final module, the weights and golden vectors that the interpreter made; a backend
never runs the interpreter itself. Backends never import one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.errors import Problem
from qcc.ir.plans import ContractCost, PlanCost
from qcc.ir.store import WeightStore
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FloatDecode, IntDecode, PlanesDecode, SelectDecode, TableDecode

Tensors = Mapping[str, torch.Tensor]
Arithmetic = Literal["float", "integer"]
"""What a program computes with between its input and output quantizers."""


Decodes = tuple[type[IntDecode | FloatDecode | TableDecode | PlanesDecode | SelectDecode], ...]


@dataclass(frozen=True)
class Capabilities:
    """What a backend takes: its name, element types, plans of contractions, and bits of weights and activations.

    `decodes` are the kinds of codes that it computes with (integers by default); weights and activations of every
    other kind are refused by name; `weight_decodes` are those of weights and tables where they are others.
    `epilogues` and `prologues` say which steps it prints inside one kernel, as rules of `qcc.ir.fusion`; without any,
    every operation but a contraction stays by itself. `accumulator_bits` is the width of its integer sums. `costs`
    says which formats each plan takes and what it costs (`qcc.ir.plans`), the preferred plan first, and `byte_cost`
    what a byte of memory traffic costs in the same terms; without any plan, contractions keep the one they were given.
    `architectures` are the names that `--arch` may list, none where a target has none. `integer_only` says that it has
    no floats between the inputs and outputs of a program: `quantize-values` and `lower-integer` are run for it.
    `integer` is what it takes of programs without floats where it computes both: `--set arithmetic=integer` chooses.
    `settings` are keys of `--set` that this target alone takes, with what they set; `check_settings` raises QccError
    for values that it cannot take. `activation_problem` says what else is wrong with a format of
    activations, if anything. `resources` gives, for these settings, what a contraction takes of each resource by the
    name that budgets of recipes use; latency is predicted from `costs`.
    """

    name: str
    scalars: frozenset[str]
    plans: frozenset[str]
    weight_bits: range
    activation_bits: range
    decodes: Decodes = (IntDecode,)
    weight_decodes: Decodes = ()
    epilogues: tuple[str, ...] = ()
    prologues: tuple[str, ...] = ()
    accumulator_bits: int = 64
    costs: tuple[PlanCost, ...] = ()
    byte_cost: float = 0.0
    architectures: tuple[str, ...] = ()
    integer_only: bool = False
    integer: Capabilities | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    check_settings: Callable[[Mapping[str, str]], object] | None = None
    activation_problem: Callable[[QType], str] | None = None
    resources: Callable[[Mapping[str, str]], Mapping[str, ContractCost]] | None = None

    def computing(self, arithmetic: Arithmetic) -> Capabilities:
        """Return what the target takes of programs in an arithmetic; where it has no choice of one, all it takes."""
        return self.integer if arithmetic == "integer" and self.integer is not None else self


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may be from the interpreter's: `|a - b| <= absolute + relative * max|b|`."""

    relative: float
    absolute: float = 0.0


@dataclass(frozen=True)
class ModelCall:
    """One call of the whole program: inputs by name and the outputs expected, by name."""

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True)
class ModelCase:
    """Calls one after another from the program's first state, and how exact their outputs must be."""

    name: str
    calls: tuple[ModelCall, ...]
    tolerance: Tolerance


@dataclass(frozen=True)
class ContractCase:
    """Exact integers inside one contraction: the `index`-th `qcc.contract` with a quantized input, in program order.

    `rows` [m, K] float32 are quantized to `codes` [m, K] int8 and `scales` [m, 1] or [m, G] float32; `sums` [m, N, G]
    int32 are, per scale block of the contraction, `sum_k code * (weight code - zero)`: after the zero correction,
    before any scale. All three hold bit for bit.
    """

    index: int
    rows: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    sums: torch.Tensor


@dataclass(frozen=True)
class Golden:
    """Golden vectors of a program: whole calls, and single contractions bit for bit."""

    models: tuple[ModelCase, ...] = ()
    contracts: tuple[ContractCase, ...] = ()


@dataclass(frozen=True)
class Emitted:
    """What a backend wrote: its folder, the files in it, messages for the user, bytes of weights and of temporaries.

    `fallbacks` are those that only the build could know of; see `Backend.fallbacks`.
    """

    folder: Path
    files: tuple[Path, ...]
    messages: tuple[str, ...] = ()
    weight_bytes: int = 0
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    fallbacks: tuple[Problem, ...] = ()


class LoadedProgram(Protocol):
    """A program ready to run in this process."""

    def run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Run on inputs by name and return outputs by name.

        Raises:
            ShapeError: listing every input that is missing, or whose dtype or shape does not fit.
        """
        ...

    def reset(self) -> None:
        """Give all state its first value again."""
        ...

    def close(self) -> None:
        """Release memory and files."""
        ...


@dataclass(frozen=True)
class BackendOptions:
    """What the user may choose: compiler (`cc`, `arch`), threads, name of the program, whether to build, settings."""

    name: str = "model"
    cc: str | None = None
    arch: tuple[str, ...] = ()
    threads: int | None = None
    build: bool = True
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


@runtime_checkable
class Backend(Protocol):
    """A target of the compiler."""

    @property
    def capabilities(self) -> Capabilities:
        """What the backend takes."""
        ...

    def legalize(self, module: ModuleOp, store: WeightStore) -> ModuleOp:
        """Return a copy of a module in the form the backend emits; weights of the store are not changed."""
        ...

    def fallbacks(self, module: ModuleOp) -> tuple[Problem, ...]:
        """List what of a final module would not be computed by kernels of this backend, and by what instead.

        What nothing computes is no fallback: `emit` refuses it. A backend that refuses whatever it has no kernels for
        has none.
        """
        return ()

    def emit(
        self, module: ModuleOp, store: WeightStore, golden: Golden | None, options: BackendOptions, out: Path
    ) -> Emitted:
        """Write the project of a legalized module to the folder `out`.

        Raises:
            UnsupportedOp: listing every operation that the backend cannot take, before anything is written.
            BuildError: if a compiler is missing or fails.
        """
        ...

    def load(self, folder: Path, *, threads: int | None = None) -> LoadedProgram:
        """Load what `emit` wrote.

        Raises:
            CheckpointError: for a folder that is not what `emit` writes, or is damaged.
        """
        ...


@runtime_checkable
class HasToolchain(Protocol):
    """A backend whose programs may be kept for later processes: it says what they depend on beside the module."""

    def toolchain(self, options: BackendOptions) -> str:
        """Return a text that differs wherever a module would be built to something else: tools, versions, flags, CPU.

        Raises:
            BuildError: if a tool is missing.
        """
        ...


@dataclass(frozen=True)
class CallTime:
    """What one step of a program took: its kernel, the layer it is a part of (or none), the median in ms."""

    kernel: str
    layer: str
    ms: float


@runtime_checkable
class HasTimes(Protocol):
    """A backend that can time the steps of a program that it emitted."""

    def time_calls(self, folder: Path, inputs: Tensors, *, threads: int, runs: int) -> tuple[CallTime, ...]:
        """Run an emitted program with a clock around every step; the emitted one stays as it is.

        Raises:
            ShapeError: if the inputs do not fit the program.
            BuildError: if what times it cannot be built here.
        """
        ...


@runtime_checkable
class HasPreview(Protocol):
    """A backend that can tell without writing anything whether `emit` takes a module."""

    def preview(self, module: ModuleOp, store: WeightStore, options: BackendOptions) -> None:
        """Go through a legalized module as `emit` would; its weights may be stand-ins of their shapes and formats.

        Raises:
            QccError: whatever `emit` would refuse before it builds.
        """
        ...
