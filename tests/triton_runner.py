"""Run emitted Triton projects on a CPU: the same program, the same launches, an emulated device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.config import Variant
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Launch
from qcc.backends.triton.load import Project, variants_of
from qcc.backends.triton.lower import GemmStep
from qcc.backends.triton.render import kernel_name
from qcc.backends.triton.steps import Step, launches_of, sizes_of
from qcc.backends.triton.tiling import buckets
from qcc.ir.program import ProgramOp


class EmulatedRunner:
    """Interprets the kernels of a project, cut into blocks as on one of its architectures."""

    def __init__(self, project: Project, emulated: EmulatedDevice, arch: str = "sm_90") -> None:
        self.emulated = emulated
        self.device = torch.device("cpu")
        self.launched: list[str] = []
        self.variants = variants_of(project, arch)

    def variant(self, label: str, tokens: int) -> Variant:
        return next(variant for most, variant in self.variants[label] if most is None or tokens <= most)

    def run(self, launch: Launch) -> None:
        self.launched.append(kernel_name(launch.spec))
        self.emulated.run(launch)


class UncompiledRunner:
    """Interprets the kernels of a program that nobody compiled: the first choice of the table for every call."""

    def __init__(
        self, program: ProgramOp, steps: tuple[Step, ...], emulated: EmulatedDevice, arch: Architecture
    ) -> None:
        self.emulated = emulated
        self.device = torch.device("cpu")
        self.launches = 0
        gemms = [(label, part) for label, part in launches_of(steps) if isinstance(part, GemmStep)]
        self.choices = {label: buckets(part.spec, sizes_of(part, program), arch) for label, part in gemms}

    def variant(self, label: str, tokens: int) -> Variant:
        fit = (one for one in self.choices[label] if one.most_tokens is None or tokens <= one.most_tokens)
        return next(fit).candidates[0]

    def run(self, launch: Launch) -> None:
        self.launches += 1
        self.emulated.run(launch)


def build_fake_cuda(folder: Path) -> Path:
    """Build a driver that computes nothing and notes what it is asked; returns the library."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source, library = Path(__file__).parent / "unit" / "fake_cuda.c", folder / "libcuda.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
    return library
