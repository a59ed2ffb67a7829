"""What the tests of `torch.compile(model, backend="qcc")` share: a small network, its inputs, and the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qcc import dynamo


class Net(nn.Module):
    """Two layers; on request with an operation that only Inductor has, in their middle."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.odd = nn.Linear(64, 96), nn.Linear(96, 32), odd

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.gelu(self.first(x))
        if self.odd:
            h = h * torch.linalg.svdvals(x[:2, :4]).sum()
        return self.second(h)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(count))


def compiled(model: Callable[..., Any], **options: Any) -> Any:
    return torch.compile(model, backend=dynamo.backend, options=options)
