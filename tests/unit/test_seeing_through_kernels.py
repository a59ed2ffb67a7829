"""Coverage, golden vectors and inspection say the same of a module with kernels as of one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.admission import admit
from qcc.backends.cpu.backend import CpuBackend
from qcc.coverage import coverage_of
from qcc.errors import UnsupportedOp
from qcc.frontend.export import import_program
from qcc.golden import golden_of
from qcc.inspection import inspect_path
from qcc.ir.context import QccContext
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import pipeline, run_passes, targeting
from qcc.recipes.load import load_recipe

CPU = CpuBackend().capabilities


class Block(torch.nn.Module):
    """A gated layer behind a norm, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(32)
        self.gate, self.up = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48, bias=False)
        self.down = torch.nn.Linear(48, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.gate(rows)) * self.up(rows))


class Prepared:
    """One model, quantized, with and without kernels, and its float original."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(3, 32)
        imported = import_program(torch.export.export(Block().eval(), (self.x,)))
        self.module, self.store = imported.module, imported.store
        self.original, self.floats = self.module.clone(), WeightStore({key: self.store[key] for key in self.store})
        run_passes(pipeline(load_recipe("w8a8")), QccContext(self.store), self.module)
        self.fused = self.module.clone()
        costs = tuple(map(str, CPU.costs))
        run_passes(targeting(CPU.epilogues, CPU.prologues, 32, costs), QccContext(self.store), self.fused)

    def golden(self, module: ModuleOp):
        return golden_of(module, self.store, self.original, self.floats, {"x": self.x})


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return Prepared()


def test_coverage(prepared: Prepared) -> None:
    originals = {key: prepared.floats.tensor(key) for key in prepared.floats}
    plain, fused = (coverage_of(one, prepared.store, originals, 0) for one in (prepared.module, prepared.fused))
    assert [layer.name for layer in fused.layers] == ["gate", "up", "down"]
    assert all(layer.why.startswith("group_after: ") for layer in fused.layers)
    assert all(layer.weight_sqnr_db is not None for layer in fused.layers)
    assert [layer.model_copy(update={"why": ""}) for layer in fused.layers] == list(plain.layers)


def test_golden_vectors(prepared: Prepared) -> None:
    plain, fused = prepared.golden(prepared.module), prepared.golden(prepared.fused)
    assert [case.index for case in fused.contracts] == [0, 1, 2]
    for one, other in zip(plain.contracts, fused.contracts, strict=True):
        for role in ("rows", "codes", "scales", "sums"):
            assert torch.equal(getattr(one, role), getattr(other, role))
    ((before,), (after,)) = (golden.models[0].calls for golden in (plain, fused))
    assert all(torch.equal(after.outputs[name], value) for name, value in before.outputs.items())


def test_admission(prepared: Prepared) -> None:
    admit(prepared.fused, CPU)
    with pytest.raises(UnsupportedOp) as raised:
        admit(prepared.fused, replace(CPU, weight_bits=range(1, 5)))
    assert len(raised.value.problems) == 3


def test_inspection_counts_what_is_inside(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "program.mlir"
    path.write_text(str(prepared.fused))
    counts = inspect_path(path).data["operations"]
    assert counts["qcc.kernel"] == 4
    assert counts["qcc.contract"] == 3
    assert "qcc.yield" not in counts
