"""The Triton backend: kernels for NVIDIA GPUs, compiled without one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import BackendOptions, Capabilities, Emitted, Golden
from qcc.backends.triton.architectures import ARCHITECTURES, parse_architectures
from qcc.backends.triton.contents import Contents, contents_of
from qcc.backends.triton.gates import slow
from qcc.backends.triton.golden import write_golden
from qcc.backends.triton.load import LazyProgram
from qcc.backends.triton.lower import EPILOGUES, PROLOGUES
from qcc.backends.triton.project import write_project
from qcc.backends.triton.steps import steps_of, torch_operations
from qcc.backends.triton.toolchain import find_toolchain
from qcc.errors import Problem
from qcc.ir.base import LEFT_IN_FLOAT, location_of
from qcc.ir.plans import FLOAT, PlanCost, Widths
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore

FOLDER = "triton"
"""Name of the backend's folder inside an artifact."""
COSTS = (
    PlanCost("group_after", Widths(1, 8), Widths(2, 8), decode=1.0, scale=30.0),
    PlanCost("group_after", Widths(1, 4), FLOAT, decode=2.0, scale=30.0),
)
"""Instructions of a thread on sm_90, as counted in the machine code."""


class TritonBackend:
    """Print, compile and load kernels; see `qcc.backends.base.Backend`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the kernels take."""
        return Capabilities(
            name="triton",
            scalars=frozenset({"f32", "f16", "bf16"}),
            plans=frozenset({"group_after", "dequant_first"}),
            weight_bits=range(1, 9),
            activation_bits=range(2, 9),
            epilogues=EPILOGUES,
            prologues=PROLOGUES,
            accumulator_bits=32,
            costs=COSTS,
            architectures=tuple(ARCHITECTURES),
        )

    def legalize(self, module: ModuleOp, store: WeightStore) -> ModuleOp:
        """Return a copy of a module; kernels are printed as they are."""
        return module.clone()

    def fallbacks(self, module: ModuleOp) -> tuple[Problem, ...]:
        """List what torch computes, but for layers that are left in float: those are named as such."""
        ops = [one for one in torch_operations(program_of(module)) if LEFT_IN_FLOAT not in one.attributes]
        return tuple(Problem(location_of(op) or op.name, f"{op.name} is left to torch") for op in ops)

    def preview(self, module: ModuleOp, store: WeightStore, options: BackendOptions) -> None:
        """Find the launches of a module.

        Raises:
            UnsupportedOp: listing everything quantized that no kernel covers.
        """
        steps_of(program_of(module))

    def emit(
        self, module: ModuleOp, store: WeightStore, golden: Golden | None, options: BackendOptions, out: Path
    ) -> Emitted:
        """Write the project of a module to `out/triton`, with cubins for the architectures of the options.

        Raises:
            UnsupportedOp: listing everything quantized that no kernel covers, before anything is written.
            BuildError: if Triton is missing, an architecture is not known, or kernels cannot be compiled fit to be
                used: all of them are listed, and nothing is written.
        """
        architectures = parse_architectures(options.arch)
        program = program_of(module)
        steps = steps_of(program)
        find_toolchain()
        contents = contents_of(program, steps, store, architectures, options.threads or 2)
        folder = out / FOLDER
        aside = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=out))
        try:
            write_project(module, contents, options.name, aside)
            write_golden(golden or Golden(), aside)
            shutil.rmtree(folder, ignore_errors=True)
            aside.chmod(0o755)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
        weight_bytes = (folder / "weights.safetensors").stat().st_size
        return Emitted(folder, files, _messages(contents), weight_bytes, _figures(contents))

    def toolchain(self, options: BackendOptions) -> str:
        """Return the version of Triton and the architectures.

        Raises:
            BuildError: if Triton is missing or an architecture is not known.
        """
        names = [one.name for one in parse_architectures(options.arch)]
        return " ".join([find_toolchain().version, *names])

    def load(self, folder: Path, *, threads: int | None = None) -> LazyProgram:
        """Load an emitted folder (`out`, or `out/triton`); the GPU is opened at the first call.

        Raises:
            CheckpointError: if the folder is no emitted project, or is damaged.
        """
        inner = folder / FOLDER
        return LazyProgram(inner if inner.is_dir() else folder)


def _messages(contents: Contents) -> tuple[str, ...]:
    """Say what was compiled, what torch computes, and which kernels are slower than they should be."""
    kernels = [one for made in contents.kernels.values() for one in made]
    spills = sum(one.figures.spills for one in kernels)
    names = ", ".join(one.name for one in contents.architectures)
    found = [f"{len(contents.calls)} launches of {len(contents.kernels)} kernels: {len(kernels)} cubins for {names}"]
    found[0] += f", {spills} spills"
    floats = [one.name for one in torch_operations(contents.program)]
    if floats:
        kinds = ", ".join(sorted(set(floats)))
        found.append(f"torch computes the float rest, {len(floats)} operations: {kinds}")
    found += [f"slow kernel {one}" for kernel in kernels for one in slow(kernel)]
    return tuple(found)


def _figures(contents: Contents) -> dict[str, float]:
    kernels = [one for made in contents.kernels.values() for one in made]
    return {
        "launches": float(len(contents.calls)),
        "kernels": float(len(contents.kernels)),
        "cubins": float(len(kernels)),
        "spills": float(sum(one.figures.spills for one in kernels)),
    }
