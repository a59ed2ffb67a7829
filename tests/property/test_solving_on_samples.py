"""solve-weights with solvers that read samples: layer by layer, on what the solved layers before give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp, StringAttr

from qcc.calibrate.run import SampleRun
from qcc.errors import QccError, RecipeError, ShapeError
from qcc.interpreter import Interpreter
from qcc.ir.base import SOLVER
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.kept import KeptWeights
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.solve_weights import SolveWeights
from qcc.passes.solvers import table
from qcc.passes.solvers.gptq import gptq
from tests.property.test_calibrating import COLUMNS, samples, two_in_a_row

FORMAT = "uint3 | (1,4) f16 | pre u3"


def planned(seed: int, weights: dict[str, Any], **rest: Any) -> tuple[ModuleOp, WeightStore]:
    module, store = two_in_a_row(seed)
    AssignFormats(json.dumps({"weights": weights, **rest})).apply(QccContext(store), module)
    module.verify()
    return module, store


def solved(seed: int, data: list[dict[str, torch.Tensor]], solver: str) -> tuple[ModuleOp, WeightStore]:
    module, store = planned(seed, {"format": FORMAT, "solver": solver})
    SolveWeights().apply(QccContext(store, SampleRun(data)), module)
    module.verify()
    return module, store


def mixed(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Samples whose channels depend on one another."""
    mixing = torch.randn(COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(seed)) ** 3
    return [{"x": one["x"] @ mixing} for one in samples(count, 30, seed)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_each_layer_is_solved_on_what_the_solved_ones_before_give(seed: int) -> None:
    data, (_, plain) = mixed(3, seed), two_in_a_row(seed)
    _, store = solved(seed, data, "gptq")
    x, qtype = torch.cat([one["x"] for one in data]), parse_qtype(FORMAT)
    for name in ("first", "second"):
        weight = plain.tensor(f"{name}.weight")
        found = store.quantized(f"{name}.weight:{qtype}")
        wanted = gptq(weight, qtype, x.double().T @ x.double())
        agree = (found.codes == wanted.codes).float().mean()
        assert float(agree) >= 0.95  # Hessians are added in another order, which may tip a code
        x = torch.relu(x @ dequantize(found).T)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_weight_that_two_layers_read_is_solved_on_the_sum_of_their_inputs(seed: int) -> None:
    data, (module, store) = mixed(3, seed), two_in_a_row(seed)
    for op in module.walk():
        if isinstance(op, WeightOp):
            op.properties["key"] = StringAttr("first.weight")
    AssignFormats(json.dumps({"weights": {"format": FORMAT, "solver": "gptq"}})).apply(QccContext(store), module)
    weight, qtype = store.tensor("first.weight"), parse_qtype(FORMAT)
    SolveWeights().apply(QccContext(store, SampleRun(data)), module)
    x = torch.cat([one["x"] for one in data]).double()
    second = torch.relu(x @ weight.double().T)
    wanted = gptq(weight, qtype, x.T @ x + second.T @ second)
    found = store.quantized(f"first.weight:{qtype}")
    assert list(store) == [f"first.weight:{qtype}"]
    assert float((found.codes == wanted.codes).float().mean()) >= 0.95
    alone = gptq(weight, qtype, x.T @ x)
    assert not torch.equal(alone.codes, wanted.codes)  # the second layer's inputs count


@pytest.mark.parametrize("solver", ["gptq", "descent", "decoupleq"])
def test_the_outputs_of_the_program_lose_less_than_by_rounding(solver: str) -> None:
    gains = []
    for seed in range(8):
        data, (float_module, float_store) = mixed(4, seed), two_in_a_row(seed)
        x = torch.cat([one["x"] for one in data])
        exact = Interpreter(float_module, float_store).run({"x": x})["y"]
        found = [Interpreter(*solved(seed, data, one)).run({"x": x})["y"] for one in ("rtn", solver)]
        errors = [float((one - exact).norm()) for one in found]
        gains.append(errors[1] / errors[0])
    assert sum(gains) / len(gains) < 0.7
    assert max(gains) < 1.0


def test_solving_changes_the_values_of_weights_and_nothing_else() -> None:
    """Before and after: the program with solved weights is the one whose weights are decoded by hand."""
    data, (float_module, float_store) = mixed(2, 0), two_in_a_row(0)
    module, store = solved(0, data, "gptq")
    for name in ("first", "second"):
        float_store[f"{name}.weight"] = dequantize(store.quantized(f"{name}.weight:{parse_qtype(FORMAT)}"))
    x = data[0]["x"]
    wanted = Interpreter(float_module, float_store, "f64").run({"x": x})["y"]
    found = Interpreter(module, store, "f64").run({"x": x})["y"]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    assert not any(isinstance(op, QuantizeOp) for op in module.walk())
    assert sorted(op.key.data for op in module.walk() if isinstance(op, WeightOp)) == sorted(store)


def test_a_layer_may_have_another_solver() -> None:
    module, store = planned(
        0,
        {"format": FORMAT, "solver": "gptq"},
        overrides=[{"match": "first", "weights": {"format": "int8", "solver": "mse"}}],
        activations={"format": "int8"},
    )
    SolveWeights().apply(QccContext(store, SampleRun(mixed(2, 0))), module)
    assert sorted(store) == ["first.weight:int8 | (1,-1) f16", f"second.weight:{parse_qtype(FORMAT)}"]


def test_without_samples_it_is_refused_with_the_way_out() -> None:
    module, store = planned(0, {"format": FORMAT, "solver": "gptq"})
    with pytest.raises(QccError) as caught:
        SolveWeights().apply(QccContext(store), module)
    assert "needs calibration" in str(caught.value)
    assert "solver: mse" in str(caught.value)


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "not finite"), (None, "no sample has inputs")])
def test_samples_that_give_no_hessian_name_the_layer(value: float | None, what: str) -> None:
    module, store = planned(0, {"format": FORMAT, "solver": "gptq"})
    x = torch.zeros(0, COLUMNS) if value is None else torch.full((2, COLUMNS), value)
    with pytest.raises(ShapeError, match=what) as caught:
        SolveWeights().apply(QccContext(store, SampleRun([{"x": x}])), module)
    assert caught.value.problems[0].where.startswith("first.weight")


def test_samples_that_do_not_fit_are_named() -> None:
    module, store = planned(0, {"format": FORMAT, "solver": "gptq"})
    data = [*samples(1, 2, 0), {"x": torch.zeros(2, 5)}]
    with pytest.raises(ShapeError, match="sample 2"):
        SolveWeights().apply(QccContext(store, SampleRun(data)), module)


def test_unknown_solvers_in_a_text_are_refused() -> None:
    module, store = planned(0, {"format": FORMAT})
    for op in module.walk():
        if isinstance(op, QuantizeOp):
            op.attributes[SOLVER] = StringAttr("magic")
    with pytest.raises(QccError, match="the solver 'magic', which is unknown") as caught:
        SolveWeights().apply(QccContext(store), module)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({"format": "int4", "solver": "adaround"}, "not available"),
        ({"format": "olive4", "solver": "gptq"}, "in pairs"),
        ({"format": "olive4", "solver": "descent"}, "in pairs"),
        ({"format": "uint3", "group": 5, "solver": "descent"}, "does not divide 12 columns"),
        ({"format": "nvfp4", "solver": "decoupleq"}, "not linear"),
        ({"format": "int4", "group": 5, "solver": "gptq"}, "does not divide 12 columns"),
    ],
)
def test_what_no_solver_can_do_is_refused_before_anything_runs(weights: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        planned(0, weights)


def test_a_stopped_compilation_goes_on_with_the_layers_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, data = KeptWeights(tmp_path / "kept"), mixed(3, 0)
    plain = {key: store for key, store in _solved_with(data, None).items()}
    solve, runs = table.SOLVERS["gptq"].load(), list[str]()

    def counted(stop: int) -> Callable[[], Any]:
        def load() -> Any:
            def run(weight: torch.Tensor, qtype: Any, hessian: Any, where: str) -> QuantizedTensor:
                if len(runs) == stop:
                    raise KeyboardInterrupt
                runs.append(where)
                return solve(weight, qtype, hessian, where)

            return run

        return load

    monkeypatch.setitem(table.SOLVERS, "gptq", replace(table.SOLVERS["gptq"], load=counted(1)))
    with pytest.raises(KeyboardInterrupt):
        _solved_with(data, kept)
    monkeypatch.setitem(table.SOLVERS, "gptq", replace(table.SOLVERS["gptq"], load=counted(9)))
    found = _solved_with(data, kept)
    assert runs == ["first.weight", "second.weight"]  # the first one is not solved again
    assert {key: one.codes.tolist() for key, one in found.items()} == {k: v.codes.tolist() for k, v in plain.items()}
    # other samples are another problem
    _solved_with(mixed(3, 1), kept)
    assert len(runs) == 4
    damaged = sorted((tmp_path / "kept").iterdir())[0]
    damaged.write_bytes(b"no")
    _solved_with(data, kept)
    _solved_with(mixed(3, 1), kept)
    assert len(runs) == 5
    kept.discard()
    assert not (tmp_path / "kept").exists()


def _solved_with(data: list[dict[str, torch.Tensor]], kept: KeptWeights | None) -> dict[str, QuantizedTensor]:
    module, store = planned(0, {"format": FORMAT, "solver": "gptq"})
    said: list[str] = []
    SolveWeights().apply(QccContext(store, SampleRun(data), said.append, kept), module)
    taken = {"taking first.weight, solved before"} & set(said)
    first, second = (one for one in said if one.startswith("solving"))
    assert first == "solving first.weight, 1 of 2"
    # what was taken took no time that could say how long the rest takes
    assert second.startswith("solving second.weight, 2 of 2" + ("" if taken else ", about "))
    return {key: store.quantized(key) for key in store}
