"""Run emitted Triton projects on a CPU: the same program, the same launches, an emulated device."""

from __future__ import annotations

import torch

from qcc.backends.triton.config import BlockConfig
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Launch
from qcc.backends.triton.load import Project, configs_of
from qcc.backends.triton.render import kernel_name


class EmulatedRunner:
    """Interprets the kernels of a project, cut into blocks as on one of its architectures."""

    def __init__(self, project: Project, emulated: EmulatedDevice, arch: str = "sm_90") -> None:
        self.emulated = emulated
        self.device = torch.device("cpu")
        self.launched: list[str] = []
        self.configs = {call.label: configs_of(call, project.plan, arch) for call in project.plan.calls}

    def config(self, label: str, tokens: int) -> BlockConfig:
        return next(config for most, config in self.configs[label] if most is None or tokens <= most)

    def run(self, launch: Launch) -> None:
        self.launched.append(kernel_name(launch.spec))
        self.emulated.run(launch)
