"""Write the project of a program: sources and cubins of its kernels, launch plan, C loader, weights, golden vectors."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.triton.aot import SCRATCH
from qcc.backends.triton.config import BlockConfig
from qcc.backends.triton.contents import Call, Choice, Contents
from qcc.backends.triton.gates import Inspected
from qcc.backends.triton.geometry import geometry_of
from qcc.backends.triton.launch_plan import (
    ArchitectureEntry,
    ArgumentEntry,
    CallEntry,
    ChoiceEntry,
    CubinEntry,
    GridEntry,
    KernelEntry,
    LaunchPlan,
    VariantEntry,
    WeightEntry,
)
from qcc.backends.triton.render import PTX_MODULE, kernel_source, ptx_source, render
from qcc.backends.triton.signature import signature
from qcc.backends.triton.spec import GemmSpec
from qcc.version import __version__

PROGRAM = "program.mlir"
WEIGHTS = "weights.safetensors"
COPIED = ("qcc_cuda.h", "qcc_cuda.c")
RENDERED = ("qcc_kernels.h", "qcc_kernels.c")
_CTYPES = {"i32": "int32_t", "i64": "int64_t", "fp32": "float"}
_BYTES = {"i32": 4, "i64": 8, "fp32": 4}


def write_project(module: ModuleOp, contents: Contents, name: str, folder: Path) -> LaunchPlan:
    """Write a project to a folder and return its launch plan."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_text(str(module) + "\n", "utf-8")
    contents.weights.save(folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    kernels = {kernel: _kernel_entry(folder, contents, kernel, made) for kernel, made in contents.kernels.items()}
    (folder / f"{PTX_MODULE}.py").write_text(ptx_source(), "utf-8")
    plan = LaunchPlan(
        qcc=__version__,
        triton=next((made[0].cubin.triton for made in contents.kernels.values()), ""),
        name=name,
        architectures={
            one.name: ArchitectureEntry(capability=one.capability, exact=one.exact) for one in contents.architectures
        },
        kernels=kernels,
        calls=tuple(map(_call_entry, contents.calls)),
        weights=weight_entries(folder / WEIGHTS),
        weights_sha256=_sha256((folder / WEIGHTS).read_bytes()),
        program_sha256=_sha256((folder / PROGRAM).read_bytes()),
    )
    plan.save(folder)
    write_tables(plan, folder)
    return plan


def write_tables(plan: LaunchPlan, folder: Path) -> None:
    """Write the C loader, and the tables that tell it what the launch plan says."""
    templates = Path(__file__).parent / "templates"
    for file in COPIED:
        shutil.copyfile(templates / file, folder / file)
    for file in RENDERED:
        (folder / file).write_text(render(f"{file}.j2", c_context(plan)), "utf-8")


def _kernel_entry(folder: Path, contents: Contents, kernel: str, made: Sequence[Inspected]) -> KernelEntry:
    """Write source and cubins of a kernel."""
    spec = made[0].build.spec
    source = kernel_source(spec, contents.origins.get(kernel, ""))
    (folder / f"{kernel}.py").write_text(source, "utf-8")
    variants: dict[str, dict[str, Inspected]] = {}
    for one in sorted(made, key=lambda one: (one.build.name, one.cubin.arch.capability)):
        variants.setdefault(one.build.name, {})[one.cubin.arch.name] = one
    return KernelEntry(
        what=_what(source),
        source=f"{kernel}.py",
        symbol=made[0].cubin.symbol,
        arguments=tuple(
            ArgumentEntry(name=one.name, dtype=one.dtype, what=one.what, divisible=one.divisible)
            for one in signature(spec)
        ),
        scratch=SCRATCH,
        variants={name: _variant_entry(folder, by_arch) for name, by_arch in variants.items()},
    )


def _what(source: str) -> str:
    """Return the first sentences of a kernel's docstring: what it is, and its formula where it has one."""
    paragraphs = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")
    return " ".join(" ".join(one.split()) for one in paragraphs[: 1 + (" = " in "".join(paragraphs[1:2]))])


def _variant_entry(folder: Path, by_arch: Mapping[str, Inspected]) -> VariantEntry:
    first = next(iter(by_arch.values()))
    config = first.build.config
    grid = GridEntry(channels=None, tokens=1, parts=1)
    if isinstance(config, BlockConfig):
        grid = GridEntry(channels=config.block_n, tokens=config.block_m, parts=config.split_k)
    return VariantEntry(
        constants=config.constants,
        threads=first.cubin.warps * 32,
        stages=first.build.stages,
        grid=grid,
        cubins={arch: _cubin_entry(folder, one) for arch, one in by_arch.items()},
    )


def _cubin_entry(folder: Path, one: Inspected) -> CubinEntry:
    cubin, figures = one.cubin, one.figures
    file = f"{one.build.name}.{cubin.arch.name}.cubin"
    (folder / file).write_bytes(cubin.code)
    return CubinEntry(
        file=file,
        bytes=len(cubin.code),
        sha256=_sha256(cubin.code),
        fnv1a=fnv1a(cubin.code),
        target=cubin.target,
        ptx_version=cubin.ptx_version,
        shared=cubin.shared,
        registers=figures.registers,
        stack=figures.stack,
        spills=figures.spills,
        mma=figures.mma,
        instructions_per_weight=round(figures.instructions_per_weight, 4),
    )


def _call_entry(call: Call) -> CallEntry:
    return CallEntry(
        label=call.label,
        kernel=call.kernel,
        n=call.channels,
        k=call.columns,
        weights=dict(call.weights),
        choices={arch: tuple(_choice_entry(call, one) for one in choices) for arch, choices in call.choices.items()},
    )


def _choice_entry(call: Call, one: Choice) -> ChoiceEntry:
    build = one.kernel.build
    steps = geometry_of(build.spec).steps(call.columns) if isinstance(build.spec, GemmSpec) else 1
    return ChoiceEntry(most_tokens=one.most_tokens, kernel=build.kernel, variant=build.name, steps=steps)


def weight_entries(path: Path) -> dict[str, WeightEntry]:
    """Say where each tensor of a safetensors file lies, from the start of the file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entries: dict[str, Any] = json.loads(data[8 : 8 + size])
    entries.pop("__metadata__", None)
    found: dict[str, WeightEntry] = {}
    for name in sorted(entries):
        one, start = entries[name], 8 + size
        low, high = one["data_offsets"]
        found[name] = WeightEntry(dtype=one["dtype"], shape=tuple(one["shape"]), offset=start + low, bytes=high - low)
    return found


def fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash (Fowler, Noll, Vo; RFC 9923), which the C loader checks."""
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def c_context(plan: LaunchPlan) -> dict[str, object]:
    """Return what the C tables of a launch plan print."""
    capability = {name: one.capability for name, one in plan.architectures.items()}
    named = [(name, kernel, one) for kernel in plan.kernels.values() for name, one in kernel.variants.items()]
    variants = [
        {
            "name": name,
            "symbol": kernel.symbol,
            "threads": one.threads,
            "tokens": one.grid.tokens,
            "channels": one.grid.channels or 0,
            "parts": one.grid.parts,
            "cubins": [{**cubin.model_dump(), "capability": capability[arch]} for arch, cubin in one.cubins.items()],
        }
        for name, kernel, one in named
    ]
    called = {call.kernel for call in plan.calls}
    index = {name: place for place, (name, _, _) in enumerate(named)}
    return {
        "name": plan.name,
        "version": plan.qcc,
        "weights_file": WEIGHTS,
        "architectures": [{"name": name, **one.model_dump()} for name, one in plan.architectures.items()],
        "variants": variants,
        "scratch": SCRATCH,
        "weights": [{"name": _c_text(name), **one.model_dump()} for name, one in plan.weights.items()],
        "kernels": [_c_kernel(name, one) for name, one in plan.kernels.items() if name in called],
        "calls": [_c_call(call, constant, capability, index) for call, constant in _constants(plan.calls)],
    }


def _c_kernel(name: str, kernel: KernelEntry) -> dict[str, object]:
    return {
        "name": name,
        "what": re.sub(r"\*/|/\*", "", kernel.what),
        "arguments": [
            {
                "name": one.name,
                "what": " ".join(filter(None, [one.dtype, one.what])),
                "ctype": "qcc_address" if one.dtype.startswith("*") else _CTYPES[one.dtype],
                "bytes": 8 if one.dtype.startswith("*") else _BYTES[one.dtype],
                "divisible": one.divisible,
            }
            for one in kernel.arguments
        ],
    }


def _constants(calls: Sequence[CallEntry]) -> list[tuple[CallEntry, str]]:
    """Give every call the end of a C name: its label in capitals, with a number where two would be one."""
    taken: dict[str, int] = {}
    found: list[tuple[CallEntry, str]] = []
    for call in calls:
        name = re.sub(r"\W+", "_", call.label, flags=re.ASCII).strip("_").upper() or "KERNEL"
        taken[name] = taken.get(name, 0) + 1
        found.append((call, name if taken[name] == 1 else f"{name}_{taken[name]}"))
    return found


def _c_call(
    call: CallEntry, constant: str, capability: Mapping[str, int], index: Mapping[str, int]
) -> dict[str, object]:
    return {
        **call.model_dump(include={"kernel", "n", "k"}),
        "label": _c_text(call.label),
        "constant": constant,
        "choices": [
            {
                "capability": capability[arch],
                "most_tokens": one.most_tokens or 0,
                "variant": index[one.variant],
                "steps": one.steps,
                "name": one.variant,
            }
            for arch, choices in call.choices.items()
            for one in choices
        ],
    }


def _c_text(text: str) -> str:
    """Return text as the inside of a C string, plain ASCII."""
    return json.dumps(text)[1:-1].replace("\\u", "\\\\u")
