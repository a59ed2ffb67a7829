"""From what a kernel computes, and how it is cut into blocks, to a job for the compiler."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.aot import CompileJob
from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.config import BlockConfig, RowConfig
from qcc.backends.triton.geometry import geometry_of
from qcc.backends.triton.render import PTX_MODULE, kernel_name, kernel_source, ptx_source
from qcc.backends.triton.sass import Tile
from qcc.backends.triton.signature import signature
from qcc.backends.triton.spec import GemmSpec, KernelSpec

Config = BlockConfig | RowConfig


@dataclass(frozen=True)
class KernelBuild:
    """A kernel cut into blocks: one cubin an architecture."""

    spec: KernelSpec
    config: Config

    @property
    def kernel(self) -> str:
        """Name of the kernel, which is that of its source and of its function."""
        return kernel_name(self.spec)

    @property
    def name(self) -> str:
        """Name of the variant, as in `w4a8_g128_f16.m16n128k1w4s4`: tokens, channels, parts of K, warps, stages."""
        one = self.config
        if isinstance(one, RowConfig):
            return f"{self.kernel}.b{one.block}w{one.warps}"
        return f"{self.kernel}.m{one.block_m}n{one.block_n}k{one.split_k}w{one.warps}s{one.stages}"

    @property
    def stages(self) -> int:
        """Stages of the loop's pipeline; a row-wise kernel has no loop."""
        return self.config.stages if isinstance(self.config, BlockConfig) else 1

    @property
    def tile(self) -> Tile | None:
        """What a step of the main loop multiplies; None for a row-wise kernel."""
        if not isinstance(self.spec, GemmSpec) or not isinstance(self.config, BlockConfig):
            return None
        step = geometry_of(self.spec).step
        return Tile(self.config.block_n, self.config.block_m, step, self.config.warps)


def compile_job(build: KernelBuild, arch: Architecture, origin: str = "") -> CompileJob:
    """Print a kernel and say how it is compiled for an architecture; `origin` is the IR that it came from."""
    return CompileJob(
        name=build.name,
        function=build.kernel,
        source=kernel_source(build.spec, origin),
        modules={PTX_MODULE: ptx_source()},
        arguments=signature(build.spec),
        constants=build.config.constants,
        warps=build.config.warps,
        stages=build.stages,
        arch=arch,
    )
