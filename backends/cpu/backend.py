"""The CPU backend: C11, one folder per program, with floats or nothing but integers between its quantizers."""

from __future__ import annotations

from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import Backend, BackendOptions, CallTime, Capabilities, Emitted, Golden, Tensors
from qcc.backends.cpu.build import build_library, cpu_features, toolchain_text
from qcc.backends.cpu.context import shape_context
from qcc.backends.cpu.costs import ACCUMULATOR_BITS, BYTE_COST, COSTS
from qcc.backends.cpu.ctext import C_TYPES, c_name
from qcc.backends.cpu.emit_kernel import EPILOGUES, PROLOGUES
from qcc.backends.cpu.emitter import lower
from qcc.backends.cpu.legalize import legalize
from qcc.backends.cpu.profile import time_calls
from qcc.backends.cpu.project import write_project
from qcc.backends.cpu.qformat import activation_problem
from qcc.backends.cpu.runtime import CpuProgram, Interface, Port
from qcc.errors import Problem
from qcc.ir.program import ProgramOp, StateOp, program_of
from qcc.ir.store import WeightStore
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype_parts import FloatDecode, IntDecode, PlanesDecode, SelectDecode, TableDecode

FOLDER = "c"
"""Name of the backend's folder inside an artifact."""


INTEGERS = Capabilities(
    name="cpu",
    scalars=frozenset(C_TYPES),
    plans=frozenset({"group_after"}),
    weight_bits=range(1, 9),
    activation_bits=range(1, 17),
    decodes=(IntDecode, TableDecode, PlanesDecode),
    integer_only=True,
)
"""What the integer kernels take: weights of any format that stands for integers, multiplied as such."""


class CpuBackend(Backend):
    """Emit, build and load C; see `qcc.backends.base.Backend`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the kernels take."""
        return Capabilities(
            name="cpu",
            scalars=frozenset(C_TYPES),
            plans=frozenset(one.plan for one in COSTS),
            weight_bits=range(1, 9),
            activation_bits=range(2, 9),
            decodes=(IntDecode, FloatDecode, TableDecode),
            weight_decodes=(IntDecode, FloatDecode, TableDecode, PlanesDecode, SelectDecode),
            epilogues=EPILOGUES,
            prologues=PROLOGUES,
            accumulator_bits=ACCUMULATOR_BITS,
            costs=COSTS,
            byte_cost=BYTE_COST,
            integer=INTEGERS,
            activation_problem=activation_problem,
        )

    def legalize(self, module: ModuleOp, store: WeightStore) -> ModuleOp:
        """Return a copy of a module whose computed floats are all float32."""
        return legalize(module)

    def emit(
        self, module: ModuleOp, store: WeightStore, golden: Golden | None, options: BackendOptions, out: Path
    ) -> Emitted:
        """Write the C project of a legalized module to `out/c`, and build its library if asked.

        Raises:
            UnsupportedOp: listing every operation the kernels cannot compute, before anything is written.
            BuildError: if there is no C compiler, or it refuses the code.
        """
        folder = out / FOLDER
        lowered, written = write_project(module, store, golden, options.name, folder)
        interface_of(lowered.program, options.name).save(folder)
        fallbacks: tuple[Problem, ...] = ()
        if options.build:
            fallbacks = build_library(folder, c_name(options.name), cc=options.cc).fallbacks
        arena = lowered.places.plan
        return Emitted(
            folder,
            tuple(sorted(path for path in folder.rglob("*") if path.is_file())),
            tuple(f"{one.where}: {one.what} ({one.fix})" for one in fallbacks),
            written.size,
            {"kernel_calls": float(len(lowered.schedule.calls)), "arena_slots": float(len(arena.slots))},
            fallbacks,
        )

    def preview(self, module: ModuleOp, store: WeightStore, options: BackendOptions) -> None:
        """Lower a module, and throw away what comes of it.

        Raises:
            UnsupportedOp: listing every operation the kernels cannot compute.
        """
        shape_context(lower(program_of(module), store).program)

    def toolchain(self, options: BackendOptions) -> str:
        """Return the compiler, its version and flags, and the features of this CPU.

        Raises:
            BuildError: if there is no C compiler.
        """
        return "\0".join([toolchain_text(options.cc), cpu_features()])

    def time_calls(self, folder: Path, inputs: Tensors, *, threads: int, runs: int) -> tuple[CallTime, ...]:
        """Build the program once more with a clock around every call, and run it; see `HasTimes`."""
        inner = folder / FOLDER
        return time_calls(inner if inner.is_dir() else folder, inputs, threads=threads, runs=runs)

    def load(self, folder: Path, *, threads: int | None = None) -> CpuProgram:
        """Load the library of an emitted folder (`out`, or `out/c`).

        Raises:
            CheckpointError: if the folder is no emitted program, or its weights are damaged.
        """
        inner = folder / FOLDER
        return CpuProgram(inner if inner.is_dir() else folder, threads)


def interface_of(program: ProgramOp, name: str) -> Interface:
    """Return the inputs and outputs of a program as Python sees them."""
    inputs = [type_of(one) for one in program.body.block.args]
    outputs = [type_of(one) for one in program.terminator.values]
    return Interface(
        name,
        c_name(name),
        max([kind.rank for kind in (*inputs, *outputs)] + [1]),
        any(isinstance(op, StateOp) for op in program.body.block.ops),
        tuple(_port(n, kind) for n, kind in zip(program.input_names, inputs, strict=True)),
        tuple(_port(n, kind) for n, kind in zip(program.output_names, outputs, strict=True)),
    )


def _port(name: str, kind: TensorType) -> Port:
    return Port(name, kind.scalar, tuple(map(str, kind.shape)))
