"""Run emitted Triton projects on a CPU: the same program, the same launches, an emulated device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from qcc.backends.triton.config import Variant
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Launch
from qcc.backends.triton.load import Project, variants_of
from qcc.backends.triton.render import kernel_name


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


def build_fake_cuda(folder: Path) -> Path:
    """Build a driver that computes nothing and notes what it is asked; returns the library."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source, library = Path(__file__).parent / "unit" / "fake_cuda.c", folder / "libcuda.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
    return library
