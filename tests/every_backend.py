"""Take one quantized module through every backend, and hold each to the same golden vectors."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from xdsl.dialects.builtin import ModuleOp

from qcc.admission import admit
from qcc.backends.base import Backend, BackendOptions, ContractCase, Golden, Tolerance
from qcc.backends.cpu.backend import CpuBackend
from qcc.backends.cpu.build import find_compiler
from qcc.backends.triton.architectures import ARCHITECTURES
from qcc.backends.triton.backend import TritonBackend
from qcc.backends.triton.contents import packed_store
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.geometry import is_ragged
from qcc.backends.triton.golden import golden_problems
from qcc.backends.triton.launch import Codes, code_stride
from qcc.backends.triton.lower import GemmStep, RowStep
from qcc.backends.triton.program import TritonProgram
from qcc.backends.triton.steps import Step, launches_of, steps_of, weight_key
from qcc.frontend.export import import_program
from qcc.golden import golden_of
from qcc.ir.context import QccContext
from qcc.ir.kernel import origin_of
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.passes.pipeline import pipeline, run_passes, targeting
from qcc.recipes.load import load_recipe
from tests.triton_cases import run_gemm, run_rows, sums_of
from tests.triton_runner import UncompiledRunner

GPU = ARCHITECTURES["sm_90"]
C_PLANS = ("group_after", "lookup")
"""What C has for quantized inputs; weights under float inputs have `dequant_first`."""


@dataclass(frozen=True)
class Quantized:
    """A module that no target has touched, its weights, and golden vectors of the interpreter."""

    module: ModuleOp
    store: WeightStore
    golden: Golden

    def within(self, tolerance: Tolerance) -> Quantized:
        """Ask for outputs that are closer than what quantization itself changed."""
        models = tuple(replace(case, tolerance=tolerance) for case in self.golden.models)
        return replace(self, golden=replace(self.golden, models=models))

    def shaped_for(self, backend: Backend, plan: str = "") -> ModuleOp:
        """Return the module in the kernels of a target; the weights are the same."""
        target, module = backend.capabilities, self.module.clone()
        admit(module, target)
        costs = tuple(map(str, target.costs))
        force = (plan,) if plan else ()
        passes = targeting(
            target.epilogues, target.prologues, target.accumulator_bits, costs, force, 1, target.byte_cost
        )
        run_passes(passes, QccContext(self.store), module)
        return module


def quantized(
    model: nn.Module, example: Mapping[str, Tensor], recipe: Mapping[str, Any], *, static: bool = False
) -> Quantized:
    """Quantize a model once, and run the interpreter on an example, and unless `static` on other sizes of its rows."""
    grows = {name: not static and value.shape[0] > 1 for name, value in example.items()}
    sizes = {name: {0: Dim.DYNAMIC} if grown else None for name, grown in grows.items()}
    with torch.no_grad():
        program = torch.export.export(model.eval(), (), dict(example), dynamic_shapes=sizes)
    imported = import_program(program)
    module, store = imported.module, imported.store
    float_module, float_store = module.clone(), WeightStore({key: store[key] for key in store})
    run_passes(pipeline(load_recipe(dict(recipe))), QccContext(store), module)
    return Quantized(module, store, golden_of(module, store, float_module, float_store, example))


def c_differences(one: Quantized, plan: str, folder: Path) -> str:
    """Emit C in a plan, build it, and run its golden vectors; returns what its program complains of, else nothing.

    Contractions are compared bit for bit (codes, scales, integer sums), outputs within the tolerance of the golden
    vectors.
    """
    backend = CpuBackend()
    module = one.shaped_for(backend, plan)
    emitted = backend.emit(backend.legalize(module, one.store), one.store, one.golden, BackendOptions(), folder)
    done = _run_golden(emitted.folder)
    equal = done.stdout.count("equal bit for bit")
    if done.returncode == 0 and equal != len(one.golden.contracts):
        return f"{equal} of {len(one.golden.contracts)} contractions were compared"
    return done.stdout + done.stderr if done.returncode else ""


def _run_golden(folder: Path) -> subprocess.CompletedProcess[str]:
    """Link the emitted `main.c` with the library that is there, and run the golden vectors."""
    words = [*find_compiler(), "-std=c11", "-O1", f"-I{folder}", str(folder / "main.c"), str(folder / "libmodel.so")]
    program = str(folder / "golden_main")
    made = [*words, f"-Wl,-rpath,{folder}", "-lm", "-o", program]
    subprocess.run(made, check=True, capture_output=True)
    command = [
        str(folder / "golden_main"),
        "--weights",
        str(folder / "weights.bin"),
        "--golden",
        str(folder / "golden"),
    ]
    return subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=False, timeout=120)


def triton_differences(one: Quantized, device: EmulatedDevice) -> list[str]:
    """Interpret the Triton kernels of a module; returns what differs from the golden vectors.

    As in C: codes, scales and integer sums of contractions bit for bit, outputs within the tolerance.
    """
    module = one.shaped_for(TritonBackend())
    program = program_of(module)
    steps = steps_of(program)
    found = [text for case in one.golden.contracts for text in _integers(one, steps, case, device)]
    store = packed_store(program, steps, one.store)
    runner = UncompiledRunner(program, steps, device, GPU)
    loaded = TritonProgram(program, store, runner)
    found += [f"{one.where}: {one.what}" for one in golden_problems(loaded, one.golden.models)]
    launches = sum(len(case.calls) for case in one.golden.models) * len(list(launches_of(steps)))
    return [*found, *([] if runner.launches == launches else [f"{runner.launches} launches, not {launches}"])]


def _integers(one: Quantized, steps: tuple[Step, ...], case: ContractCase, device: EmulatedDevice) -> list[str]:
    """Compare the codes that a row-wise kernel makes, and the sums that a contraction makes of them."""
    parts = [part for _, part in launches_of(steps)]
    gemm = [part for part in parts if isinstance(part, GemmStep) and part.spec.integer][case.index]
    source = origin_of(gemm.source)
    rows = next(part for part in parts if isinstance(part, RowStep) and part.codes and origin_of(part.codes) is source)
    quantize = replace(
        rows.spec, norm="none", norm_weight=False, norm_bias=False, hadamard=None, values=False, input="f32"
    )
    _, codes = run_rows(device, quantize, case.rows)
    assert codes is not None
    found: list[str] = []
    if not torch.equal(codes.codes[:, : codes.columns], case.codes):
        found.append(f"contraction {case.index}: other codes")
    groups = case.scales.shape[1]
    scales = codes.scales[:, None] if codes.scales.dim() == 1 else codes.scales[:, :groups]
    if not torch.equal(scales, case.scales):
        found.append(f"contraction {case.index}: other scales")
    sums = _sums(gemm, one.store.quantized(weight_key(gemm)), case, device)
    if not torch.equal(sums, case.sums.float()):
        found.append(f"contraction {case.index}: other integer sums")
    return found


def _sums(gemm: GemmStep, weight: QuantizedTensor, case: ContractCase, device: EmulatedDevice) -> Tensor:
    """Run a contraction that tells its integer sums: all scales are 1, and each row of input holds one group only.

    The sums are far below 2^24, so that float32 holds them. Half codes are counted as the golden vectors count them.
    """
    count, columns = case.codes.shape
    groups = case.sums.shape[2]
    wide = -(-columns // groups) if gemm.spec.group is None else gemm.spec.group
    alone = torch.zeros(groups, count, columns, dtype=torch.int8)
    for group in range(groups):
        alone[group, :, group * wide : (group + 1) * wide] = case.codes[:, group * wide : (group + 1) * wide]
    spec = replace(gemm.spec, bias=None, steps=(), output="f32", input_scale="token", input_group=None)
    spec = replace(spec, ragged=is_ragged(spec, weight.shape[0], columns))
    given = torch.zeros(groups * count, code_stride(columns), dtype=torch.int8)
    given[:, :columns] = alone.reshape(-1, columns)
    codes = Codes(given, torch.ones(len(given)), sums_of(given, spec), columns)
    found = run_gemm(device, spec, codes, _unscaled(weight))
    factor = 2.0 if spec.zero == "half" else 1.0
    return factor * found.reshape(groups, count, -1).permute(1, 2, 0)


def _unscaled(weight: QuantizedTensor) -> QuantizedTensor:
    """Return a weight whose scales are all 1."""
    ones = tuple(torch.ones_like(scale) for scale in weight.scales)
    return QuantizedTensor(weight.qtype, weight.shape, weight.codes, Parameters.of(ones, weight.zero))
