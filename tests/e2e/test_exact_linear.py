"""A quantized linear layer gives the same bits in the interpreter and in C, whatever the instructions and threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qcc
from qcc.interpreter import Interpreter
from qcc.ir.store import WeightStore

RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "w4a8": "w4a8",
    "groups under a token scale": {"weights": {"format": "uint4", "group": 32}, "activations": {"format": "int8"}},
    "int3, group 40": {"weights": {"format": "int3", "group": 40}, "activations": {"format": "int8"}},
    "uint1 by 5-bit": {"weights": {"format": "uint1", "group": 16}, "activations": {"format": "int5", "group": 16}},
    "int6 row by int8 group": {"weights": {"format": "int6"}, "activations": {"format": "int8", "group": 32}},
}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(160, 77)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    compiled = qcc.compile(Layer().eval(), (torch.randn(4, 160),), dynamic_shapes=shapes, recipe=RECIPES[name])
    interpreter = Interpreter(compiled.module, WeightStore.load(compiled.folder / "weights.safetensors"))
    for rows in (1, 2, 201):
        x = torch.randn(rows, 160) * 10.0 ** torch.randint(-3, 4, (rows, 1))
        x[0, :7] = 0
        (expected,) = interpreter.run({"x": x}).values()
        for isa in ("portable", "avx2", "avx512vnni"):
            monkeypatch.setenv("QCC_ISA", isa)
            for threads in (1, 2):
                (found,) = qcc.load(compiled.folder, threads=threads).run({"x": x}).values()
                assert torch.equal(found, expected), (isa, threads, rows)
