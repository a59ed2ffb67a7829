"""Write docs/one-model.md: a small model as IR, as C in both plans, as a Triton kernel, without floats, and checked."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from one_model_text import C_PLAN, C_TABLES, CHECKED, HEAD, INTEGERS, IR_FUSED, IR_QUANTIZED, NUMBERS, TRITON
from pages import write_or_check
from torch import Tensor, nn
from torch.nn import functional

from qcc.backends.base import BackendOptions, ContractCase
from qcc.backends.cpu.backend import CpuBackend
from qcc.backends.cpu.emitter import template_folder
from qcc.backends.hls.backend import HlsBackend
from qcc.backends.triton.backend import TritonBackend
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.lower import GemmStep
from qcc.backends.triton.render import kernel_name, kernel_source
from qcc.backends.triton.steps import launches_of, steps_of
from qcc.golden import FLOAT_TOLERANCE
from qcc.ir.base import LOCATION
from qcc.ir.integer import IntegerContractOp, LookupOp
from qcc.ir.kernel import KernelOp
from qcc.ir.program import program_of
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.recipes.load import load_recipe

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # what takes a module through every backend lives with the tests

from tests import integer_backends  # noqa: E402
from tests.every_backend import C_PLANS, Quantized, c_differences, quantized, triton_differences  # noqa: E402
from tests.hls_batches import build_batch, run_batch  # noqa: E402
from tests.integer_backends import IntegerModule, hls_project, integer_module  # noqa: E402

TARGET = HERE / "one-model.md"
ALIASES = {
    '!qcc.tensor<[4, 64], "int8 | (1,32) f32 | dynamic">': "!codes",
    '!qcc.tensor<[32, 64], "uint4 | (1,32) f16 | pre u4">': "!weight",
    "!qcc.tensor<[4, 64], f32>": "!input",
    "!qcc.tensor<[4, 32], f32>": "!output",
    "!qcc.tensor<[32], f32>": "!bias",
}
"""Types of the layer `up` and the short names that they go by on the page."""


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 32)
        self.down = nn.Linear(32, 10)
        for step, parameter in enumerate(self.parameters()):
            parameter.data = fractions(37 + 4 * step, 61, *parameter.shape) / 64

    def forward(self, x: Tensor) -> Tensor:
        """Give 10 numbers for each row of 64."""
        return self.down(functional.gelu(self.up(x)))


def fractions(step: int, modulus: int, *shape: int) -> Tensor:
    """Make whole numbers around zero that look like drawn ones and are the same on every machine."""
    count = int(torch.tensor(shape).prod())
    return ((torch.arange(count) * step) % modulus - modulus // 2).float().reshape(shape)


@dataclass(frozen=True)
class Page:
    """The model in every form. A section is a method that returns Markdown; `document` lists them in order."""

    one: Quantized
    integer: IntegerModule
    summed: IntegerModule
    """The same module with the sums of its contractions as outputs."""

    @cached_property
    def case(self) -> ContractCase:
        """The golden vectors of the layer `up`."""
        return self.one.golden.contracts[0]

    def numbers(self) -> str:
        """One output of the layer `up`, by hand."""
        weight = self.one.store.quantized(next(key for key in self.one.store if key.startswith("up.weight:")))
        zeros, scales, total = weight.zero, weight.scales[0], torch.zeros((), dtype=torch.float32)
        assert zeros is not None
        rows: list[str] = []
        for group in range(2):
            part = slice(32 * group, 32 * group + 5)
            x, w = (", ".join(map(str, codes[0, part].tolist())) for codes in (self.case.codes, weight.codes))
            s, sx, sw = int(self.case.sums[0, 0, group]), self.case.scales[0, group], scales[0, group].float()
            mine, theirs = (codes[0, 32 * group : 32 * group + 32].long() for codes in (self.case.codes, weight.codes))
            assert s == int((mine * (theirs - zeros[0, group].long())).sum())
            product = (sx * sw) * torch.tensor(float(s))
            total = total + product
            cells = (group, f"{x}, …", f"{w}, …", int(zeros[0, group]), s, f"{sx:.6g}", f"{sw:.6g}", f"{product:.6g}")
            rows.append(f"| {' | '.join(map(str, cells))} |")
        bias = self.one.store.tensor("up.bias")[0]
        return NUMBERS.format(rows="\n".join(rows), total=f"{total:.6g}", bias=f"{bias:.6g}", sum=f"{total + bias:.6g}")

    def ir(self) -> str:
        """The module after quantization, and the layer `up` as a kernel."""
        names = "\n".join(f"{short} = {kind}" for kind, short in ALIASES.items())
        steps = [op for op in program_of(self.one.module).body.block.ops if isinstance(op, QuantizeOp | ContractOp)][:2]
        fused = [op for op in program_of(self.one.shaped_for(CpuBackend())).body.block.ops if isinstance(op, KernelOp)]
        gelu = next(use.operation for use in steps[-1].results[0].uses)
        plain = "\n".join(_readable(str(op)) for op in (*steps, gelu))
        return IR_QUANTIZED.format(names=names, text=plain) + IR_FUSED.format(text=_readable(str(fused[0])))

    def c(self) -> str:
        """The calls of the layer `up` in both plans, and the inner loop of each."""
        parts = [C_PLAN.format(calls=self._calls("group_after"), loop=_function("dot_portable", "qcc_dot_block"))]
        lookup = self._calls("lookup")
        return "".join([*parts, C_TABLES.format(calls=lookup, loop=_function("lookup_portable", "qcc_lookup_group"))])

    def _calls(self, plan: str) -> str:
        backend, store = CpuBackend(), self.one.store
        with tempfile.TemporaryDirectory() as folder:
            module = backend.legalize(self.one.shaped_for(backend, plan), store)
            backend.emit(module, store, None, BackendOptions(build=False), Path(folder))
            text = (Path(folder) / "c" / "model.c").read_text("utf-8")
        body = text.partition("static int part_0")[2].partition("return c->session")[0]
        calls = [f"    /*{one}".rstrip() for one in body.split("    /*")[1:]]
        last = next(index for index, one in enumerate(calls) if "qcc.unary" in one)  # GELU ends the layer
        shown = calls[: last + 1] if plan == "group_after" else calls[1 : last + 1]
        return "\n".join(shown)

    def triton(self) -> str:
        """The main loop and the end of the kernel of the layer `up`."""
        steps = steps_of(program_of(self.one.shaped_for(TritonBackend())))
        spec = next(part.spec for label, part in launches_of(steps) if label == "up" and isinstance(part, GemmStep))
        lines = kernel_source(spec).splitlines()
        loop = _between(lines, "    acc = tl.zeros", "        w += PARTS")
        end = _between(lines, "    y = acc", None)
        return TRITON.format(name=kernel_name(spec), loop="\n".join(loop), end="\n".join(end).rstrip())

    def integers(self) -> str:
        """The layer `up` in integers, as IR, in C and as HLS C++, held to the interpreter."""
        operations = list(program_of(self.integer.module).body.block.ops)
        first = next(index for index, op in enumerate(operations) if isinstance(op, IntegerContractOp))
        end = next(index for index, op in enumerate(operations) if isinstance(op, LookupOp))
        lines = [str(op) for op in operations[first : end + 1]]
        backend, store = HlsBackend(), self.integer.store
        with tempfile.TemporaryDirectory() as folder:
            module = backend.legalize(self.integer.shaped_for(backend.capabilities), store)
            backend.emit(module, store, None, BackendOptions(build=False), Path(folder))
            header = (Path(folder) / "hls" / "src" / "layers" / "do_up_sums.h").read_text("utf-8")
            found = integer_backends.c_differences(self.summed, Path(folder) / "cpu")
            projects = [hls_project(self.integer, Path(folder) / "simulated")]
            found += run_batch(build_batch(projects, "model", Path(folder) / "batch"), projects)
        if found:
            raise SystemExit("\n".join(["the backends differ without floats:", *found]))
        sums = sum(value.numel() for name, value in self.summed.wanted[0].items() if name.startswith("sums"))
        frames, loop = len(self.integer.frames), _function("fixed_isa", "qcc_requant_span")
        return INTEGERS.format(ir="\n".join(lines), c=loop, hls=_shortened(header), frames=frames, sums=sums * frames)

    def checked(self) -> str:
        """Run every backend and say what was compared."""
        with tempfile.TemporaryDirectory() as folder, EmulatedDevice() as device:
            found = {f"C, `{plan}`": c_differences(self.one, plan, Path(folder) / plan) for plan in C_PLANS}
            found["Triton, interpreted"] = "; ".join(triton_differences(self.one, device))
        if wrong := [f"{name}: {text}" for name, text in found.items() if text]:
            raise SystemExit("\n".join(["the backends differ:", *wrong]))
        cases, columns = self.one.golden.contracts, " | ".join(["equal"] * 3)
        rows = "\n".join(f"| {name} | {columns} | within |" for name in found)
        counts = [sum(int(getattr(one, role).numel()) for one in cases) for role in ("codes", "scales", "sums")]
        tolerance = self.one.golden.models[0].tolerance.relative
        return CHECKED.format(
            rows=rows, codes=counts[0], scales=counts[1], sums=counts[2], tolerance=f"{tolerance:.1g}"
        )

    def document(self) -> str:
        """Return the page."""
        return "\n".join([HEAD, self.numbers(), self.ir(), self.c(), self.triton(), self.integers(), self.checked()])


def _readable(text: str) -> str:
    """Shorten the types."""
    for kind, short in ALIASES.items():
        text = text.replace(kind, short)
    return text


def _shortened(header: str) -> str:
    """Cut the lists of a header to their first numbers, and leave out rows of them after the second."""
    lines = [re.sub(r"(\{+(?:[^,{}]+, ){4})[^{}]{40,}(\}+)", r"\1...\2", line) for line in header.strip().splitlines()]
    rows = [index for index, line in enumerate(lines) if line.startswith("    {{")]
    kept = [line for index, line in enumerate(lines) if index not in rows[1:]]
    return re.sub(r"\n\n\n+", "\n\n", "\n".join(kept))


def _function(family: str, name: str) -> str:
    """Return a function of the C kernels."""
    text = (template_folder() / f"qcc_k_{family}.h").read_text("utf-8")
    found = re.search(rf"^(?:/\*[^\n]*\*/\n)?[^\n]*QCC_FN\({name}\).*?^}}$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[0]


def _between(lines: list[str], first: str, last: str | None) -> list[str]:
    start = next(index for index, line in enumerate(lines) if line.startswith(first))
    stop = (
        len(lines) if last is None else next(i for i, line in enumerate(lines) if i > start and line.startswith(last))
    )
    return lines[start:stop]


def main() -> int:
    """Write or check the page."""
    recipe, example = load_recipe("w4a8").model_dump(mode="json"), {"x": fractions(29, 101, 4, 64) / 32}
    one = quantized(Mlp(), example, recipe, static=True).within(FLOAT_TOLERANCE)
    plain, summed = (integer_module(Mlp(), example, "fixed8", sums=sums) for sums in (False, True))
    for module in (one.module, plain.module):
        for op in module.walk():
            op.attributes.pop(LOCATION, None)  # a line of this script tells nothing
    return write_or_check(TARGET, Page(one, plain, summed).document())


if __name__ == "__main__":
    sys.exit(main())
