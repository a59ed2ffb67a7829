"""Calibration samples: what fits is read one by one, what does not is told all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qcc.calibrate.run import SampleRun
from qcc.calibrate.samples import samples_from_arguments, samples_from_file
from qcc.calling import Leaf, Signature
from qcc.errors import CheckpointError, QccError, ShapeError
from qcc.frontend.export import Imported, import_program
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.program import ProgramOp, program_of
from qcc.passes.pipeline import raising, run_passes
from tests.minilm import folder as minilm_folder


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, shift: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)) + shift)


def imported() -> Imported:
    shapes = {"x": {0: torch.export.Dim("batch")}, "shift": None}
    example = (torch.zeros(2, 6),), {"shift": torch.zeros(4)}
    return import_program(torch.export.export(Net().eval(), *example, dynamic_shapes=shapes))


def program() -> ProgramOp:
    return program_of(imported().module)


def signature() -> Signature:
    found = imported()
    leaves = [tuple(Leaf(name=one.name, constant=one.constant) for one in row) for row in (found.inputs, found.outputs)]
    return Signature(inputs=leaves[0], outputs=leaves[1], in_spec=found.in_spec, out_spec=found.out_spec)


def test_calls_are_tuples_or_dicts_and_may_come_once() -> None:
    plain = torch.export.export(torch.nn.Linear(6, 4), (torch.zeros(2, 6),))
    found = import_program(plain)
    inputs = tuple(Leaf(name=one.name, constant=one.constant) for one in found.inputs)
    outputs = tuple(Leaf(name=one.name) for one in found.outputs)
    only = Signature(inputs=inputs, outputs=outputs, in_spec=found.in_spec, out_spec=found.out_spec)
    calls = ((torch.full((2, 6), float(index)),) for index in range(3))
    assert [float(one["input"][0, 0]) for one in samples_from_arguments(only, calls)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("calls", "what"),
    [
        ([torch.zeros(2, 6)], "sample 1: is a Tensor"),
        ([5], "give a tuple of arguments"),
        ([(torch.zeros(2, 6),), (torch.zeros(2, 6), torch.zeros(4))], "sample 2"),
        ([{"y": torch.zeros(2, 6)}], "exported with"),
    ],
)
def test_calls_that_are_not_the_exported_one_are_listed(calls: list[Any], what: str) -> None:
    with pytest.raises(ShapeError, match=what):
        samples_from_arguments(signature(), calls)


def test_no_calls_are_refused() -> None:
    with pytest.raises(QccError, match="no samples"):
        samples_from_arguments(signature(), [])


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: one.numpy() for name, one in tensors.items()})
    else:
        save_file({name: one.contiguous() for name, one in tensors.items()}, str(path))
    return path


@pytest.mark.parametrize("name", ["data.npz", "data.safetensors"])
def test_files_are_read_sample_by_sample(tmp_path: Path, name: str) -> None:
    x, shift = torch.randn(5, 3, 6), torch.randn(5, 4)
    samples = samples_from_file(write(tmp_path / name, {"x": x, "shift": shift}), program())
    assert len(samples) == 5
    for index in range(5):
        assert torch.equal(samples[index]["x"], x[index])
        assert torch.equal(samples[index]["shift"], shift[index])
    # stacked along the input's own first axis
    samples = samples_from_file(write(tmp_path / name, {"x": x[:, 0], "shift": shift}), program())
    assert torch.equal(samples[4]["x"], x[4, :1])
    assert [one["shift"].tolist() for one in samples[3:]] == shift[3:].tolist()


def test_numbers_of_other_widths_are_converted(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    samples = samples_from_file(write(tmp_path / "a.npz", {"x": x, "shift": torch.zeros(2, 4)}), program())
    assert torch.equal(samples[1]["x"], x[1].float())


def test_everything_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    tensors = {"x": torch.zeros(5, 6, 2, 2), "shfit": torch.zeros(5, 4)}
    with pytest.raises(ShapeError) as caught:
        samples_from_file(write(tmp_path / "a.npz", tensors), program())
    assert sorted(one.where for one in caught.value.problems) == ["input 'shfit'", "input 'shift'", "input 'x'"]
    tensors = {"x": torch.zeros(5, 2, 6), "shift": torch.zeros(4, 4)}
    with pytest.raises(ShapeError, match="x 5, shift 4"):
        samples_from_file(write(tmp_path / "a.npz", tensors), program())
    with pytest.raises(QccError, match="no samples"):
        samples_from_file(write(tmp_path / "a.npz", {"x": torch.zeros(0, 2, 6), "shift": torch.zeros(0, 4)}), program())


@pytest.mark.parametrize("name", ["data.npz", "data.safetensors"])
def test_files_that_are_damaged_missing_or_text_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="no such file"):
        samples_from_file(path, program())
    path.write_bytes(b"not at all")
    with pytest.raises(CheckpointError, match="not a readable"):
        samples_from_file(path, program())
    path = tmp_path / "data.txt"
    path.write_text("a line")
    with pytest.raises(QccError, match="tokenizer of a Hugging Face folder"):
        samples_from_file(path, program())


@pytest.mark.skipif(minilm_folder() is None, reason="the model's package is not installed")
def test_lines_of_text_are_samples(tmp_path: Path) -> None:
    from tests.minilm import exported

    path, where = tmp_path / "lines.txt", minilm_folder()
    assert where is not None
    path.write_text("A cat sat on the mat.\n\n" + "word " * 2000 + "\n")
    samples = samples_from_file(path, program_of(import_program(exported()).module), Path(where))
    assert len(samples) == 2
    assert samples[0]["input_ids"].shape == samples[0]["attention_mask"].shape == (1, 9)
    assert samples[1]["input_ids"].shape == (1, 512)
    with pytest.raises(ShapeError, match="does not take text"):
        samples_from_file(path, program(), Path(where))
    path.write_text("\n\n")
    with pytest.raises(QccError, match="no samples"):
        samples_from_file(path, program_of(import_program(exported()).module), Path(where))


def test_walking_gives_what_running_gives() -> None:
    found = imported()
    run_passes(raising(), QccContext(found.store), found.module)
    layers = [op for op in found.module.walk() if isinstance(op, LinearOp)]
    generator = torch.Generator().manual_seed(0)
    samples = [{"x": torch.randn(2 + n, 6, generator=generator), "shift": torch.randn(4)} for n in range(3)]
    run, seen, walked = SampleRun(samples), [[], []], [[], []]
    run.observe(found.module, found.store, {layers[index].input: seen[index].append for index in range(2)})
    walk = run.walk(found.module, found.store)
    for index in range(2):
        walk.advance(layers[index].input, walked[index].append)
    for index in range(2):
        assert len(seen[index]) == 3
        assert all(torch.equal(*pair) for pair in zip(seen[index], walked[index], strict=True))
    with pytest.raises(QccError, match="have passed"):
        walk.advance(layers[1].input, walked[0].append)


def test_a_replaced_weight_changes_what_follows() -> None:
    found = imported()
    run_passes(raising(), QccContext(found.store), found.module)
    first, second = [op for op in found.module.walk() if isinstance(op, LinearOp)]
    x, shift, seen = torch.randn(2, 6), torch.randn(4), []
    walk = SampleRun([{"x": x, "shift": shift}]).walk(found.module, found.store)
    walk.advance(first.input, lambda value: None)
    key = "a.weight"
    walk.replace_weight(key, torch.zeros(4, 6))
    walk.advance(second.input, seen.append)
    bias = found.store.tensor("a.bias")
    assert torch.equal(seen[0], (torch.relu(bias) + shift).expand(2, 4))
