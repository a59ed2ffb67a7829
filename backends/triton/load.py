"""Load an emitted project: check its files, and run its cubins on the GPU that torch uses.

Neither Triton nor a compiler is needed. The GPU is opened at the first call, so that a project can be looked at, copied
and packed where there is none.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from qcc.backends.triton.aot import SCRATCH
from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.config import BlockConfig, Variant
from qcc.backends.triton.driver import Device, Function
from qcc.backends.triton.launch import Launch
from qcc.backends.triton.launch_plan import ChoiceEntry, LaunchPlan
from qcc.backends.triton.lower import GemmStep
from qcc.backends.triton.program import Runner, TritonProgram
from qcc.backends.triton.project import PROGRAM, WEIGHTS
from qcc.backends.triton.render import kernel_name
from qcc.backends.triton.spec import GemmSpec
from qcc.backends.triton.steps import Step as ProgramStep
from qcc.backends.triton.steps import launches_of, steps_of
from qcc.errors import BuildError, CheckpointError, Problem
from qcc.ir.context import QccContext
from qcc.ir.program import ProgramOp, program_of
from qcc.ir.store import WeightStore

STEPS: tuple[Literal[64, 128, 256], ...] = (64, 128, 256)
"""The steps of K that a kernel may take."""
_AGAIN = "compile the model again"


class Project:
    """An emitted project whose files are the ones that were written."""

    def __init__(self, folder: Path) -> None:
        """Read the launch plan and the program, and check every file.

        Raises:
            CheckpointError: for a folder that is no project, or listing every file that is missing or damaged.
        """
        self.folder = folder
        self.plan = LaunchPlan.load(folder)
        _check_files(folder, self.plan)
        self.program = _read_program(folder / PROGRAM)
        self.steps = steps_of(self.program)
        _check_calls(folder, self.plan, self.steps)

    def weights(self) -> WeightStore:
        """Read the weights."""
        return WeightStore.load(self.folder / WEIGHTS)


class LazyProgram:
    """A project that opens the GPU when it is first called; see `qcc.backends.base.LoadedProgram`."""

    def __init__(self, folder: Path, runner: Runner | None = None) -> None:
        """Check the files of a project.

        Raises:
            CheckpointError: for a folder that is no project, or listing every file that is missing or damaged.
        """
        self.project = Project(folder)
        self._runner = runner
        self._loaded: TritonProgram | None = None

    def open(self) -> TritonProgram:
        """Open the GPU and load kernels and weights.

        Raises:
            BuildError: if there is no GPU, torch cannot use it, or the kernels are for others.
        """
        if self._loaded is None:
            runner = self._runner or CubinRunner(self.project)
            self._loaded = TritonProgram(self.project.program, self.project.weights(), runner)
        return self._loaded

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on inputs by name; outputs are on the device of the first input.

        Raises:
            ShapeError: listing every input that is missing or does not fit.
            BuildError: if there is no GPU, torch cannot use it, or the kernels are for others.
        """
        return self.open().run(inputs)

    def reset(self) -> None:
        """Give all state its first value again."""
        if self._loaded is not None:
            self._loaded.reset()

    def close(self) -> None:
        """Release memory of the GPU."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


class CubinRunner:
    """Runs launches with the cubins of a project on torch's current GPU."""

    def __init__(self, project: Project, device: Device | None = None, home: torch.device | None = None) -> None:
        """Load the cubins for the GPU; `device` and `home`, the driver's and torch's view of it, are for tests.

        Raises:
            BuildError: if there is no GPU, torch cannot use it, or the kernels are for others.
        """
        self._gpu = device or Device(_torch_ordinal())
        self._home = home or torch.device("cuda", _torch_ordinal())
        plan = project.plan
        self.arch = choose_architecture(plan, self._gpu.capability, self._gpu.name)
        self._variants = variants_of(project, self.arch)
        self._functions: dict[tuple[str, tuple[tuple[str, int], ...], int, int], Function] = {}
        for name, kernel in plan.kernels.items():
            for variant in kernel.variants.values():
                if (entry := variant.cubins.get(self.arch)) is not None:
                    code = (project.folder / entry.file).read_bytes()
                    key = _key(name, variant.constants, variant.threads // 32, variant.stages)
                    self._functions[key] = self._gpu.load(code, kernel.symbol, variant.threads, entry.shared)

    @property
    def device(self) -> torch.device:
        """Where the tensors of a launch must be."""
        return self._home

    def variant(self, label: str, tokens: int) -> Variant:
        """Return the kernel and the blocks that serve so many tokens in the contraction of a label."""
        for most, variant in self._variants[label]:
            if most is None or tokens <= most:
                return variant
        raise BuildError(f"'{label}' is not compiled for {tokens} tokens", fix=_AGAIN)

    def run(self, launch: Launch) -> None:
        """Launch a kernel on torch's current stream."""
        key = _key(kernel_name(launch.spec), launch.constants, launch.warps, launch.stages)
        function = self._functions[key]
        values = [_parameter(one) for one in launch.arguments.values()]
        values += [ctypes.c_void_p()] * SCRATCH
        stream = torch.cuda.current_stream(self._home).cuda_stream if self._home.type == "cuda" else 0
        self._gpu.launch(function, launch.grid, stream, values)


def choose_architecture(plan: LaunchPlan, capability: int, name: str) -> str:
    """Return the latest architecture of a plan that a GPU of this capability (90 for 9.0) runs.

    Raises:
        BuildError: if it runs none, naming both sides.
    """
    fit = [
        (entry.capability, arch)
        for arch, entry in plan.architectures.items()
        if Architecture(arch, entry.capability, 0, 0, ("", ""), entry.exact).runs_on(capability)
    ]
    if not fit:
        what = f"GPU '{name}' has compute capability {capability // 10}.{capability % 10} and runs none of them"
        raise BuildError(
            f"the kernels are compiled for {', '.join(plan.architectures)}; {what}",
            fix=f"compile the model again with --arch sm_{capability}",
        )
    return max(fit)[1]


def _torch_ordinal() -> int:
    if not torch.cuda.is_available():
        raise BuildError(
            "running a program of target triton needs a GPU, and torch finds none",
            fix="run it where torch.cuda.is_available() is True, or compile with --target cpu",
        )
    return torch.cuda.current_device()


def variants_of(project: Project, arch: str) -> dict[str, list[tuple[int | None, Variant]]]:
    """Return the kernels of every contraction on an architecture, each with the most tokens that it serves."""
    found: dict[str, list[tuple[int | None, Variant]]] = {}
    parts = dict(launches_of(project.steps))
    for call in project.plan.calls:
        part = parts[call.label]
        if isinstance(part, GemmStep):
            found[call.label] = [
                (one.most_tokens, _variant(part.spec, one, project.plan)) for one in call.choices[arch]
            ]
    return found


def _variant(spec: GemmSpec, choice: ChoiceEntry, plan: LaunchPlan) -> Variant:
    """Find the step in which a choice takes K by its kernel's name, and its blocks by the variant's entry."""
    entry = plan.kernels[choice.kernel].variants[choice.variant]
    given = entry.constants
    config = BlockConfig(given["BLOCK_M"], given["BLOCK_N"], entry.threads // 32, entry.stages, given["SPLIT_K"])
    for step in STEPS:
        if kernel_name(taken := replace(spec, step=step)) == choice.kernel:
            return Variant(taken, config)
    raise CheckpointError(f"{choice.variant}: is not read by this version of qcc", fix=_AGAIN)


def _key(
    kernel: str, constants: Mapping[str, int], warps: int, stages: int
) -> tuple[str, tuple[tuple[str, int], ...], int, int]:
    return kernel, tuple(sorted(constants.items())), warps, stages


def _parameter(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int32 | ctypes.c_float:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int32(value)


def _check_files(folder: Path, plan: LaunchPlan) -> None:
    expected = {PROGRAM: plan.program_sha256, WEIGHTS: plan.weights_sha256}
    for kernel in plan.kernels.values():
        for variant in kernel.variants.values():
            expected |= {entry.file: entry.sha256 for entry in variant.cubins.values()}
    problems: list[Problem] = []
    for name, sha256 in sorted(expected.items()):
        path = folder / name
        if Path(name).name != name:
            problems.append(Problem(name, "leads out of the folder"))
        elif not path.is_file():
            problems.append(Problem(name, "is missing"))
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            problems.append(Problem(name, "is not the file that was written: it is damaged or from another build"))
    if problems:
        raise CheckpointError(f"{folder}: the project is damaged", problems, fix=_AGAIN)


def _read_program(path: Path) -> ProgramOp:
    try:
        module = Parser(QccContext(), path.read_text("utf-8"), str(path)).parse_module()
        module.verify()
    except (OSError, ParseError, VerifyException) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})", fix=_AGAIN) from error
    return program_of(module)


def _check_calls(folder: Path, plan: LaunchPlan, steps: tuple[ProgramStep, ...]) -> None:
    """Hold the program to its launch plan: another version of qcc may read other kernels from it."""
    found = [(label, kernel_name(part.spec)) for label, part in launches_of(steps)]
    if found != [(call.label, call.kernel) for call in plan.calls]:
        raise CheckpointError(
            f"{folder}: qcc {plan.qcc} wrote the project, and this one reads it differently", fix=_AGAIN
        )
