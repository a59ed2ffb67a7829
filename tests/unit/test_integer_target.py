"""The driver quantizes values, calibrates and lowers for a target without floats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from xdsl.dialects.builtin import ModuleOp

from qcc.backends import targets
from qcc.backends.base import BackendOptions, Capabilities, Emitted, Golden
from qcc.driver import Options, compile_program, plan_source
from qcc.errors import Problem, QccError, UnsupportedOp
from qcc.interpreter import Interpreter
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.numerics.qtype_parts import IntDecode, TableDecode
from tests.importing import export
from tests.integer_ops import expect_integers

EMITTED: list[tuple[ModuleOp, WeightStore, Golden | None]] = []


class Interpreted:
    """A loaded program that the interpreter runs."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.run = interpreter.run
        self.reset = interpreter.reset

    def close(self) -> None:
        """Hold nothing."""


class IntegerTarget:
    """A backend that keeps what it is given."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="integers",
            scalars=frozenset({"f32", "i64", "i32", "i8", "u8", "i1"}),
            plans=frozenset(),
            weight_bits=range(1, 9),
            activation_bits=range(1, 17),
            decodes=(IntDecode, TableDecode),
            epilogues=("integer_contract: requant|lookup *",),
            integer_only=True,
        )

    def legalize(self, module: ModuleOp, store: WeightStore) -> ModuleOp:
        return module.clone()

    def fallbacks(self, module: ModuleOp) -> tuple[Problem, ...]:
        return ()

    def emit(
        self, module: ModuleOp, store: WeightStore, golden: Golden | None, options: BackendOptions, out: Path
    ) -> Emitted:
        EMITTED.append((module, store, golden))
        return Emitted(out, ())

    def load(self, folder: Path, *, threads: int | None = None) -> Interpreted:
        return Interpreted(Interpreter(*EMITTED[-1][:2]))


@pytest.fixture(autouse=True)
def _target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "integers", IntegerTarget)  # type: ignore[arg-type]
    EMITTED.clear()


def net() -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Linear(9, 5), nn.LayerNorm(5), nn.Linear(5, 3))


@pytest.mark.parametrize("recipe", ["fixed8", "ternary-fixed"])
def test_a_program_arrives_in_integers_with_exact_golden_vectors(recipe: str) -> None:
    samples = [(torch.randn(2, 6),) for _ in range(4)]
    program = export(net(), *samples[0])
    compiled = compile_program(program, Options(recipe=recipe, target="integers"), samples)
    ((module, store, golden),) = EMITTED
    expect_integers(module)
    assert golden is not None
    assert not golden.contracts
    for case in golden.models:
        assert case.tolerance.relative == case.tolerance.absolute == 0.0
        for call in case.calls:
            found = Interpreter(module, store).run(call.inputs)
            assert all(torch.equal(found[name], wanted) for name, wanted in call.outputs.items())
    with torch.no_grad():
        assert torch.allclose(compiled(*samples[0]), net().eval()(*samples[0]), atol=0.6)
    layers = compiled.manifest.coverage.layers
    assert [one.name for one in layers] == ["0", "2", "4"]
    assert {one.plan for one in layers} == {"integer"}
    assert {one.activations for one in layers} == {"i8"}
    assert all(one.weight_sqnr_db is not None and one.weight_sqnr_db > 5 for one in layers)
    assert [op.name for op in program_of(module).body.block.ops].count("qcc.kernel") == 3


def test_samples_and_integer_forms_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(QccError, match="calibration"):
        compile_program(export(net(), torch.randn(2, 6)), Options(recipe="fixed8", target="integers"))

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, -1)

    path = tmp_path / "odd.pt2"
    torch.export.save(export(Odd(), torch.randn(2, 6)), path)
    with pytest.raises(UnsupportedOp, match="cumulative_sum has no integer form"):
        plan_source(str(path), Options(recipe="fixed8", target="integers"))
    assert not EMITTED
