"""The kernels whose machine code is held to gates: every plan, with its groups, dtypes and zero points."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.geometry import step_of
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.spec import Combine, GemmSpec, Unary
from qcc.backends.triton.tiling import Sizes, buckets

SIZE = 4096
"""Channels and columns that the kernels are cut for."""
WHOLE = 2 * 128 * 148
"""Channels that fill every GPU without cutting K."""


@dataclass(frozen=True)
class Shipped:
    """A kernel of the table: its spec, and whether `--quick` takes it."""

    spec: GemmSpec
    quick: bool = False


def _gemm(bits: int, group: int | None, source: str, **more: object) -> GemmSpec:
    scale = "token" if source == "i8" else "none"
    output = "f16" if source == "i8" else source
    step = step_of(bits, group, SIZE)
    return GemmSpec(bits, group, source, **{"input_scale": scale, "output": output, "step": step, **more})  # type: ignore[arg-type]


KERNELS: tuple[Shipped, ...] = (
    Shipped(_gemm(4, 128, "f16"), quick=True),
    Shipped(_gemm(4, 128, "bf16"), quick=True),
    Shipped(_gemm(4, 128, "f16", zero="integer")),
    Shipped(_gemm(4, 64, "f16")),
    Shipped(_gemm(4, 32, "f16")),
    Shipped(_gemm(4, None, "f16")),
    Shipped(_gemm(4, 128, "i8"), quick=True),
    Shipped(_gemm(4, 128, "i8", bias="f16", steps=(Unary("silu"), Combine("mul", "f16")))),
    Shipped(_gemm(4, 64, "i8")),
    Shipped(_gemm(4, 32, "i8")),
    Shipped(_gemm(4, None, "i8"), quick=True),
    Shipped(_gemm(8, None, "i8"), quick=True),
    Shipped(_gemm(8, 128, "i8")),
    Shipped(_gemm(8, None, "i8", bias="f16", output="bf16")),
    Shipped(_gemm(2, None, "i8"), quick=True),
    Shipped(_gemm(2, 128, "i8")),
)


def builds_of(spec: GemmSpec, arch: Architecture, tokens: tuple[int, ...]) -> list[tuple[int, tuple[KernelBuild, ...]]]:
    """Return, for each number of tokens, what may serve it, the best first; K is not cut."""
    found: list[tuple[int, tuple[KernelBuild, ...]]] = []
    for bucket in buckets(spec, Sizes(WHOLE, SIZE), arch):
        if bucket.most_tokens in tokens:
            builds = tuple(KernelBuild(one.spec, one.config) for one in bucket.candidates)
            found.append((bucket.most_tokens or 0, builds))
    return found
