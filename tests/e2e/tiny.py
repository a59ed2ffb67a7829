"""A small model for the command line's tests: `tests.e2e.tiny:mlp`."""

from __future__ import annotations

from typing import Any

import torch

Source = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], Any]


class Mlp(torch.nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = torch.nn.Linear(width, 96)
        self.norm = torch.nn.LayerNorm(96)
        self.second = torch.nn.Linear(96, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.norm(self.first(x))))


class Complex(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(super().forward(x))[1] + torch.linalg.det(x @ x.T)


def _source(module: torch.nn.Module) -> Source:
    rows = torch.export.Dim("rows", min=1, max=40)
    example = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    return module.eval(), (example,), {}, ({0: rows},)


def mlp() -> Source:
    torch.manual_seed(0)
    return _source(Mlp())


def nan_weights() -> Source:
    module, *rest = mlp()
    with torch.no_grad():
        module.get_parameter("first.weight")[3, 4] = float("nan")
        module.get_parameter("second.bias")[0] = float("inf")
    return (module, *rest)  # type: ignore[return-value]


def unsupported() -> Source:
    torch.manual_seed(0)
    return _source(Complex())
