"""The kernels whose machine code is held to gates: every plan with its groups and dtypes, and those of the recipes."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.geometry import step_of
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.render import kernel_name
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


GROUPS = (32, 64, 128, None)
QUICK = ("w4a16_g128_f16_k256", "w4a16_g128_bf16_k256", "w4a8_g128_f16_k256", "w4a8_row_f16_k256")
QUICK += ("w8a8_row_f16", "w2a8_row_f16_k256")
"""One kernel of each plan, and more where the plan is used most."""


def _plans() -> list[GemmSpec]:
    """Every plan with every group; both narrow floats where they are multiplied, and where they are written."""
    found: list[GemmSpec] = []
    for group in GROUPS:
        found += [_gemm(4, group, dtype) for dtype in ("f16", "bf16")]
        found += [_gemm(4, group, "i8", output=dtype) for dtype in ("f16", "bf16")]
        found += [_gemm(8, group, "i8"), _gemm(2, group, "i8")]
    return found


def _more() -> list[GemmSpec]:
    """Zero points and epilogues of different lengths."""
    return [
        _gemm(4, 128, "f16", zero="integer"),
        _gemm(4, 128, "i8", bias="f16", steps=(Unary("silu"), Combine("mul", "f16"))),
        _gemm(8, None, "i8", bias="f16", output="bf16"),
        _gemm(2, None, "i8", output="bf16"),
    ]


def of_recipes() -> dict[str, GemmSpec]:
    """What the recipes of this name become in a layer of a model of floats: a bias, then GELU."""
    corrected: dict[str, object] = {"zero": "integer", "input_scale": "group", "input_group": 32}
    found: dict[str, GemmSpec] = {}
    for dtype in ("f32", "f16", "bf16"):
        after: dict[str, object] = {"bias": dtype, "steps": (Unary("gelu"),), "output": dtype}
        found[f"w4a8 {dtype}"] = _gemm(4, 32, "i8", **corrected, **after)
        found[f"w8a8 {dtype}"] = _gemm(8, None, "i8", scale="f32", **after)
        if dtype != "f32":
            found[f"w4 {dtype}"] = _gemm(4, 32, dtype, zero="integer", **after)
    return found


KERNELS: tuple[Shipped, ...] = tuple(
    Shipped(one, kernel_name(one) in QUICK) for one in (*_plans(), *_more(), *of_recipes().values())
)


def builds_of(spec: GemmSpec, arch: Architecture, tokens: tuple[int, ...]) -> list[tuple[int, tuple[KernelBuild, ...]]]:
    """Return, for each number of tokens, what may serve it, the best first; K is not cut."""
    found: list[tuple[int, tuple[KernelBuild, ...]]] = []
    for bucket in buckets(spec, Sizes(WHOLE, SIZE), arch):
        if bucket.most_tokens in tokens:
            builds = tuple(KernelBuild(one.spec, one.config) for one in bucket.candidates)
            found.append((bucket.most_tokens or 0, builds))
    return found
