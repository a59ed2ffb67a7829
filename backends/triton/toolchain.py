"""Where Triton and the binary tools in its package are. Nothing here imports Triton."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcc.errors import BuildError, Problem

INSTALL = "pip install 'triton>=3.6'"
TOOLS = ("ptxas", "nvdisasm", "cuobjdump")
_FOREIGN = ("TRITON_", "PTXAS_", "NVPTX_", "LLVM_", "MLIR_", "DISABLE_PTXAS_", "USE_IR_", "CUDA_")
"""Beginnings of environment variables that change what Triton or ptxas make."""


@dataclass(frozen=True)
class Toolchain:
    """The version of an installed Triton and the folder of the tools in it."""

    version: str
    folder: Path

    def tool(self, name: str) -> str:
        """Return the path of a tool."""
        return str(self.folder / name)


def find_toolchain() -> Toolchain:
    """Return the installed Triton.

    Raises:
        BuildError: if there is none, or it lacks tools, naming the line that installs it.
    """
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:
        raise BuildError("target triton needs the package triton, which is not installed", fix=INSTALL)
    folder = Path(found.origin).parent / "backends" / "nvidia" / "bin"
    missing = [name for name in TOOLS if not os.access(folder / name, os.X_OK)]
    if missing:
        problems = [Problem(str(folder / name), "is missing or cannot be run") for name in missing]
        raise BuildError("the installed package triton has no tools for NVIDIA", problems, fix=INSTALL)
    return Toolchain(importlib.metadata.version("triton"), folder)


def build_environment(toolchain: Toolchain, cache: Path) -> dict[str, str]:
    """Return the environment a kernel is compiled in: nothing of the user's changes a byte of it.

    One ptxas serves all architectures. A newer one for the latest of them, which the package may hold too, writes
    binaries that older drivers refuse.
    """
    kept: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    ptxas = toolchain.tool("ptxas")
    return {
        **kept,
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_DISABLE_LINE_INFO": "1",
        "TRITON_PTXAS_PATH": ptxas,
        "TRITON_PTXAS_BLACKWELL_PATH": ptxas,
    }
