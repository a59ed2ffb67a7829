"""Take one integer-only module through the interpreter, C and the simulation of its HLS project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr

from qcc.admission import admit
from qcc.backends.base import BackendOptions, Capabilities, Golden, ModelCall, ModelCase, Tensors
from qcc.backends.cpu.backend import CpuBackend
from qcc.backends.hls.backend import HlsBackend
from qcc.golden import EXACT
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.integer import IntegerContractOp, IntegerMatmulOp
from qcc.ir.kernel import flat_operations
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import run_passes, targeting
from qcc.recipes.load import RecipeSource
from tests.integer_nets import nets


@dataclass(frozen=True)
class IntegerModule:
    """A module in integers that no target has touched, its weights, inputs, and the interpreter's outputs of each."""

    module: ModuleOp
    store: WeightStore
    frames: tuple[Tensors, ...]
    wanted: tuple[Tensors, ...]

    @property
    def golden(self) -> Golden:
        """The outputs as golden vectors that must hold bit for bit."""
        calls = tuple(ModelCall(inputs, outputs) for inputs, outputs in zip(self.frames, self.wanted, strict=True))
        return Golden((ModelCase("frames", calls, EXACT),))

    def shaped_for(self, target: Capabilities) -> ModuleOp:
        """Return the module in the kernels of a target."""
        module = self.module.clone()
        admit(module, target)
        run_passes(
            targeting(target.epilogues, target.prologues, target.accumulator_bits, ()), QccContext(self.store), module
        )
        return module


def integer_module(
    model: nn.Module, example: Mapping[str, Tensor], recipe: RecipeSource, *, sums: bool = False
) -> IntegerModule:
    """Lower a model to integers; with `sums`, the sums of its products are outputs as well.

    The frames are the example, larger and smaller values, one of zeros, and one with numbers that no code stands for.
    """
    (name, x), *rest = example.items()
    assert not rest
    found = nets(model, [(x,), (0.5 * x.flip(0),)], recipe)
    module, store = found.integer_module, found.integer_store
    if sums:
        module = with_sums(module)
    odd = torch.where(x > x.mean(), torch.nan, x)
    odd.view(-1)[0] = torch.inf
    frames = [{name: one} for one in (x, -3 * x, 0.01 * x.flip(-1), torch.zeros_like(x), odd)]
    oracle = Interpreter(module, store)
    return IntegerModule(module, store, tuple(frames), tuple(oracle.run(one) for one in frames))


def with_sums(module: ModuleOp) -> ModuleOp:
    """Return a copy that gives out the sums of every product as well."""
    copy = module.clone()
    program = program_of(copy)
    products = [op for op in flat_operations(program.body.block) if isinstance(op, IntegerContractOp | IntegerMatmulOp)]
    names = [*program.output_names, *(f"sums{index}" for index in range(len(products)))]
    program.terminator.operands = [*program.terminator.values, *(op.result for op in products)]
    program.properties["outputs"] = ArrayAttr([StringAttr(name) for name in names])
    copy.verify()
    return copy


def different(found: Sequence[Tensors], one: IntegerModule) -> Iterator[str]:
    """Name the outputs that are not the interpreter's, bit for bit."""
    for number, (mine, wanted) in enumerate(zip(found, one.wanted, strict=True)):
        for name, value in wanted.items():
            bits = [part.view(torch.int32) if part.dtype == torch.float32 else part for part in (mine[name], value)]
            if mine[name].dtype != value.dtype or not torch.equal(*bits):
                yield f"frame {number}: {name} of {list(value.shape)}"


def c_differences(one: IntegerModule, folder: Path) -> list[str]:
    """Emit C, build it, and run the frames."""
    backend = CpuBackend()
    module = one.shaped_for(backend.capabilities.computing("integer"))
    backend.emit(backend.legalize(module, one.store), one.store, one.golden, BackendOptions(), folder)
    with closing(backend.load(folder, threads=1)) as program:
        return list(different([program.run(inputs) for inputs in one.frames], one))


def hls_project(one: IntegerModule, folder: Path) -> Path:
    """Emit the HLS project, with the frames and the interpreter's outputs in its testbench."""
    backend = HlsBackend()
    module = one.shaped_for(backend.capabilities)
    settings = {"part": "xcu280"}
    backend.emit(backend.legalize(module, one.store), one.store, one.golden, BackendOptions(settings=settings), folder)
    return folder / "hls"
