"""The front end beyond single operators: state, ties, symbols, calling convention, bad input."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from qcc.errors import CheckpointError, ShapeError, UnsupportedOp
from qcc.frontend.export import import_program
from qcc.frontend.source import load_source
from qcc.interpreter import Interpreter
from qcc.ir.base import location_of
from qcc.ir.dims import UNBOUNDED
from qcc.ir.nn import LinearOp
from tests import zoo
from tests.importing import DYNAMIC, both, export, program_of, run, run_with

# weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    program = export(Tied(), torch.tensor([[1, 2]]))
    torch.export.save(program, tmp_path / "tied.pt2")
    for one in (*both(program), load_source(tmp_path / "tied.pt2")):
        imported = import_program(one)
        assert len(imported.store) == 1


def test_equal_but_separate_weights_stay_two() -> None:
    model = Tied()
    model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())
    assert len(import_program(export(model, torch.tensor([[1, 2]]))).store) == 2


def test_a_tied_buffer_overwritten_under_one_name_changes_under_both() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.zeros(3))
            self.b = nn.Module()
            self.b.register_buffer("c", self.a)  # type: ignore[arg-type]

        def forward(self, x: torch.Tensor) -> Any:
            self.a.add_(x)  # type: ignore[operator]
            return self.b.c * 2  # type: ignore[operator]

    imported = import_program(export(Model(), torch.ones(3)))
    runner = Interpreter(imported.module, imported.store)
    assert run_with(runner, imported, [torch.ones(3)])[0].tolist() == [2.0] * 3
    assert run_with(runner, imported, [torch.ones(3)])[0].tolist() == [4.0] * 3


def test_all_weights_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight[1, 2] = torch.nan  # type: ignore[index]
        model[2].bias[0] = -torch.inf  # type: ignore[index]
    with pytest.raises(CheckpointError) as caught:
        import_program(export(model, torch.ones(1, 3)))
    assert [problem.where for problem in caught.value.problems] == ["0.weight", "2.bias"]
    assert "NaN in 1 of 9" in str(caught.value)
    assert "infinite in 1 of 3" in str(caught.value)


def test_a_mask_buffer_may_be_infinite() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + self.mask).softmax(-1)  # type: ignore[operator]

    x = torch.zeros(3, 3)
    found = run(import_program(export(Model(), x)), x)[0]
    torch.testing.assert_close(found, Model()(x))


def test_weights_that_are_not_dense_numbers_are_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("complex", torch.ones(3, dtype=torch.complex64))
            self.register_buffer("transposed", torch.arange(6.0).view(2, 3).t())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.transposed + self.complex.real.sum()  # type: ignore[operator]

    with pytest.raises(CheckpointError, match=r"complex: has elements of torch\.complex64"):
        import_program(export(Model(), torch.ones(2, 3)))


def test_a_strided_weight_is_stored_contiguously() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(6.0).view(2, 3).t())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    imported = import_program(export(Model(), torch.ones(2, 3)))
    assert imported.store.tensor("weight").is_contiguous()
    assert run(imported, torch.ones(2, 3))[0].tolist() == [[3.0, 12.0]] * 2


def test_tensors_without_elements_are_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.empty = nn.Parameter(torch.zeros(0, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.empty])

    with pytest.raises(ShapeError, match="empty: has the shape"):
        import_program(export(Model(), torch.ones(2, 3)))
    with pytest.raises(ShapeError, match="input 'input'"):
        import_program(export(nn.ReLU(), torch.ones(2, 0)))


# symbols


def test_ranges_start_at_one_unless_an_operation_needs_more() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            return x[:, -2:] * 2, y + 1

    imported = import_program(
        export(Model(), torch.ones(3, 5), torch.ones(4), shapes=({0: DYNAMIC, 1: DYNAMIC}, {0: Dim("n", max=9)}))
    )
    program = program_of(imported)
    assert list(program.symbol_ranges.values()) == [(1, UNBOUNDED), (2, UNBOUNDED), (1, 9)]


def test_derived_sizes_bind_from_the_inputs() -> None:
    half = Dim("half", min=1, max=20)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(-1, 2, 3).sum(1)

    imported = import_program(export(Model(), torch.ones(8, 3), shapes=({0: 2 * half},)))
    assert run(imported, torch.ones(2, 3))[0].tolist() == [[2.0] * 3]
    with pytest.raises(ShapeError):
        run(imported, torch.ones(3, 3))


def test_separate_symbols_stay_separate() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            return x * 2, y.sum()

    imported = import_program(export(Model(), torch.ones(3), torch.ones(3), shapes=({0: DYNAMIC}, {0: DYNAMIC})))
    found = run(imported, torch.ones(2), torch.ones(7))
    assert found[0].shape == (2,)
    assert float(found[1]) == 7.0


def test_sizes_that_depend_on_data_are_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.nonzero().sum(0)

    with pytest.raises(UnsupportedOp, match=r"aten\.nonzero\.default"):
        import_program(export(Model(), torch.ones(3)))


# unsupported operations


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: torch.Tensor) -> Any:
        y = x.sort(-1).values
        return self.inner(y), torch.linalg.det(x)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_exp(x) + x.median()


def test_all_unsupported_operations_are_listed_with_their_places() -> None:
    with pytest.raises(UnsupportedOp) as caught:
        import_program(export(Outer(), torch.randn(3, 3)))
    text = str(caught.value)
    for name in ("sort", "det", "matrix_exp", "median"):
        assert name in text
    assert all("test_frontend.py:" in problem.where for problem in caught.value.problems)
    assert any(problem.where.startswith("inner (") for problem in caught.value.problems)


def test_dead_code_is_not_the_models() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.sort(-1)
            return x + 1

    assert run(import_program(export(Model(), torch.ones(2))), torch.ones(2))[0].tolist() == [2.0, 2.0]


def test_operations_know_their_place() -> None:
    imported = import_program(export(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), torch.ones(1, 3)))
    linear = next(op for op in program_of(imported).walk() if isinstance(op, LinearOp))
    assert location_of(linear) == "1"
    bert = import_program(load_source(*zoo.bert()))
    places = [location_of(op) for op in program_of(bert).walk() if isinstance(op, LinearOp)]
    assert any(place.startswith("encoder.layer.1.attention.self.query (modeling_bert.py:") for place in places)


# calling convention


def test_inputs_and_outputs_keep_their_structure() -> None:
    class Model(nn.Module):
        def forward(self, x: dict[str, Any], flag: bool, *, scale: int, more: Any = None) -> Any:
            y = x["left"] * scale if flag else x["right"]
            return {"sum": y + x["right"], "parts": [y, None, 3], "size": y.shape[0], "same": x["left"]}

    x = {"left": torch.ones(4, 2), "right": torch.zeros(4, 2)}
    shapes = {"x": {"left": {0: DYNAMIC}, "right": {0: DYNAMIC}}, "flag": None, "scale": None, "more": None}
    program = torch.export.export(Model(), (x, True), {"scale": 3, "more": None}, dynamic_shapes=shapes)
    for one in both(program):
        imported = import_program(one)
        assert [(leaf.name, leaf.constant) for leaf in imported.inputs] == [
            ("x_left", None),
            ("x_right", None),
            (None, True),
            (None, 3),
            (None, None),
        ]
        names = [leaf.name for leaf in imported.outputs]
        assert names == ["sum", "parts_0", None, None, "size", "same"]
        assert imported.outputs[4].integer
        values = iter(run(imported, torch.ones(5, 2), torch.zeros(5, 2)))
        leaves = [leaf.constant if leaf.name is None else next(values) for leaf in imported.outputs]
        result = pytree.tree_unflatten(leaves, pytree.treespec_loads(imported.out_spec))
        assert int(result["size"]) == 5
        assert result["parts"][1:] == [None, 3]
        assert torch.equal(result["sum"], torch.full((5, 2), 3.0))
        flat, spec = pytree.tree_flatten(((x, True), {"scale": 3, "more": None}))
        assert spec == pytree.treespec_loads(imported.in_spec)
        assert len(flat) == len(imported.inputs)


def test_outputs_may_be_inputs_weights_and_repeated() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> Any:
            y = x + 1
            return x, self.weight, y, y

    for one in both(export(Model(), torch.zeros(2))):
        imported = import_program(one)
        assert [leaf.name for leaf in imported.outputs] == ["output_0", "output_1", "output_2", "output_3"]
        assert [value.tolist() for value in run(imported, torch.zeros(2))] == [[0.0] * 2, *[[1.0] * 2] * 3]


# sources


def test_sources_give_programs(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    x = torch.ones(4, 3)
    program = load_source(model, (x,), dynamic_shapes=({0: DYNAMIC},))
    assert model.training
    torch.export.save(program, tmp_path / "m.pt2")
    for source in (program, tmp_path / "m.pt2", str(tmp_path / "m.pt2")):
        found = run(import_program(load_source(source)), x)[0]
        torch.testing.assert_close(found, model(x))
    assert isinstance(load_source("tests.zoo:mobilenet"), ExportedProgram)


def test_one_example_given_twice_stays_two_inputs() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    x = torch.ones(3)
    found = run(import_program(load_source(Model(), (x, x))), x, 4 * x)[0]
    assert found.tolist() == [-3.0] * 3


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    torch.export.save(export(nn.Linear(300, 200), torch.ones(1, 300)), path)
    whole = path.read_bytes()
    for name, content in {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "almost": whole[:-10],
        "foreign": b"hello",
        "flipped": whole[:200] + bytes(200) + whole[400:],
    }.items():
        damaged = tmp_path / f"{name}.pt2"
        damaged.write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_source(damaged)
    with pytest.raises(CheckpointError, match="no such file"):
        load_source(tmp_path / "missing.pt2")


@pytest.mark.parametrize("source", ["no.such.module:make", "tests.zoo:no_such", "tests.zoo:minilm_folder"])
def test_callables_that_give_no_model_are_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=source.split(":")[1]):
        load_source(source)


def test_callables_may_leave_out_keywords_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    module, args = nn.Linear(3, 2).eval(), (torch.ones(4, 3),)
    made = types.ModuleType("made_for_a_test")
    monkeypatch.setitem(sys.modules, "made_for_a_test", made)
    for found in ((module, args), (module, args, None), (module, args, {}, ({0: DYNAMIC},))):
        vars(made)["make"] = lambda found=found: found
        assert run(import_program(load_source("made_for_a_test:make")), args[0])[0].shape == (4, 2)
    for wrong, shown in (((module,), "(Linear)"), ((args, module), "(tuple, Linear)"), (module, "Linear")):
        vars(made)["make"] = lambda wrong=wrong: wrong
        with pytest.raises(CheckpointError, match=re.escape(f"made_for_a_test:make returned {shown}")):
            load_source("made_for_a_test:make")


def test_a_model_that_cannot_be_captured_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(UnsupportedOp, match=r"torch\.export cannot capture Model"):
        load_source(Model(), (torch.ones(2),))
