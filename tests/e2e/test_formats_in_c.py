"""Recipes whose weights no kernel reads as they are, compiled to C beside the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qcc
from qcc.recipes.load import load_recipe
from tests.compiling import apart, interpreter

QOQ_IN_64 = "uint4 | (1,64) i8, (1,-1) f16 protect(119) | scaled i8"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 128)
        self.up, self.down = nn.Linear(128, 192), nn.Linear(192, 128, bias=False)
        self.head = nn.Linear(128, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(x))))


def ids(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 40, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("spqr-w3", {}),
        ("lqlora-w3", {}),
        ("hlq-w2", {}),
        ("mrgptq-nvfp4", {"activations": {"format": "f32"}, "transforms": []}),
        ("olive-w4", {}),
        ("nvfp4", {}),
        ("mrgptq-mxfp4", {}),
        ("arcquant-nvfp4", {}),
        ("llmfp4-w4a4", {}),
        ("zeroquantfp-w4a8", {}),
        ("qoq-w4a8kv4", {"weights": {"format": QOQ_IN_64}}),
        # integer products, and outliers and factors beside them
        ("w4a8", {"outliers": {"fraction": 0.01}, "low_rank": {"rank": 4, "method": "svd"}}),
    ],
)
def test_it_compiles_and_computes_what_the_interpreter_does(
    name: str, overrides: dict[str, object], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, count = Net().eval(), torch.export.Dim("count", min=1, max=64)
    program = torch.export.export(model, (ids(5, 0),), dynamic_shapes=({0: count},))
    recipe: dict[str, Any] = {**load_recipe(name).model_dump(mode="json"), **overrides}
    calls = [(ids(32, seed),) for seed in range(1, 5)]
    compiled = qcc.compile(program, recipe=recipe, calibration=calls, output=tmp_path / "out.qcc", threads=2)
    oracle = interpreter(compiled)
    # a last bit of an input may move a code by one
    bound = 2e-5 if recipe["activations"]["format"] == "f32" else 1e-2
    for number in (1, 5, 33):
        x = ids(number, number)
        (wanted,) = oracle.run({"ids": x}).values()
        assert apart(compiled(x), wanted) <= bound
